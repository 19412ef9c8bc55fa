"""Whose brake lamps are lit: of a simulated drive by acceleration, of logged frames by the speeds of two of them."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.scene import PLAN_INTERVAL_S, Frame

#: Vehicles that slow down faster than this show their brake lamps.
_BRAKING_MPS2: Final = -0.7


def is_braking(accelerations_mps2: Floats) -> NDArray[np.bool_]:
    """(N,) whose lamps are lit at accelerations (N,) along the way."""
    return np.asarray(accelerations_mps2 < _BRAKING_MPS2)


def braking_tokens(before: Frame | None, frame: Frame) -> frozenset[str]:
    """Track tokens of objects that slowed down between two frames half a second apart; of none without the first."""
    if before is None:
        return frozenset()
    earlier, limit = _speeds(before), _BRAKING_MPS2 * PLAN_INTERVAL_S
    return frozenset(token for token, speed in _speeds(frame).items() if speed - earlier.get(token, speed) < limit)


def _speeds(frame: Frame) -> Mapping[str, float]:
    objects = frame.objects
    return dict(zip(objects.track_tokens, np.hypot(*objects.velocity_mps[:, :2].T).tolist(), strict=True))
