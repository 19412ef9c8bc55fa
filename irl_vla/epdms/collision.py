"""At-fault collisions, time to collision and red lights, against objects with known poses at every step."""

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from irl_vla.epdms.polygons import (
    EGO_HALF_LENGTH_M,
    EGO_HALF_WIDTH_M,
    Bools,
    Ints,
    bounding_boxes,
    box_meets_polygon,
    boxes_intersect,
    compiled,
    fill_ego_box,
    segment_meets_box,
)
from irl_vla.epdms.records import ROLLOUT_STEPS, STEP_S, Polygons, Tracks
from irl_vla.epdms.road_rules import MULTIPLE_LANES, NON_DRIVABLE, REAR_AXLE_IN_INTERSECTION
from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre

#: Sectors around the heading: ahead below, behind above.
AHEAD_RAD: Final = np.deg2rad(30.0)
BEHIND_RAD: Final = np.deg2rad(150.0)

_AGENT_KINDS: Final = 3  # vehicle, pedestrian, bicycle; higher values are static objects
_COLLISION_STOPPED_MPS: Final = 5e-2
_TTC_STOPPED_MPS: Final = 5e-3
_TTC_OFFSETS: Final = (0, 3, 6, 9)  # steps; the evaluator does not test the full second
_TTC_STARTS: Final = 32
_RADIUS_M: Final = float(np.hypot(EGO_HALF_LENGTH_M, EGO_HALF_WIDTH_M)) + 1e-3


class CollisionType(IntEnum):
    """Kinds of contact between the ego and an object."""

    STOPPED_EGO = 0
    STOPPED_TRACK = 1
    ACTIVE_FRONT = 2
    ACTIVE_REAR = 3
    ACTIVE_LATERAL = 4


_STOPPED_EGO: Final = int(CollisionType.STOPPED_EGO)
_STOPPED_TRACK: Final = int(CollisionType.STOPPED_TRACK)
_FRONT: Final = int(CollisionType.ACTIVE_FRONT)
_REAR: Final = int(CollisionType.ACTIVE_REAR)
_LATERAL: Final = int(CollisionType.ACTIVE_LATERAL)


class Occupancy(NamedTuple):
    """Objects as the sub-scores see them, over the 41 steps (S).

    Attributes:
        poses: (A, S, 3) box centres, global.
        corners: (A, S, 4, 2) their boxes, counter-clockwise.
        radii: (A,) half diagonals.
        bounds: (A, 4) of their centres over all steps: x min, y min, x max, y max.
        present: (A, S) False where an object is absent.
        kinds: (A,) type value 0..6.
        speeds: (A,) speed when the object is first seen, which classifies it at every step.
        ignored: (A,) True for objects that neither NC nor TTC looks at.
    """

    poses: Floats
    corners: Floats
    radii: Floats
    bounds: Floats
    present: Bools
    kinds: Ints
    speeds: Floats
    ignored: Bools


class RedLights(NamedTuple):
    """R polygons that must not be touched while red, ready for the kernels; global frame.

    Attributes:
        vertices, offsets: as in ``records.Polygons``.
        bounds: (R, 4) axis-aligned bounds.
        active: (R, S) True while red.
    """

    vertices: Floats
    offsets: Ints
    bounds: Floats
    active: Bools


class ContactScores(NamedTuple):
    """(P,) sub-scores and the first step of an at-fault collision and of a TTC violation, -1 without one."""

    nc: Floats
    ttc: Floats
    collision_step: Ints
    ttc_step: Ints


