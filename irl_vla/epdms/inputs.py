"""From a scene and a map to everything the score needs (what the official devkit calls a metric cache)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from irl_vla.driving.path import LanePath
from irl_vla.driving.route import (
    LaneSearch,
    RouteRepair,
    centreline,
    distinct_blocks,
    find_start_lane,
    lanes_of,
    repair_route,
    search_lanes,
)
from irl_vla.epdms.drivers import traffic_start
from irl_vla.epdms.polygons import Bools, Ints
from irl_vla.epdms.records import POLYGON_LAYERS, ROLLOUT_STEPS, Polygons, PreparedScene
from irl_vla.epdms.reference import DEFAULT_SPEED_LIMIT_MPS, RedConnectors, Reference, plan_reference
from irl_vla.epdms.road_fields import JudgedRoads
from irl_vla.epdms.road_rules import road_geometry
from irl_vla.epdms.tracks import STEPS_PER_FRAME, TRACK_FRAMES, FrameObjects, frame_objects, interpolate_tracks
from irl_vla.errors import MapError, SceneError
from irl_vla.geometry import Floats, rear_axle_to_centre
from irl_vla.scene import FUTURE_FRAMES, HISTORY_FRAMES, Frame, MapView, Scene

_MAP_HALF_WIDTH_M: Final = 100.0
_LANE_LAYERS: Final = (POLYGON_LAYERS.index("LANE"), POLYGON_LAYERS.index("LANE_CONNECTOR"))


@dataclass(frozen=True, slots=True, eq=False)
class DrivableMap:
    """N polygons around the ego, in the official order.

    Attributes:
        ids: of the map objects; unique within a layer only.
        layer: (N,) index into ``POLYGON_LAYERS``.
        shapes: N polygons.
    """

    ids: tuple[str, ...]
    layer: Ints
    shapes: tuple[shapely.Polygon, ...]

    def on_route(self, lane_ids: Sequence[str]) -> Bools:
        """(N,) True for lanes and connectors out of ``lane_ids``."""
        named = np.isin(np.array(self.ids, dtype=str), np.array(lane_ids, dtype=str))
        return named & np.isin(self.layer, _LANE_LAYERS)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What the planner knows of a scene besides the map: the current frame only.

    Attributes:
        token: of the scene, for errors.
        state: (11,) ego, global.
        route: block ids without repeats, of ``driving.route.distinct_blocks``.
        objects: around the ego.
        red_connectors: lane connectors that are red, on the route or not.
    """

    token: str
    state: Floats
    route: tuple[str, ...]
    objects: FrameObjects
    red_connectors: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FollowedRoute:
    """The route side of a scene: what the map parts of the score are read from.

    Attributes:
        repair: of the route.
        lane_ids: lanes of the repaired route.
        start_lane: where the centreline begins.
        search: the lanes that the centreline covers.
        polygons, on_route: of ``area``, as the score reads them.
    """

    repair: RouteRepair
    lane_ids: tuple[str, ...]
    start_lane: str
    search: LaneSearch
    centreline: LanePath
    area: DrivableMap
    polygons: Polygons
    on_route: Bools


@dataclass(frozen=True, slots=True, eq=False)
class PlannedScene:
    """The route side of a prepared scene, and the reference with the proposals it was chosen from."""

    followed: FollowedRoute
    reference: Reference


def prepare_scene(scene: Scene, map_view: MapView) -> PreparedScene:
    """Computes all inputs of the score of one scene.

    Raises:
        SceneError: naming the token, if the scene has no route, too few frames, or a route that the map does not know.
    """
    _check_frames(scene)
    now = scene.current
    frames = (now, *scene.future)[:TRACK_FRAMES]
    objects = [frame_objects(frame) for frame in frames]
    state, tracks = ego_state(now), interpolate_tracks(objects)
    history = scene.history[-HISTORY_FRAMES:]
    try:
        route = distinct_blocks(map_view, now.roadblock_ids)
        lights, active = _light_series(map_view, route, frames)
        planned = plan_scene(map_view, Moment(scene.token, state, route, objects[0], _red_connectors(now)))
    except MapError as error:
        raise SceneError(f"scene {scene.token} of log {scene.log_name}: {error}") from error
    return PreparedScene(
        token=scene.token,
        is_synthetic=scene.is_synthetic,
        time_us=now.timestamp_us,
        ego_state=state,
        history_time_us=np.array([frame.timestamp_us for frame in history], np.int64),
        history_states=np.stack([ego_state(frame) for frame in history]),
        human_plan=scene.human_plan() if scene.has_human else None,
        reference_poses=planned.reference.poses,
        centerline=planned.followed.centreline.points,
        polygons=planned.followed.polygons,
        polygon_layer=planned.followed.area.layer,
        polygon_on_route=planned.followed.on_route,
        tracks=tracks,
        red_lights=lights.polygons,
        red_active=active,
        traffic=traffic_start(map_view, state, objects[0], tracks.tokens),
    )


