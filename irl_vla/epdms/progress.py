"""Ego progress along the centreline."""

from typing import Final

import numpy as np

from irl_vla.epdms.polygons import compiled, fill_ego_box, project_on_polyline
from irl_vla.geometry import Floats

_THRESHOLD_M: Final = 5.0


def progress(rollouts: Floats, centerline: Floats) -> Floats:
    """Arc length that the box centre gains on the centreline from the first to the last state.

    Args:
        rollouts: (P, S, 11) states.
        centerline: (V, 2) polyline; projections saturate at its ends.

    Returns:
        (P,) metres, never negative.
    """
    metres = np.empty(len(rollouts))
    _progress(rollouts, centerline, metres)
    return metres


def normalise_progress(progress_m: Floats, multiplier: Floats, best_m: Floats | float) -> Floats:
    """EP of proposals among the proposals they are compared with.

    Args:
        progress_m: (...) progress of the proposals; it is not multiplied by their own multiplier.
        multiplier: (...) product of NC, DAC, DDC and TLC of the proposals.
        best_m: (...) largest ``progress * multiplier`` among the others (for EPDMS: the reference's).

    Returns:
        (...) in [0, 1]; 1 where nobody passes the threshold of 5 m.
    """
    norm = np.maximum(progress_m * multiplier, best_m)
    passed = norm > _THRESHOLD_M
    return np.where(passed, np.clip(progress_m / np.where(passed, norm, 1.0), 0.0, 1.0), 1.0)


@compiled
def _progress(rollouts: Floats, centerline: Floats, metres: Floats) -> None:
    box, arcs = np.empty((6, 2)), np.empty(2)
    for p in range(len(rollouts)):
        for end in range(2):
            fill_ego_box(rollouts[p, -end], box)
            arcs[end] = project_on_polyline(centerline, box[4, 0], box[4, 1])
        metres[p] = max(0.0, arcs[1] - arcs[0])
