"""Kernels of reactive traffic: vehicles on their lanes, and who may be in whose way.

Most vehicles see nobody. Outlines that are cheap and never too small tell them from the others, so that the exact areas
(``epdms.traffic``) are made only where a doubt is left.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from irl_vla.driving.path import vertex_headings
from irl_vla.epdms.polygons import (
    EGO_HALF_LENGTH_M,
    EGO_HALF_WIDTH_M,
    Bools,
    Ints,
    boxes_intersect,
    compiled,
    in_convex,
    segments_intersect,
    squared_distance,
)
from irl_vla.epdms.records import STEP_S, TrafficStart
from irl_vla.geometry import Floats

_RANGE_M: Final = 100.0
_HEADWAY_S: Final = 1.5
_MIN_GAP_M: Final = 1.0
_ACCELERATION_MPS2: Final = 1.0
_DECELERATION_MPS2: Final = 2.0
_SAME_VERTEX_M: Final = 1e-8
_SLACK: Final = 1.05  # GEOS simplifies the line that it buffers by up to a hundredth of the width
_TOUCH_M: Final = 1e-3  # far beyond rounding and simplification
_SHORT_M: Final = 1e-3  # shorter corridors may come out empty
_TWO_PI: Final = 2 * np.pi


class Fleet(NamedTuple):
    """D vehicles and what never changes about them.

    Attributes:
        knots: (K, 4) x, y, unwrapped heading and arc length of the knots of all lanes.
        starts, stops: (D,) rows of ``knots`` that are the vehicle's lane.
        lengths, widths, targets_mps: (D,).
        hidden: (D, D + 1) True for entries that a vehicle never sees: itself first of all.
    """

    knots: Floats
    starts: Ints
    stops: Ints
    lengths: Floats
    widths: Floats
    targets_mps: Floats
    hidden: Bools


class Motion(NamedTuple):
    """Where the vehicles are and, roughly, what they occupy; the ego is entry D. Written to in every step.

    Attributes:
        arcs, speeds: (D,) arc length, which may run beyond the lane, and speed.
        poses: (D + 1, 3) box centres; a vehicle's is on its lane.
        present: (D + 1,) False once a vehicle is left behind.
        rings: (D + 1, 5, 2) closed boxes: a part of what is occupied.
        spines: (D + 1, n, 2) stretch of lane around which the rest lies.
        counts: (D + 1,) vertices of the spine; 0 where there is nothing but the box.
        reach: (D + 1,) no point of the rest is farther from the spine.
        bounds: (D + 1, 4) of the whole: x min, y min, x max, y max; never too small.
        known: (D + 1, 2) False where the exact area and the exact corridor are out of date.
        ahead: (n, 2) the way ahead of the vehicle that was looked at last.
        rivals: (D + 1,) who may be in its way.
    """

    arcs: Floats
    speeds: Floats
    poses: Floats
    present: Bools
    rings: Floats
    spines: Floats
    counts: Ints
    reach: Floats
    bounds: Floats
    known: Bools
    ahead: Floats
    rivals: Ints


def fleet_of(start: TrafficStart, sizes: Floats, tokens: Sequence[str]) -> Fleet:
    """The vehicles that drive.

    Args:
        start: of the traffic.
        sizes: (D, 2) length and width of its drivers.
        tokens: of its drivers. An entry is hidden from a vehicle whose token contains the entry's: the evaluator takes
            the vehicle's token for a list of tokens to be left out.
    """
    bounds = start.lane_offsets
    lanes = [_knots(start.lane_points[a:b]) for a, b in pairwise(bounds)]
    offsets = np.cumsum([0, *(len(knots) for knots in lanes)], dtype=np.int64)
    hidden = [[other in token for other in (*tokens, "ego")] for token in tokens]
    return Fleet(
        knots=np.concatenate([np.zeros((0, 4)), *lanes]),
        starts=offsets[start.lane],
        stops=offsets[start.lane + 1],
        lengths=np.ascontiguousarray(sizes[:, 0]),
        widths=np.ascontiguousarray(sizes[:, 1]),
        targets_mps=np.ascontiguousarray(start.motion[:, 2]),
        hidden=np.array(hidden, np.bool_).reshape(len(tokens), len(tokens) + 1),
    )


def _knots(points: Floats) -> Floats:
    """(k, 4) x, y, unwrapped heading and arc length of a baseline; the evaluator drops its last vertex, and repeats."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    kept = np.flatnonzero(steps > _SAME_VERTEX_M)
    arcs = np.concatenate([[0.0], np.cumsum(steps)])
    headings = np.unwrap(vertex_headings(points)[kept])
    return np.column_stack([points[kept], headings, arcs[kept]])


