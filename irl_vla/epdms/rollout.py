"""From a plan to 41 simulated ego states: interpolation, LQR tracker, kinematic bicycle.

What NAVSIM v2.2's simulator does, including two departures from its documentation: the velocity fit penalises the
accelerations themselves (its batched difference matrix loses one band), and the curvature fit penalises the rates.
"""

from functools import cache
from typing import Final

import numpy as np

from irl_vla.epdms.polygons import Ints, compiled
from irl_vla.epdms.records import ROLLOUT_STEPS, STEP_S
from irl_vla.geometry import PACIFICA, Floats, compose, wrap_angle

_INTERVALS: Final = ROLLOUT_STEPS - 1
_PROPAGATION_S: Final = 100_000 * 1e-6  # one ulp below 0.1, as the devkit gets it from integer microseconds
_WHEEL_BASE_M: Final = PACIFICA.wheel_base
_HORIZON: Final = 10
_STOPPED_MPS: Final = 0.2
_STOPPING_GAIN: Final = 0.5
_SPEED_WEIGHT: Final = 10.0
_HEADING_WEIGHT: Final = 10.0
_LATERAL_WEIGHT: Final = 1.0
_CONTROL_WEIGHT: Final = 1.0
_ACCELERATION_RIDGE: Final = 1e-4
_CURVATURE_RIDGE: Final = 1e-10
_CURVATURE_RATE_RIDGE: Final = 1e-2
_ACCELERATION_LAG_S: Final = 0.2
_STEERING_LAG_S: Final = 0.05
_STEERING_LIMIT_RAD: Final = np.pi / 3
_TWO_PI: Final = 2 * np.pi


def interpolate_plans(time_us: int, ego_state: Floats, plans: Floats) -> Floats:
    """Resamples plans at the 41 simulation times.

    Args:
        time_us: timestamp of the current frame.
        ego_state: (11,) current state; its pose is the first knot.
        plans: (P, 8, 3) poses relative to the current rear axle, 0.5 s apart.

    Returns:
        (P, 41, 3) global rear-axle poses, headings in [-pi, pi).
    """
    plans = np.asarray(plans, np.float64)
    start_s = time_us * 1e-6
    # The evaluator's stamps go through float seconds and may lie 1 us below the ideal value.
    stamps = ((start_s + (np.arange(plans.shape[1]) * 0.5 + 0.5)) * 1e6).astype(np.int64)
    origin = np.broadcast_to(ego_state[:3], (len(plans), 1, 3))
    knots = np.concatenate([origin, compose(ego_state[:3], plans)], axis=1)
    return _resample(np.concatenate([[time_us], stamps]), knots, _query_stamps(time_us))


def interpolate_reference(time_us: int, reference_poses: Floats) -> Floats:
    """Resamples the 10 Hz reference trajectory at the 41 simulation times.

    Args:
        time_us: timestamp of its first pose.
        reference_poses: (51, 3) global rear-axle poses.

    Returns:
        (41, 3) global rear-axle poses.
    """
    stamps = time_us + 100_000 * np.arange(len(reference_poses), dtype=np.int64)
    resampled: Floats = _resample(stamps, reference_poses[None], _query_stamps(time_us))[0]
    return resampled


def simulate(initial_state: Floats, reference_poses: Floats) -> Floats:
    """Drives the vehicle model along reference poses.

    Args:
        initial_state: (11,) in the order of ``PreparedScene.ego_state``.
        reference_poses: (P, 41, 3) global rear-axle poses at 0.1 s; the first need not be the ego's.

    Returns:
        (P, 41, 11) states; the first equals ``initial_state``.
    """
    poses = np.ascontiguousarray(reference_poses, np.float64)
    states = np.empty((len(poses), ROLLOUT_STEPS, 11))
    _simulate(np.ascontiguousarray(initial_state, np.float64), poses, _velocity_fit(), states)
    return states


def _query_stamps(time_us: int) -> Ints:
    seconds: Floats = time_us * 1e-6 + np.arange(0, 4.1, STEP_S)[:ROLLOUT_STEPS]
    return (seconds * 1e6).astype(np.int64)


def _resample(stamps: Ints, knots: Floats, queries: Ints) -> Floats:
    queries = np.clip(queries, stamps[0], stamps[-1])
    high = np.clip(np.searchsorted(stamps, queries, side="left"), 1, len(stamps) - 1)
    low = high - 1
    values = np.concatenate([knots[..., :2], np.unwrap(knots[..., 2:], axis=1)], axis=-1)
    slope: Floats = (values[:, high] - values[:, low]) / (stamps[high] - stamps[low])[:, None]
    poses: Floats = slope * (queries - stamps[low])[:, None] + values[:, low]
    poses[..., 2] = wrap_angle(poses[..., 2])
    return poses


@cache
def _velocity_fit() -> Floats:
    """(40, 40) matrix from displacements along the heading to the fitted velocity profile.

    The squared residual over both axes depends on displacements only through their projection on the heading
    (cos^2 + sin^2 = 1), so one matrix serves every plan.
    """
    integrate = STEP_S * np.tri(_INTERVALS, _INTERVALS, -1)
    profile = np.concatenate([np.ones((_INTERVALS, 1)), integrate[:, :-1]], axis=1)  # velocities of (v0, a_0 .. a_38)
    penalty = np.zeros((_INTERVALS, _INTERVALS))
    penalty[np.arange(1, _INTERVALS - 2), np.arange(1, _INTERVALS - 2)] = _ACCELERATION_RIDGE
    penalty[-2:, -2:] = _ACCELERATION_RIDGE * np.array([[1.0, -1.0], [-1.0, 1.0]])
    normal = STEP_S**2 * profile.T @ profile + penalty
    fit: Floats = STEP_S * profile @ np.linalg.solve(normal, profile.T)
    return fit


