"""Car following by the intelligent driver model (IDM)."""

from typing import Final, NamedTuple

import numpy as np

from irl_vla.geometry import Floats


class IdmParameters(NamedTuple):
    """Parameters of the intelligent driver model (Treiber, Hennecke, Helbing 2000).

    Attributes:
        target_speed_mps: free speed, positive.
        min_gap_m: bumper-to-bumper distance at standstill, positive.
        headway_s: time gap kept to the leader.
        acceleration_mps2: largest acceleration.
        deceleration_mps2: comfortable braking, positive.
        exponent: how late acceleration fades with speed.
    """

    target_speed_mps: float
    min_gap_m: float = 1.0
    headway_s: float = 1.5
    acceleration_mps2: float = 1.5
    deceleration_mps2: float = 3.0
    exponent: float = 4.0


#: PDM-Closed's parameters but for the target speed.
PDM_MIN_GAP_M: Final = 1.0
PDM_HEADWAY_S: Final = 1.5
PDM_ACCELERATION_MPS2: Final = 1.5
PDM_DECELERATION_MPS2: Final = 3.0
PDM_EXPONENT: Final = 10.0

_SMALLEST_GAP_M: Final = 0.1


def idm_acceleration(
    speed: Floats | float, gap: Floats | float, lead_speed: Floats | float, params: IdmParameters
) -> Floats:
    """Acceleration of vehicles behind their leaders.

    The desired gap never falls below the minimum gap, and an overlap counts as a gap of 10 cm, so that the result stays
    finite; it has no lower limit: the caller clips to what brakes can do.

    Args:
        speed: (...) m/s, not negative.
        gap: (...) bumper-to-bumper distance in m; ``inf`` for a free road.
        lead_speed: (...) m/s along the follower's path; not read where the gap is infinite, but must be finite.
        params: of the follower.

    Returns:
        (...) m/s2.
    """
    speed, gap = np.asarray(speed, np.float64), np.maximum(gap, _SMALLEST_GAP_M)
    closing = speed * (speed - lead_speed) / (2 * np.sqrt(params.acceleration_mps2 * params.deceleration_mps2))
    desired = params.min_gap_m + np.maximum(params.headway_s * speed + closing, 0.0)
    free = (speed / params.target_speed_mps) ** params.exponent
    acceleration: Floats = params.acceleration_mps2 * (1 - free - (desired / gap) ** 2)
    return acceleration


def pdm_acceleration(speed: float, gap: float, lead_speed: float, target_speed: float) -> float:
    """PDM-Closed's acceleration in m/s2, limited to [-3, 1.5].

    Unlike in :func:`idm_acceleration`, speeds may be negative, the desired gap is not limited from below, and gaps
    below the minimum gap count as the minimum gap. Plain arithmetic, so that kernels can compile it.
    """
    closing = speed * (speed - lead_speed) / (2 * np.sqrt(PDM_ACCELERATION_MPS2 * PDM_DECELERATION_MPS2))
    desired = PDM_MIN_GAP_M + PDM_HEADWAY_S * speed + closing
    crowding = (desired / max(gap, PDM_MIN_GAP_M)) ** 2
    acceleration = PDM_ACCELERATION_MPS2 * (1.0 - (speed / target_speed) ** PDM_EXPONENT - crowding)
    return float(min(max(acceleration, -PDM_DECELERATION_MPS2), PDM_ACCELERATION_MPS2))
