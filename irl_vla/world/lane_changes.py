"""When drivers leave their path: around what blocks the lane, and into the next lane (MOBIL).

MOBIL after Kesting, Treiber and Helbing (2007): a change has to be safe for the new follower and to gain the driver
more than it costs the others, weighted by politeness.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from irl_vla.driving.idm import IdmParameters, idm_acceleration
from irl_vla.geometry import Floats
from irl_vla.world.clock import STEP_S
from irl_vla.world.drivers import EGO, DriverStyle, Scenario
from irl_vla.world.interaction import FAR_M, Bools, Movers, Neighbours, Obstacles, Passage, is_free, lane_neighbours
from irl_vla.world.tracks import (
    MOST_NUDGE_M,
    Detour,
    LanePaths,
    Row,
    Tracks,
    bent_caps,
    blended,
    lane_paths,
    nudged,
    project,
    put_on,
    row_of,
)

#: Index of a merge's ramp among its arms.
RAMP: Final = 2
#: Drivers who cannot pass wait this far before what blocks them, to have room to steer around it.
_HOLD_M: Final = 9.0

_SAFE_MPS2: Final = -2.4  # a change may make nobody brake harder
_SAFE_FOR_EGO_MPS2: Final = -1.6
_LEAST_GAP_M: Final = 3.0
_BETWEEN_CHANGES_S: Final = 6.0
_CLEAR_OF_JUNCTION_M: Final = 45.0
_SIGHT_S: Final = 5.0
_CREEP_MPS: Final = 4.0
_CYCLIST_AIR_M: Final = 0.95
#: Vehicles beside an acceleration lane, and those on it, let each other in with no more than this.
_COURTESY_MPS2: Final = -1.4
_ABREAST_M: Final = 45.0  # so far before or behind somebody on the ramp matters


class Situation(NamedTuple):
    """Where everybody is now, as far as it matters to a change of path.

    Attributes:
        along, speeds, accelerations: (N,) box centre, m/s, m/s2.
        present: (N,).
        changed: (N,) time of the last lane change.
        obstacles: all vehicles, then what else is on the road.
        lengths, widths: (N,).
    """

    along: Floats
    speeds: Floats
    accelerations: Floats
    present: Bools
    changed: Floats
    obstacles: Obstacles
    lengths: Floats
    widths: Floats
    time_s: float


class Change(NamedTuple):
    """A driver's new path, and whether it leads into another lane."""

    driver: int
    row: Row
    to_lane: bool


def reconsider(scenario: Scenario, tracks: Tracks, now: Situation) -> tuple[Tracks, list[Change]]:
    """Lets drivers change paths."""
    changes: list[Change] = []
    for change in _wishes(scenario, tracks, now):
        tracks = put_on(tracks, scenario, change.driver, change.row)
        changes.append(change)
    return tracks, changes


def hold_gaps(tracks: Tracks, fronts: Floats) -> Floats:
    """(N,) distance from front bumper to where a driver waits before an obstacle; ``FAR_M`` without one ahead."""
    gaps = np.full(len(fronts), FAR_M)
    for index, detours in enumerate(tracks.detours):
        ahead = [item.from_m - fronts[index] for item in detours if item.from_m > fronts[index]]
        if ahead:
            gaps[index] = ahead[0] - _HOLD_M if ahead[0] > _HOLD_M - 2.0 else ahead[0] - 1.5
    return gaps


