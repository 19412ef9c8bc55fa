"""Plans as small integers, exactly reversible: a label's plan is the very plan that was scored.

Positions are kept to 2 mm as steps from pose to pose, which stay small however far a plan goes; headings to 0.1 mrad,
wrapped. A step beyond 65 m (131 m/s) is cut there: only plans that nobody could drive are that fast.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import wrap_angle

#: Units a metre and units a radian.
_PER_M: Final = 500.0
_PER_RAD: Final = 1e4
_LARGEST: Final = np.iinfo(np.int16).max
_HALF_TURN: Final = round(np.pi * _PER_RAD)


def encode_plans(plans: NDArray[np.floating[Any]]) -> NDArray[np.int16]:
    """Rounds plans.

    Args:
        plans: (..., 8, 3) finite, ego frame.

    Returns:
        (..., 8, 3): steps in x and y from the pose before (the first from the ego) in 2 mm, heading in 0.1 mrad.
    """
    exact = np.asarray(plans, np.float64)
    places = np.rint(exact[..., :2] * _PER_M)
    steps = np.diff(places, axis=-2, prepend=0.0)
    headings = np.rint(wrap_angle(exact[..., 2:]) * _PER_RAD)
    headings[headings == _HALF_TURN] = -_HALF_TURN  # the same heading has the same code
    return np.concatenate([np.clip(steps, -_LARGEST, _LARGEST), headings], axis=-1).astype(np.int16)


def decode_plans(codes: NDArray[np.int16]) -> NDArray[np.float32]:
    """The plans (..., 8, 3) of :func:`encode_plans`."""
    whole = codes.astype(np.int64)
    places = whole[..., :2].cumsum(axis=-2) / _PER_M
    return np.concatenate([places, whole[..., 2:] / _PER_RAD], axis=-1).astype(np.float32)


def rounded(plans: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """The nearest plans that have a code."""
    return decode_plans(encode_plans(plans))
