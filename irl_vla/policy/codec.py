"""The plan code: human plans, whitened, so that the planner's noise looks like driving and not like jitter."""

from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.scene import FUTURE_FRAMES

PLAN_SIZE: Final = FUTURE_FRAMES * 3  # values of a plan and of its code
_LEAST_SCALE: Final = 1e-2  # metres or radians; a coordinate in which no human plan differs is not blown up


class PlanCodec(nn.Module):
    """Affine map between plans and their code.

    Coordinates are z-scored over the human plans, rotated to principal modes and divided by the standard deviation
    of each mode (floored). Human plans have about unit variance in every mode above the floor; one unit of noise in a
    mode displaces all poses together, as human plans differ. Headings enter unwrapped along the plan, so the map is
    continuous. The parameters are buffers: they travel with the planner's weights.
    """

    mean: Tensor
    to_code: Tensor
    to_plan: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(PLAN_SIZE))
        self.register_buffer("to_code", torch.eye(PLAN_SIZE))
        self.register_buffer("to_plan", torch.eye(PLAN_SIZE))

    @classmethod
    def fit(cls, plans: Floats, mode_floor: float) -> Self:
        """Fits the code to human plans.

        Args:
            plans: (N, 8, 3) ego frame.
            mode_floor: least standard deviation of a mode, in z-scored units.

        Raises:
            SceneError: if there are fewer than two plans or one is not finite.
        """
        values = np.array(plans, np.float64)
        if values.ndim != 3 or values.shape[1:] != (FUTURE_FRAMES, 3) or len(values) < 2:
            raise SceneError(f"plan code: expected at least 2 human plans of (8, 3), found an array of {values.shape}")
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
            raise SceneError(
                f"plan code: {len(bad)} human plans are not finite, first at row {bad[0]}; drop the scenes"
            )
        values[..., 2] = np.unwrap(values[..., 2], axis=1)
        flat = values.reshape(len(values), PLAN_SIZE)
        mean, scale = flat.mean(axis=0), np.maximum(flat.std(axis=0), _LEAST_SCALE)
        modes, deviations = _principal_modes((flat - mean) / scale)
        deviations = np.maximum(deviations, mode_floor)
        codec = cls()
        codec.mean.copy_(torch.from_numpy(mean))
        codec.to_code.copy_(torch.from_numpy(modes.T / scale[:, None] / deviations))
        codec.to_plan.copy_(torch.from_numpy(modes * scale * deviations[:, None]))
        return codec

    def encode(self, plans: Tensor) -> Tensor:
        """Plans (..., 8, 3) to codes (..., 24)."""
        flat = torch.cat([plans[..., :2], _unwrap(plans[..., 2])[..., None]], dim=-1).flatten(-2)
        return (flat - self.mean) @ self.to_code

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (..., 24) to plans (..., 8, 3), heading wrapped."""
        plans = (codes @ self.to_plan + self.mean).view(*codes.shape[:-1], FUTURE_FRAMES, 3)
        heading = plans[..., 2:]
        return torch.cat([plans[..., :2], torch.atan2(heading.sin(), heading.cos())], dim=-1)

    @property
    def metres_per_unit(self) -> Tensor:
        """() root-mean-square displacement of the positions of a plan by noise of one unit in every mode."""
        displacement = self.to_plan.view(PLAN_SIZE, FUTURE_FRAMES, 3)[..., :2]
        return displacement.square().sum(dim=(0, 2)).mean().sqrt()


def _principal_modes(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Modes (24, 24), one a row, and their standard deviations (24,) in descending order.

    From the covariance, so that fewer plans than dimensions still give a full basis. The sign of a mode is fixed by
    its largest entry: solvers are free to choose it.
    """
    variances, vectors = np.linalg.eigh(values.T @ values / len(values))
    modes = vectors.T[::-1]
    largest = np.abs(modes).argmax(axis=1)
    modes = modes * np.sign(modes[np.arange(PLAN_SIZE), largest])[:, None]
    return modes, np.sqrt(variances[::-1].clip(min=0.0))


def _unwrap(heading: Tensor) -> Tensor:
    """Headings (..., 8) in which neighbours differ by less than half a turn; the first stays."""
    turns = heading.diff(dim=-1)
    wrapped = torch.remainder(turns + torch.pi, 2 * torch.pi) - torch.pi
    return torch.cat([heading[..., :1], heading[..., :1] + wrapped.cumsum(dim=-1)], dim=-1)