def first_motion(start: TrafficStart, fleet: Fleet) -> Motion:
    """The vehicles as they stand on their lanes before the first step; the ego is yet to be placed.

    Every lane must have two knots at least.
    """
    count = len(fleet.starts)
    longest = int((fleet.stops - fleet.starts).max(initial=0))
    motion = Motion(
        arcs=start.motion[:, 0].copy(),
        speeds=start.motion[:, 1].copy(),
        poses=np.concatenate([start.boxes, np.zeros((1, 3))]),
        present=np.ones(count + 1, np.bool_),
        rings=np.zeros((count + 1, 5, 2)),
        spines=np.zeros((count + 1, longest + 2, 2)),
        counts=np.zeros(count + 1, np.int64),
        reach=np.zeros(count + 1),
        bounds=np.zeros((count + 1, 4)),
        known=np.ones((count + 1, 2), np.bool_),
        ahead=np.zeros((longest + 2, 2)),
        rivals=np.zeros(count + 1, np.int64),
    )
    motion.known[:, 1] = False
    _begin(fleet, motion)
    return motion


@compiled
def _begin(fleet: Fleet, motion: Motion) -> None:
    for i in range(len(fleet.starts)):
        _outline(motion, i, 0, fleet.lengths[i], fleet.widths[i])
        _place(fleet, i, motion.arcs[i], motion.poses[i])


@compiled
def _place(fleet: Fleet, i: int, arc: float, pose: Floats) -> None:
    """Writes the pose (3,) of vehicle ``i``'s lane at an arc length, which is clamped to the lane."""
    first, last = fleet.starts[i], fleet.stops[i] - 1
    arc = min(max(arc, fleet.knots[first, 3]), fleet.knots[last, 3])
    high = first + 1
    while high < last and fleet.knots[high, 3] < arc:
        high += 1
    a, b = fleet.knots[high - 1], fleet.knots[high]
    fraction = (arc - a[3]) / (b[3] - a[3])
    pose[0] = a[0] + fraction * (b[0] - a[0])
    pose[1] = a[1] + fraction * (b[1] - a[1])
    pose[2] = (a[2] + fraction * (b[2] - a[2]) + np.pi) % _TWO_PI - np.pi


@compiled
def _stretch(fleet: Fleet, i: int, begin: float, end: float, points: Floats) -> int:
    """Writes the stretch of vehicle ``i``'s lane between two arc lengths on it; returns the number of vertices.

    Where no knot lies behind ``begin`` the evaluator takes the lane's last two knots, where none lies before ``end``
    the first two. An infinite ``end`` is the end of the lane.
    """
    knots, first, last = fleet.knots, fleet.starts[i], fleet.stops[i] - 1
    if knots[last, 3] <= begin or knots[first, 3] >= end:
        at = last - 1 if knots[last, 3] <= begin else first
        points[0], points[1] = knots[at, :2], knots[at + 1, :2]
        return 2
    pose = np.empty(3)
    _place(fleet, i, begin, pose)
    points[0] = pose[:2]
    count = 1
    for k in range(first, last + 1):
        if begin < knots[k, 3] < end:
            points[count] = knots[k, :2]
            count += 1
    if end < np.inf:
        _place(fleet, i, end, pose)
        points[count] = pose[:2]
        count += 1
    return count


@compiled
def _clamped(fleet: Fleet, i: int, arc: float) -> float:
    return float(min(max(arc, fleet.knots[fleet.starts[i], 3]), fleet.knots[fleet.stops[i] - 1, 3]))


@compiled
def footprint(fleet: Fleet, motion: Motion, i: int, points: Floats) -> int:
    """Writes the stretch of lane (n, 2) from a vehicle's rear to 1.5 s ahead of its front; returns n."""
    half = fleet.lengths[i] / 2
    begin = _clamped(fleet, i, motion.arcs[i] - half)
    end = _clamped(fleet, i, motion.arcs[i] + half + _HEADWAY_S * motion.speeds[i])
    return int(_stretch(fleet, i, begin, end, points))


