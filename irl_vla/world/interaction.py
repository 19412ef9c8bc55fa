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
#: Gap to nobody.
FAR_M: Final = 1e6
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
_AHEAD_S: Final = 2.5  # who is this much earlier goes before somebody who is already in the junction
_DECIDE_MPS2: Final = 2.0  # who is faster watches the junction from where this braking stops in time
_DECIDE_AIR_M: Final = 15.0
#: Two who merge: earliest arrival behind the other, the longest time that counts as leaving the meeting point, and the
#: times to spare before the other and behind it.
_FOLLOW_S: Final = 1.2
_MEETING_S: Final = 2.0
_MERGE_BEFORE_S: Final = 1.5
_MERGE_BEHIND_S: Final = 2.0
_LEAVING_MPS: Final = 3.0  # who is slower is taken to leave the junction with this
#: Passing others: how often their way is looked at, and the room to them along and across.
_LOOK_EVERY_S: Final = 0.4
_ROOM_AHEAD_M: Final = 2.0
_ROOM_AHEAD_S: Final = 0.6
_ROOM_ASIDE_M: Final = 0.45
_SAME_WAY: Final = 0.5  # cosine between headings
_SAME_LANE_M: Final = 2.0
_WELL_AHEAD_M: Final = 12.0
_CORNER_M: Final = 8.0  # furthest that corners lie from the centre of anything
_BESIDE_END_M: Final = 1.5  # points further before or behind the vertices looked at lie before or behind the window
_COARSE: Final = 4  # every so many vertices of a path are looked at first


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


class Neighbours(NamedTuple):
    """What is before and behind a place on a lane: indices (-1 for nobody), bumper gaps (far if free), speeds there.

    ``beside`` is True if somebody is level with the place.
    """

    ahead: int
    ahead_gap: float
    ahead_speed: float
    behind: int
    behind_gap: float
    behind_speed: float
    beside: bool


class Passage(NamedTuple):
    """A vehicle on a path of ``size`` poses: its centre, its speed from now on, for how long, and its half box."""

    path: Floats
    size: int
    along: float
    speed: float
    horizon_s: float
    half_length: float
    half_width: float


class Movers(NamedTuple):
    """The N vehicles on their paths (N, V, 3): arc lengths of their centres, speeds and boxes (N,)."""

    paths: Floats
    counts: Ints
    along: Floats
    speeds: Floats
    lengths: Floats
    widths: Floats
    present: Bools


class JunctionTraffic(NamedTuple):
    """Vehicles that may use the junction.

    Attributes:
        movements: (N,) movement through the junction, -1 for none.
        to_line: (N,) from front bumper to stop line; negative once crossed.
        lengths, speeds: (N,).
        turn_speeds: (N,) speed with which they will cross the junction.
        ranks: (N,) right of way, higher goes first.
        must_stop: (N,) True for who has yet to stop at a stop sign.
    """

    movements: Ints
    to_line: Floats
    lengths: Floats
    speeds: Floats
    turn_speeds: Floats
    ranks: Floats
    must_stop: Bools


class JunctionRules(NamedTuple):
    """Right of way of the M movements.

    Attributes:
        lights: (M,) GREEN, CLEARANCE or RED.
        merging: (M, M) True where two movements share their way from where they meet: those that end in the same lane,
            and all in a roundabout.
        zones: (M, M, 2) as ``Network.conflicts``.
    """

    lights: Ints
    merging: Bools
    zones: Floats


@compiled
def find_leaders(drivers: PathDrivers, obstacles: Obstacles, reach: float) -> tuple[Floats, Floats]:
    """Nearest object on each vehicle's path, at most ``reach`` metres ahead.

    Returns:
        (N,) gap from bumper to object in metres (``FAR_M`` if free) and (N,) speed of the object along the path.
    """
    paths, counts, fronts, half_widths = drivers
    corners, poses, speeds = obstacles
    count = len(paths)
    gaps = np.full(count, FAR_M)
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
            if dx * dx + dy * dy > (reach + _CORNER_M) ** 2:
                continue
            nearest = FAR_M
            where = 0
            for corner in range(5):
                along, lateral, vertex = _project(paths[i], first, last, corners[j, corner, 0], corners[j, corner, 1])
                if along >= fronts[i] and abs(lateral) < half_widths[i] + _SIDE_AIR_M and along < nearest:
                    nearest = along
                    where = vertex
            if nearest < FAR_M and nearest - fronts[i] < gaps[i]:
                gaps[i] = nearest - fronts[i]
                leader_speeds[i] = max(0.0, speeds[j] * np.cos(poses[j, 2] - paths[i, where, 2]))
    return gaps, leader_speeds


@compiled
def lane_neighbours(place: Passage, obstacles: Obstacles, own: int) -> Neighbours:
    """Who is before, behind and beside a vehicle of index ``own`` if it were on the path of ``place``."""
    first = max(int(place.along - SIGHT_M), 0)
    last = min(int(place.along + SIGHT_M), place.size - 1)
    x, y = place.path[min(int(place.along), place.size - 1), :2]
    ahead, behind = -1, -1
    ahead_gap, behind_gap = FAR_M, FAR_M
    ahead_speed, behind_speed = 0.0, 0.0
    beside = False
    for j in range(len(obstacles.poses)):
        if j == own or (obstacles.poses[j, 0] - x) ** 2 + (obstacles.poses[j, 1] - y) ** 2 > SIGHT_M**2:
            continue
        low, high, where = FAR_M, -FAR_M, 0
        for corner in range(5):
            px, py = obstacles.corners[j, corner]
            along, lateral, vertex = _project(place.path, first, last, px, py)
            if along >= 0.0 and abs(lateral) < place.half_width + _SIDE_AIR_M:
                low, high, where = min(low, along), max(high, along), vertex
        if low > high:
            continue
        speed = max(0.0, obstacles.speeds[j] * np.cos(obstacles.poses[j, 2] - place.path[where, 2]))
        if low >= place.along + place.half_length:
            if low - place.along - place.half_length < ahead_gap:
                ahead, ahead_gap, ahead_speed = j, low - place.along - place.half_length, speed
        elif high <= place.along - place.half_length:
            if place.along - place.half_length - high < behind_gap:
                behind, behind_gap, behind_speed = j, place.along - place.half_length - high, speed
        else:
            beside = True
    return Neighbours(ahead, ahead_gap, ahead_speed, behind, behind_gap, behind_speed, beside)