def occupancy(
    poses: Floats, sizes: Floats, present: Bools, kinds: Ints, first_velocity: Floats, *, ignored: Bools | None = None
) -> Occupancy:
    """Objects from arrays.

    Args:
        poses: (A, 41, 3) box centres, global; rows of absent steps are not read.
        sizes: (A, 2) length and width.
        present: (A, 41).
        kinds: (A,) official type value 0..6.
        first_velocity: (A, 2) at the first step at which the object is present.
        ignored: (A,) initial ignore list of NC and TTC; None ignores nothing.
    """
    sizes = np.asarray(sizes, np.float64).reshape(-1, 2)
    poses = np.ascontiguousarray(poses, np.float64)
    present = np.ascontiguousarray(present, np.bool_)
    corners = box_corners(poses, sizes[:, None, 0], sizes[:, None, 1])
    low = np.where(present[:, :, None], poses[:, :, :2], np.inf).min(axis=1)
    high = np.where(present[:, :, None], poses[:, :, :2], -np.inf).max(axis=1)
    return Occupancy(
        poses=poses,
        corners=np.ascontiguousarray(corners),
        radii=np.hypot(sizes[:, 0], sizes[:, 1]) / 2,
        bounds=np.concatenate([low, high], axis=1),
        present=present,
        kinds=np.ascontiguousarray(kinds, np.int64),
        speeds=np.hypot(first_velocity[:, 0], first_velocity[:, 1]),
        ignored=np.zeros(len(poses), np.bool_) if ignored is None else np.ascontiguousarray(ignored, np.bool_),
    )


def occupancy_of(tracks: Tracks) -> Occupancy:
    """Objects from tracks as they are (nothing removed)."""
    first = tracks.present.argmax(axis=1)
    velocity = tracks.velocities[np.arange(len(tracks)), first]
    return occupancy(tracks.poses, tracks.sizes, tracks.present, tracks.kinds, velocity)


def replay_tracks(tracks: Tracks, ego_pose: Floats) -> Tracks:
    """Log-replay traffic: without the tracks that touch the ego's box at the first step.

    Args:
        tracks: as logged.
        ego_pose: (3,) rear axle at the first step, global.
    """
    ego = box_corners(rear_axle_to_centre(ego_pose), PACIFICA.length, PACIFICA.width)
    boxes = box_corners(tracks.poses[:, 0], tracks.sizes[:, 0], tracks.sizes[:, 1])
    keep = np.array([not (tracks.present[a, 0] and boxes_intersect(ego, boxes[a])) for a in range(len(tracks))], bool)
    return Tracks(
        tokens=tuple(token for token, kept in zip(tracks.tokens, keep, strict=True) if kept),
        kinds=tracks.kinds[keep],
        sizes=tracks.sizes[keep],
        poses=tracks.poses[keep],
        velocities=tracks.velocities[keep],
        present=tracks.present[keep],
    )


def red_lights(polygons: Polygons, active: Bools) -> RedLights:
    """Red lights from R polygons and (R, 41) activity."""
    return RedLights(
        vertices=np.ascontiguousarray(polygons.vertices, np.float64).reshape(-1, 2),
        offsets=np.ascontiguousarray(polygons.offsets, np.int64),
        bounds=bounding_boxes(polygons),
        active=np.ascontiguousarray(active, np.bool_).reshape(-1, ROLLOUT_STEPS),
    )


def score_contacts(rollouts: Floats, areas: Bools, objects: Occupancy) -> ContactScores:
    """NC and TTC of rollouts.

    Args:
        rollouts: (P, 41, 11).
        areas: (P, 41, 5) flags of ``road_rules``.
        objects: the traffic; red lights are no part of it.
    """
    count = len(rollouts)
    scores = ContactScores(np.ones(count), np.ones(count), np.full(count, -1), np.full(count, -1))
    _score_contacts(rollouts, areas, objects, scores)
    return scores


def score_red_lights(rollouts: Floats, lights: RedLights) -> Floats:
    """TLC (P,): 0 once the ego's box touches a red polygon, even if it stood there from the start."""
    tlc = np.ones(len(rollouts))
    if len(lights.bounds):
        _score_red_lights(rollouts, lights, tlc)
    return tlc


