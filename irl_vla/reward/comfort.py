"""Comfort of plans, computed from the ego's own motion: no model has to learn what a simulator can say for free.

History comfort (HC) needs the ego history and the simulated rollout; extended comfort (EC) the rollouts of a frame
and of its predecessor. Neither needs a map or another road user, so the token bank's ego history is enough.

Deviation from the evaluator: the bank holds no exact timestamps of the history frames, so they count as 0.5 s apart
(logs jitter by milliseconds).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.epdms.comfort import extended_comfort, history_comfort, history_rows
from irl_vla.epdms.rollout import interpolate_plans, simulate
from irl_vla.geometry import Floats
from irl_vla.scene import HISTORY_FRAMES, PLAN_INTERVAL_S, are_pair

_STATE_SIZE: Final = 11


def ego_states(history: Floats) -> Floats:
    """Simulator states of history frames, in the current ego frame.

    Args:
        history: (..., 7) x, y, heading, vx, vy, ax, ay as in ``Observation.history``.

    Returns:
        (..., 11) in the order of ``PreparedScene.ego_state``; steering and turning are 0, as the evaluator has them.
    """
    states = np.zeros((*history.shape[:-1], _STATE_SIZE))
    states[..., :7] = history
    return states


def rollouts_of(history: Floats, plans: Floats, time_us: int) -> Floats:
    """Simulates plans of one frame in its ego frame.

    Args:
        history: (4, 7) ego history of the frame.
        plans: (P, 8, 3).
        time_us: timestamp of the frame (the evaluator rounds in absolute time).

    Returns:
        (P, 41, 11).
    """
    state = ego_states(history[-1])
    return simulate(state, interpolate_plans(time_us, state, np.asarray(plans, np.float64)))


def scene_rollouts(histories: Floats, plans: Floats, times_us: NDArray[np.int64]) -> Floats:
    """Simulates the plans of B frames, each in its ego frame.

    Args:
        histories: (B, 4, 7).
        plans: (B, P, 8, 3).
        times_us: (B,) timestamps of the frames.

    Returns:
        (B, P, 41, 11).
    """
    frames = zip(histories, plans, times_us, strict=True)
    return np.stack([rollouts_of(history, plan, int(time_us)) for history, plan, time_us in frames])


def history_comforts(histories: Floats, rollouts: Floats) -> Floats:
    """HC of plans: (B, P) of 0 and 1.

    Args:
        histories: (B, 4, 7).
        rollouts: (B, P, 41, 11) of :func:`scene_rollouts`.
    """
    nominal = (-PLAN_INTERVAL_S * 1e6 * np.arange(HISTORY_FRAMES - 1, -1, -1)).astype(np.int64)
    comforts = [
        history_comfort(states, history_rows(nominal, ego_states(history)))
        for history, states in zip(histories, rollouts, strict=True)
    ]
    return np.stack(comforts)


def pair_comforts(
    now: tuple[Floats, Floats, NDArray[np.int64]], previous: tuple[Floats, Floats, NDArray[np.int64]]
) -> Floats:
    """EC of plans of frames and of their predecessors.

    Args:
        now, previous: histories (B, 4, 7), plans (B, P, 8, 3) and timestamps (B,); plan p of a frame pairs with plan p
            of its predecessor, or with its only one.

    Returns:
        (B, P) of 0 and 1; NaN for frames that are no pair (``scene.are_pair``), which have no EC.
    """
    comforts = np.full(now[1].shape[:2], np.nan)
    gaps_us = now[2] - previous[2]
    for row in np.flatnonzero(are_pair(gaps_us)):
        later = rollouts_of(now[0][row], now[1][row], int(now[2][row]))
        earlier = rollouts_of(previous[0][row], previous[1][row], int(previous[2][row]))
        comforts[row] = extended_comfort(later, earlier, float(gaps_us[row]) * 1e-6)
    return comforts