def plan_scene(map_view: MapView, moment: Moment) -> PlannedScene:
    """Repairs the route and plans the reference.

    Raises:
        SceneError: if there is no route, no lane on it, or no usable speed limit.
    """
    followed = follow_route(map_view, moment.token, moment.state[:3], moment.route)
    limit = map_view.lane(followed.start_lane).speed_limit_mps
    if limit is not None and limit <= 0:
        raise SceneError(
            f"scene {moment.token}: expected a positive speed limit of lane {followed.start_lane}, found {limit} m/s"
        )
    path = followed.centreline
    reference = plan_reference(
        moment.state,
        moment.objects,
        _red_on(map_view, followed.lane_ids, moment.red_connectors),
        path,
        speed_limit_mps=DEFAULT_SPEED_LIMIT_MPS if limit is None else limit,
        roads=road_geometry(followed.polygons, followed.area.layer, followed.on_route, path.points),
    )
    return PlannedScene(followed, reference)


def follow_route(map_view: MapView, token: str, pose: Floats, route: Sequence[str]) -> FollowedRoute:
    """Repairs a route and finds the lanes and the centreline to follow.

    Args:
        token: of the scene, for errors.
        pose: (3,) global rear axle of the ego.
        route: block ids without repeats, of ``driving.route.distinct_blocks``.

    Raises:
        SceneError: if there is no route or no lane on it.
    """
    if not route:
        raise SceneError(f"scene {token}: expected a route in its current frame, found none; leave the scene out")
    repair = repair_route(map_view, pose, route)
    lane_ids = lanes_of(map_view, repair.blocks)
    area = drivable_map(map_view, rear_axle_to_centre(pose)[:2])
    start_lane = find_start_lane(map_view, pose, lane_ids, area.ids, shapely.STRtree(area.shapes))
    if start_lane is None:
        raise SceneError(f"scene {token}: expected lanes in the blocks of its route, found none; leave the scene out")
    search = search_lanes(map_view, start_lane, repair.blocks)
    path = centreline(map_view, search.lane_ids)
    return FollowedRoute(
        repair=repair,
        lane_ids=lane_ids,
        start_lane=start_lane,
        search=search,
        centreline=path,
        area=area,
        polygons=polygons_of(area.shapes),
        on_route=area.on_route(lane_ids),
    )


def judged_roads(scene: Scene, map_view: MapView) -> JudgedRoads:
    """What the map parts of the score read in the current frame of a scene; no future is looked at.

    Raises:
        SceneError: naming the token, if there is no route, no lane on it, or the map does not know it.
    """
    now = scene.current
    try:
        route = distinct_blocks(map_view, now.roadblock_ids)
        followed = follow_route(map_view, scene.token, now.ego.pose_global, route)
        red = _red_on(map_view, lanes_of(map_view, route), _red_connectors(now))
    except MapError as error:
        raise SceneError(f"scene {scene.token} of log {scene.log_name}: {error}") from error
    return JudgedRoads(
        pose=np.asarray(now.ego.pose_global, np.float64),
        polygons=followed.polygons,
        layer=followed.area.layer,
        on_route=followed.on_route,
        centerline=followed.centreline.points,
        red=red.polygons,
    )


def ego_state(frame: Frame) -> Floats:
    """State (11,) of the ego in a frame: pose, then motion in the precision of the log, then zeros."""
    state = np.zeros(11)
    state[:3] = frame.ego.pose_global
    state[3:5] = np.asarray(frame.ego.velocity_mps, np.float32)  # the devkit's ego status is of single precision
    state[5:7] = np.asarray(frame.ego.acceleration_mps2, np.float32)
    return state


