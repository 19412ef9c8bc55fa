"""The paths that drivers are on: what lies across them, and how one path leads over to another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats, box_corners
from irl_vla.world.drivers import Driver, DriverStyle, Scenario, Still, Walker, path_of, route_limits, speed_caps
from irl_vla.world.roads import polyline
from irl_vla.world.roads.network import Network, make_route

Ints = NDArray[np.int64]

#: Sideways air that drivers leave to what they go around, on top of half their width.
PASSING_AIR_M: Final = 0.6
#: Who has to go further aside than this changes lanes, or waits.
MOST_NUDGE_M: Final = 1.5
_IN_THE_WAY_M: Final = 0.4  # what is closer than this to a vehicle's side has to be gone around
_SAME_OBSTACLE_M: Final = 14.0
_PASSING_SPEED_MPS: Final = 8.0


class Detour(NamedTuple):
    """Something on a path: where it begins and ends, and the offsets that pass it on its left and on its right."""

    from_m: float
    to_m: float
    left_m: float
    right_m: float


class Row(NamedTuple):
    """One driver's path (V, 3) with speeds (V,), movement and arc length of the stop line."""

    path: Floats
    caps_mps: Floats
    movement: int
    enter_m: float


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Paths of the N drivers, padded to V poses; a driver who changes path gets new tracks, these are never written to.

    Attributes:
        paths: (N, V, 3); ``counts`` (N,) of the poses are real.
        caps: (N, V) fastest wanted speeds.
        movements: (N,) through the junction, -1 for none; ``enters`` (N,) the arc length of the stop line.
        turn_speeds: (N,) speed with which they will cross the junction.
        crossings: (N, W, 2) arc lengths, on the path and on the walker's line, where they meet; NaN where they do not.
        detours: what stands on each path.
    """

    paths: Floats
    counts: Ints
    caps: Floats
    movements: Ints
    enters: Floats
    turn_speeds: Floats
    crossings: Floats
    detours: tuple[tuple[Detour, ...], ...]


class LanePaths(NamedTuple):
    """The way over each movement of a network: path (V, 3), limits (V,), arc lengths of entering and leaving."""

    path: Floats
    limits_mps: Floats
    enter_m: float
    leave_m: float


@lru_cache(maxsize=64)
def lane_paths(network: Network) -> tuple[LanePaths, ...]:
    """One for each movement."""
    found = []
    for index in range(len(network.movements)):
        route = make_route(network, index)
        path = path_of(route.line)
        found.append(LanePaths(path, route_limits(route, len(path)), *route.junction_m))
    return tuple(found)


def make_tracks(scenario: Scenario) -> Tracks:
    """The paths of all drivers as they start."""
    drivers = scenario.drivers
    room = max(len(driver.path) for driver in drivers) + 40  # other lanes may be longer
    room = max(room, *(len(lane.path) for lane in lane_paths(scenario.network)))
    tracks = Tracks(
        paths=np.zeros((len(drivers), room, 3)),
        counts=np.zeros(len(drivers), np.int64),
        caps=np.zeros((len(drivers), room)),
        movements=np.zeros(len(drivers), np.int64),
        enters=np.zeros(len(drivers)),
        turn_speeds=np.zeros(len(drivers)),
        crossings=np.zeros((len(drivers), len(scenario.walkers), 2)),
        detours=((),) * len(drivers),
    )
    detours = [
        _fill(tracks, scenario, index, Row(item.path, item.caps_mps, item.movement, item.enter_m))
        for index, item in enumerate(drivers)
    ]
    return replace(tracks, detours=tuple(detours))


def put_on(tracks: Tracks, scenario: Scenario, index: int, row: Row) -> Tracks:
    """Tracks in which one driver is on another path."""
    changed = replace(
        tracks,
        paths=tracks.paths.copy(),
        counts=tracks.counts.copy(),
        caps=tracks.caps.copy(),
        movements=tracks.movements.copy(),
        enters=tracks.enters.copy(),
        turn_speeds=tracks.turn_speeds.copy(),
        crossings=tracks.crossings.copy(),
    )
    detours = _fill(changed, scenario, index, row)
    return replace(changed, detours=(*tracks.detours[:index], detours, *tracks.detours[index + 1 :]))


def project(path: Floats, xy: Floats, near_m: float | None = None, reach_m: float = 30.0) -> float:
    """Arc length on a path of 1 m steps of the point nearest to ``xy``, looked for around ``near_m`` if given."""
    first = 0 if near_m is None else int(np.clip(near_m - reach_m, 0, len(path) - 1))
    last = len(path) if near_m is None else min(int(near_m + reach_m) + 1, len(path))
    window = path[first:last]
    nearest = int(np.argmin((window[:, 0] - xy[0]) ** 2 + (window[:, 1] - xy[1]) ** 2))
    x, y, heading = window[nearest]
    return float(first + nearest + (xy[0] - x) * np.cos(heading) + (xy[1] - y) * np.sin(heading))


def blended(path: Floats, along_m: float, goal: Floats, goal_along_m: float, length_m: float) -> Floats:
    """A path that leaves ``path`` at ``along_m`` and is on ``goal`` ``length_m`` later, with the goal's arc lengths."""
    first = int(np.floor(goal_along_m))
    here = np.arange(first, min(first + int(np.ceil(length_m)) + 1, len(goal)))
    share = np.clip((here - goal_along_m) / length_m, 0.0, 1.0)
    blend = polyline.smooth_step(share)[:, None]
    position = np.clip(along_m + here - goal_along_m, 0.0, len(path) - 1.0)
    steps = np.arange(len(path))
    mine = np.column_stack([np.interp(position, steps, path[:, axis]) for axis in (0, 1)])
    result = goal.copy()
    result[here, :2] = mine * (1 - blend) + goal[here, :2] * blend
    # what lies behind stays parallel to the old path, so that headings have no step
    before = np.arange(max(first - 12, 0), first)
    back = np.clip(along_m + before - goal_along_m, 0.0, len(path) - 1.0)
    result[before, :2] = np.column_stack([np.interp(back, steps, path[:, axis]) for axis in (0, 1)])
    return _with_headings(result, max(first - 12, 0), int(here[-1]) + 2)