def make_room(scenario: Scenario, tracks: Tracks, now: Situation) -> Floats:
    """(N,) acceleration with which vehicles on and beside an acceleration lane let each other in; ``inf`` for others.

    Each follows, gently, whoever is ahead in the other lane, so that the two lanes close up like a zip.
    """
    wanted = np.full(len(now.along), np.inf)
    for index in range(len(now.along)):
        if not now.present[index] or not _is_on_ramp(scenario, tracks, now, index):
            continue
        others = neighbour_lanes(scenario, index, int(tracks.movements[index]), float(now.along[index]))
        for other in np.flatnonzero(np.isin(tracks.movements, others) & now.present):
            path = tracks.paths[other, : tracks.counts[other]]
            lead = project(path, now.obstacles.poses[index, :2], float(now.along[other]), _ABREAST_M)
            lead -= float(now.along[other])
            if abs(lead) > _ABREAST_M:
                continue
            behind, ahead = (other, index) if lead > 0 else (index, other)
            gap = max(abs(lead) - (now.lengths[index] + now.lengths[other]) / 2, 1.0)
            pace = (float(now.speeds[behind]), float(tracks.caps[behind, int(now.along[behind])]))
            pull = _following(scenario.drivers[behind].style, pace, gap, float(now.speeds[ahead]))
            wanted[behind] = min(wanted[behind], max(pull, _COURTESY_MPS2))
    return wanted


def neighbour_lanes(scenario: Scenario, driver: int, movement: int, along_m: float) -> list[int]:
    """Movements over the next lanes of the same stretch of road, the most similar way first.

    The ego keeps to its route: only lanes that lead to the same arm.
    """
    moves, lane = scenario.network.movements, lane_paths(scenario.network)[movement]
    mine = moves[movement]
    found = []
    ramp = scenario.network.layout.control == "merge" and mine.from_arm == RAMP
    for index, other in enumerate(moves):
        same_out = other.to_arm == mine.to_arm
        same_in = other.from_arm == mine.from_arm
        if along_m > lane.leave_m + 5.0:
            fits = same_out and abs(other.to_lane - mine.to_lane) == 1
        elif ramp:  # from the acceleration lane to the lane beside it, both of which lead on into the same lane
            fits = other.from_arm != RAMP and same_out and other.to_lane == mine.to_lane
            fits = fits and along_m > lane.enter_m - scenario.network.layout.arms[0].auxiliary_m + 4.0
            same_in = fits
        else:
            fits = along_m < lane.enter_m - _CLEAR_OF_JUNCTION_M and same_in
            fits = fits and abs(other.from_lane - mine.from_lane) == 1
        if fits and (driver != EGO or (same_in and same_out)):
            found.append((not (same_in and same_out), other.turn != mine.turn, index))
    sides: dict[int, int] = {}
    for _, _, index in sorted(found):
        sides.setdefault(moves[index].to_lane * 100 + moves[index].from_lane, index)
    return list(sides.values())


def _wishes(scenario: Scenario, tracks: Tracks, now: Situation) -> Iterator[Change]:
    tick = round(now.time_s / STEP_S)
    bicycles = np.array([driver.name == "bicycle" for driver in scenario.drivers]) & now.present
    for index in np.flatnonzero(now.present):
        driver = scenario.drivers[index]
        front = now.along[index] + now.lengths[index] / 2
        ahead = [item for item in tracks.detours[index] if item.from_m > front]
        if ahead and ahead[0].from_m - front < max(_SIGHT_S * now.speeds[index], 25.0):
            change = _around(scenario, tracks, now, int(index), ahead[0])
        elif _is_on_ramp(scenario, tracks, now, int(index)):
            change = _into_next_lane(scenario, tracks, now, int(index), forced=True, room_m=float(tracks.enters[index]))
        elif bicycles[index] or (tick + index) % 3:
            change = None
        elif np.any(bicycles) and (change := _past_cyclist(scenario, tracks, now, int(index))) is not None:
            pass
        elif np.isfinite(driver.style.impatience_mps2) and (tick + index) % 9 == 0:
            change = _overtaking(scenario, tracks, now, int(index))
        else:
            change = None
        if change is not None:
            yield change