@compiled
def is_free(passage: Passage, movers: Movers, own: int) -> bool:
    """True if nobody who keeps path and speed comes near a passage, but for those who follow or lead there."""
    start = passage.path[min(int(passage.along), passage.size - 1)]
    for j in range(len(movers.along)):
        if j == own or not movers.present[j]:
            continue
        at = movers.paths[j, min(max(int(movers.along[j]), 0), movers.counts[j] - 1)]
        dx, dy = at[0] - start[0], at[1] - start[1]
        if dx * dx + dy * dy > (2 * SIGHT_M) ** 2:
            continue
        forward = dx * np.cos(start[2]) + dy * np.sin(start[2])
        aside = abs(dy * np.cos(start[2]) - dx * np.sin(start[2]))
        same_way = np.cos(at[2] - start[2]) > _SAME_WAY
        if same_way and aside < _SAME_LANE_M:  # before or behind in the same lane
            continue
        if same_way and forward > _WELL_AHEAD_M and movers.speeds[j] >= passage.speed:
            continue
        steps = int(passage.horizon_s / _LOOK_EVERY_S) + 1
        for step in range(steps):
            time = _LOOK_EVERY_S * step
            mine = min(int(passage.along + passage.speed * time), passage.size - 1)
            its = min(max(int(movers.along[j] + movers.speeds[j] * time), 0), movers.counts[j] - 1)
            heading = passage.path[mine, 2]
            dx = movers.paths[j, its, 0] - passage.path[mine, 0]
            dy = movers.paths[j, its, 1] - passage.path[mine, 1]
            long = abs(dx * np.cos(heading) + dy * np.sin(heading))
            side = abs(dy * np.cos(heading) - dx * np.sin(heading))
            reach = passage.half_length + movers.lengths[j] / 2 + _ROOM_AHEAD_M + _ROOM_AHEAD_S * movers.speeds[j]
            if long < reach and side < passage.half_width + movers.widths[j] / 2 + _ROOM_ASIDE_M:
                return False
    return True


@compiled
def _project(path: Floats, first: int, last: int, x: float, y: float) -> tuple[float, float, int]:
    """Arc length, lateral offset and nearest vertex of a point; arc length -1 if it lies before or after the window."""
    best = 1e12
    vertex = first
    for k in range(first, last + 1, _COARSE):
        distance = (path[k, 0] - x) ** 2 + (path[k, 1] - y) ** 2
        if distance < best:
            best = distance
            vertex = k
    for k in range(max(first, vertex - _COARSE + 1), min(last, vertex + _COARSE - 1) + 1):
        distance = (path[k, 0] - x) ** 2 + (path[k, 1] - y) ** 2
        if distance < best:
            best = distance
            vertex = k
    cos = np.cos(path[vertex, 2])
    sin = np.sin(path[vertex, 2])
    dx = x - path[vertex, 0]
    dy = y - path[vertex, 1]
    forward = dx * cos + dy * sin
    if abs(forward) > _BESIDE_END_M:
        return -1.0, FAR_M, vertex
    return vertex + forward, dy * cos - dx * sin, vertex


@compiled
def must_wait(traffic: JunctionTraffic, rules: JunctionRules) -> Bools:
    """(N,) which vehicles must stop at their stop line, for a light or to give way."""
    count = len(traffic.movements)
    waits = np.zeros(count, dtype=np.bool_)
    for i in range(count):
        m = traffic.movements[i]
        distance = traffic.to_line[i]
        if (
            m < 0
            or distance <= 0.0
            or distance > max(_DECIDE_M, traffic.speeds[i] ** 2 / (2 * _DECIDE_MPS2) + _DECIDE_AIR_M)
        ):
            continue
        stopping = traffic.speeds[i] ** 2 / (2 * max(distance, 0.1))
        if stopping > _HARDEST_STOP_MPS2:
            continue
        if (
            traffic.must_stop[i]
            or rules.lights[m] == RED
            or (rules.lights[m] == CLEARANCE and stopping < _COMFORT_STOP_MPS2)
        ):
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
    n = traffic.movements[j]
    if rules.lights[n] == RED or to_line[j] > _TRAFFIC_M:
        return False
    stopping = traffic.speeds[j] ** 2 / (2 * max(to_line[j], 0.1))
    if rules.lights[n] == CLEARANCE and stopping < _COMFORT_STOP_MPS2:
        return False
    if traffic.must_stop[j]:
        return False
    mine, its = traffic.ranks[i], traffic.ranks[j]
    return bool(its > mine or (its == mine and (to_line[j] < to_line[i] or (to_line[j] == to_line[i] and j < i))))


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
        return bool(arrive < its_arrival + _FOLLOW_S and its_arrival < arrive + _AHEAD_S)
    if rules.merging[m, n]:
        return bool(
            min(leave, arrive + _MEETING_S) + _MERGE_BEFORE_S > its_arrival and arrive < its_arrival + _MERGE_BEHIND_S
        )
    its_leave = (to_line[j] + its[1] + lengths[j]) / max(speeds[j], _LEAVING_MPS)
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
