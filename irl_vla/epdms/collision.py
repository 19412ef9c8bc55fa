"""At-fault collisions, time to collision and red lights, against objects with known poses at every step."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from irl_vla.epdms.polygons import (
    Bools,
    Ints,
    bounding_boxes,
    box_meets_polygon,
    boxes_intersect,
    compiled,
    fill_corners,
    segment_meets_box,
)
from irl_vla.epdms.records import ROLLOUT_STEPS, STEP_S, Polygons, Tracks
from irl_vla.epdms.road_rules import MULTIPLE_LANES, NON_DRIVABLE, REAR_AXLE_IN_INTERSECTION
from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre

_AGENT_KINDS: Final = 3  # vehicle, pedestrian, bicycle; higher values are static objects
_COLLISION_STOPPED_MPS: Final = 5e-2
_TTC_STOPPED_MPS: Final = 5e-3
_TTC_OFFSETS: Final = (0, 3, 6, 9)  # steps; the evaluator does not test the full second
_TTC_STARTS: Final = 32
_AHEAD_RAD: Final = np.deg2rad(30.0)
_BEHIND_RAD: Final = np.deg2rad(150.0)
_HALF_LENGTH_M: Final = PACIFICA.length / 2
_HALF_WIDTH_M: Final = PACIFICA.width / 2
_RADIUS_M: Final = float(np.hypot(_HALF_LENGTH_M, _HALF_WIDTH_M)) + 1e-3
_REAR_TO_CENTRE_M: Final = PACIFICA.rear_axle_to_centre


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


@dataclass(frozen=True, slots=True, eq=False)
class Occupancy:
    """Objects as the sub-scores see them, over the 41 steps (S).

    Attributes:
        poses: (A, S, 3) box centres, global.
        corners: (A, S, 4, 2) their boxes, counter-clockwise.
        radii: (A,) half diagonals.
        present: (A, S) False where an object is absent.
        kinds: (A,) type value 0..6.
        speeds: (A,) speed when the object is first seen, which classifies it at every step.
        ignored: (A,) True for objects that neither NC nor TTC looks at.
    """

    poses: Floats
    corners: Floats
    radii: Floats
    present: Bools
    kinds: Ints
    speeds: Floats
    ignored: Bools


@dataclass(frozen=True, slots=True, eq=False)
class RedLights:
    """Polygons that must not be touched while red: (R,) polygons, (R, 4) bounds, (R, S) active."""

    polygons: Polygons
    bounds: Floats
    active: Bools


class ContactScores(NamedTuple):
    """(P,) sub-scores and the first step of an at-fault collision and of a TTC violation, -1 without one."""

    nc: Floats
    ttc: Floats
    collision_step: Ints
    ttc_step: Ints


def occupancy(
    poses: Floats, sizes: Floats, present: Bools, kinds: Ints, first_velocity: Floats, ignored: Bools | None = None
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
    corners = box_corners(poses, sizes[:, None, 0], sizes[:, None, 1])
    return Occupancy(
        poses=poses,
        corners=np.ascontiguousarray(corners),
        radii=np.hypot(sizes[:, 0], sizes[:, 1]) / 2,
        present=np.ascontiguousarray(present, np.bool_),
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
    vertices = np.ascontiguousarray(polygons.vertices, np.float64).reshape(-1, 2)
    offsets = np.ascontiguousarray(polygons.offsets, np.int64)
    return RedLights(
        Polygons(vertices, offsets),
        bounding_boxes(polygons),
        np.ascontiguousarray(active, np.bool_).reshape(-1, ROLLOUT_STEPS),
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
    _score_contacts(
        rollouts,
        areas,
        objects.poses,
        objects.corners,
        objects.radii,
        objects.present,
        objects.kinds,
        objects.speeds,
        objects.ignored,
        *scores,
    )
    return scores


def score_red_lights(rollouts: Floats, lights: RedLights) -> Floats:
    """TLC (P,): 0 once the ego's box touches a red polygon, even if it stood there from the start."""
    tlc = np.ones(len(rollouts))
    if len(lights.polygons):
        _score_red_lights(
            rollouts, lights.polygons.vertices, lights.polygons.offsets, lights.bounds, lights.active, tlc
        )
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
    return np.arccos(cosine)


@compiled
def collision_type(
    state: Floats, ego: Floats, pose: Floats, corners: Floats, is_agent: bool, track_speed: float
) -> int:
    """Class of a contact, a value of :class:`CollisionType`.

    Args:
        state: (11,) ego state.
        ego, corners: (4, 2) boxes of ego and object.
        pose: (3,) box centre of the object.
        is_agent: True for vehicles, pedestrians and bicycles.
        track_speed: when the object was first seen.
    """
    if np.hypot(state[3], state[4]) <= _COLLISION_STOPPED_MPS:
        return _STOPPED_EGO
    if not is_agent or track_speed <= _COLLISION_STOPPED_MPS:
        return _STOPPED_TRACK
    if angle_to(state, pose[0], pose[1]) > _BEHIND_RAD:
        return _REAR
    return _FRONT if segment_meets_box(ego[0], ego[3], corners) else _LATERAL