def _around(scenario: Scenario, tracks: Tracks, now: Situation, index: int, detour: Detour) -> Change | None:
    """Past an obstacle: within the lane or a little beside it, else by the next lane; None while there is no room."""
    offset = min(detour.left_m, detour.right_m, key=abs)
    if abs(offset) > MOST_NUDGE_M:
        return _into_next_lane(scenario, tracks, now, index, forced=True, room_m=detour.from_m)
    driver = scenario.drivers[index]
    speed, along, half = now.speeds[index], now.along[index], now.lengths[index] / 2
    room = detour.from_m - 1.0 - (along + half)
    if room < 4.0:
        return None
    path = tracks.paths[index, : tracks.counts[index]]
    length = min(max(2.4 * speed, 12.0), room + half - 1.0)
    full = detour.from_m - 2.0 - 0.4 * half
    back = detour.to_m + half + 0.5
    way = nudged(path, offset, (full - length, full), (back, back + max(2.4 * speed, 14.0)))
    pace = max(speed, _CREEP_MPS)
    passage = Passage(way, len(way), along, pace, (back + 4.0 - along) / pace, half, now.widths[index] / 2)
    if not is_free(passage, _movers(tracks, now), index):
        return None
    caps = bent_caps(way, tracks.caps[index, : len(way)], driver.style, (full - 4.0, detour.to_m))
    return Change(index, Row(way, caps, int(tracks.movements[index]), float(tracks.enters[index])), to_lane=False)


def _past_cyclist(scenario: Scenario, tracks: Tracks, now: Situation, index: int) -> Change | None:
    """Around somebody who cycles ahead in the same lane, if there is room beside for as long as it takes."""
    along, half, speed = float(now.along[index]), now.lengths[index] / 2, float(now.speeds[index])
    count = tracks.counts[index]
    path = tracks.paths[index, :count]
    place = Passage(path, count, along, speed, 0.0, half, now.widths[index] / 2)
    there = lane_neighbours(place, now.obstacles, index)
    is_rider = 0 <= there.ahead < len(scenario.drivers) and scenario.drivers[there.ahead].name == "bicycle"
    if not is_rider or there.ahead_gap > max(2.2 * speed, 12.0):
        return None
    pace = max(speed, min(float(tracks.caps[index, min(int(along) + 20, count - 1)]), there.ahead_speed + 4.5))
    faster = pace - there.ahead_speed
    rider = now.obstacles.poses[there.ahead]
    near = path[min(int(project(path, rider[:2], along + 15.0, 60.0)), count - 1)]
    aside = float((rider[1] - near[1]) * np.cos(near[2]) - (rider[0] - near[0]) * np.sin(near[2]))
    away = -np.sign(aside) if aside else 1.0
    offset = aside + away * ((now.widths[there.ahead] + now.widths[index]) / 2 + _CYCLIST_AIR_M)
    level_s = (there.ahead_gap + 2 * half + float(now.lengths[there.ahead]) + 3.0) / max(faster, 0.1)
    full = along + max(pace * max(there.ahead_gap - 4.0, 0.0) / max(faster, 0.1), 12.0)
    back = max(along + pace * level_s, full + 5.0)
    blocked = abs(offset) > MOST_NUDGE_M or faster < 2.0 or there.ahead_gap < 3.0 or back + 40.0 > count
    junction = (tracks.enters[index] - 25.0, tracks.enters[index] + 40.0)
    if blocked or (along < junction[1] and back + 20.0 > junction[0]):
        return None
    way = nudged(
        path,
        offset,
        (max(full - max(2.6 * speed, 12.0), along), full),
        (back, back + max(2.4 * pace, 14.0)),
    )
    if not is_free(
        Passage(way, len(way), along, pace, level_s + 1.5, half, now.widths[index] / 2), _movers(tracks, now), index
    ):
        return None
    caps = bent_caps(way, tracks.caps[index, : len(way)], scenario.drivers[index].style)
    return Change(index, Row(way, caps, int(tracks.movements[index]), float(tracks.enters[index])), to_lane=False)


def _is_on_ramp(scenario: Scenario, tracks: Tracks, now: Situation, index: int) -> bool:
    """True on an acceleration lane, which ends."""
    layout = scenario.network.layout
    if layout.control != "merge" or scenario.network.movements[tracks.movements[index]].from_arm != RAMP:
        return False
    to_line = tracks.enters[index] - now.along[index]
    return bool(12.0 < to_line < layout.arms[0].auxiliary_m)


