"""Losses of the detection head and the map head."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from irl_vla.policy.config import GridConfig
from irl_vla.policy.perception.heads import box_cells, encode_boxes, gather_cells
from irl_vla.scene import OBJECT_NAMES

_REACH = 3  # cells around a centre in which the heatmap target is above zero


def heatmap_target(boxes: Tensor, classes: Tensor, grid: GridConfig) -> Tensor:
    """Gaussian bumps at box centres, 1 at the centre's cell; the highest wins where they overlap.

    Args:
        boxes: (B, M, 9).
        classes: (B, M), -1 on padding.

    Returns:
        (B, 7, rows, columns) in [0, 1].
    """
    count, rows, columns = len(boxes), grid.rows, grid.columns
    span = torch.arange(-_REACH, _REACH + 1, device=boxes.device)
    down, across = (offset.flatten() for offset in torch.meshgrid(span, span, indexing="ij"))
    footprint = (boxes[..., 3] * boxes[..., 4]).clamp_min(0).sqrt() / grid.cell_m
    sigma = (0.25 * footprint).clamp(0.6, 1.5)
    bump = torch.exp(-(down**2 + across**2) / (2 * sigma[..., None] ** 2))
    centre = box_cells(boxes, grid)
    row = (centre // columns)[..., None] + down
    column = (centre % columns)[..., None] + across
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns) & (classes >= 0)[..., None]
    channel = classes.clamp_min(0)[..., None]
    index = (channel * rows + row.clamp(0, rows - 1)) * columns + column.clamp(0, columns - 1)
    target = boxes.new_zeros(count, len(OBJECT_NAMES) * rows * columns)
    target.scatter_reduce_(1, index.flatten(1), (bump * inside).flatten(1), reduce="amax")
    return target.view(count, len(OBJECT_NAMES), rows, columns)


def heatmap_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss with less penalty near centres (CornerNet, eq. 1; alpha 2, beta 4), a centre."""
    centre = target == 1
    log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    yes = log_yes.exp()
    loss = torch.where(centre, (1 - yes) ** 2 * log_yes, (1 - target) ** 4 * yes**2 * log_no)
    return -loss.sum() / centre.sum().clamp_min(1)


class BoxLoss(NamedTuple):
    """Mean absolute errors at the cells of real boxes, in the units of the box map; 0 without boxes."""

    shape: Tensor
    velocity: Tensor


def box_loss(box_map: Tensor, boxes: Tensor, classes: Tensor, centres: Tensor, grid: GridConfig) -> BoxLoss:
    """Errors of place, size and heading, and of velocity.

    Args:
        box_map: (B, 10, rows, columns).
        boxes, classes: (B, M, 9) and (B, M), -1 on padding.
        centres: (rows * columns, 2) cell centres.
    """
    cells = box_cells(boxes, grid)
    error = (gather_cells(box_map, cells) - encode_boxes(boxes, centres[cells], grid.cell_m)).abs()
    real = (classes >= 0).to(error.dtype)
    shape, velocity = (
        (part.mean(-1) * real).sum() / real.sum().clamp_min(1) for part in error.tensor_split([-2], dim=-1)
    )
    return BoxLoss(shape, velocity)


def map_loss(logits: Tensor, raster: Tensor) -> Tensor:
    """Cross-entropy a cell plus soft Dice a class: thin lines count as much as wide roads.

    Args:
        logits, raster: (B, classes, rows, columns).
    """
    overlap = (logits.sigmoid() * raster).sum((0, 2, 3))
    area = logits.sigmoid().sum((0, 2, 3)) + raster.sum((0, 2, 3))
    dice = 1 - (2 * overlap + 1) / (area + 1)
    return functional.binary_cross_entropy_with_logits(logits, raster) + dice.mean()