@compiled
def angle_to(state: Floats, x: float, y: float) -> float:
    """Angle in [0, pi] between the heading of a state (11,) and the vector from its rear axle to a point.

    NaN (neither ahead nor behind) where rounding lifts the cosine above 1, as in the evaluator.
    """
    dx, dy = x - state[0], y - state[1]
    norm = np.sqrt(dx * dx + dy * dy)
    if norm == 0.0:
        return np.nan
    cosine = np.cos(state[2]) * (dx / norm) + np.sin(state[2]) * (dy / norm)
    if abs(cosine) > 1.0:
        return np.nan
    return float(np.arccos(cosine))


@compiled
def collision_type(state: Floats, ego: Floats, objects: Occupancy, a: int, t: int) -> int:
    """Class of the contact with object ``a`` at step ``t``, a value of :class:`CollisionType`.

    Args:
        state: (11,) ego state at that step.
        ego: (6, 2) its box as of ``polygons.fill_ego_box``.
        objects: the traffic.
        a, t: object and step.
    """
    if np.hypot(state[3], state[4]) <= _COLLISION_STOPPED_MPS:
        return _STOPPED_EGO
    if objects.kinds[a] >= _AGENT_KINDS or objects.speeds[a] <= _COLLISION_STOPPED_MPS:
        return _STOPPED_TRACK
    if angle_to(state, objects.poses[a, t, 0], objects.poses[a, t, 1]) > BEHIND_RAD:
        return _REAR
    return _FRONT if segment_meets_box(ego[0], ego[3], objects.corners[a, t]) else _LATERAL


class _Sweep(NamedTuple):
    """Where one rollout gets to.

    Attributes:
        boxes: (41, 6, 2) as of ``polygons.fill_ego_box``.
        strides: (32, 4, 2) how far the ego gets from a step within the times that TTC tests; NaN where it stands.
    """

    boxes: Floats
    strides: Floats


@compiled
def _close(x: float, y: float, objects: Occupancy, a: int, t: int) -> bool:
    """Whether object ``a`` exists at step ``t`` and an ego box centred at (x, y) could touch it."""
    dx, dy = x - objects.poses[a, t, 0], y - objects.poses[a, t, 1]
    return bool(objects.present[a, t] and dx * dx + dy * dy <= (_RADIUS_M + objects.radii[a]) ** 2)


@compiled
def _first_collision(states: Floats, sweep: _Sweep, areas: Bools, objects: Occupancy, a: int) -> int:
    """First step at which the ego is at fault for hitting object ``a``; -1 without one.

    The first contact decides: if the ego is not at fault, the object is ignored from then on.
    """
    for t in range(ROLLOUT_STEPS):
        if not _close(sweep.boxes[t, 4, 0], sweep.boxes[t, 4, 1], objects, a, t):
            continue
        if not boxes_intersect(sweep.boxes[t, :4], objects.corners[a, t]):
            continue
        kind = collision_type(states[t], sweep.boxes[t], objects, a, t)
        astray = areas[t, MULTIPLE_LANES] or areas[t, NON_DRIVABLE]
        at_fault = kind in (_FRONT, _STOPPED_TRACK) or (kind == _LATERAL and astray)
        return t if at_fault else -1
    return -1


@compiled
def _first_ttc_violation(states: Floats, sweep: _Sweep, areas: Bools, objects: Occupancy, a: int) -> int:
    """First step from which driving straight on at constant speed leads into object ``a``; -1 without one."""
    moved = np.empty((4, 2))
    for t in range(_TTC_STARTS):
        for f in range(len(_TTC_OFFSETS)):
            s = t + _TTC_OFFSETS[f]
            dx, dy = sweep.strides[t, f]
            if not _close(sweep.boxes[t, 4, 0] + dx, sweep.boxes[t, 4, 1] + dy, objects, a, s):
                continue
            for i in range(4):
                moved[i, 0], moved[i, 1] = sweep.boxes[t, i, 0] + dx, sweep.boxes[t, i, 1] + dy
            if not boxes_intersect(moved, objects.corners[a, s]):
                continue
            angle = angle_to(states[t], objects.poses[a, s, 0], objects.poses[a, s, 1])
            crossing = areas[t, MULTIPLE_LANES] or areas[t, NON_DRIVABLE] or areas[t, REAR_AXLE_IN_INTERSECTION]
            violated = angle < AHEAD_RAD or (crossing and not angle > BEHIND_RAD)
            # Any other first contact makes the evaluator ignore the object for the rest of the rollout.
            return t if violated else -1
    return -1


