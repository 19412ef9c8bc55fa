from dataclasses import replace

import numpy as np
import pytest
import shapely

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.inputs import drivable_map, ego_state, polygons_of, prepare_scene
from irl_vla.epdms.polygons import points_inside
from irl_vla.epdms.records import POLYGON_LAYERS
from irl_vla.epdms.scorer import score_plans
from irl_vla.errors import SceneError
from irl_vla.scene import SUBSCORES

from ..driving.straight_map import straight_map
from .driving_scene import TIME_US, frame, moved_map, moved_scene, scene, scene_of, undo

CAR = ("vehicle", "car", 40.0, 0.0, 0.0, 6.0)


def test_a_scene_is_prepared_by_hand():
    prepared = prepare_scene(scene(objects=(CAR,)), straight_map(2))
    np.testing.assert_array_equal(prepared.ego_state, [10, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(prepared.history_states[:, 0], [-2, 2, 6, 10])
    np.testing.assert_array_equal(prepared.history_time_us, TIME_US + 500_000 * np.arange(-3, 1))
    np.testing.assert_allclose(prepared.human_plan[:, 0], 4.0 * np.arange(1, 9))
    assert prepared.centerline[0].tolist() == [0, 0]
    assert prepared.centerline[-1].tolist() == [200, 0]
    assert prepared.reference_poses.shape == (51, 3)
    np.testing.assert_allclose(prepared.tracks.poses[0, :, 0], 40 + 0.6 * np.arange(41))
    assert prepared.tracks.velocities[0, 0].tolist() == [6, 0]
    assert prepared.traffic.drivers.tolist() == []  # connector ab is no intersection
    assert prepared.polygon_on_route.tolist() == [layer in (1, 2) for layer in prepared.polygon_layer]


def test_the_drivable_map_is_in_the_official_order_and_square():
    area = drivable_map(straight_map(2), np.array([20.0, 0.0]))
    # The square ends at x = 120: block bc touches it there, c (from x = 160) does not.
    assert area.ids == ("a", "b", "a0", "a1", "b0", "b1", "ab0", "ab1", "bc0", "bc1", "junction", "yard")
    names = [POLYGON_LAYERS[layer] for layer in area.layer]
    assert names == ["ROADBLOCK"] * 2 + ["LANE"] * 4 + ["LANE_CONNECTOR"] * 4 + ["INTERSECTION", "CARPARK_AREA"]
    assert "bc0" not in drivable_map(straight_map(2), np.array([19.9, 0.0])).ids


def test_only_lanes_are_on_the_route_even_where_ids_are_shared():
    area = drivable_map(straight_map(), np.array([20.0, 0.0]))
    assert [area.ids[i] for i in np.flatnonzero(area.on_route(("a", "a0", "yard")))] == ["a0"]


def test_motion_has_the_precision_of_the_log():
    item = frame(3)
    item = replace(item, ego=replace(item.ego, velocity_mps=np.array([0.1, 0.2]), acceleration_mps2=np.array([0.3, 0])))
    assert ego_state(item)[3:7].tolist() == [np.float32(0.1), np.float32(0.2), np.float32(0.3), 0.0]


def test_red_lights_are_those_of_the_logged_route_held_between_frames():
    frames = [frame(index) for index in range(12)]
    for index, lights in (
        (3, (("ab0", True), ("bc0", True))),
        (5, (("ab0", True), ("ab0", False))),
        (11, (("ab0", True),)),
    ):
        frames[index] = replace(frames[index], traffic_lights=lights)
    frames[3] = replace(frames[3], roadblock_ids=("a", "ab", "b"))
    prepared = prepare_scene(scene_of(tuple(frames)), straight_map())
    assert len(prepared.red_lights) == 1  # bc is not on the route
    assert np.flatnonzero(prepared.red_active[0]).tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 40]
    assert prepared.red_lights.vertices[:, 0].min() == 40.0


def test_without_red_lights_the_arrays_are_empty():
    prepared = prepare_scene(scene(), straight_map())
    assert len(prepared.red_lights) == 0
    assert prepared.red_active.shape == (0, 41)
    assert len(prepared.tracks) == 0


def test_synthetic_scenes_have_no_human():
    prepared = prepare_scene(scene(token="0123456789abcdef0"), straight_map())
    assert prepared.is_synthetic
    assert prepared.human_plan is None


def test_the_world_can_be_turned_and_shifted():
    by = np.array([664_000.0, 3_998_000.0, 2.1])
    # With a limit of 10 m/s the corridor would end exactly on a vertex, in or out by rounding.
    view = straight_map(2, speed_limit_mps=11.0)
    original = scene(objects=(CAR, ("pedestrian", "walker", 60.0, 3.0, 1.5, 0.4)))
    here, there = prepare_scene(original, view), prepare_scene(moved_scene(original, by), moved_map(view, by))
    np.testing.assert_allclose(undo(there.reference_poses, by), here.reference_poses, atol=1e-6)
    np.testing.assert_allclose(undo(there.tracks.poses, by), here.tracks.poses, atol=1e-6)
    np.testing.assert_allclose(there.human_plan, here.human_plan, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"route": ()}, "expected a route"),
        ({"route": ("a", "999")}, "'999'"),
        ({"count": 11}, "found 4 and 7"),
    ],
)
def test_unusable_scenes_are_refused_by_token(change, message):
    with pytest.raises(SceneError, match=message) as error:
        prepare_scene(scene(**change), straight_map())
    assert "0123456789abcdef" in str(error.value)


