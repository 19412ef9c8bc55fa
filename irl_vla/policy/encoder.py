"""The scene encoder: semantic reasoning, 3D reasoning and the command encoder, from observations to scene tokens."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from irl_vla.policy.batch import ObservationBatch, PerceptionTargets, SceneTokens
from irl_vla.policy.config import EncoderConfig, LossWeights
from irl_vla.policy.perception.bev import BevEncoder, BevFeatures
from irl_vla.policy.perception.fields import FieldHead
from irl_vla.policy.perception.heads import (
    DetectionHead,
    Detections,
    MapHead,
    PatchTokens,
    box_cells,
    decode_boxes,
    gather_cells,
)
from irl_vla.policy.perception.image import ImageBackbone
from irl_vla.policy.perception.layers import mlp
from irl_vla.policy.perception.losses import box_loss, heatmap_loss, heatmap_target, map_loss
from irl_vla.policy.perception.motion import Futures, MotionHead, motion_loss
from irl_vla.policy.semantic import SemanticReasoning, answer_indices
from irl_vla.policy.sight import stored_fields
from irl_vla.scene import COMMAND_NAMES, HISTORY_FRAMES

_HISTORY_FEATURES = 8  # x, y, sin, cos, vx, vy, ax, ay


class Seen(NamedTuple):
    """What 3D reasoning makes of a batch.

    Attributes:
        features: over the grid, from which everything else is read.
        heatmap, box_map: detection head's maps; see ``DetectionHead``.
        map_logits: (B, classes, rows, columns).
        fields: (B, 6, rows, columns) metres in the order of ``ROAD_FIELDS``.
    """

    features: BevFeatures
    heatmap: Tensor
    box_map: Tensor
    map_logits: Tensor
    fields: Tensor


class Perception(NamedTuple):
    """Tokens of a batch and the predictions behind them.

    Attributes:
        tokens: the scene tokens.
        seen: by 3D reasoning.
        detections: decoded boxes, no gradient.
        answer_logits: (B, T, vocabulary), None unless targets were given.
    """

    tokens: SceneTokens
    seen: Seen
    detections: Detections
    answer_logits: Tensor | None


class EgoEncoder(nn.Module):
    """Ego status history and driving command, one token each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.status = mlp(HISTORY_FRAMES * _HISTORY_FEATURES, 2 * width, width)
        self.command = nn.Sequential(nn.Embedding(len(COMMAND_NAMES), width), nn.LayerNorm(width))

    def forward(self, batch: ObservationBatch) -> Tensor:
        """(B, 2, D)."""
        x, y, heading, vx, vy, ax, ay = batch.history.unbind(-1)
        scaled = (x / 10, y / 10, heading.sin(), heading.cos(), vx / 10, vy / 10, ax / 3, ay / 3)
        return torch.stack([self.status(torch.cat(scaled, dim=-1)), self.command(batch.command)], dim=1)


