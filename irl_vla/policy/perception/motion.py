"""Motion head: where detected objects will be, as a few futures with their chances and a spread."""

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.perception.bev import BevFeatures
from irl_vla.policy.perception.heads import BOX_CHANNELS, encode_boxes, gather_cells
from irl_vla.scene import FUTURE_FRAMES, OBJECT_NAMES, PLAN_INTERVAL_S

_LEAST_SPREAD_M: Final = 0.05


class Futures(NamedTuple):
    """Futures of B x N objects at 0.5 .. 4.0 s, F modes.

    Attributes:
        positions: (B, N, F, 8, 2) box centres, ego frame.
        logits: (B, N, F) of the modes' chances.
        spread_m: (B, N, 8) mean absolute error that the head expects of the mode that comes true.
    """

    positions: Tensor
    logits: Tensor
    spread_m: Tensor


class MotionHead(nn.Module):
    """Departures from constant velocity, from the features around an object and its predicted box."""

    times_s: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        fine, coarse = config.perception.fine_channels, config.perception.coarse_channels
        self.columns, self.modes, self.cell_m = config.grid.columns, config.perception.motion_modes, config.grid.cell_m
        values = self.modes * (2 * FUTURE_FRAMES + 1) + FUTURE_FRAMES
        self.net = nn.Sequential(
            nn.Linear(fine + coarse + BOX_CHANNELS + len(OBJECT_NAMES), 128),
            nn.GELU(),
            nn.Linear(128, 128),
            nn.GELU(),
            nn.Linear(128, values),
        )
        times_s = PLAN_INTERVAL_S * torch.arange(1, FUTURE_FRAMES + 1)
        self.register_buffer("times_s", times_s.to(torch.float32), persistent=False)

    def forward(self, features: BevFeatures, boxes: Tensor, classes: Tensor, cells: Tensor) -> Futures:
        """Futures of boxes.

        Args:
            boxes: (B, N, 9) as predicted; no gradient flows into them.
            classes: (B, N, 7) scores.
            cells: (B, N) row-major cell of each.
        """
        boxes, classes = boxes.detach(), classes.detach()
        coarse_cells = cells // self.columns // 2 * (self.columns // 2) + cells % self.columns // 2
        local = (gather_cells(features.fine, cells), gather_cells(features.coarse, coarse_cells))
        shape = encode_boxes(boxes, boxes[..., :2], self.cell_m)
        found = self.net(torch.cat([*local, shape, classes], dim=-1))
        departures, logits, spread = found.split([self.modes * 2 * FUTURE_FRAMES, self.modes, FUTURE_FRAMES], dim=-1)
        departures = departures.unflatten(-1, (self.modes, FUTURE_FRAMES, 2))
        straight = boxes[..., None, :2] + boxes[..., None, 7:] * self.times_s[:, None]
        return Futures(
            positions=straight[..., None, :, :] + _turned(departures, boxes[..., 6]),
            logits=logits,
            spread_m=functional.softplus(spread) + _LEAST_SPREAD_M,
        )


def motion_loss(futures: Futures, positions: Tensor, known: Tensor) -> Tensor:
    """Mean displacement of the best mode, cross-entropy of which it is, and a Laplace likelihood of its error.

    Args:
        positions: (B, N, 8, 2) true box centres, ego frame.
        known: (B, N, 8) bool, times that the log knows.
    """
    gap_m = torch.linalg.vector_norm(futures.positions - positions[:, :, None], dim=-1)
    counted = known[:, :, None].to(gap_m.dtype)
    mean_m = (gap_m * counted).sum(-1) / counted.sum(-1).clamp_min(1)  # (B, N, F)
    best = mean_m.detach().argmin(-1, keepdim=True)
    there = known.any(-1).to(gap_m.dtype)
    count = there.sum().clamp_min(1)
    displacement = (mean_m.gather(-1, best).squeeze(-1) * there).sum() / count
    chance = functional.cross_entropy(futures.logits.flatten(0, 1), best.flatten(), reduction="none")
    choice = (chance.view_as(there) * there).sum() / count
    error_m = gap_m.detach().gather(2, best[..., None].expand(-1, -1, 1, FUTURE_FRAMES)).squeeze(2)
    surprise = (error_m / futures.spread_m + futures.spread_m.log()) * known
    loss: Tensor = displacement + 0.3 * choice + 0.15 * surprise.sum() / known.sum().clamp_min(1)
    return loss


def _turned(vectors: Tensor, heading: Tensor) -> Tensor:
    """Vectors (B, N, F, 8, 2) of an object's frame in the ego frame; headings (B, N)."""
    cos, sin = heading.cos()[..., None, None], heading.sin()[..., None, None]
    x, y = vectors.unbind(-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1)