def test_a_speed_limit_of_zero_is_refused():
    with pytest.raises(SceneError, match="speed limit of lane a0"):
        prepare_scene(scene(), straight_map(speed_limit_mps=0.0))


def test_a_route_without_lanes_is_refused():
    view = straight_map()
    bare = {key: replace(block, lane_ids=()) for key, block in view.roadblocks.items()}
    with pytest.raises(SceneError, match="expected lanes"):
        prepare_scene(scene(route=("a",)), replace(view, roadblocks=bare, _trees={}))


def test_an_ego_in_a_hole_of_the_map_is_off_the_road():
    """No polygon within 100 m: the route is planned to, and no plan ever complies with the drivable area."""
    view = moved_map(straight_map(), np.array([0.0, 500.0, 0.0]))
    prepared = prepare_scene(scene(objects=(CAR,)), view)
    assert len(prepared.polygons) == 0
    for traffic in ("replay", "reactive"):
        scored = score_plans(prepared, prepared.human_plan[None], ScorerConfig(traffic=traffic, human_filter=False))
        assert scored.raw[0, SUBSCORES.index("dac")] == 0.0
        assert scored.score[0] == 0.0


def test_two_objects_of_one_token_are_refused():
    with pytest.raises(SceneError, match=r"frame f03: .*'car' twice"):
        prepare_scene(scene(objects=(CAR, CAR)), straight_map())


def test_tracks_that_are_not_in_the_current_frame_are_kept_apart():
    frames = [frame(index, objects=(CAR,) if index > 4 else ()) for index in range(12)]
    prepared = prepare_scene(scene_of(tuple(frames)), straight_map())
    assert prepared.traffic.seen_now.tolist() == [False]
    assert prepared.traffic.drivers.tolist() == []
    for traffic in ("replay", "reactive"):
        scored = score_plans(prepared, prepared.human_plan[None], ScorerConfig(traffic=traffic))
        assert not scored.failures
        assert np.isfinite(scored.score).all()


def test_a_missing_limit_counts_as_15_mps():
    def speeds(limit):
        return np.diff(prepare_scene(scene(), straight_map(speed_limit_mps=limit)).reference_poses[:, 0])

    np.testing.assert_array_equal(speeds(None), speeds(15.0))
    assert (speeds(None) != speeds(10.0)).any()


def test_holes_are_outside():
    shape = shapely.Polygon(
        [(0, 0), (10, 0), (10, 10), (0, 10)], [[(2, 2), (4, 2), (4, 4), (2, 4)], [(6, 6), (8, 6), (8, 8), (6, 8)]]
    )
    rings = polygons_of([shape])
    points = np.random.default_rng(0).uniform(-1, 11, (400, 4, 2))
    for corners in points:
        mask = points_inside(corners, rings.vertices, 0, len(rings.vertices))
        assert [bool(mask >> i & 1) for i in range(4)] == shapely.contains_xy(shape, corners).tolist()
