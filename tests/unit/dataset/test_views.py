from dataclasses import replace

import numpy as np
import pytest

from irl_vla.dataset.config import ViewConfig
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.views import imitated_plan, scene_views, shifted_scene
from irl_vla.errors import SceneError
from irl_vla.geometry import compose, relative_to
from irl_vla.scene import Boxes, EgoStatus, Frame, Scene

NO_OBJECTS = Boxes(np.zeros((0, 7)), (), np.zeros((0, 3)), ())
CONFIG = ViewConfig(count=3, lateral_m=1.0, longitudinal_m=2.0, heading_rad=0.2)


@pytest.fixture(scope="module")
def scene(dataset):
    return next(iter_scenes(dataset, "train"))


def global_boxes(frame):
    local = frame.objects.boxes[:, [0, 1, 6]]
    return compose(frame.ego.pose_global, local)


def test_tokens_count_and_what_stays(scene):
    views = scene_views(scene, CONFIG, seed=1)
    assert [view.token for view in views] == [f"{scene.token}-s{number}" for number in (1, 2, 3)]
    for view in views:
        assert not view.is_synthetic
        assert (view.log_name, view.group, view.map_name) == (scene.log_name, scene.group, scene.map_name)
        assert view.current.token == scene.current.token
        assert view.future == scene.future
    assert scene_views(scene, CONFIG.model_copy(update={"count": 0}), seed=1) == []


def test_the_world_stays_where_it_was(scene):
    for view in scene_views(scene, CONFIG, seed=2):
        for before, after in zip(scene.history, view.history, strict=True):
            assert not np.allclose(before.ego.pose_global, after.ego.pose_global)
            np.testing.assert_allclose(global_boxes(after), global_boxes(before), atol=1e-6)
            heading = after.ego.pose_global[2]
            velocity = after.objects.velocity_mps[0]
            np.testing.assert_allclose(np.hypot(*velocity[:2]), 3.0)
            np.testing.assert_allclose(np.arctan2(velocity[1], velocity[0]) + heading, 0.0, atol=1e-9)  # drives east


def test_the_ego_moves_rigidly_by_the_offset(scene):
    offset = np.array([0.5, -1.0, 0.1])
    view = shifted_scene(scene, offset)
    origin, moved = scene.current.ego, view.current.ego
    np.testing.assert_allclose(relative_to(origin.pose_global, moved.pose_global), offset, atol=1e-6)
    for before, after in zip(scene.history, view.history, strict=True):
        np.testing.assert_allclose(
            relative_to(moved.pose_global, after.ego.pose_global),
            relative_to(origin.pose_global, before.ego.pose_global),
            atol=1e-6,
        )
        np.testing.assert_array_equal(after.ego.velocity_mps, before.ego.velocity_mps)


def test_nobody_drove_from_a_shifted_view(scene):
    assert scene.has_human
    for view in (shifted_scene(scene, np.array([0.0, 1.0, 0.0])), shifted_scene(scene, np.zeros(3))):
        assert not view.has_human
        with pytest.raises(SceneError, match=r"a human who drove on .* found none \(a shifted view\)"):
            view.human_plan()


def test_scenes_without_a_future_or_of_the_second_stage_have_nothing_to_imitate(scene):
    assert imitated_plan(scene) is not None
    short = replace(scene, frames=scene.frames[:11])
    for nothing in (short, shifted_scene(short, np.zeros(3)), replace(scene, token="0" * 17)):
        assert not nothing.has_human
        assert imitated_plan(nothing) is None


def test_no_offset_changes_nothing(scene):
    view = shifted_scene(scene, np.zeros(3))
    np.testing.assert_allclose(view.current.objects.boxes, scene.current.objects.boxes, atol=1e-6)
    np.testing.assert_allclose(imitated_plan(view), scene.human_plan(), atol=1e-9)


def test_shifts_add_up(scene):
    first, second = np.array([1.0, 0.5, 0.2]), np.array([-0.3, 0.4, -0.1])
    twice, once = shifted_scene(shifted_scene(scene, first), second), shifted_scene(scene, compose(first, second))
    np.testing.assert_array_equal(twice.logged_pose_global, scene.current.ego.pose_global)
    np.testing.assert_allclose(imitated_plan(twice), imitated_plan(once), atol=1e-6)
    for a, b in zip(twice.history, once.history, strict=True):
        np.testing.assert_allclose(a.objects.boxes, b.objects.boxes, atol=1e-6)
        np.testing.assert_allclose(a.sweep_pose, b.sweep_pose, atol=1e-6)
        np.testing.assert_allclose(a.cameras["CAM_F0"].rotation, b.cameras["CAM_F0"].rotation, atol=1e-9)
        np.testing.assert_allclose(a.cameras["CAM_F0"].translation_m, b.cameras["CAM_F0"].translation_m, atol=1e-6)


