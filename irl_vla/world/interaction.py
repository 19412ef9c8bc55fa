"""Who must give way to whom, compiled with Numba: leaders on a path and gaps at junctions."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
_Function = TypeVar("_Function", bound=Callable[..., Any])

GREEN, CLEARANCE, RED = 0, 1, 2
#: Drivers look this far along their path.
SIGHT_M: Final = 80.0
#: Sideways air that a driver wants to anything on the path.
_SIDE_AIR_M: Final = 0.35
_DECIDE_M: Final = 60.0  # from here on drivers watch the junction
_TRAFFIC_M: Final = 130.0  # vehicles further from the junction do not matter
_PULL_AWAY_MPS2: Final = 1.5
_COMFORT_STOP_MPS2: Final = 2.6
_HARDEST_STOP_MPS2: Final = 4.0
_BEFORE_S: Final = 1.6  # pass in front of others only with this much time to spare
_BEHIND_S: Final = 0.6


def compiled(function: _Function) -> _Function:
    """Compiles at the first call and keeps the machine code on disk."""
    return cast(_Function, numba.njit(cache=True)(function))


class PathDrivers(NamedTuple):
    """Vehicles that look along their paths.

    Attributes:
        paths: (N, V, 3) poses, 1 m apart; ``counts`` (N,) of them are real.
        fronts: (N,) arc length of the front bumper; negative switches a vehicle off.
        half_widths: (N,).
    """

    paths: Floats
    counts: Ints
    fronts: Floats
    half_widths: Floats


class Obstacles(NamedTuple):
    """All objects, the N vehicles first: corners and centre (A, 5, 2), centre poses (A, 3), speeds (A,)."""

    corners: Floats
    poses: Floats
    speeds: Floats


class JunctionTraffic(NamedTuple):
    """Vehicles that may use the junction.

    Attributes:
        movements: (N,) movement through the junction, -1 for none.
        to_line: (N,) from front bumper to stop line; negative once crossed.
        lengths, speeds: (N,).
        turn_speeds: (N,) speed with which they will cross the junction.
    """

    movements: Ints
    to_line: Floats
    lengths: Floats
    speeds: Floats
    turn_speeds: Floats


class JunctionRules(NamedTuple):
    """Right of way of the M movements.

    Attributes:
        lights: (M,) GREEN, CLEARANCE or RED.
        ranks: (M,) higher goes first.
        merging: (M, M) True where two movements end in the same lane.
        zones: (M, M, 2) as ``Network.conflicts``.
    """

    lights: Ints
    ranks: Floats
    merging: Bools
    zones: Floats


@compiled
def find_leaders(drivers: PathDrivers, obstacles: Obstacles, reach: float) -> tuple[Floats, Floats]:
    """Nearest object on each vehicle's path, at most ``reach`` metres ahead.

    Returns:
        (N,) gap from bumper to object in metres (1e6 if free) and (N,) speed of the object along the path.
    """
    paths, counts, fronts, half_widths = drivers
    corners, poses, speeds = obstacles
    count = len(paths)
    gaps = np.full(count, 1e6)
    leader_speeds = np.zeros(count)
    for i in range(count):
        if fronts[i] < 0:
            continue
        first = max(int(fronts[i]), 0)
        last = min(first + int(reach), counts[i] - 1)
        for j in range(len(poses)):
            if j == i:
                continue
            dx = poses[j, 0] - poses[i, 0]
            dy = poses[j, 1] - poses[i, 1]
            if dx * dx + dy * dy > (reach + 8.0) ** 2:
                continue
            nearest = 1e6
            where = 0
            for corner in range(5):
                along, lateral, vertex = _project(paths[i], first, last, corners[j, corner, 0], corners[j, corner, 1])
                if along >= fronts[i] and abs(lateral) < half_widths[i] + _SIDE_AIR_M and along < nearest:
                    nearest = along
                    where = vertex
            if nearest < 1e6 and nearest - fronts[i] < gaps[i]:
                gaps[i] = nearest - fronts[i]
                leader_speeds[i] = max(0.0, speeds[j] * np.cos(poses[j, 2] - paths[i, where, 2]))
    return gaps, leader_speeds


@compiled
def _project(path: Floats, first: int, last: int, x: float, y: float) -> tuple[float, float, int]:
    """Arc length, lateral offset and nearest vertex of a point; arc length -1 if it lies before or after the window."""
    best = 1e12
    vertex = first
    for k in range(first, last + 1, 4):
        distance = (path[k, 0] - x) ** 2 + (path[k, 1] - y) ** 2
        if distance < best:
            best = distance
            vertex = k
    for k in range(max(first, vertex - 3), min(last, vertex + 3) + 1):
        distance = (path[k, 0] - x) ** 2 + (path[k, 1] - y) ** 2
        if distance < best:
            best = distance
            vertex = k
    cos = np.cos(path[vertex, 2])
    sin = np.sin(path[vertex, 2])
    dx = x - path[vertex, 0]
    dy = y - path[vertex, 1]
    forward = dx * cos + dy * sin
    if abs(forward) > 1.5:
        return -1.0, 1e6, vertex
    return vertex + forward, dy * cos - dx * sin, vertex


@compiled
def must_wait(traffic: JunctionTraffic, rules: JunctionRules) -> Bools:
    """(N,) which vehicles must stop at their stop line, for a light or to give way."""
    count = len(traffic.movements)
    waits = np.zeros(count, dtype=np.bool_)
    for i in range(count):
        m = traffic.movements[i]
        distance = traffic.to_line[i]
        if m < 0 or distance <= 0.0 or distance > _DECIDE_M:
            continue
        stopping = traffic.speeds[i] ** 2 / (2 * max(distance, 0.1))
        if stopping > _HARDEST_STOP_MPS2:
            continue
        if rules.lights[m] == RED or (rules.lights[m] == CLEARANCE and stopping < _COMFORT_STOP_MPS2):
            waits[i] = True
            continue
        for j in range(count):
            if j == i or traffic.movements[j] < 0 or np.isnan(rules.zones[m, traffic.movements[j], 0]):
                continue
            if _will_come(i, j, traffic, rules) and _in_the_way(i, j, traffic, rules):
                waits[i] = True
                break
    return waits


@compiled
def _will_come(i: int, j: int, traffic: JunctionTraffic, rules: JunctionRules) -> bool:
    """True if vehicle j is in the junction, or will enter it with the right of way over i."""
    to_line = traffic.to_line
    if to_line[j] <= 0.0:
        return True
    m, n = traffic.movements[i], traffic.movements[j]
    if rules.lights[n] == RED or to_line[j] > _TRAFFIC_M:
        return False
    stopping = traffic.speeds[j] ** 2 / (2 * max(to_line[j], 0.1))
    if rules.lights[n] == CLEARANCE and stopping < _COMFORT_STOP_MPS2:
        return False
    return bool(rules.ranks[n] > rules.ranks[m] or (rules.ranks[n] == rules.ranks[m] and to_line[j] <= to_line[i]))


@compiled
def _in_the_way(i: int, j: int, traffic: JunctionTraffic, rules: JunctionRules) -> bool:
    """True if i and j would be in their common zone at about the same time."""
    m, n = traffic.movements[i], traffic.movements[j]
    mine, its = rules.zones[m, n], rules.zones[n, m]
    to_line, lengths, speeds, turn_speeds = traffic.to_line, traffic.lengths, traffic.speeds, traffic.turn_speeds
    if -to_line[j] - lengths[j] > its[1]:
        return False
    inside = to_line[j] <= 0.0
    arrive = _travel_time(to_line[i] + mine[0], speeds[i], turn_speeds[i])
    leave = _travel_time(to_line[i] + mine[1] + lengths[i], speeds[i], turn_speeds[i])
    its_arrival = _travel_time(to_line[j] + its[0], speeds[j], turn_speeds[j])
    if rules.merging[m, n] and inside:  # follow into the lane
        return bool(arrive < its_arrival + 1.5)
    if rules.merging[m, n]:
        return bool(leave + 1.5 > its_arrival and arrive < its_arrival + 2.0)
    its_leave = (to_line[j] + its[1] + lengths[j]) / max(speeds[j], 3.0)
    return bool(arrive < its_leave + _BEHIND_S and (inside or leave + _BEFORE_S > its_arrival))


@compiled
def _travel_time(distance: float, speed: float, top_speed: float) -> float:
    """Time to cover a distance while pulling away up to a speed."""
    if distance <= 0.0:
        return 0.0
    top = max(top_speed, speed, 0.5)
    ramp = (top * top - speed * speed) / (2 * _PULL_AWAY_MPS2)
    if ramp >= distance:
        return float((np.sqrt(speed * speed + 2 * _PULL_AWAY_MPS2 * distance) - speed) / _PULL_AWAY_MPS2)
    return (top - speed) / _PULL_AWAY_MPS2 + (distance - ramp) / top
