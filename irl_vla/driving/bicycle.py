"""Kinematic bicycle model of vehicles, at the rear axle."""

from typing import Final

import numpy as np

from irl_vla.geometry import PACIFICA, Floats, wrap_angle

STEERING_LIMIT_RAD: Final = np.pi / 3


def bicycle_step(
    poses: Floats,
    speed_mps: Floats | float,
    acceleration_mps2: Floats | float,
    steering_rad: Floats | float,
    interval_s: float,
    *,
    wheel_base_m: float = PACIFICA.wheel_base,
) -> tuple[Floats, Floats]:
    """Drives vehicles for one interval with constant acceleration and steering angle.

    The path is the exact arc. A braking vehicle stops and stays: its speed does not change sign within a step.

    Args:
        poses: (..., 3) rear axle.
        speed_mps: (...) at the start, not negative.
        acceleration_mps2: (...).
        steering_rad: (...) of the front wheels, left positive, clipped to +-60 degrees.
        interval_s: duration.
        wheel_base_m: distance of the axles.

    Returns:
        (..., 3) poses with wrapped headings, and (...) speeds at the end.
    """
    poses, speed = np.asarray(poses, np.float64), np.asarray(speed_mps, np.float64)
    acceleration = np.asarray(acceleration_mps2, np.float64)
    reached = speed + acceleration * interval_s
    final = np.maximum(reached, 0.0)
    moving_s = np.where(reached < 0, speed / np.where(reached < 0, -acceleration, 1.0), interval_s)
    distance = (speed + final) / 2 * moving_s
    steering = np.clip(steering_rad, -STEERING_LIMIT_RAD, STEERING_LIMIT_RAD)
    turn = distance * np.tan(steering) / wheel_base_m
    # Chord of an arc: length distance * sin(turn / 2) / (turn / 2), along the mean heading.
    half = turn / 2
    chord = distance * np.sinc(half / np.pi)
    heading = poses[..., 2] + half
    moved = np.stack(
        [
            poses[..., 0] + chord * np.cos(heading),
            poses[..., 1] + chord * np.sin(heading),
            wrap_angle(poses[..., 2] + turn),
        ],
        axis=-1,
    )
    return moved, final


def steering_for(curvature_per_m: Floats | float, wheel_base_m: float = PACIFICA.wheel_base) -> Floats:
    """Steering angle (...) that keeps the rear axle on a curvature (...), left positive, within the limit."""
    angle: Floats = np.arctan(np.asarray(curvature_per_m, np.float64) * wheel_base_m)
    return np.clip(angle, -STEERING_LIMIT_RAD, STEERING_LIMIT_RAD)
