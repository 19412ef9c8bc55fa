"""The expert: follows its route smoothly through a kinematic bicycle, with small human variations."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from irl_vla.driving.bicycle import bicycle_step, steering_for
from irl_vla.geometry import PACIFICA, Floats, wrap_angle
from irl_vla.world.drivers import Driver, path_curvature

_STEP_S: Final = 0.1
#: Comfort: well inside of the history-comfort bounds (+2.40, -4.05 m/s^2 and 4.13 m/s^3).
_HARDEST_MPS2: Final = -3.4
_JERK_UP_MPS3: Final = 2.2
_JERK_DOWN_MPS3: Final = 3.2
_STEERING_RATE_RADPS: Final = 0.4
_TRACKING_LENGTH_M: Final = 6.0  # a lateral error is gone after a few of these
_PREVIEW_S: Final = 0.3
_WANDER_M: Final = 0.12
_WANDER_TIME_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class ExpertState:
    """Rear-axle pose, motion and slow variations of the expert.

    Attributes:
        along_m: arc length of the rear axle on its path.
        steering_rad: front-wheel angle.
        wander_m: lateral offset from the centreline that the driver currently aims at.
    """

    x: float
    y: float
    heading: float
    speed_mps: float
    acceleration_mps2: float
    steering_rad: float
    along_m: float
    wander_m: float

    @property
    def pose(self) -> Floats:
        """(3,) rear-axle pose."""
        return np.array([self.x, self.y, self.heading])

    @property
    def lateral_acceleration_mps2(self) -> float:
        """At the rear axle, positive to the left."""
        return float(self.speed_mps**2 * np.tan(self.steering_rad) / PACIFICA.wheel_base)


@dataclass(frozen=True, slots=True, eq=False)
class Expert:
    """The path of the ego driver with its curvature."""

    path: Floats
    curvature: Floats


def make_expert(driver: Driver) -> Expert:
    """Prepares the ego driver's path."""
    return Expert(driver.path, path_curvature(driver.path))


def initial_state(expert: Expert, driver: Driver) -> ExpertState:
    """The expert at its start, on the centreline."""
    x, y, heading = (float(np.interp(driver.start_m, np.arange(len(expert.path)), expert.path[:, k])) for k in range(3))
    steering = float(steering_for(_curvature_at(expert, driver.start_m)))
    return ExpertState(x, y, heading, driver.speed_mps, 0.0, steering, driver.start_m, 0.0)


def step(expert: Expert, state: ExpertState, wanted_mps2: float, generator: np.random.Generator) -> ExpertState:
    """Moves the expert by 0.1 s.

    Args:
        wanted_mps2: acceleration that traffic asks for; reached within the comfortable jerk.
    """
    acceleration = _eased(state.acceleration_mps2, wanted_mps2)
    steering = _steer(expert, state)
    pose, moved_speed = bicycle_step(state.pose, state.speed_mps, acceleration, steering, _STEP_S)
    speed = float(moved_speed)
    if speed <= 0.02 and wanted_mps2 <= 0.0:
        speed = acceleration = 0.0
    x, y, heading = (float(value) for value in pose)
    decay = np.exp(-_STEP_S / _WANDER_TIME_S)
    wander = decay * state.wander_m + np.sqrt(1 - decay**2) * _WANDER_M * generator.normal()
    wander = float(np.clip(wander, state.wander_m - 0.02, state.wander_m + 0.02))
    along = _advance(expert, state.along_m, x, y)
    return ExpertState(x, y, heading, speed, acceleration, steering, along, wander)


def _eased(now: float, wanted: float) -> float:
    wanted = max(wanted, _HARDEST_MPS2)
    down = 2 * _JERK_DOWN_MPS3 if wanted < -3.0 else _JERK_DOWN_MPS3
    # easing off the brake may be quicker than pressing the pedal, or stops would overshoot
    up = _JERK_DOWN_MPS3 if now < -0.2 else _JERK_UP_MPS3
    return float(np.clip(wanted, now - down * _STEP_S, now + up * _STEP_S))


def _steer(expert: Expert, state: ExpertState) -> float:
    index = int(np.clip(round(state.along_m), 0, len(expert.path) - 1))
    x, y, heading = expert.path[index]
    dx, dy = state.x - x, state.y - y
    lateral = dy * np.cos(heading) - dx * np.sin(heading) - state.wander_m
    ahead = _curvature_at(expert, state.along_m + _PREVIEW_S * state.speed_mps)
    path_heading = heading + (state.along_m - index) * _curvature_at(expert, state.along_m)
    error = float(wrap_angle(state.heading - path_heading))
    curvature = ahead - lateral / _TRACKING_LENGTH_M**2 - 1.8 * error / _TRACKING_LENGTH_M
    wanted = float(steering_for(np.clip(curvature, -0.15, 0.15)))
    reach = _STEERING_RATE_RADPS * _STEP_S if state.speed_mps > 0.1 else 0.0
    return float(np.clip(wanted, state.steering_rad - reach, state.steering_rad + reach))


def _curvature_at(expert: Expert, along_m: float) -> float:
    return float(np.interp(along_m, np.arange(len(expert.curvature)), expert.curvature))


def _advance(expert: Expert, along_m: float, x: float, y: float) -> float:
    first = max(int(along_m) - 1, 0)
    window = expert.path[first : first + 6]
    nearest = int(np.argmin((window[:, 0] - x) ** 2 + (window[:, 1] - y) ** 2))
    px, py, heading = window[nearest]
    return float(first + nearest + (x - px) * np.cos(heading) + (y - py) * np.sin(heading))
