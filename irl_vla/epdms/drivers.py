"""Which vehicles drive in reactive traffic: those that the map puts on a lane, as the evaluator decides at the start.

Nothing here depends on the plan, so it is done once, while a scene is prepared.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from irl_vla.epdms.polygons import Bools, boxes_intersect, compiled
from irl_vla.epdms.records import TrafficStart
from irl_vla.epdms.tracks import FrameObjects
from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre
from irl_vla.scene import Lane, MapView

_SNAP_M: Final = 3.0
_LOOK_AHEAD_M: Final = 0.5
_STANDING_MPS: Final = 0.1
_FIRST_TARGET_MPS: Final = 10.0  # until a lane with a limit is seen
_VEHICLE: Final = 0

_Shapes = NDArray[Any]  # of shapely geometries


class _Places(NamedTuple):
    """Where V vehicles are on the map.

    Attributes:
        lanes: (V,) the lane or connector that each is on; None off the lanes.
        poses: (V, 3) nearest point of its baseline, with the baseline's heading.
        arcs_m: (V,) arc length of that point.
        aside_m: (V,) distance to it; infinite off the lanes.
        on_road: (V,) inside of a lane or an intersection.
    """

    lanes: list[Lane | None]
    poses: Floats
    arcs_m: Floats
    aside_m: Floats
    on_road: Bools


def traffic_start(map_view: MapView, ego_state: Floats, now: FrameObjects, tokens: tuple[str, ...]) -> TrafficStart:
    """Sorts the vehicles of the current frame into those that drive, those that stand and those that vanish.

    A vehicle drives if a lane (in intersections: a connector) contains its centre, with the baseline not farther than
    3 m, and its box, once moved onto the baseline, touches neither the ego nor a vehicle that drives already. Of the
    others those stand that rest off the road or are beside their lane. The rest is not there after the first step.

    Args:
        map_view: the map.
        ego_state: (11,) of the current frame.
        now: objects of the current frame.
        tokens: of the scene's tracks, to whose rows the result refers.
    """
    vehicles = np.flatnonzero(now.kinds == _VEHICLE)
    places = _locate(map_view, now.poses[vehicles])
    sizes, speeds = now.sizes[vehicles], np.hypot(*now.velocities[vehicles].T)
    boxes = box_corners(places.poses, sizes[:, 0], sizes[:, 1])
    ego = box_corners(rear_axle_to_centre(ego_state[:3]), PACIFICA.length, PACIFICA.width)
    drives = _accept(ego, boxes, places.aside_m <= _SNAP_M)
    beside = np.isfinite(places.aside_m) & (places.aside_m > _SNAP_M)
    stands = ~drives & (((speeds < _STANDING_MPS) & ~places.on_road) | beside)
    row_of = {token: row for row, token in enumerate(tokens)}
    rows = np.array([row_of[now.tokens[vehicle]] for vehicle in vehicles], np.int64)
    drivers = [lane for lane, drive in zip(places.lanes, drives, strict=True) if drive and lane is not None]
    lanes = {lane.id: lane for lane in drivers}
    index = {lane_id: place for place, lane_id in enumerate(lanes)}
    baselines = [lane.baseline for lane in lanes.values()]
    unknown = np.isnan(speeds)  # the evaluator then lets a vehicle drive as fast as the ego
    speeds = np.where(unknown, np.hypot(ego_state[3], ego_state[4]), speeds)
    return TrafficStart(
        seen_now=np.isin(np.array(tokens, dtype=str), np.array(now.tokens, dtype=str)),
        drivers=rows[drives],
        boxes=places.poses[drives],
        motion=np.stack([places.arcs_m[drives], speeds[drives], _targets(drivers)], axis=-1),
        lane=np.array([index[lane.id] for lane in drivers], np.int64),
        lane_points=np.concatenate([np.zeros((0, 2)), *baselines]),
        lane_offsets=np.cumsum([0, *(len(points) for points in baselines)], dtype=np.int64),
        standing=rows[stands],
    )


def _targets(drivers: list[Lane]) -> Floats:
    """(D,) desired speeds: the limit of the lane, or the last one assigned where there is none (or zero)."""
    targets, last = [], _FIRST_TARGET_MPS
    for lane in drivers:
        limit = lane.speed_limit_mps
        if limit is not None and limit > 0:
            last = limit
        targets.append(last)
    return np.array(targets, np.float64)


def _locate(map_view: MapView, poses: Floats) -> _Places:
    """Finds the lanes of vehicles (V, 3); among several that contain a vehicle the one with its heading wins."""
    centres: _Shapes = np.asarray(shapely.points(poses[:, :2]))
    on_lane, in_junction = (_within(map_view, layer, centres, len(poses)) for layer in ("LANE", "INTERSECTION"))
    connectors = _within(map_view, "LANE_CONNECTOR", centres, len(poses))
    places = _Places(
        lanes=[None] * len(poses),
        poses=poses.copy(),
        arcs_m=np.zeros(len(poses)),
        aside_m=np.full(len(poses), np.inf),
        on_road=np.array([bool(a or b) for a, b in zip(on_lane, in_junction, strict=True)], np.bool_),
    )
    found = [
        (vehicle, map_view.lane(lane_id))
        for vehicle in range(len(poses))
        for lane_id in on_lane[vehicle] or (connectors[vehicle] if in_junction[vehicle] else [])
    ]
    if not found:
        return places
    owner = np.array([vehicle for vehicle, _ in found], np.int64)
    lines = np.array([shapely.LineString(lane.baseline) for _, lane in found], dtype=object)
    arcs, nearest = _nearest_poses(lines, centres[owner])
    # A plain difference: the evaluator does not wrap it.
    turns = np.abs(nearest[:, 2] - poses[owner, 2])
    for vehicle in np.unique(owner):
        own = np.flatnonzero(owner == vehicle)
        best = own[int(turns[own].argmin())]  # the first of equals
        places.lanes[vehicle] = found[best][1]
        places.poses[vehicle], places.arcs_m[vehicle] = nearest[best], arcs[best]
        places.aside_m[vehicle] = np.hypot(*(nearest[best, :2] - poses[vehicle, :2]))
    return places


def _within(map_view: MapView, layer: str, centres: _Shapes, count: int) -> list[list[str]]:
    """For every point the ids of the polygons of a layer that contain it (not on the boundary), in layer order."""
    ids, tree = map_view.tree(layer)
    inside: list[list[str]] = [[] for _ in range(count)]
    points, polygons = tree.query(centres, predicate="within")
    for place in np.lexsort((polygons, points)):
        inside[points[place]].append(ids[polygons[place]])
    return inside


def _nearest_poses(lines: _Shapes, points: _Shapes) -> tuple[Floats, Floats]:
    """Arc lengths (n,) and poses (n, 3) of the points of n lines that are nearest to n points, pairwise."""
    arcs: Floats = shapely.line_locate_point(lines, points)
    here = shapely.get_coordinates(shapely.line_interpolate_point(lines, arcs))
    step = shapely.get_coordinates(shapely.line_interpolate_point(lines, arcs + _LOOK_AHEAD_M)) - here
    at_end = (step == 0.0).all(axis=1)
    back = here - shapely.get_coordinates(shapely.line_interpolate_point(lines, arcs - _LOOK_AHEAD_M))
    step = np.where(at_end[:, None], back, step)
    return arcs, np.concatenate([here, np.arctan2(step[:, 1], step[:, 0])[:, None]], axis=1)


@compiled
def _accept(ego: Floats, boxes: Floats, eligible: Bools) -> Bools:
    """(V,) eligible boxes (V, 4, 2) that touch neither the ego's (4, 2) nor one that was accepted before them."""
    accepted = np.zeros(len(boxes), np.bool_)
    for i in range(len(boxes)):
        if not eligible[i] or boxes_intersect(ego, boxes[i]):
            continue
        clear = True
        for j in range(i):
            clear = clear and not (accepted[j] and boxes_intersect(boxes[j], boxes[i]))
        accepted[i] = clear
    return accepted
