"""Comfort with history (HC) and comfort across two planning steps (EC)."""

from functools import cache
from typing import Final, NamedTuple

import numpy as np

from irl_vla.epdms.polygons import Bools, Ints, compiled
from irl_vla.epdms.records import ROLLOUT_STEPS, STEP_S
from irl_vla.geometry import PACIFICA, Floats, wrap_angle
from irl_vla.scene import MAX_PAIR_GAP_US, are_pair

#: Signals of HC, in the order of the last axis of ``comfort_flags``.
COMFORT_NAMES: Final = ("lon_accel", "lat_accel", "jerk", "lon_jerk", "yaw_accel", "yaw_rate")
#: Signals of EC, in the order of the last axis of ``extended_comfort_rms``.
EXTENDED_NAMES: Final = ("acceleration", "jerk", "yaw_rate", "yaw_acceleration")

_LOWER: Final = np.array([-4.05, -4.89, -8.37, -4.13, -1.93, -0.95])
_UPPER: Final = np.array([2.40, 4.89, 8.37, 4.13, 1.93, 0.95])
_EXTENDED_LIMITS: Final = np.array([0.7, 0.5, 0.1, 0.1])
_ACCELERATION_WINDOW: Final = 8
_JERK_WINDOW: Final = 15
_YAW_WINDOW: Final = 5
_DECIMALS: Final = 8
_GRID_US: Final = 100_000


class _Stencil(NamedTuple):
    """Least-squares polynomial filter: weights of a window of W samples.

    Attributes:
        before: (W // 2, W) for the first outputs, from the first window.
        inside: (W,) for all outputs between, each from its own window.
        after: (W // 2, W) for the last outputs, from the last window.
    """

    before: Floats
    inside: Floats
    after: Floats


def history_rows(history_time_us: Ints, history_states: Floats) -> Floats:
    """Past states on the comfort grid.

    As in the evaluator, the last sample before the current frame is dropped although rows are later taken as 0.1 s
    apart, and steering rate, yaw rate and yaw acceleration are zero.

    Args:
        history_time_us: (H,) timestamps, the current frame last.
        history_states: (H, 11) states.

    Returns:
        (n, 11) states; n = 14 for a nominal history of 1.5 s.
    """
    queries = np.arange(history_time_us[0], history_time_us[-1], _GRID_US, dtype=np.int64)[:-1]
    high = np.clip(np.searchsorted(history_time_us, queries, side="left"), 1, len(history_time_us) - 1)
    low = high - 1
    values = history_states.copy()
    values[:, 2] = np.unwrap(values[:, 2])
    values[:, 8:] = 0.0
    slope = (values[high] - values[low]) / (history_time_us[high] - history_time_us[low])[:, None]
    rows: Floats = slope * (queries - history_time_us[low])[:, None] + values[low]
    rows[:, 2] = wrap_angle(rows[:, 2])
    return rows


def comfort_signals(states: Floats) -> Floats:
    """Filtered signals of states at 0.1 s.

    Args:
        states: (P, N, 11), N >= 8.

    Returns:
        (6, P, N) in the order of ``COMFORT_NAMES``, rounded to 8 decimals as in the evaluator.
    """
    yaw_rate, yaw_acceleration = states[..., 9], states[..., 10]
    # The evaluator adds both rotational terms of the shift to the box centre to the longitudinal component.
    shifted = states[..., 5] + PACIFICA.rear_axle_to_centre * (yaw_rate**2 + yaw_acceleration)
    lon_accel = _filtered(shifted, _ACCELERATION_WINDOW, 2, 0)
    heading = _unwrapped(states[..., 2])
    return np.stack(
        [
            lon_accel,
            _filtered(states[..., 6], _ACCELERATION_WINDOW, 2, 0),
            _filtered(_acceleration(states), _JERK_WINDOW, 2, 1),
            _filtered(lon_accel, _JERK_WINDOW, 2, 1),
            _filtered(heading, _YAW_WINDOW, 3, 2),
            _filtered(heading, _YAW_WINDOW, 2, 1),
        ]
    )


def comfort_flags(states: Floats) -> Bools:
    """(P, 6) True where a signal stays strictly within its bounds at every row of ``states`` (P, N, 11)."""
    signals = comfort_signals(states)
    within = (signals > _LOWER[:, None, None]) & (signals < _UPPER[:, None, None])
    flags: Bools = np.asarray(within.all(axis=-1)).T
    return flags


def history_comfort(rollouts: Floats, history: Floats) -> Floats:
    """HC (P,) of rollouts (P, 41, 11) that follow the rows (n, 11) of :func:`history_rows`."""
    past = np.broadcast_to(history, (len(rollouts), *history.shape))
    flags = comfort_flags(np.concatenate([past, rollouts], axis=1))
    return np.where(flags.all(axis=-1), 1.0, 0.0)