@compiled
def way_ahead(fleet: Fleet, motion: Motion, i: int, points: Floats) -> int:
    """Writes the stretch of lane (n, 2) from a vehicle's centre to the lane's end; returns n."""
    return int(_stretch(fleet, i, _clamped(fleet, i, motion.arcs[i]), np.inf, points))


@compiled
def _outline(motion: Motion, i: int, count: int, length: float, width: float) -> None:
    """Outlines entry ``i``: its box, and the ``count`` vertices that its spine has already."""
    motion.rings[i] = box_ring(motion.poses[i], length, width)
    motion.counts[i] = count
    motion.reach[i] = _SLACK * width / 2
    bounds = motion.bounds[i]
    bounds[0], bounds[1], bounds[2], bounds[3] = np.inf, np.inf, -np.inf, -np.inf
    _bound(motion.rings[i], 5, _TOUCH_M, bounds)
    _bound(motion.spines[i], count, motion.reach[i], bounds)


@compiled
def _bound(points: Floats, count: int, margin: float, bounds: Floats) -> None:
    """Widens bounds (4,) to the surroundings of some points."""
    for k in range(count):
        for axis in range(2):
            bounds[axis] = min(bounds[axis], points[k, axis] - margin)
            bounds[2 + axis] = max(bounds[2 + axis], points[k, axis] + margin)


@compiled
def box_ring(pose: Floats, length: float, width: float) -> Floats:
    """(5, 2) closed ring of a box at a pose (3,), as ``geometry.box_corners`` orders it."""
    ring = np.empty((5, 2))
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    for k in range(5):
        along = length / 2 if k in (0, 3, 4) else -length / 2
        across = width / 2 if k in (0, 1, 4) else -width / 2
        ring[k, 0] = pose[0] + (along * cos - across * sin)
        ring[k, 1] = pose[1] + (along * sin + across * cos)
    return ring


@compiled
def place_ego(motion: Motion, state: Floats) -> None:
    """Puts the ego's entry at a state (11,): the evaluator centres its box on the rear axle."""
    ego = len(motion.arcs)
    motion.poses[ego] = state[:3]
    motion.known[ego, 0] = False
    _outline(motion, ego, 0, 2 * EGO_HALF_LENGTH_M, 2 * EGO_HALF_WIDTH_M)


@compiled
def leave_behind(motion: Motion) -> None:
    """Removes, for good, the vehicles that are more than 100 m from the ego's entry."""
    ego = motion.poses[-1]
    for i in range(len(motion.arcs)):
        if np.hypot(motion.poses[i, 0] - ego[0], motion.poses[i, 1] - ego[1]) > _RANGE_M:
            motion.present[i] = False


@compiled
def move_undisturbed(fleet: Fleet, motion: Motion, first: int, first_step: bool) -> tuple[int, int]:
    """Moves vehicles from ``first`` on, in order, up to one that somebody may be in the way of.

    Args:
        fleet, motion: the traffic.
        first: vehicle to begin with.
        first_step: True while vehicles occupy their boxes only, which need not lie on their corridors.

    Returns:
        The vehicle in doubt, D if there is none, and how many ``motion.rivals`` it has; maybe none, if the doubt is
        whether it is in its own corridor.
    """
    for i in range(first, len(fleet.starts)):
        if not motion.present[i]:
            continue
        length = way_ahead(fleet, motion, i, motion.ahead)
        count = _find_rivals(fleet, motion, i, length)
        dx = motion.ahead[length - 1, 0] - motion.ahead[0, 0]
        dy = motion.ahead[length - 1, 1] - motion.ahead[0, 1]
        # After the first step a corridor touches its vehicle, which sits at one of its ends, unless it is empty.
        if count or first_step or np.hypot(dx, dy) < _SHORT_M:
            return i, count
        follow(fleet, motion, i, np.nan, 0.0)
    return len(fleet.starts), 0


