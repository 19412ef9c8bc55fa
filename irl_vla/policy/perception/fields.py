"""Field head: what the score reads from the map, predicted as distances instead of masks."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.perception.bev import BevFeatures
from irl_vla.policy.perception.heads import EMPTY_LOGIT
from irl_vla.policy.perception.layers import CellLinear, conv_norm_relu
from irl_vla.policy.perception.losses import heatmap_loss
from irl_vla.scene import ROAD_FIELDS

#: Metres that count as 1 in the loss, in the order of ``ROAD_FIELDS``; progress is coarser than the others.
_SCALE_M: Final = (1.0, 1.0, 1.0, 1.0, 4.0, 1.0)
#: Errors below count by their square, in scaled units.
_BETA: Final = 0.25
_OFFSET, _RED = ROAD_FIELDS.index("lane_offset"), ROAD_FIELDS.index("red_light")
_AREAS: Final = slice(ROAD_FIELDS.index("drivable"), ROAD_FIELDS.index("intersection") + 1)
_LINE: Final = slice(_OFFSET, ROAD_FIELDS.index("progress") + 1)
#: Distances are cut here (``epdms.road_fields.REACH_M``).
_REACH_M: Final = 4.0
_BORDER_M: Final = 2.0


class FieldHead(nn.Module):
    """The fields of ``ROAD_FIELDS`` from BEV features.

    A red light is there or not, and rarely: a distance that is regressed, or a mean cross-entropy, always says that
    there is none. It is found as objects are, by a focal loss that starts from nothing being red, and its chance p is
    given as ``_REACH_M`` (2 p - 1): above 0 where red is likelier.
    """

    scale: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        fine = config.perception.fine_channels
        self.trunk = conv_norm_relu(fine, fine)
        self.fields = CellLinear(fine, len(ROAD_FIELDS))
        nn.init.constant_(self.fields.bias[_RED:], EMPTY_LOGIT)
        self.register_buffer("scale", torch.tensor(_SCALE_M)[:, None, None], persistent=False)

    def forward(self, features: BevFeatures) -> Tensor:
        """(B, 6, rows, columns) metres."""
        found = self.fields(self.trunk(features.fine))
        red = _REACH_M * (found[:, _RED:].sigmoid() * 2 - 1)
        return torch.cat([found[:, :_RED] * self.scale[:_RED], red], dim=1)

    def loss(self, predicted: Tensor, fields: Tensor, known: Tensor) -> Tensor:
        """Error of the distances, mostly of those that decide, plus the focal loss of red connectors.

        Args:
            predicted, fields: (B, 6, rows, columns) metres.
            known: (B,) bool, scenes that have fields; 0 if none has.
        """
        predicted, fields = predicted[known], fields[known]
        error = functional.smooth_l1_loss(predicted / self.scale, fields / self.scale, reduction="none", beta=_BETA)
        each = (error * distance_weights(fields))[:, :_RED].mean(dim=(1, 2, 3))
        distance: Tensor = each.sum() / max(len(each), 1)
        is_red = (fields[:, _RED:] > 0).to(predicted.dtype)
        return distance + heatmap_loss(torch.logit((predicted[:, _RED:] / _REACH_M + 1) / 2, eps=1e-6), is_red)


def distance_weights(fields: Tensor) -> Tensor:
    """(B, 6, rows, columns) weights of cells: near the borders of areas, and along the centreline."""
    weights = torch.ones_like(fields)
    weights[:, _AREAS] += 2.0 * (fields[:, _AREAS].abs() < _BORDER_M)
    weights[:, _LINE] = 0.1 + 2.0 * (fields[:, _OFFSET, None].abs() < 0.97 * _REACH_M)
    return weights