def drivable_map(map_view: MapView, centre: Floats) -> DrivableMap:
    """Polygons that touch the square of 200 m around ``centre`` (2,), the centre of the ego's box.

    Roadblocks, all their lanes, all connectors of roadblock connectors in range, intersections, car parks. Roadblock
    connectors themselves are no part of it.
    """
    x, y = float(centre[0]), float(centre[1])
    blocks = map_view.query("ROADBLOCK", x, y, _MAP_HALF_WIDTH_M)
    links = map_view.query("ROADBLOCK_CONNECTOR", x, y, _MAP_HALF_WIDTH_M)
    ids_by_layer = {
        "ROADBLOCK": blocks,
        "LANE": [lane_id for block_id in blocks for lane_id in map_view.roadblocks[block_id].lane_ids],
        "LANE_CONNECTOR": [lane_id for link in links for lane_id in map_view.roadblock_connectors[link].lane_ids],
        "INTERSECTION": map_view.query("INTERSECTION", x, y, _MAP_HALF_WIDTH_M),
        "CARPARK_AREA": map_view.query("CARPARK_AREA", x, y, _MAP_HALF_WIDTH_M),
    }
    return DrivableMap(
        ids=tuple(item for layer in POLYGON_LAYERS for item in ids_by_layer[layer]),
        layer=np.repeat(np.arange(len(POLYGON_LAYERS)), [len(ids_by_layer[layer]) for layer in POLYGON_LAYERS]),
        shapes=tuple(map_view.layer(layer)[item].polygon for layer in POLYGON_LAYERS for item in ids_by_layer[layer]),
    )


def polygons_of(shapes: Sequence[shapely.Polygon]) -> Polygons:
    """Ragged rings of shapely polygons.

    A hole is joined to its outer ring by a bridge that is walked both ways, which crossing counts do not notice.
    """
    rings = [_ring(shape) for shape in shapes]
    offsets = np.cumsum([0, *(len(ring) for ring in rings)], dtype=np.int64)
    return Polygons(np.concatenate(rings) if rings else np.zeros((0, 2)), offsets)


def _ring(shape: shapely.Polygon) -> Floats:
    outer: Floats = shapely.get_coordinates(shape.exterior)
    for hole in shape.interiors:
        outer = np.concatenate([outer, shapely.get_coordinates(hole), outer[:1]])
    return outer


def _check_frames(scene: Scene) -> None:
    if len(scene.history) < HISTORY_FRAMES or len(scene.future) < FUTURE_FRAMES:
        raise SceneError(
            f"scene {scene.token} of log {scene.log_name}: expected {HISTORY_FRAMES} frames up to the current one and "
            f"{FUTURE_FRAMES} behind it, found {len(scene.history)} and {len(scene.future)}; "
            "correct num_history_frames and num_future_frames of the split"
        )


def _red_connectors(frame: Frame) -> tuple[str, ...]:
    return tuple(str(connector) for connector, is_red in frame.traffic_lights if is_red)


def _red_on(map_view: MapView, lane_ids: Sequence[str], red_connectors: Sequence[str]) -> RedConnectors:
    on_route = frozenset(lane_ids)
    ids = tuple(connector for connector in red_connectors if connector in on_route)
    shapes = [map_view.lane(connector).polygon for connector in ids]
    return RedConnectors(ids, shapes, polygons_of(shapes))


def _light_series(
    map_view: MapView, route: Sequence[str], frames: Sequence[Frame]
) -> tuple[RedConnectors, NDArray[np.bool_]]:
    """Connectors of the logged route (not the repaired one) that are red at some step, and (R, 41) when they are."""
    red_by_frame = [frozenset(_red_connectors(frame)) for frame in frames]
    ever_red = dict.fromkeys(connector for frame in frames for connector in _red_connectors(frame))
    lights = _red_on(map_view, lanes_of(map_view, route), tuple(ever_red))
    active = np.array([[connector in red for red in red_by_frame] for connector in lights.ids], np.bool_)
    held = np.arange(ROLLOUT_STEPS) // STEPS_PER_FRAME
    return lights, active.reshape(-1, len(frames))[:, held]