@compiled
def _find_rivals(fleet: Fleet, motion: Motion, i: int, length: int) -> int:
    """Writes to ``motion.rivals`` who may touch the corridor of vehicle ``i``; returns their number.

    The way ahead is in ``motion.ahead``, ``length`` vertices of it.
    """
    margin = _SLACK * fleet.widths[i] / 2
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    _bound(motion.ahead, length, margin, bounds)
    count = 0
    for j in range(len(motion.present)):
        other = motion.bounds[j]
        if fleet.hidden[i, j] or not motion.present[j]:
            continue
        if other[0] > bounds[2] or other[2] < bounds[0] or other[1] > bounds[3] or other[3] < bounds[1]:
            continue
        if (
            _within(motion.ahead, length, motion.rings[j], 5, margin + _TOUCH_M)
            or in_convex(motion.rings[j, :4], motion.ahead[0, 0], motion.ahead[0, 1])
            or _within(motion.ahead, length, motion.spines[j], motion.counts[j], margin + motion.reach[j])
        ):
            motion.rivals[count] = j
            count += 1
    return count


@compiled
def _within(first: Floats, m: int, second: Floats, n: int, limit: float) -> bool:
    """Whether two polylines of m and n vertices come as close as ``limit`` to each other."""
    squared = limit * limit
    for k in range(m - 1):
        a, b = first[k], first[k + 1]
        for j in range(n - 1):
            c, d = second[j], second[j + 1]
            if min(a[0], b[0]) > max(c[0], d[0]) + limit or max(a[0], b[0]) < min(c[0], d[0]) - limit:
                continue
            if min(a[1], b[1]) > max(c[1], d[1]) + limit or max(a[1], b[1]) < min(c[1], d[1]) - limit:
                continue
            if min(squared_distance(a, c, d), squared_distance(b, c, d)) <= squared:
                return True
            if min(squared_distance(c, a, b), squared_distance(d, a, b)) <= squared:
                return True
            if segments_intersect(a, b, c, d):
                return True
    return False


@compiled
def follow(fleet: Fleet, motion: Motion, i: int, distance: float, lead_speed: float) -> None:
    """Moves vehicle ``i`` by a step.

    Args:
        fleet, motion: the traffic.
        i: vehicle.
        distance: from its footprint to its leader's; NaN on a free road, which ends with the lane.
        lead_speed: of the leader along the vehicle's heading.
    """
    arc, speed = motion.arcs[i], motion.speeds[i]
    gap = distance
    if np.isnan(distance):
        gap, lead_speed = fleet.knots[fleet.stops[i] - 1, 3] - arc - fleet.lengths[i] / 2, 0.0
    closing = speed * (speed - lead_speed) / (2 * np.sqrt(_ACCELERATION_MPS2 * _DECELERATION_MPS2))
    desired = _MIN_GAP_M + _HEADWAY_S * speed + closing
    crowding = (desired / max(gap, _MIN_GAP_M)) ** 2
    acceleration = _ACCELERATION_MPS2 * (1.0 - (speed / fleet.targets_mps[i]) ** 4 - crowding)
    acceleration = min(max(acceleration, -_DECELERATION_MPS2), _ACCELERATION_MPS2)
    motion.arcs[i] = arc + STEP_S * speed
    motion.speeds[i] = max(speed + STEP_S * acceleration, 0.0)
    if motion.counts[i] == 0 or motion.arcs[i] != arc or motion.speeds[i] != speed:  # else it stands as before
        motion.known[i] = False
        _place(fleet, i, motion.arcs[i], motion.poses[i])
        count = footprint(fleet, motion, i, motion.spines[i])
        _outline(motion, i, count, fleet.lengths[i], fleet.widths[i])


@compiled
def standing_present(boxes: Floats, driving: Bools, standing: Floats) -> Bools:
    """Which standing vehicles are there: those that touch neither a driving one nor one of those before them.

    Args:
        boxes: (D, n, 4, 2) of the vehicles that drive, over n steps.
        driving: (D, n) False where one is absent.
        standing: (Q, 4, 2) of those that stand, in the order in which they are added.

    Returns:
        (Q, n).
    """
    there = np.zeros((len(standing), boxes.shape[1]), np.bool_)
    for step in range(boxes.shape[1]):
        for q in range(len(standing)):
            clear = True
            for d in range(len(boxes)):
                clear = clear and not (driving[d, step] and boxes_intersect(boxes[d, step], standing[q]))
            for p in range(q):
                clear = clear and not (there[p, step] and boxes_intersect(standing[p], standing[q]))
            there[q, step] = clear
    return there