def _overtaking(scenario: Scenario, tracks: Tracks, now: Situation, index: int) -> Change | None:
    """A change into the next lane for who is held up."""
    style = scenario.drivers[index].style
    wanted = tracks.caps[index, min(int(now.along[index]), tracks.counts[index] - 1)]
    held_up = wanted - now.speeds[index] > 1.5 and now.accelerations[index] < 0.5 * style.acceleration_mps2
    if not held_up or now.time_s - now.changed[index] < _BETWEEN_CHANGES_S or now.speeds[index] < 3.0:
        return None
    return _into_next_lane(scenario, tracks, now, index, forced=False, room_m=np.inf)


def _into_next_lane(
    scenario: Scenario, tracks: Tracks, now: Situation, index: int, *, forced: bool, room_m: float
) -> Change | None:
    movement = int(tracks.movements[index])
    if movement < 0:
        return None
    driver, speed = scenario.drivers[index], float(now.speeds[index])
    here = now.obstacles.poses[index, :2]
    for other in neighbour_lanes(scenario, index, movement, float(now.along[index])):
        lane = lane_paths(scenario.network)[other]
        along = project(lane.path, here)
        room = min(lane.enter_m - along, len(lane.path) - along) if along < lane.enter_m else len(lane.path) - along
        length = min(max(3.2 * speed, 18.0), room_m - now.along[index] - now.lengths[index] / 2 - 2.0)
        if length < 9.0 or length + 10.0 > room or not _is_worth_it(scenario, now, index, (lane, along), forced=forced):
            continue
        path = blended(tracks.paths[index, : tracks.counts[index]], float(now.along[index]), lane.path, along, length)
        return Change(index, row_of(driver, lane, path, other), to_lane=True)
    return None


def _is_worth_it(
    scenario: Scenario, now: Situation, index: int, target: tuple[LanePaths, float], *, forced: bool
) -> bool:
    """MOBIL's two criteria at an arc length of another lane: safety, and unless ``forced`` incentive."""
    lane, along = target
    style, speed, half = scenario.drivers[index].style, float(now.speeds[index]), now.lengths[index] / 2
    place = Passage(lane.path, len(lane.path), along, speed, 0.0, half, now.widths[index] / 2)
    there = lane_neighbours(place, now.obstacles, index)
    if there.beside or there.ahead_gap < _LEAST_GAP_M or there.behind_gap < _LEAST_GAP_M:
        return False
    limit = float(lane.limits_mps[int(along)])
    mine = _following(style, (speed, limit), there.ahead_gap, there.ahead_speed)
    loss = _loss_behind(scenario, now, there, (speed, limit))
    if mine < _SAFE_MPS2 or loss is None:
        return False
    gain = mine - float(now.accelerations[index]) - style.politeness * loss
    return forced or gain > style.impatience_mps2


def _loss_behind(scenario: Scenario, now: Situation, there: Neighbours, pace: tuple[float, float]) -> float | None:
    """What a change at a speed, under a limit, costs the new follower in m/s2; None if it would not be safe."""
    if there.behind < 0 or there.behind >= len(scenario.drivers):
        return 0.0
    speed, limit = pace
    style = scenario.drivers[there.behind].style
    after = _following(style, (float(now.speeds[there.behind]), limit), there.behind_gap, speed)
    if after < (_SAFE_FOR_EGO_MPS2 if there.behind == EGO else _SAFE_MPS2):
        return None
    return max(float(now.accelerations[there.behind]) - after, 0.0)


def _following(style: DriverStyle, pace: tuple[float, float], gap: float, lead_speed: float) -> float:
    """Acceleration of somebody with a speed, under a limit, behind a leader."""
    speed, limit = pace
    target = max(limit * style.speed_factor, speed, 0.1)
    params = IdmParameters(target, style.gap_m, style.headway_s, style.acceleration_mps2, style.braking_mps2)
    return float(idm_acceleration(speed, gap, lead_speed, params))


def _movers(tracks: Tracks, now: Situation) -> Movers:
    return Movers(tracks.paths, tracks.counts, now.along, now.speeds, now.lengths, now.widths, now.present)