@compiled
def _first_collision(
    states: Floats,
    boxes: Floats,
    areas: Bools,
    poses: Floats,
    corners: Floats,
    radius: float,
    present: Bools,
    is_agent: bool,
    speed: float,
) -> int:
    """First step at which the ego is at fault for hitting one object; -1 without one.

    The first contact decides if it is not at fault: from then on the object is ignored.
    """
    for t in range(ROLLOUT_STEPS):
        if not present[t]:
            continue
        dx, dy = boxes[t, 4, 0] - poses[t, 0], boxes[t, 4, 1] - poses[t, 1]
        if dx * dx + dy * dy > (_RADIUS_M + radius) ** 2:
            continue
        if not boxes_intersect(boxes[t, :4], corners[t]):
            continue
        kind = collision_type(states[t], boxes[t, :4], poses[t], corners[t], is_agent, speed)
        if kind in (_FRONT, _STOPPED_TRACK):
            return t
        if kind == _LATERAL and (areas[t, MULTIPLE_LANES] or areas[t, NON_DRIVABLE]):
            return t
        return -1
    return -1


@compiled
def _first_ttc_violation(
    states: Floats,
    boxes: Floats,
    areas: Bools,
    poses: Floats,
    corners: Floats,
    radius: float,
    present: Bools,
    moved: Floats,
) -> int:
    """First step at which straight driving at constant speed leads into one object; ``moved`` (4, 2) is scratch."""
    for t in range(_TTC_STARTS):
        speed = np.hypot(states[t, 3], states[t, 4])
        if speed < _TTC_STOPPED_MPS:
            continue
        for offset in _TTC_OFFSETS:
            s = t + offset
            if not present[s]:
                continue
            ahead_x = speed * (offset * STEP_S) * np.cos(states[t, 2])
            ahead_y = speed * (offset * STEP_S) * np.sin(states[t, 2])
            dx, dy = boxes[t, 4, 0] + ahead_x - poses[s, 0], boxes[t, 4, 1] + ahead_y - poses[s, 1]
            if dx * dx + dy * dy > (_RADIUS_M + radius) ** 2:
                continue
            for i in range(4):
                moved[i, 0], moved[i, 1] = boxes[t, i, 0] + ahead_x, boxes[t, i, 1] + ahead_y
            if not boxes_intersect(moved, corners[s]):
                continue
            angle = angle_to(states[t], poses[s, 0], poses[s, 1])
            if angle < _AHEAD_RAD:
                return t
            crossing = areas[t, MULTIPLE_LANES] or areas[t, NON_DRIVABLE] or areas[t, REAR_AXLE_IN_INTERSECTION]
            # Any other first contact makes the evaluator ignore the object for the rest of the rollout.
            return t if crossing and not angle > _BEHIND_RAD else -1
    return -1


@compiled
def _fill_boxes(states: Floats, boxes: Floats) -> None:
    """Writes the corners and, in row 4, the centre of the ego's box at every state: (41, 5, 2)."""
    for t in range(len(states)):
        x = states[t, 0] + _REAR_TO_CENTRE_M * np.cos(states[t, 2])
        y = states[t, 1] + _REAR_TO_CENTRE_M * np.sin(states[t, 2])
        fill_corners(x, y, states[t, 2], _HALF_LENGTH_M, _HALF_WIDTH_M, boxes[t])
        boxes[t, 4, 0], boxes[t, 4, 1] = x, y


@compiled
def _score_contacts(
    rollouts: Floats,
    areas: Bools,
    poses: Floats,
    corners: Floats,
    radii: Floats,
    present: Bools,
    kinds: Ints,
    speeds: Floats,
    ignored: Bools,
    nc: Floats,
    ttc: Floats,
    collision_step: Ints,
    ttc_step: Ints,
) -> None:
    boxes, moved = np.empty((ROLLOUT_STEPS, 5, 2)), np.empty((4, 2))
    for p in range(len(rollouts)):
        _fill_boxes(rollouts[p], boxes)
        for a in range(len(poses)):
            if ignored[a]:
                continue
            is_agent = kinds[a] < _AGENT_KINDS
            step = _first_collision(
                rollouts[p], boxes, areas[p], poses[a], corners[a], radii[a], present[a], is_agent, speeds[a]
            )
            if step >= 0:
                nc[p] = min(nc[p], 0.0 if is_agent else 0.5)
                if collision_step[p] < 0 or step < collision_step[p]:
                    collision_step[p] = step
            step = _first_ttc_violation(rollouts[p], boxes, areas[p], poses[a], corners[a], radii[a], present[a], moved)
            if step >= 0:
                ttc[p] = 0.0
                if ttc_step[p] < 0 or step < ttc_step[p]:
                    ttc_step[p] = step


@compiled
def _score_red_lights(
    rollouts: Floats, vertices: Floats, offsets: Ints, bounds: Floats, active: Bools, tlc: Floats
) -> None:
    boxes = np.empty((ROLLOUT_STEPS, 5, 2))
    for p in range(len(rollouts)):
        _fill_boxes(rollouts[p], boxes)
        for r in range(len(bounds)):
            for t in range(ROLLOUT_STEPS):
                x, y = boxes[t, 4, 0], boxes[t, 4, 1]
                if not active[r, t] or tlc[p] == 0.0:
                    continue
                if x < bounds[r, 0] - _RADIUS_M or x > bounds[r, 2] + _RADIUS_M:
                    continue
                if y < bounds[r, 1] - _RADIUS_M or y > bounds[r, 3] + _RADIUS_M:
                    continue
                if box_meets_polygon(boxes[t, :4], vertices, offsets[r], offsets[r + 1]):
                    tlc[p] = 0.0