class SceneEncoder(nn.Module):
    """Observations to scene tokens, with auxiliary heads that give each token kind something of its own to learn."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        perception, grid = config.perception, config.grid
        self.semantic = SemanticReasoning(config)
        self.image = ImageBackbone(perception)
        self.bev = BevEncoder(config, self.image.channels)
        self.detection = DetectionHead(config)
        self.map = MapHead(config)
        self.fields = FieldHead(config)
        self.motion = MotionHead(config)
        coarse = (grid.rows // 2, grid.columns // 2)
        self.bev_tokens = PatchTokens(perception.coarse_channels, coarse, perception.bev_tokens, config)
        self.ego = EgoEncoder(config.width)

    def forward(self, batch: ObservationBatch) -> SceneTokens:
        """Scene tokens alone, as at inference."""
        return self.perceive(batch).tokens

    def perceive(self, batch: ObservationBatch, targets: PerceptionTargets | None = None) -> Perception:
        """Scene tokens and predictions.

        Args:
            targets: only the meta-action is read, to teach the answer; no token depends on it.
        """
        answers = None if targets is None else answer_indices(targets.meta_action, self.config.semantic.language)[0]
        semantic, seen = self.semantic(batch, answers), self.see(batch)
        detections = self.detection.decode(seen.heatmap, seen.box_map)
        tokens = SceneTokens(
            meta=semantic.meta,
            bev=self.bev_tokens(seen.features.coarse),
            map=self.map.tokens(seen.map_logits),
            object=self.detection.tokens(seen.features, detections),
            ego=self.ego(batch),
        )
        return Perception(tokens, seen, detections, semantic.answer_logits)

    def see(self, batch: ObservationBatch) -> Seen:
        """3D reasoning alone: no language model, no tokens."""
        images = self.image(batch.images.flatten(0, 1)).unflatten(0, batch.camera_valid.shape)
        features: BevFeatures = self.bev(batch, images, self.image.stride)
        heatmap, box_map = self.detection(features)
        return Seen(features, heatmap, box_map, self.map(features), self.fields(features))

    def futures(self, seen: Seen, detections: Detections) -> Futures:
        """Where the detected objects will be."""
        futures: Futures = self.motion(seen.features, detections.boxes, detections.class_scores, detections.cells)
        return futures

    def losses(self, perception: Perception, targets: PerceptionTargets) -> dict[str, Tensor]:
        """Unweighted scalar losses by the names of ``LossWeights``.

        Args:
            perception: of :meth:`perceive` with the same targets.

        Raises:
            ValueError: if ``perception`` was made without targets.
        """
        if perception.answer_logits is None:
            raise ValueError("losses need perceive(batch, targets): the answer is taught by teacher forcing")
        answers, known = answer_indices(targets.meta_action, self.config.semantic.language)
        answer = self.semantic.answer_loss(perception.answer_logits, answers, known)
        return {**self.sight_losses(perception.seen, targets), "answer": answer}

    def sight_losses(self, seen: Seen, targets: PerceptionTargets) -> dict[str, Tensor]:
        """Those of 3D reasoning alone."""
        grid, boxes, classes = self.config.grid, targets.boxes, targets.box_classes
        box = box_loss(seen.box_map, boxes, classes, self.detection.centres, grid)
        return {
            "heatmap": heatmap_loss(seen.heatmap, heatmap_target(boxes, classes, grid)),
            "box": box.shape,
            "velocity": box.velocity,
            "map": map_loss(seen.map_logits, targets.raster),
            "fields": self.fields.loss(seen.fields, targets.fields, targets.has_fields),
            "motion": motion_loss(self.futures_at(seen, boxes), targets.futures[..., :2], targets.future_known),
        }

    def futures_at(self, seen: Seen, boxes: Tensor) -> Futures:
        """Futures from the cells of the centres of true boxes (B, M, 9), as the boxes there are predicted."""
        cells, grid = box_cells(boxes, self.config.grid), self.config.grid
        predicted = decode_boxes(gather_cells(seen.box_map, cells), self.detection.centres[cells], grid.cell_m)
        futures: Futures = self.motion(seen.features, predicted, gather_cells(seen.heatmap, cells).sigmoid(), cells)
        return futures

    def predict_meta_actions(self, batch: ObservationBatch) -> Tensor:
        """(B, 2) speed and path action that the language model answers."""
        paths = len(self.config.semantic.language.path_actions)
        answers = self.semantic.predict_answers(batch)
        return torch.stack([answers // paths, answers % paths], dim=1)


def sight_columns(encoder: SceneEncoder, perception: Perception) -> dict[str, NDArray[Any]]:
    """What is predicted for a batch, as a token bank keeps it (``SightLayout.stored``)."""
    detections, futures = perception.detections, encoder.futures(perception.seen, perception.detections)
    kept = {
        "boxes": detections.boxes,
        "object_scores": detections.class_scores,
        "futures": futures.positions,
        "future_chances": futures.logits.softmax(-1),
        "future_spread_m": futures.spread_m,
    }
    halves = {name: values.cpu().numpy().astype(np.float16) for name, values in kept.items()}
    return {"fields": stored_fields(perception.seen.fields.cpu().numpy()), **halves}


def weighted_loss(losses: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """Sum of the encoder's losses under the configured weights."""
    return torch.stack([getattr(weights, name) * loss for name, loss in losses.items()]).sum()


def parameter_groups(
    encoder: nn.Module, planner: nn.Module, learning_rate: float, weight_decay: float, encoder_factor: float = 0.5
) -> list[dict[str, Any]]:
    """Optimiser groups: the encoder at a reduced rate; no weight decay on biases, norms and other vectors.

    Frozen parameters are left out.
    """
    groups = []
    for module, rate in ((encoder, learning_rate * encoder_factor), (planner, learning_rate)):
        decayed, plain = _split_by_decay(module.parameters())
        groups.append({"params": decayed, "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": plain, "lr": rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _split_by_decay(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