def test_draws_depend_on_seed_and_token_alone(scene):
    poses = lambda views: np.stack([view.current.ego.pose_global for view in views])  # noqa: E731
    first = poses(scene_views(scene, CONFIG, seed=5))
    np.testing.assert_array_equal(first, poses(scene_views(scene, CONFIG, seed=5)))
    assert not np.allclose(first, poses(scene_views(scene, CONFIG, seed=6)))
    assert not np.allclose(first, poses(scene_views(replace(scene, token="0" * 16), CONFIG, seed=5)))


def test_offsets_stay_inside_their_bounds(scene):
    views = scene_views(scene, CONFIG.model_copy(update={"count": 200}), seed=0)
    origin = scene.current.ego.pose_global
    offsets = relative_to(origin, np.stack([view.current.ego.pose_global for view in views]))
    bounds = np.array([2.0, 1.0, 0.2])
    assert (np.abs(offsets) <= bounds + 1e-6).all()
    assert (np.abs(offsets).max(axis=0) > 0.9 * bounds).all()
    assert (np.abs(offsets.mean(axis=0)) < 0.15 * bounds).all()


def straight_drive(speed_mps: float, origin: tuple[float, float, float] = (100.0, 50.0, 0.3)) -> Scene:
    """Twelve frames straight on at constant speed; the current one at ``origin``."""
    frames = []
    for index in range(12):
        pose = compose(np.array(origin), np.array([(index - 3) * 0.5 * speed_mps, 0.0, 0.0]))
        ego = EgoStatus(pose, np.array([speed_mps, 0.0]), np.zeros(2), 1)
        frames.append(Frame(f"f{index}", index * 500_000, ego, NO_OBJECTS, (), (), {}, None))
    return Scene("f3", "log", "map", "log", "", "train", tuple(frames))


def test_the_logged_ego_keeps_its_own_plan() -> None:
    scene = straight_drive(8.0)
    np.testing.assert_array_equal(imitated_plan(scene), scene.human_plan())


def test_a_shifted_ego_swings_back_to_the_logged_path() -> None:
    scene = straight_drive(10.0)  # back after max(8 m, 3 s) = 30 m
    offset = np.array([0.0, 1.0, 0.1])
    view = shifted_scene(scene, offset)
    path = compose(offset, imitated_plan(view))  # in the frame of the logged ego
    np.testing.assert_allclose(path[:, 0], 5.0 * np.arange(1, 9), atol=1e-9)
    np.testing.assert_allclose(path[5:, 1:], 0.0, atol=1e-9)
    # Hermite cubic a quarter of the way: 1 * (2/64 - 3/16 + 1) + 30 tan(0.1) * (1/64 - 2/16 + 1/4) at 7.5 m
    u = 1 / 6  # the first pose, 5 m of 30 m
    expected = 2 * u**3 - 3 * u**2 + 1 + 30 * np.tan(0.1) * (u**3 - 2 * u**2 + u)
    assert path[0, 1] == pytest.approx(expected)
    # headings are those of the path
    dense = np.diff(path[:, 1]) / np.diff(path[:, 0])
    middle = (np.tan(path[1:, 2]) + np.tan(path[:-1, 2])) / 2
    np.testing.assert_allclose(dense, middle, atol=0.03)


def test_a_standing_ego_stays_where_it_was_put() -> None:
    scene = straight_drive(0.0)
    view = shifted_scene(scene, np.array([0.5, -1.0, 0.1]))
    np.testing.assert_allclose(imitated_plan(view), 0.0, atol=1e-9)


def test_the_offset_along_the_path_remains() -> None:
    scene = straight_drive(10.0)
    view = shifted_scene(scene, np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(imitated_plan(view), scene.human_plan(), atol=1e-9)


def test_recovery_ends_on_the_logged_poses() -> None:
    scene = straight_drive(12.0)
    view = shifted_scene(scene, np.array([0.0, -0.8, -0.05]))
    end = compose(view.current.ego.pose_global, imitated_plan(view)[-1])
    np.testing.assert_allclose(end, scene.future[7].ego.pose_global, atol=1e-6)
    assert relative_to(end, scene.future[7].ego.pose_global)[2] == pytest.approx(0.0)
