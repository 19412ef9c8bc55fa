"""Reactive traffic: vehicles that follow their lanes and each other, and brake for the ego, as in NAVSIM v2.2.

Every vehicle drives along the one lane on which it starts, behind what lies in its corridor (intelligent driver model).
Quirks of the evaluator that are kept: no traffic lights, no way beyond the end of the lane; distances are measured from
a vehicle's *footprint*, which reaches 1.5 s ahead; the ego is seen one step late, centred on its rear axle; vehicles
move one after the other and see those before them moved already.

Areas are made by GEOS, on which the evaluator stands too: which of several leaders is the nearest, or the first of
equals, hangs on them.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from irl_vla.epdms.fleet import (
    Fleet,
    Motion,
    box_ring,
    first_motion,
    fleet_of,
    follow,
    footprint,
    leave_behind,
    move_undisturbed,
    place_ego,
    standing_present,
    way_ahead,
)
from irl_vla.epdms.polygons import Bools, Ints
from irl_vla.epdms.records import ROLLOUT_STEPS, PreparedScene, Tracks, TrafficStart
from irl_vla.errors import SceneError
from irl_vla.geometry import PACIFICA, Floats, box_corners, wrap_angle

_SIMPLIFY_M: Final = 1e-5
_QUARTER_SEGMENTS: Final = 16
_VEHICLE: Final = 0


@dataclass(slots=True, eq=False)
class _Street:
    """A simulation under way.

    Attributes:
        scene: token, for errors.
        tokens: of the D vehicles.
        areas: exact ones of the D vehicles and the ego, valid where ``motion.known`` says so.
        corridors: of the D vehicles, likewise.
    """

    scene: str
    tokens: tuple[str, ...]
    fleet: Fleet
    motion: Motion
    areas: list[BaseGeometry]
    corridors: list[BaseGeometry]


class _Moved(NamedTuple):
    """Where the D vehicles were at the steps 1 .. 40: (D, 40, 3) box centres, (D, 40, 2), (D, 40)."""

    poses: Floats
    velocities: Floats
    present: Bools


def reactive_tracks(scene: PreparedScene, rollout: Floats) -> Tracks:
    """Simulates the traffic around one rollout.

    Args:
        scene: prepared scene.
        rollout: (41, 11) simulated ego states, global.

    Returns:
        Tracks over the same 41 steps: first the current frame as annotated, then simulated vehicles, and other objects
        as logged. Vehicles that appear later in the log do not exist.

    Raises:
        SceneError: naming the token, if the scene was prepared without lanes, if the rollout is not finite, or where
            the evaluator fails too: a lane with less than two knots, a vehicle that is not in its own corridor.
    """
    start = require_start(scene)
    if not np.isfinite(rollout).all():
        raise SceneError(f"scene {scene.token}: expected a finite rollout, found NaN or infinity; look at the plan")
    return _observed(scene, start, _drive(_street(scene, start), rollout))


def require_start(scene: PreparedScene) -> TrafficStart:
    """What traffic starts from.

    Raises:
        SceneError: if the scene's record has nothing of it.
    """
    if scene.traffic is None:
        raise SceneError(
            f"scene {scene.token}: expected the lanes of its vehicles for reactive traffic, found none in its record; "
            "score it in replayed traffic, or prepare it from its log and map"
        )
    return scene.traffic


def _street(scene: PreparedScene, start: TrafficStart) -> _Street:
    tokens = tuple(scene.tracks.tokens[row] for row in start.drivers)
    sizes = scene.tracks.sizes[start.drivers]
    fleet = fleet_of(start, sizes, tokens)
    for token, knots in zip(tokens, fleet.stops - fleet.starts, strict=True):
        if knots < 2:
            raise SceneError(
                f"scene {scene.token}: expected a lane of at least two knots under vehicle {token}, found {knots}; "
                "the official evaluator fails here too: leave the scene out of reactive scoring"
            )
    boxes = [shapely.Polygon(corners) for corners in box_corners(start.boxes, sizes[:, 0], sizes[:, 1])]
    nothing = shapely.Polygon()
    return _Street(
        scene=scene.token,
        tokens=tokens,
        fleet=fleet,
        motion=first_motion(start, fleet),
        areas=[*map(_simplified, boxes), nothing],
        corridors=[nothing] * len(tokens),
    )


def _drive(street: _Street, rollout: Floats) -> _Moved:
    motion, count, steps = street.motion, len(street.tokens), ROLLOUT_STEPS - 1
    moved = _Moved(np.zeros((count, steps, 3)), np.zeros((count, steps, 2)), np.zeros((count, steps), np.bool_))
    for step, ego_state in enumerate(rollout[:-1]):
        _advance(street, ego_state, first_step=step == 0)
        headings = motion.poses[:count, 2]
        moved.poses[:, step], moved.present[:, step] = motion.poses[:count], motion.present[:count]
        moved.velocities[:, step] = motion.speeds[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=-1)
    return moved


def _advance(street: _Street, ego_state: Floats, *, first_step: bool) -> None:
    """Moves all vehicles by a step; they see the ego (11,) as it was before it."""
    place_ego(street.motion, ego_state)
    leave_behind(street.motion)
    ego_speed = float(np.hypot(ego_state[3], ego_state[4]))
    i = 0
    while True:
        i, rivals = move_undisturbed(street.fleet, street.motion, i, first_step)
        if i == len(street.tokens):
            return
        follow(street.fleet, street.motion, i, *_leader(street, i, street.motion.rivals[:rivals], ego_speed))
        i += 1


def _leader(street: _Street, i: int, rivals: Ints, ego_speed: float) -> tuple[float, float]:
    """Distance to what is nearest in the corridor of vehicle ``i``, NaN if it is free, and speed along its heading."""
    motion = street.motion
    corridor, own = _corridor(street, i), _area(street, i)
    if not shapely.intersects(corridor, own):
        raise SceneError(
            f"scene {street.scene}: expected vehicle {street.tokens[i]} in its own corridor, found it beyond the end "
            "of its lane; the official evaluator fails here too: leave the scene out of reactive scoring"
        )
    areas = np.array([_area(street, int(j)) for j in rivals], dtype=object)
    touching = shapely.intersects(corridor, areas)
    hits = rivals[touching]
    if not len(hits):
        return np.nan, 0.0
    distances = shapely.distance(own, areas[touching])
    speeds = np.append(motion.speeds, ego_speed)[hits]
    along = speeds * np.cos(wrap_angle(motion.poses[hits, 2] - motion.poses[i, 2]))
    nearest = int(distances.argmin())
    tied = distances == distances[nearest]
    # A vehicle at rest does not look at its leader's speed.
    if motion.speeds[i] > 0.0 and np.any(along[tied] != along[nearest]):
        nearest = int(np.flatnonzero(hits == _first_of_equals(street, i, corridor, own))[0])
    return float(distances[nearest]), float(along[nearest])


def _first_of_equals(street: _Street, i: int, corridor: BaseGeometry, own: BaseGeometry) -> int:
    """The leader that the evaluator finds among equally near ones, by the order of its search trees."""
    entries = np.flatnonzero(street.motion.present)
    areas = np.array([_area(street, int(j)) for j in entries], dtype=object)
    found = shapely.STRtree(areas).query(corridor, predicate="intersects")
    seen = found[~street.fleet.hidden[i, entries[found]]]
    return int(entries[seen[shapely.STRtree(areas[seen]).nearest(own)]])


def _area(street: _Street, j: int) -> BaseGeometry:
    """What entry ``j`` occupies: the box of the ego, the footprint and the box of a vehicle."""
    motion, fleet = street.motion, street.fleet
    if not motion.known[j, 0]:
        motion.known[j, 0] = True
        area: BaseGeometry
        if j == len(street.tokens):
            area = shapely.Polygon(box_ring(motion.poses[j], PACIFICA.length, PACIFICA.width))
        else:
            box = shapely.Polygon(box_ring(motion.poses[j], fleet.lengths[j], fleet.widths[j]))
            count = footprint(fleet, motion, j, motion.ahead)
            area = _strip(motion.ahead[:count], fleet.widths[j]).union(box)
        street.areas[j] = _simplified(area)
    return street.areas[j]


def _corridor(street: _Street, i: int) -> BaseGeometry:
    motion = street.motion
    if not motion.known[i, 1]:
        motion.known[i, 1] = True
        count = way_ahead(street.fleet, motion, i, motion.ahead)
        street.corridors[i] = _strip(motion.ahead[:count], street.fleet.widths[i])
    return street.corridors[i]


def _strip(points: Floats, width: float) -> BaseGeometry:
    line = shapely.LineString(points)
    return shapely.buffer(line, width / 2, quad_segs=_QUARTER_SEGMENTS, cap_style="flat", join_style="round")


def _simplified(area: BaseGeometry) -> BaseGeometry:
    return shapely.simplify(area, _SIMPLIFY_M, preserve_topology=True)


def _observed(scene: PreparedScene, start: TrafficStart, moved: _Moved) -> Tracks:
    """The tracks that the scorer sees."""
    logged = scene.tracks
    vehicles = logged.kinds == _VEHICLE
    poses, velocities, present = logged.poses.copy(), logged.velocities.copy(), logged.present.copy()
    present[:, 0] &= start.seen_now
    present[vehicles, 1:] = False
    poses[start.drivers, 1:], velocities[start.drivers, 1:] = moved.poses, moved.velocities
    present[start.drivers, 1:] = moved.present
    frozen = start.standing
    poses[frozen, 1:], velocities[frozen, 1:] = poses[frozen, :1], velocities[frozen, :1]
    sizes = logged.sizes[start.drivers]
    boxes = box_corners(moved.poses, sizes[:, None, 0], sizes[:, None, 1])
    standing = box_corners(poses[frozen, 0], logged.sizes[frozen, 0], logged.sizes[frozen, 1])
    present[frozen, 1:] = standing_present(boxes, moved.present, standing)
    kept = ~vehicles | start.seen_now
    return Tracks(
        tokens=tuple(token for token, keep in zip(logged.tokens, kept, strict=True) if keep),
        kinds=logged.kinds[kept],
        sizes=logged.sizes[kept],
        poses=poses[kept],
        velocities=velocities[kept],
        present=present[kept],
    )