@compiled
def _fill_sweep(states: Floats, sweep: _Sweep) -> tuple[float, float, float, float]:
    """Fills the sweep of states (41, 11); returns bounds of all centres that NC and TTC look at."""
    x_low, y_low, x_high, y_high = np.inf, np.inf, -np.inf, -np.inf
    for t in range(ROLLOUT_STEPS):
        fill_ego_box(states[t], sweep.boxes[t])
        speed = np.hypot(states[t, 3], states[t, 4])
        cos, sin = np.cos(states[t, 2]), np.sin(states[t, 2])
        for f in range(len(_TTC_OFFSETS)):
            if t < _TTC_STARTS:
                distance = speed * (_TTC_OFFSETS[f] * STEP_S) if speed >= _TTC_STOPPED_MPS else np.nan
                sweep.strides[t, f, 0], sweep.strides[t, f, 1] = distance * cos, distance * sin
        reach = speed * _TTC_OFFSETS[-1] * STEP_S
        x, y = sweep.boxes[t, 4, 0], sweep.boxes[t, 4, 1]
        x_low, x_high = min(x_low, x, x + reach * cos), max(x_high, x, x + reach * cos)
        y_low, y_high = min(y_low, y, y + reach * sin), max(y_high, y, y + reach * sin)
    return x_low, y_low, x_high, y_high


@compiled
def _score_contacts(rollouts: Floats, areas: Bools, objects: Occupancy, scores: ContactScores) -> None:
    sweep = _Sweep(np.empty((ROLLOUT_STEPS, 6, 2)), np.empty((_TTC_STARTS, len(_TTC_OFFSETS), 2)))
    for p in range(len(rollouts)):
        x_low, y_low, x_high, y_high = _fill_sweep(rollouts[p], sweep)
        for a in range(len(objects.kinds)):
            margin = _RADIUS_M + objects.radii[a]
            if objects.bounds[a, 0] > x_high + margin or objects.bounds[a, 2] < x_low - margin:
                continue
            if objects.ignored[a] or objects.bounds[a, 1] > y_high + margin or objects.bounds[a, 3] < y_low - margin:
                continue
            step = _first_collision(rollouts[p], sweep, areas[p], objects, a)
            if step >= 0:
                scores.nc[p] = min(scores.nc[p], 0.0 if objects.kinds[a] < _AGENT_KINDS else 0.5)
                if scores.collision_step[p] < 0 or step < scores.collision_step[p]:
                    scores.collision_step[p] = step
            step = _first_ttc_violation(rollouts[p], sweep, areas[p], objects, a)
            if step >= 0:
                scores.ttc[p] = 0.0
                if scores.ttc_step[p] < 0 or step < scores.ttc_step[p]:
                    scores.ttc_step[p] = step


@compiled
def _score_red_lights(rollouts: Floats, lights: RedLights, tlc: Floats) -> None:
    box = np.empty((6, 2))
    for p in range(len(rollouts)):
        for t in range(ROLLOUT_STEPS):
            fill_ego_box(rollouts[p, t], box)
            for r in range(len(lights.bounds)):
                if not lights.active[r, t] or tlc[p] == 0.0:
                    continue
                x_low, y_low, x_high, y_high = lights.bounds[r]
                if not (x_low - _RADIUS_M <= box[4, 0] <= x_high + _RADIUS_M):
                    continue
                if not (y_low - _RADIUS_M <= box[4, 1] <= y_high + _RADIUS_M):
                    continue
                if box_meets_polygon(box[:4], lights.vertices, lights.offsets[r], lights.offsets[r + 1]):
                    tlc[p] = 0.0
