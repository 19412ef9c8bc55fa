"""Pedestrians who cross the road: when they set off, where they are, and how drivers yield to them."""

from typing import Final

import numpy as np

from irl_vla.geometry import Floats
from irl_vla.world.clock import STEP_S
from irl_vla.world.drivers import EGO, Scenario, Stroller, Walker
from irl_vla.world.interaction import FAR_M, Bools
from irl_vla.world.roads import polyline

WALKER_SIZE_M: Final = (0.6, 0.6, 1.75)
#: Stop lines of drivers lie this far before the line of a walk.
_STOP_BEFORE_M: Final = 2.8

_AIR_M: Final = 0.9  # between a passing driver's side and somebody who walks
_KERB_M: Final = 0.9  # waits a step behind the edge
_BEYOND_M: Final = 2.0  # walks on behind the other edge
_HARDEST_YIELD_MPS2: Final = 4.5
_SEEN_AFTER_M: Final = 0.5  # who jaywalks is noticed with the first step onto the road


def walker_poses(walkers: tuple[Walker, ...], walked: Floats) -> tuple[Floats, Floats]:
    """(W, 3) poses and (W,) speeds of who has walked (W,) metres; negative: waits."""
    poses, speeds = np.zeros((len(walkers), 3)), np.zeros(len(walkers))
    for index, walker in enumerate(walkers):
        along = (walker.line[1] - walker.line[0]) / walker.length_m
        end = walker.length_m + _BEYOND_M
        poses[index, :2] = walker.line[0] + (min(max(walked[index], 0.0), end) - _KERB_M) * along
        poses[index, 2] = np.arctan2(along[1], along[0])
        speeds[index] = walker.speed_mps if 0.0 <= walked[index] < end else 0.0
    return poses, speeds


def stroller_poses(strollers: tuple[Stroller, ...], elapsed_s: float) -> Floats:
    """(M, 3) poses of those who move along a line."""
    poses = np.zeros((len(strollers), 3))
    for index, item in enumerate(strollers):
        along = polyline.lengths(item.line)
        position = item.start_m + elapsed_s * item.speed_mps
        here, ahead = polyline.at(item.line, along, np.clip([position, position + 0.5], 0.0, along[-1]))
        poses[index] = *here, np.arctan2(*(ahead - here)[::-1])
    return poses


def yield_gaps(scenario: Scenario, crossings: Floats, walked: Floats, fronts: Floats, speeds: Floats) -> Floats:
    """(N,) distance to where drivers stop for people who cross, else ``FAR_M``.

    Args:
        crossings: (N, W, 2) of ``Tracks``.
        fronts, speeds: (N,) arc lengths of front bumpers, m/s.
    """
    gaps = np.full(len(fronts), FAR_M)
    half_widths = np.array([driver.size_m[1] for driver in scenario.drivers]) / 2
    for index, walker in enumerate(scenario.walkers):
        if walked[index] < (_SEEN_AFTER_M if walker.jaywalks else 0.0):
            continue
        where, position = crossings[:, index].T
        ahead = position - (walked[index] - _KERB_M)
        distance = where - _STOP_BEFORE_M - fronts
        needed = speeds**2 / (2 * np.maximum(distance, 0.1))
        soon = ahead / walker.speed_mps < distance / np.maximum(speeds, 2.0) + 3.5
        yields = (distance > -1.5) & (needed < _HARDEST_YIELD_MPS2) & (ahead > -(half_widths + _AIR_M)) & soon
        gaps = np.where(yields & (distance < gaps), distance, gaps)
    return gaps


def walk(
    scenario: Scenario, crossings: Floats, walked: Floats, drivers: tuple[Floats, Floats, Bools], time_s: float
) -> Floats:
    """(W,) what everybody has walked 0.1 s later.

    Args:
        drivers: (N,) front bumpers, speeds and presence.
    """
    after = walked.copy()
    for index, walker in enumerate(scenario.walkers):
        if walked[index] >= 0:
            after[index] += walker.speed_mps * STEP_S
        elif walker.goes and _sets_off(walker, crossings[:, index, 0], scenario, drivers, time_s):
            after[index] = 0.0
    return after


def _sets_off(
    walker: Walker, where: Floats, scenario: Scenario, drivers: tuple[Floats, Floats, Bools], time_s: float
) -> bool:
    """True if the pedestrian wants to go and every driver can stop in time."""
    if time_s < walker.earliest_s:
        return False
    fronts, speeds, present = drivers
    distance = where - _STOP_BEFORE_M - fronts
    stopping = speeds**2 / (2 * walker.braking_mps2) + 1.0 + (0.8 * speeds if walker.jaywalks else 0.0)
    if time_s < walker.latest_s and not distance[EGO] < stopping[EGO] + walker.margin_m:
        return False
    lengths = np.array([driver.size_m[0] for driver in scenario.drivers])
    passed = distance < -(lengths + _STOP_BEFORE_M + 2.0)
    return bool(np.all(~present | np.isnan(distance) | passed | (distance > stopping)))
