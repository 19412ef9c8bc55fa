"""Detection head (object tokens), map head (map tokens) and BEV tokens."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from irl_vla.policy.config import EncoderConfig, GridConfig
from irl_vla.policy.perception.bev import BevFeatures, cell_centres
from irl_vla.policy.perception.layers import CellLinear, conv_norm_relu, mlp
from irl_vla.scene import OBJECT_NAMES

#: A velocity error of this size costs as much as one cell of position. At 5 m/s a short training left velocity and, on
#: symmetric outlines, the sign of the heading unlearned.
VELOCITY_SCALE_MPS = 1.5
#: Channels of the box map: offset of the centre from the cell centre (cells), z (m), log length, width, height,
#: sine and cosine of the heading, velocity over ``VELOCITY_SCALE_MPS``.
BOX_CHANNELS = 10
EMPTY_LOGIT = -4.6  # almost every cell is empty: start at 1 % instead of 50 %


class Detections(NamedTuple):
    """The highest peaks of the heatmap, best first.

    Attributes:
        boxes: (B, N, 9) x, y, z, length, width, height, heading, vx, vy in the ego frame.
        classes: (B, N) int64 index into ``OBJECT_NAMES``.
        scores: (B, N) in [0, 1].
        class_scores: (B, N, 7) of all classes at the peak.
        cells: (B, N) int64 index of the peak's cell, row-major.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    class_scores: Tensor
    cells: Tensor


class DetectionHead(nn.Module):
    """Object centres as heatmap peaks, one a class; box parameters regressed at the centre's cell (CenterPoint).

    Chosen over learned object queries because it learns from few scenes: it needs no matching, and every cell of every
    scene supervises it.
    """

    centres: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        fine, coarse = config.perception.fine_channels, config.perception.coarse_channels
        self.grid, self.count = config.grid, config.perception.object_tokens
        self.trunk = conv_norm_relu(fine, fine)
        self.heatmap = CellLinear(fine, len(OBJECT_NAMES))
        self.boxes = CellLinear(fine, BOX_CHANNELS)
        nn.init.constant_(self.heatmap.bias, EMPTY_LOGIT)
        self.register_buffer("centres", cell_centres(config.grid).flatten(0, 1), persistent=False)
        self.token = mlp(fine + coarse + len(OBJECT_NAMES) + BOX_CHANNELS, 2 * config.width, config.width)

    def forward(self, features: BevFeatures) -> tuple[Tensor, Tensor]:
        """Heatmap logits (B, 7, rows, columns) and the box map (B, 10, rows, columns)."""
        shared = self.trunk(features.fine)
        return self.heatmap(shared), self.boxes(shared)

    @torch.no_grad()
    def decode(self, heatmap: Tensor, box_map: Tensor) -> Detections:
        """Boxes at the highest peaks; a peak is a cell that no neighbour exceeds, over all classes."""
        scores = heatmap.sigmoid()
        best, classes = scores.max(dim=1)
        peaks = best * (best == functional.max_pool2d(best, 3, stride=1, padding=1))
        top, cells = peaks.flatten(1).topk(self.count, dim=1)
        return Detections(
            boxes=decode_boxes(gather_cells(box_map, cells), self.centres[cells], self.grid.cell_m),
            classes=classes.flatten(1).gather(1, cells),
            scores=top,
            class_scores=gather_cells(scores, cells),
            cells=cells,
        )

    def tokens(self, features: BevFeatures, detections: Detections) -> Tensor:
        """(B, N, D) tokens from the detected box, class and motion, and the features around it.

        The box enters as a constant, so that only the detection losses shape it; features carry planning gradients.
        """
        columns = self.grid.columns
        coarse_cells = detections.cells // columns // 2 * (columns // 2) + detections.cells % columns // 2
        local = (gather_cells(features.fine, detections.cells), gather_cells(features.coarse, coarse_cells))
        boxes = detections.boxes
        span = max(self.grid.x_max_m, -self.grid.x_min_m, self.grid.y_max_m, -self.grid.y_min_m)
        heading = torch.stack([boxes[..., 6].sin(), boxes[..., 6].cos()], dim=-1)
        shape, velocity = boxes[..., 2:6] / 5, boxes[..., 7:] / 5  # to the order of 1
        described = torch.cat([boxes[..., :2] / span, shape, heading, velocity, detections.class_scores], dim=-1)
        tokens: Tensor = self.token(torch.cat([*local, described], dim=-1))
        return tokens


