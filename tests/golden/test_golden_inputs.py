"""Route, centreline, PDM-Closed and tracks against what the official devkit computed for synthetic and real scenes."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.splits import write_split
from irl_vla.driving.route import distinct_blocks, repair_route, search_lanes
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.inputs import Moment, drivable_map, plan_scene, prepare_scene
from irl_vla.epdms.records import POLYGON_LAYERS
from irl_vla.epdms.scorer import score_plans
from irl_vla.epdms.tracks import FrameObjects, frame_objects, interpolate_tracks
from irl_vla.geometry import rear_axle_to_centre, wrap_angle
from irl_vla.scene import OBJECT_NAMES, SUBSCORES, Area, Lane, MapView, Roadblock

INPUTS = Path(__file__).parent / "inputs"
SCORER_DATA = Path(__file__).parent / "data"
DRIVES = Path(__file__).parents[3] / "shared" / "real_drives"
METRES = 1e-6
needs_drives = pytest.mark.skipif(not DRIVES.is_dir(), reason="../shared/real_drives is not here")


def rows_by_scene(folder, name, key="scene"):
    groups = defaultdict(list)
    for row in pq.read_table(folder / f"{name}.parquet").to_pylist():
        groups[row[key]].append(row)
    return groups


def polygon(row):
    return shapely.Polygon(np.stack([row["poly_x"], row["poly_y"]], axis=-1))


def map_of(name, lane_rows, block_rows, area_rows):
    lanes, blocks, areas = {True: {}, False: {}}, {True: {}, False: {}}, defaultdict(dict)
    for row in sorted(lane_rows, key=lambda item: item["order"]):
        links = row["layer"] == "LANE_CONNECTOR"
        baseline = np.stack([row["x"], row["y"]], axis=-1)
        out, inc, limit = tuple(row["out"]), tuple(row["inc"]), row["speed_limit"]
        lanes[links][row["id"]] = Lane(row["id"], row["roadblock"], links, baseline, polygon(row), limit, out, inc)
    for row in sorted(block_rows, key=lambda item: item["order"]):
        links = row["layer"] == "ROADBLOCK_CONNECTOR"
        neighbours = tuple(row["lanes"]), tuple(row["out"]), tuple(row["inc"])
        blocks[links][row["id"]] = Roadblock(row["id"], links, polygon(row), *neighbours)
    for row in area_rows:
        areas[row["layer"]][row["id"]] = Area(row["id"], polygon(row))
    return MapView(name, lanes[False], lanes[True], blocks[False], blocks[True], areas)


def objects_of(rows):
    rows = sorted(rows, key=lambda row: OBJECT_NAMES.index(row["type"].lower()))
    return FrameObjects(
        tokens=tuple(row["token"] for row in rows),
        kinds=np.array([OBJECT_NAMES.index(row["type"].lower()) for row in rows], np.int64),
        sizes=np.array([[row["length"], row["width"]] for row in rows]).reshape(-1, 2),
        poses=np.array([[row["x"], row["y"], row["heading"]] for row in rows]).reshape(-1, 3),
        velocities=np.array([[row["vx"], row["vy"]] for row in rows]).reshape(-1, 2),
    )


@pytest.fixture(scope="module")
def synthetic():
    """(row, planned scene) of the 44 synthetic scenes."""
    names = ("map_lanes", "map_roadblocks", "map_areas", "tracks_now", "lights_now")
    parts = {name: rows_by_scene(INPUTS, f"synthetic_{name}") for name in names}
    planned = []
    for row in pq.read_table(INPUTS / "synthetic_scenes.parquet").to_pylist():
        token = row["token"]
        view = map_of(token, *(parts[name][token] for name in names[:3]))
        route = distinct_blocks(view, row["route_in"])
        red = tuple(light["lane_connector"] for light in parts["lights_now"][token] if light["red"])
        moment = Moment(token, np.array(row["ego"]), route, objects_of(parts["tracks_now"][token]), red)
        planned.append((row, plan_scene(view, moment)))
    return planned


def graph_view(case):
    """A map from the blocks and lanes of a graph case."""
    lanes, blocks = {True: {}, False: {}}, {True: {}, False: {}}
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


def assert_planned_as_recorded(row, planned):
    repair, reference = planned.repair, planned.reference
    assert repair.start_block == row["start_block"]
    assert list(repair.candidates) == row["start_block_candidates"]
    assert list(repair.before_loop_cut) == row["route_before_loop_cut"]
    assert list(repair.blocks) == row["route_corrected"]
    assert sorted(planned.lane_ids) == sorted(row["route_lane_ids"])
    assert planned.start_lane == row["start_lane"]
    assert (list(planned.search.lane_ids), planned.search.found) == (row["centerline_lane_ids"], row["path_found"])
    assert len(planned.centreline.points) == row["centerline_points"]
    assert planned.centreline.length_m == pytest.approx(row["centerline_length"], abs=METRES)
    assert sorted(reference.touched) == sorted(row["collided_at_start"])
    for name in ("nc", "dac", "ddc", "tlc", "ttc", "lk"):
        assert getattr(reference.details, name).tolist() == row[f"prop_{name}"], name
    assert reference.details.collision_step.tolist() == row["prop_collision_idx"]
    assert reference.details.ttc_step.tolist() == row["prop_ttc_idx"]
    assert reference.chosen == row["chosen"]
    for found, column in (
        (reference.states, "prop_idm_states"),
        (reference.leaders, "prop_leading"),
        (reference.rollouts[:, -1], "prop_sim_end"),
        (reference.details.progress_m, "prop_progress_raw"),
        (reference.scores, "prop_score"),
        (reference.poses, "reference"),
    ):
        np.testing.assert_allclose(found.ravel(), row[column], rtol=0, atol=METRES, err_msg=column)


def test_synthetic_scenes_are_planned_as_recorded(synthetic):
    assert len(synthetic) == 44
    for row, planned in synthetic:
        assert_planned_as_recorded(row, planned)


def test_the_synthetic_scenes_exercise_the_hard_cases(synthetic):
    """What the comparison above would prove nothing without."""
    assert sum(list(planned.repair.blocks) != row["route_in"] for row, planned in synthetic) >= 10
    assert sum(planned.repair.blocks != planned.repair.before_loop_cut for _, planned in synthetic) >= 5
    assert any(not planned.search.found for _, planned in synthetic)
    assert any((planned.reference.details.tlc == 0).any() for _, planned in synthetic)
    assert any((planned.reference.states[..., 1] < 0).any() for _, planned in synthetic)
    assert any(planned.reference.touched for _, planned in synthetic)
    assert len({planned.reference.chosen for _, planned in synthetic}) >= 5


def test_random_graphs_are_repaired_and_searched_as_recorded():
    for case in json.loads((INPUTS / "graph_cases.json").read_text()):
        view = graph_view(case)
        repair = repair_route(view, np.array(case["ego"]), distinct_blocks(view, case["route_in"]))
        assert repair.start_block == case["start_block"], case["case"]
        assert list(repair.candidates) == case["candidates"], case["case"]
        assert list(repair.before_loop_cut) == case["route_before_loop_cut"], case["case"]
        assert list(repair.blocks) == case["route_corrected"], case["case"]
        if case["start_lane"] is not None:
            search = search_lanes(view, case["start_lane"], repair.blocks)
            assert (list(search.lane_ids), search.found) == (case["lane_path"], case["path_found"]), case["case"]


def test_layered_lane_graphs_are_searched_as_recorded():
    for case in json.loads((INPUTS / "lane_cases.json").read_text()):
        search = search_lanes(graph_view(case), case["start_lane"], case["route"])
        assert (list(search.lane_ids), search.found) == (case["lane_path"], case["path_found"]), case["case"]


def test_tracks_are_interpolated_as_recorded():
    recorded = rows_by_scene(SCORER_DATA, "agents", "scene_id")
    for scene, rows in rows_by_scene(SCORER_DATA, "tracks_2hz", "scene_id").items():
        tracks = interpolate_tracks([objects_of([r for r in rows if r["frame"] == frame]) for frame in range(9)])
        expected = {row["token"]: row for row in recorded[scene]}
        assert set(tracks.tokens) == set(expected)
        assert (np.diff(tracks.kinds) >= 0).all()
        for a, token in enumerate(tracks.tokens):
            row = expected[token]
            assert np.flatnonzero(tracks.present[a]).tolist() == row["steps"], (scene, token)
            assert OBJECT_NAMES[tracks.kinds[a]] == row["type"].lower()
            assert tracks.sizes[a].tolist() == [row["length"], row["width"]]
            poses, velocities = tracks.poses[a, row["steps"]], tracks.velocities[a, row["steps"]]
            xy = np.stack([row["x"], row["y"]], axis=-1)
            np.testing.assert_allclose(poses[:, :2], xy, rtol=0, atol=METRES)
            np.testing.assert_allclose(wrap_angle(poses[:, 2] - row["heading"]), 0, atol=METRES)
            np.testing.assert_allclose(velocities, np.stack([row["vx"], row["vy"]], -1), rtol=0, atol=METRES)


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """(scene, map) of all windows of the two real drives."""
    splits = tmp_path_factory.mktemp("splits")
    write_split(splits, "all", "mini", SceneFilter(num_future_frames=8, frame_interval=1))
    dataset = open_dataset(DataConfig(root=DRIVES, splits_root=splits / "train_test_split"), {})
    return [(scene, load_map(dataset, scene.map_name)) for scene in iter_scenes(dataset, "all")]


def official(name):
    return {row["token"]: row for row in pq.read_table(DRIVES / f"{name}.parquet").to_pylist()}


@needs_drives
def test_real_scenes_are_planned_as_recorded(drives):
    recorded = official("official_inputs/scenes")
    assert len(drives) == len(recorded)
    for scene, view in drives:
        now = scene.current
        route = distinct_blocks(view, now.roadblock_ids)
        state = prepare_scene(scene, view).ego_state
        moment = Moment(scene.token, state, route, frame_objects(now), ())
        assert_planned_as_recorded(recorded[scene.token], plan_scene(view, moment))


@needs_drives
def test_real_scenes_are_prepared_and_scored_as_recorded(drives):
    recorded, plans = official("official_scenes"), rows_by_scene(DRIVES, "official_scores", "token")
    for scene, view in drives:
        row, prepared = recorded[scene.token], prepare_scene(scene, view)
        area = drivable_map(view, rear_axle_to_centre(prepared.ego_state[:3])[:2])
        assert list(area.ids) == row["map_tokens"]
        assert [POLYGON_LAYERS[layer] for layer in area.layer] == row["map_layers"]
        assert prepared.time_us == row["time_us"]
        np.testing.assert_allclose(prepared.ego_state[:7], row["ego"], rtol=0, atol=METRES)
        centerline = np.array(row["centerline"]).reshape(len(prepared.centerline), -1)
        np.testing.assert_allclose(prepared.centerline, centerline[:, :2], rtol=0, atol=METRES)
        reference = np.array(row["pdm_poses"]).reshape(51, 3)
        np.testing.assert_allclose(prepared.reference_poses[:, :2], reference[:, :2], rtol=0, atol=METRES)
        np.testing.assert_allclose(wrap_angle(prepared.reference_poses[:, 2] - reference[:, 2]), 0, atol=METRES)
        replayed = [plan for plan in plans[scene.token] if plan["traffic"] == "replay"]
        poses = np.array([plan["poses"] for plan in replayed]).reshape(-1, 8, 3)
        scored = score_plans(prepared, poses, ScorerConfig())
        for index, name in enumerate(SUBSCORES[:8]):
            tolerance = METRES if name == "ep" else 0.0
            for kind, values in (("raw", scored.raw), ("filt", scored.filtered)):
                expected = [plan[f"{kind}_{name}"] for plan in replayed]
                np.testing.assert_allclose(values[:, index], expected, rtol=0, atol=tolerance, err_msg=name)
