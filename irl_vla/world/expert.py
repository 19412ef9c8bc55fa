"""The expert: follows its route smoothly through a kinematic bicycle, with small human variations."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from irl_vla.driving.bicycle import bicycle_step, steering_for
from irl_vla.geometry import PACIFICA, Floats, wrap_angle
from irl_vla.world.clock import STEP_S
from irl_vla.world.drivers import Driver
from irl_vla.world.tracks import project

#: Comfort: well inside of the history-comfort bounds (+2.40, -4.05 m/s^2 and 4.13 m/s^3).
_HARDEST_MPS2: Final = -3.4
_JERK_UP_MPS3: Final = 2.2
_JERK_DOWN_MPS3: Final = 3.2
_JERK_HARD_MPS3: Final = 3.9
_STEERING_RATE_RADPS: Final = 0.4
_TRACKING_LENGTH_M: Final = 6.0  # a lateral error is gone after a few of these
_PREVIEW_S: Final = 0.3
_AIM_M: Final = 2.0  # the point so far ahead of the rear axle is kept on the path, which centres the body in bends
_REACTION_STEPS: Final = 3  # at 0.1 s: what the driver sees now is answered so much later
_WANDER_M: Final = 0.12
_WANDER_TIME_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class ExpertState:
    """Rear-axle pose, motion and slow variations of the expert.

    Attributes:
        along_m: arc length of the rear axle on its path.
        steering_rad: front-wheel angle.
        wander_m: lateral offset from its path that the driver currently aims at.
        noted_mps2: accelerations that the driver has seen reason for but not answered yet, the oldest first.
    """

    x: float
    y: float
    heading: float
    speed_mps: float
    acceleration_mps2: float
    steering_rad: float
    along_m: float
    wander_m: float
    noted_mps2: tuple[float, ...] = ()

    @property
    def pose(self) -> Floats:
        """(3,) rear-axle pose."""
        return np.array([self.x, self.y, self.heading])

    @property
    def lateral_acceleration_mps2(self) -> float:
        """At the rear axle, positive to the left."""
        return float(self.speed_mps**2 * np.tan(self.steering_rad) / PACIFICA.wheel_base)


def initial_state(driver: Driver) -> ExpertState:
    """The expert at its start, on its path."""
    x, y, heading = _pose_at(driver.path, driver.start_m)
    steering = float(steering_for(curvature_at(driver.path, driver.start_m)))
    return ExpertState(x, y, heading, driver.speed_mps, 0.0, steering, driver.start_m, 0.0)


def step(path: Floats, state: ExpertState, wanted_mps2: float, generator: np.random.Generator) -> ExpertState:
    """Moves the expert by 0.1 s.

    Args:
        path: (V, 3) poses 1 m apart to follow.
        wanted_mps2: acceleration that traffic asks for; answered after the reaction time, within comfortable jerk.
    """
    noted = (*state.noted_mps2, wanted_mps2)[-_REACTION_STEPS - 1 :]
    answered = noted[0]
    acceleration = _eased(state.acceleration_mps2, answered)
    steering = _steer(path, state)
    pose, moved_speed = bicycle_step(state.pose, state.speed_mps, acceleration, steering, STEP_S)
    speed = float(moved_speed)
    if speed <= 0.02 and answered <= 0.0:
        speed = acceleration = 0.0
    x, y, heading = (float(value) for value in pose)
    decay = np.exp(-STEP_S / _WANDER_TIME_S)
    wander = decay * state.wander_m + np.sqrt(1 - decay**2) * _WANDER_M * generator.normal()
    wander = float(np.clip(wander, state.wander_m - 0.02, state.wander_m + 0.02))
    along = project(path, pose, state.along_m, 4.0)
    return ExpertState(x, y, heading, speed, acceleration, steering, along, wander, noted)


def _eased(now: float, wanted: float) -> float:
    wanted = max(wanted, _HARDEST_MPS2)
    down = _JERK_HARD_MPS3 if wanted < -3.0 else _JERK_DOWN_MPS3
    # easing off the brake may be quicker than pressing the pedal, or stops would overshoot
    up = _JERK_DOWN_MPS3 if now < -0.2 else _JERK_UP_MPS3
    return float(np.clip(wanted, now - down * STEP_S, now + up * STEP_S))


def _steer(path: Floats, state: ExpertState) -> float:
    x, y, path_heading = _pose_at(path, state.along_m + _AIM_M)
    dx, dy = state.x + _AIM_M * np.cos(state.heading) - x, state.y + _AIM_M * np.sin(state.heading) - y
    lateral = dy * np.cos(path_heading) - dx * np.sin(path_heading) - state.wander_m
    ahead = curvature_at(path, state.along_m + _PREVIEW_S * state.speed_mps)
    # on an arc the car heads inwards of the tangent ahead of its rear axle
    error = float(wrap_angle(state.heading - path_heading)) + _AIM_M * curvature_at(path, state.along_m + _AIM_M)
    curvature = ahead - lateral / _TRACKING_LENGTH_M**2 - 1.8 * error / _TRACKING_LENGTH_M
    wanted = float(steering_for(np.clip(curvature, -0.15, 0.15)))
    reach = _STEERING_RATE_RADPS * STEP_S if state.speed_mps > 0.1 else 0.0
    return float(np.clip(wanted, state.steering_rad - reach, state.steering_rad + reach))


def curvature_at(path: Floats, along_m: float) -> float:
    """Curvature of a path (V, 3), smoothed over 5 m."""
    return (_pose_at(path, along_m + 2.5)[2] - _pose_at(path, along_m - 2.5)[2]) / 5.0


def _pose_at(path: Floats, along_m: float) -> tuple[float, float, float]:
    along = min(max(along_m, 0.0), len(path) - 1.001)
    index = int(along)
    share = along - index
    first, second = path[index], path[index + 1]
    x, y, heading = first + share * (second - first)
    return float(x), float(y), float(heading)