class MapHead(nn.Module):
    """Map raster from BEV features; each token embeds one patch of the predicted raster."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        fine, classes = config.perception.fine_channels, config.perception.map_classes
        self.raster = CellLinear(fine, classes)
        self.patches = PatchTokens(
            classes, (config.grid.rows, config.grid.columns), config.perception.map_tokens, config
        )

    def forward(self, features: BevFeatures) -> Tensor:
        """(B, classes, rows, columns) logits."""
        logits: Tensor = self.raster(features.fine)
        return logits

    def tokens(self, logits: Tensor) -> Tensor:
        """(B, n, D) map tokens; gradients flow into the raster."""
        tokens: Tensor = self.patches(logits.sigmoid())
        return tokens


class PatchTokens(nn.Module):
    """Feature map to tokens, one a rectangular patch, with a learned position each."""

    def __init__(self, channels: int, size: tuple[int, int], patches: tuple[int, int], config: EncoderConfig) -> None:
        super().__init__()
        kernel = (size[0] // patches[0], size[1] // patches[1])
        self.embed = nn.Conv2d(channels, config.width, kernel, stride=kernel)
        self.position = nn.Parameter(0.02 * torch.randn(patches[0] * patches[1], config.width))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, rows, columns) to (B, patches, D), row-major."""
        tokens: Tensor = self.norm(self.embed(features).flatten(2).transpose(1, 2) + self.position)
        return tokens


def gather_cells(features: Tensor, cells: Tensor) -> Tensor:
    """Features (B, F, rows, columns) at row-major cells (B, N), as (B, N, F)."""
    flat = features.permute(0, 2, 3, 1).flatten(1, 2)  # free of copies, and so its gradient, in channels-last memory
    return flat.gather(1, cells[..., None].expand(-1, -1, flat.shape[-1]))


def encode_boxes(boxes: Tensor, centres: Tensor, cell_m: float) -> Tensor:
    """Box values (..., 9) and the centres (..., 2) of their cells to box-map channels (..., 10)."""
    heading = boxes[..., 6:7]
    offset = (boxes[..., :2] - centres) / cell_m
    size = boxes[..., 3:6].clamp_min(0.05).log()
    velocity = boxes[..., 7:] / VELOCITY_SCALE_MPS
    return torch.cat([offset, boxes[..., 2:3], size, heading.sin(), heading.cos(), velocity], dim=-1)


def decode_boxes(values: Tensor, centres: Tensor, cell_m: float) -> Tensor:
    """Inverse of :func:`encode_boxes`; sizes are kept within 0.05 .. 55 m."""
    xy = centres + values[..., :2] * cell_m
    size = values[..., 3:6].clamp(-3, 4).exp()
    heading = torch.atan2(values[..., 6:7], values[..., 7:8])
    return torch.cat([xy, values[..., 2:3], size, heading, values[..., 8:] * VELOCITY_SCALE_MPS], dim=-1)


def box_cells(boxes: Tensor, grid: GridConfig) -> Tensor:
    """Row-major cell (...) of the centres of boxes (..., 9), kept inside the grid."""
    row = ((boxes[..., 0] - grid.x_min_m) / grid.cell_m).floor().long().clamp(0, grid.rows - 1)
    column = ((boxes[..., 1] - grid.y_min_m) / grid.cell_m).floor().long().clamp(0, grid.columns - 1)
    return row * grid.columns + column
