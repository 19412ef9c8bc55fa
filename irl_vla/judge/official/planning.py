"""Golden inputs: route, centreline and PDM-Closed reference of scenes on recorded maps, and their reactive traffic."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import shapely

from irl_vla.driving.route import distinct_blocks, repair_route, search_lanes
from irl_vla.epdms.drivers import traffic_start
from irl_vla.epdms.golden_records import NO_POLYGONS, Row, by_scene, read_json, read_rows
from irl_vla.epdms.inputs import Moment, PlannedScene, plan_scene
from irl_vla.epdms.progress import normalise_progress
from irl_vla.epdms.records import ROLLOUT_STEPS, PreparedScene
from irl_vla.epdms.reference import LATERAL_OFFSETS_M, SPEED_FRACTIONS, Reference
from irl_vla.epdms.rollout import interpolate_plans, simulate
from irl_vla.epdms.tracks import FrameObjects, interpolate_tracks
from irl_vla.geometry import Floats
from irl_vla.judge.official.observation import EXACT, METRES, Observation, same
from irl_vla.judge.official.traffic import recorded_traffic, traffic_columns
from irl_vla.scene import OBJECT_NAMES, Area, Lane, MapView, Roadblock

_PARTS = ("map_lanes", "map_roadblocks", "map_areas", "tracks_now", "lights_now")


def check_planning(folder: Path) -> Iterator[Observation]:
    """The synthetic scenes: what was planned in them, and the traffic around two plans each."""
    parts = {name: by_scene(read_rows(folder, f"synthetic_{name}"), "scene") for name in _PARTS}
    plans = by_scene(read_rows(folder, "synthetic_reactive_plans"), "token")
    traffic = recorded_traffic(read_rows(folder, "synthetic_reactive_tracks"))
    carried = {row["token"]: row for row in read_rows(folder, "synthetic_carryover")}
    for row in read_rows(folder, "synthetic_scenes"):
        token = row["token"]
        rows = {name: groups.get(token, []) for name, groups in parts.items()}
        view = map_of(token, rows["map_lanes"], rows["map_roadblocks"], rows["map_areas"])
        moment = moment_of(row, view, rows["tracks_now"], rows["lights_now"])
        planned = plan_scene(view, moment)
        yield from planned_columns("synthetic", row, planned)
        yield from _carryover_columns(carried[token], row, view, rows)
        scene = _prepared(row, moment, planned, view)
        for plan in plans[token]:
            poses = interpolate_plans(scene.time_us, scene.ego_state, np.array(plan["poses"]).reshape(1, 8, 3))
            states = np.array(plan["ego_states"]).reshape(ROLLOUT_STEPS, 11)
            rollout = simulate(scene.ego_state, poses)[0]
            yield Observation("synthetic_reactive_plans.ego_states", rollout, states, METRES)
            yield from traffic_columns("synthetic_reactive_tracks", scene, states, traffic[token, plan["plan"]])


def check_graphs(folder: Path) -> Iterator[Observation]:
    """Random graphs of blocks and lanes: start block, repaired route, lane search."""
    for case in read_json(folder, "graph_cases"):
        view = graph_map(case)
        repair = repair_route(view, np.array(case["ego"]), distinct_blocks(view, case["route_in"]))
        yield same("graph_cases.start_block", repair.start_block, case["start_block"])
        yield same("graph_cases.candidates", list(repair.candidates), case["candidates"])
        yield same("graph_cases.route_before_loop_cut", list(repair.before_loop_cut), case["route_before_loop_cut"])
        yield same("graph_cases.route_corrected", list(repair.blocks), case["route_corrected"])
        if case["start_lane"] is not None:
            yield from _search_columns("graph_cases", view, case, repair.blocks)


def check_lanes(folder: Path) -> Iterator[Observation]:
    """Random graphs of lanes: lane search along a given route."""
    for case in read_json(folder, "lane_cases"):
        yield from _search_columns("lane_cases", graph_map(case), case, case["route"])


def planned_columns(name: str, row: Row, planned: PlannedScene) -> Iterator[Observation]:
    """Everything recorded of the planning of one scene, synthetic or real."""
    followed, reference = planned.followed, planned.reference
    repair = followed.repair
    yield same(f"{name}.start_block", repair.start_block, row["start_block"])
    yield same(f"{name}.start_block_candidates", list(repair.candidates), row["start_block_candidates"])
    yield same(f"{name}.route_before_loop_cut", list(repair.before_loop_cut), row["route_before_loop_cut"])
    yield same(f"{name}.route_corrected", list(repair.blocks), row["route_corrected"])
    yield same(f"{name}.route_lane_ids", sorted(followed.lane_ids), sorted(row["route_lane_ids"]))
    yield same(f"{name}.start_lane", followed.start_lane, row["start_lane"])
    yield same(f"{name}.centerline_lane_ids", list(followed.search.lane_ids), row["centerline_lane_ids"])
    yield same(f"{name}.path_found", followed.search.found, row["path_found"])
    yield Observation(f"{name}.centerline_points", [len(followed.centreline.points)], [row["centerline_points"]])
    yield Observation(f"{name}.centerline_length", [followed.centreline.length_m], [row["centerline_length"]], METRES)
    yield same(f"{name}.collided_at_start", sorted(reference.touched), sorted(row["collided_at_start"]))
    yield from _proposal_columns(name, row, reference)


def _proposal_columns(name: str, row: Row, reference: Reference) -> Iterator[Observation]:
    details = reference.details
    best = float((details.progress_m * details.multiplier).max())
    for column, values, tolerance in (
        ("prop_lateral_offset", np.repeat(LATERAL_OFFSETS_M, len(SPEED_FRACTIONS)), EXACT),
        ("prop_speed_fraction", np.tile(SPEED_FRACTIONS, len(LATERAL_OFFSETS_M)), EXACT),
        *((f"prop_{item}", getattr(details, item), EXACT) for item in ("nc", "dac", "ddc", "tlc", "ttc", "lk")),
        ("prop_ep", normalise_progress(details.progress_m, details.multiplier, best), METRES),
        ("prop_mult", details.multiplier, EXACT),
        ("prop_collision_idx", details.collision_step, EXACT),
        ("prop_ttc_idx", details.ttc_step, EXACT),
        ("prop_progress_raw", details.progress_m, METRES),
        ("prop_idm_states", reference.states, METRES),
        ("prop_leading", reference.leaders, METRES),
        ("prop_sim_end", reference.rollouts[:, -1], METRES),
        ("prop_score", reference.scores, METRES),
        ("reference", reference.poses, METRES),
    ):
        yield Observation(f"{name}.{column}", values.ravel(), row[column], tolerance)
    yield Observation(f"{name}.chosen", [reference.chosen], [row["chosen"]])


def _carryover_columns(
    row: Row, scene: Row, view: MapView, parts: Mapping[str, Sequence[Row]]
) -> Iterator[Observation]:
    """One official planner for all scenes forgets no object that the ego ever touched, and no longer sees it.

    A planner here is always a fresh one; without those objects it must plan the same.
    """
    seen = [track for track in parts["tracks_now"] if track["token"] not in row["carried_in"]]
    reference = plan_scene(view, moment_of(scene, view, seen, parts["lights_now"])).reference
    yield Observation("synthetic_carryover.chosen", [reference.chosen], [row["chosen"]])
    yield Observation("synthetic_carryover.prop_score", reference.scores, row["prop_score"], METRES)
    yield Observation("synthetic_carryover.prop_idm_states", reference.states.ravel(), row["prop_idm_states"], METRES)
    yield Observation("synthetic_carryover.reference", reference.poses.ravel(), row["reference"], METRES)
    touched = sorted({*row["carried_in"], *reference.touched})
    yield same("synthetic_carryover.carried_out", touched, sorted(row["carried_out"]))


def _search_columns(name: str, view: MapView, case: Row, route: Sequence[str]) -> Iterator[Observation]:
    search = search_lanes(view, case["start_lane"], route)
    yield same(f"{name}.lane_path", list(search.lane_ids), case["lane_path"])
    yield same(f"{name}.path_found", search.found, case["path_found"])


def map_of(name: str, lanes: Sequence[Row], blocks: Sequence[Row], areas: Sequence[Row]) -> MapView:
    """A recorded map."""
    views: dict[bool, tuple[dict[str, Lane], dict[str, Roadblock]]] = {False: ({}, {}), True: ({}, {})}
    for row in sorted(lanes, key=lambda item: item["order"]):
        links = row["layer"] == "LANE_CONNECTOR"
        baseline = np.stack([row["x"], row["y"]], axis=-1)
        neighbours = tuple(row["out"]), tuple(row["inc"])
        views[links][0][row["id"]] = Lane(
            row["id"], row["roadblock"], links, baseline, _polygon(row), row["speed_limit"], *neighbours
        )
    for row in sorted(blocks, key=lambda item: item["order"]):
        links = row["layer"] == "ROADBLOCK_CONNECTOR"
        neighbours = tuple(row["out"]), tuple(row["inc"])
        views[links][1][row["id"]] = Roadblock(row["id"], links, _polygon(row), tuple(row["lanes"]), *neighbours)
    kinds: dict[str, dict[str, Area]] = {}
    for row in areas:
        kinds.setdefault(row["layer"], {})[row["id"]] = Area(row["id"], _polygon(row))
    return MapView(name, views[False][0], views[True][0], views[False][1], views[True][1], kinds)


def graph_map(case: Row) -> MapView:
    """The map of a graph case."""
    lanes: dict[bool, dict[str, Lane]] = {False: {}, True: {}}
    blocks: dict[bool, dict[str, Roadblock]] = {False: {}, True: {}}
    for item in case["lanes"]:
        links = item.get("kind") == "LANE_CONNECTOR"
        shape, inc = shapely.Polygon(item.get("poly")), tuple(item.get("inc", ()))
        baseline, out = np.array(item["base"]), tuple(item["out"])
        lanes[links][item["id"]] = Lane(item["id"], item["rb"], links, baseline, shape, None, out, inc)
    for item in case["blocks"]:
        links = item.get("kind") == "ROADBLOCK_CONNECTOR"
        neighbours = tuple(item["lanes"]), tuple(item.get("out", ())), tuple(item.get("inc", ()))
        blocks[links][item["id"]] = Roadblock(item["id"], links, shapely.Polygon(item.get("poly")), *neighbours)
    return MapView("graph", lanes[False], lanes[True], blocks[False], blocks[True], {})


def moment_of(row: Row, view: MapView, tracks: Sequence[Row], lights: Sequence[Row]) -> Moment:
    """What the planner knows of a recorded scene."""
    red = tuple(light["lane_connector"] for light in lights if light["red"])
    return Moment(
        row["token"], np.array(row["ego"]), distinct_blocks(view, row["route_in"]), frame_objects_of(tracks), red
    )


def frame_objects_of(rows: Sequence[Row]) -> FrameObjects:
    """Recorded objects of one frame, sorted by kind."""
    rows = sorted(rows, key=lambda row: OBJECT_NAMES.index(row["type"].lower()))
    return FrameObjects(
        tokens=tuple(row["token"] for row in rows),
        kinds=np.array([OBJECT_NAMES.index(row["type"].lower()) for row in rows], np.int64),
        sizes=np.array([[row["length"], row["width"]] for row in rows]).reshape(-1, 2),
        poses=np.array([[row["x"], row["y"], row["heading"]] for row in rows]).reshape(-1, 3),
        velocities=np.array([[row["vx"], row["vy"]] for row in rows]).reshape(-1, 2),
    )


def _prepared(row: Row, moment: Moment, planned: PlannedScene, view: MapView) -> PreparedScene:
    """The scene as far as its current frame is recorded, which is all that traffic starts from."""
    tracks = interpolate_tracks([moment.objects])
    history: Floats = np.repeat(moment.state[None], 4, axis=0)
    return PreparedScene(
        token=moment.token,
        is_synthetic=True,
        time_us=row["time_us"],
        ego_state=moment.state,
        history_time_us=row["time_us"] + 500_000 * np.arange(-3, 1),
        history_states=history,
        human_plan=None,
        reference_poses=planned.reference.poses,
        centerline=planned.followed.centreline.points,
        polygons=planned.followed.polygons,
        polygon_layer=planned.followed.area.layer,
        polygon_on_route=planned.followed.on_route,
        tracks=tracks,
        red_lights=NO_POLYGONS,
        red_active=np.zeros((0, ROLLOUT_STEPS), np.bool_),
        traffic=traffic_start(view, moment.state, moment.objects, tracks.tokens),
    )


def _polygon(row: Row) -> shapely.Polygon:
    return shapely.Polygon(np.stack([row["poly_x"], row["poly_y"]], axis=-1))