@compiled
def _wrap(angle: float) -> float:
    return float(np.arctan2(np.sin(angle), np.cos(angle)))


@compiled
def _fit_profiles(poses: Floats, velocity_fit: Floats, velocity: Floats, curvature: Floats) -> None:
    """Fills the velocity and curvature profiles (40,) of one reference (41, 3)."""
    along = np.empty(_INTERVALS)
    for k in range(_INTERVALS):
        dx, dy = poses[k + 1, 0] - poses[k, 0], poses[k + 1, 1] - poses[k, 1]
        along[k] = dx * np.cos(poses[k, 2]) + dy * np.sin(poses[k, 2])
    for k in range(_INTERVALS):
        total = 0.0
        for j in range(_INTERVALS):
            total += velocity_fit[k, j] * along[j]
        velocity[k] = total
    # Least squares over a chain: eliminate from the end (information form), then substitute forwards.
    # All sums are of non-negative terms, so nothing cancels even when the vehicle stands.
    coupling = _CURVATURE_RATE_RIDGE / STEP_S**2
    precision, evidence = np.empty(_INTERVALS), np.empty(_INTERVALS)
    for k in range(_INTERVALS - 1, -1, -1):
        step = STEP_S * velocity[k]
        precision[k] = step * step
        evidence[k] = step * _wrap(poses[k + 1, 2] - poses[k, 2])
        if k < _INTERVALS - 1:
            share = coupling / (precision[k + 1] + coupling)
            precision[k] += share * precision[k + 1]
            evidence[k] += share * evidence[k + 1]
    curvature[0] = evidence[0] / (precision[0] + _CURVATURE_RIDGE)
    for k in range(1, _INTERVALS):
        curvature[k] = (coupling * curvature[k - 1] + evidence[k]) / (precision[k] + coupling)


@compiled
def _commands(state: Floats, pose: Floats, step: int, velocity: Floats, curvature: Floats) -> tuple[float, float]:
    """Acceleration and steering-rate command of the tracker in one state (11,) with reference pose (3,)."""
    last = min(step + _HORIZON, _INTERVALS - 1)
    speed, target = state[3], velocity[last]
    if target <= _STOPPED_MPS and speed <= _STOPPED_MPS:
        return -_STOPPING_GAIN * (speed - target), 0.0
    acceleration = -_SPEED_WEIGHT * (speed - target) / (_SPEED_WEIGHT + 1.0)
    ex, ey = state[0] - pose[0], state[1] - pose[1]
    lateral = -ex * np.sin(pose[2]) + ey * np.cos(pose[2])
    heading = _wrap(state[2] - pose[2])
    steering = state[7]
    lateral_gain, heading_gain, steering_gain = 0.0, 0.0, 0.0  # response to a constant unit steering rate
    for j in range(_HORIZON):
        arc = (speed + STEP_S * j * acceleration) * STEP_S
        lateral += arc * heading
        heading += arc * steering / _WHEEL_BASE_M - arc * curvature[min(step + j, last)]
        lateral_gain += arc * heading_gain
        heading_gain += arc * steering_gain / _WHEEL_BASE_M
        steering_gain += STEP_S
    cost = _LATERAL_WEIGHT * lateral_gain**2 + _HEADING_WEIGHT * heading_gain**2 + _CONTROL_WEIGHT
    pull = _LATERAL_WEIGHT * lateral_gain * lateral + _HEADING_WEIGHT * heading_gain * _wrap(heading)
    return acceleration, -pull / cost


@compiled
def _propagate(state: Floats, acceleration: float, steering_rate: float, following: Floats) -> None:
    """Writes the state (11,) one step later; position and heading advance with the old speed and steering."""
    h, speed, heading, steering = _PROPAGATION_S, state[3], state[2], state[7]
    lagged = state[5] + h / (h + _ACCELERATION_LAG_S) * (acceleration - state[5])
    turned = steering + h / (h + _STEERING_LAG_S) * (h * steering_rate)
    rate = (turned - steering) / h
    following[0] = state[0] + h * speed * np.cos(heading)
    following[1] = state[1] + h * speed * np.sin(heading)
    following[2] = (heading + h * speed * np.tan(steering) / _WHEEL_BASE_M + np.pi) % _TWO_PI - np.pi
    following[3] = speed + h * lagged
    following[4] = 0.0
    following[5] = lagged
    following[6] = 0.0
    following[7] = min(max(steering + h * rate, -_STEERING_LIMIT_RAD), _STEERING_LIMIT_RAD)
    following[8] = rate
    following[9] = following[3] * np.tan(following[7]) / _WHEEL_BASE_M
    following[10] = (following[9] - state[9]) / h


@compiled
def _simulate(initial_state: Floats, poses: Floats, velocity_fit: Floats, states: Floats) -> None:
    velocity, curvature = np.empty(_INTERVALS), np.empty(_INTERVALS)
    for p in range(len(poses)):
        _fit_profiles(poses[p], velocity_fit, velocity, curvature)
        states[p, 0] = initial_state
        for i in range(_INTERVALS):
            acceleration, steering_rate = _commands(states[p, i], poses[p, i], i, velocity, curvature)
            _propagate(states[p, i], acceleration, steering_rate, states[p, i + 1])