def nudged(path: Floats, offset_m: float, out: tuple[float, float], back: tuple[float, float]) -> Floats:
    """A path that moves aside (left positive) over the stretch ``out``, and comes back over the stretch ``back``."""
    (begin_m, full_m), (back_m, end_m) = out, back
    along = np.arange(len(path), dtype=np.float64)
    shift = polyline.smooth_step(np.clip((along - begin_m) / (full_m - begin_m), 0.0, 1.0))
    shift *= 1 - polyline.smooth_step(np.clip((along - back_m) / (end_m - back_m), 0.0, 1.0))
    result = np.column_stack([polyline.offset(path, 1.0) - path[:, :2], np.zeros(len(path))])
    result = path + offset_m * shift[:, None] * result
    return _with_headings(result, max(int(begin_m) - 2, 0), int(end_m) + 3)


def bent_caps(path: Floats, caps_mps: Floats, style: DriverStyle, slow: tuple[float, float] | None = None) -> Floats:
    """Speeds on a path that replaces one with ``caps_mps`` (V,), never faster; slow over the stretch ``slow``."""
    limits = caps_mps.copy()
    if slow is not None:
        limits[max(int(slow[0]), 0) : int(slow[1]) + 1] = np.minimum(
            limits[max(int(slow[0]), 0) : int(slow[1]) + 1], _PASSING_SPEED_MPS
        )
    return speed_caps(path, limits / style.speed_factor, style)