def extended_comfort_rms(now: Floats, previous: Floats, interval_s: float) -> Floats:
    """Root mean square differences between two rollouts where they overlap in time.

    Args:
        now: (..., 41, 11) states planned later.
        previous: (..., 41, 11) states planned ``interval_s`` earlier; leading axes broadcast.
        interval_s: of two frames that are a pair (``scene.are_pair``): in (0, 0.55].

    Returns:
        (..., 4) in the order of ``EXTENDED_NAMES``.

    Raises:
        ValueError: if the interval is not within its bounds.
    """
    if not are_pair(round(interval_s * 1e6)):
        raise ValueError(f"expected an interval of rollouts in (0, {MAX_PAIR_GAP_US / 1e6}] s, found {interval_s}")
    shift = round(interval_s / STEP_S)
    later = _extended_signals(now[..., : ROLLOUT_STEPS - shift, :])
    earlier = _extended_signals(previous[..., shift:ROLLOUT_STEPS, :])
    rms: Floats = np.sqrt(np.mean((later - earlier) ** 2, axis=-1))
    return rms


def extended_comfort(now: Floats, previous: Floats, interval_s: float) -> Bools | np.bool_:
    """EC of rollouts, True where all differences are small; arguments as in :func:`extended_comfort_rms`."""
    return (extended_comfort_rms(now, previous, interval_s) <= _EXTENDED_LIMITS).all(axis=-1)


def _extended_signals(states: Floats) -> Floats:
    """(..., 4, n) signals of EC; here yaw acceleration is fitted with order 2."""
    rows = states.reshape(-1, *states.shape[-2:])
    heading = _unwrapped(rows[..., 2])
    acceleration = _acceleration(rows)
    signals = np.stack(
        [
            acceleration,
            _filtered(acceleration, min(_JERK_WINDOW, states.shape[-2]), 2, 1),
            _filtered(heading, _YAW_WINDOW, 2, 1),
            _filtered(heading, _YAW_WINDOW, 2, 2),
        ]
    )
    return signals.transpose(1, 0, 2).reshape(*states.shape[:-2], len(EXTENDED_NAMES), states.shape[-2])


def _acceleration(states: Floats) -> Floats:
    return _filtered(np.hypot(states[..., 5], states[..., 6]), _ACCELERATION_WINDOW, 2, 0)


def _unwrapped(headings: Floats) -> Floats:
    turns = np.round(np.diff(headings, axis=-1) / (2 * np.pi))
    return headings - 2 * np.pi * np.concatenate([np.zeros_like(headings[..., :1]), np.cumsum(turns, axis=-1)], axis=-1)


def _filtered(signal: Floats, window: int, order: int, derivative: int) -> Floats:
    """Savitzky-Golay filter of (P, N) samples with polynomial fits at both borders, rounded."""
    smooth = np.empty(signal.shape)
    _convolve(np.ascontiguousarray(signal), _stencil(window, order, derivative), smooth)
    return np.round(smooth, _DECIMALS)


@cache
def _stencil(window: int, order: int, derivative: int) -> _Stencil:
    """Weights that evaluate a derivative of the least-squares polynomial; for an even window between two samples."""
    samples = np.arange(window, dtype=np.float64)
    half = window // 2
    middle = (window - 1) / 2
    fit = np.linalg.pinv(np.vander(samples - middle, order + 1, increasing=True))
    powers = np.arange(order + 1)
    factor = np.array([np.prod(np.arange(power, power - derivative, -1)) for power in powers])

    def weights(position: float) -> Floats:
        basis = factor * np.where(powers >= derivative, (position - middle) ** np.maximum(powers - derivative, 0), 0.0)
        row: Floats = basis @ fit / STEP_S**derivative
        return row

    return _Stencil(
        before=np.array([weights(i) for i in range(half)]),
        inside=weights(middle),
        after=np.array([weights(i) for i in range(window - half, window)]),
    )


@compiled
def _convolve(signal: Floats, stencil: _Stencil, smooth: Floats) -> None:
    count, window = signal.shape[1], len(stencil.inside)
    half = window // 2
    # An even window reaches one sample farther ahead than back.
    back = (window - 1) // 2
    for p in range(len(signal)):
        for i in range(count):
            first, weights = i - back, stencil.inside
            if i < half:
                first, weights = 0, stencil.before[i]
            elif i >= count - half:
                first, weights = count - window, stencil.after[i - (count - half)]
            total = 0.0
            for j in range(window):
                total += weights[j] * signal[p, first + j]
            smooth[p, i] = total