def detours_on(path: Floats, half_width_m: float, blocking: Sequence[Still]) -> tuple[Detour, ...]:
    """What stands on a path, neighbouring things taken as one, in driving order."""
    found: list[Detour] = []
    for item in blocking:
        if np.min(np.abs(path[::6, :2] - item.pose[:2]).max(axis=1)) > 12.0:
            continue
        points = box_corners(item.pose[None], np.array([item.size_m[0]]), np.array([item.size_m[1]]))[0]
        offsets = points[:, None] - path[None, :, :2]
        nearest = np.argmin((offsets**2).sum(axis=2), axis=1)
        step = offsets[np.arange(4), nearest]
        heading = path[nearest, 2]
        along = nearest + step[:, 0] * np.cos(heading) + step[:, 1] * np.sin(heading)
        aside = step[:, 1] * np.cos(heading) - step[:, 0] * np.sin(heading)
        reach = half_width_m + _IN_THE_WAY_M
        if aside.max() < -reach or aside.min() > reach:
            continue
        room = half_width_m + PASSING_AIR_M
        found.append(
            Detour(float(along.min()), float(along.max()), float(aside.max()) + room, float(aside.min()) - room)
        )
    joined: list[Detour] = []
    for detour in sorted(found):
        if joined and detour.from_m - joined[-1].to_m < _SAME_OBSTACLE_M:
            last = joined.pop()
            joined.append(
                Detour(
                    last.from_m,
                    max(last.to_m, detour.to_m),
                    max(last.left_m, detour.left_m),
                    min(last.right_m, detour.right_m),
                )
            )
        else:
            joined.append(detour)
    return tuple(joined)


def crossing(path: Floats, walker: Walker) -> tuple[float, float]:
    """Arc lengths on a path and on a walker's line where they cross, NaN if they do not."""
    start, span = walker.line[0], walker.line[1] - walker.line[0]
    length = walker.length_m
    along = (path[:, :2] - start) @ span / length
    side = (path[:, 1] - start[1]) * span[0] - (path[:, 0] - start[0]) * span[1]
    hits = np.flatnonzero((side[:-1] * side[1:] <= 0) & (along[:-1] > 0) & (along[:-1] < length))
    if not len(hits):
        return np.nan, np.nan
    first = int(hits[0])
    share = float(side[first] / (side[first] - side[first + 1])) if side[first] != side[first + 1] else 0.0
    return first + share, float(along[first] + share * (along[first + 1] - along[first]))


def row_of(driver: Driver, lane: LanePaths, path: Floats, movement: int) -> Row:
    """A driver's row on a path that leads into another lane."""
    limits = np.minimum(lane.limits_mps, driver.caps_mps.max() / driver.style.speed_factor)
    return Row(path, speed_caps(path, limits, driver.style), movement, lane.enter_m)


def _fill(tracks: Tracks, scenario: Scenario, index: int, row: Row) -> tuple[Detour, ...]:
    """Writes one driver's row into fresh arrays and returns the detours."""
    driver, count = scenario.drivers[index], len(row.path)
    tracks.paths[index, :count], tracks.paths[index, count:] = row.path, row.path[-1]
    tracks.caps[index, :count], tracks.caps[index, count:] = row.caps_mps, row.caps_mps[-1]
    tracks.counts[index], tracks.movements[index], tracks.enters[index] = count, row.movement, row.enter_m
    if row.movement >= 0:
        tracks.turn_speeds[index] = row.caps_mps[int(row.enter_m) : int(row.enter_m) + 20].min()
    for number, walker in enumerate(scenario.walkers):
        tracks.crossings[index, number] = crossing(row.path, walker)
    return detours_on(row.path, driver.size_m[1] / 2, scenario.blocking)


def _with_headings(path: Floats, first: int, last: int) -> Floats:
    """Takes the headings between two vertices from the positions."""
    last = min(last, len(path))
    start = max(first - 1, 0)
    piece = polyline.headings(path[start : last + 1, :2])
    piece += 2 * np.pi * np.round((path[start, 2] - piece[0]) / (2 * np.pi))
    path[start + 1 : last, 2] = piece[1 : last - start]
    return path
