"""The way back from a shifted view, and the ego-status baseline."""

from pathlib import Path

import numpy as np
import pytest

from irl_vla.dataset.views import shifted_scene
from irl_vla.errors import CheckpointError
from irl_vla.geometry import compose, relative_to
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.scene import Boxes, EgoStatus, Frame, Scene
from irl_vla.train.config import EgoMlpConfig
from irl_vla.train.ego_mlp import ego_mlp_plans, load_ego_mlp, save_ego_mlp, train_ego_mlp
from irl_vla.train.encode import recovery_plan

NO_OBJECTS = Boxes(np.zeros((0, 7)), (), np.zeros((0, 3)), ())


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
    np.testing.assert_array_equal(recovery_plan(scene, scene), scene.human_plan())


def test_a_shifted_ego_swings_back_to_the_logged_path() -> None:
    scene = straight_drive(10.0)  # back after max(8 m, 3 s) = 30 m
    offset = np.array([0.0, 1.0, 0.1])
    view = shifted_scene(scene, offset)
    path = compose(offset, recovery_plan(view, scene))  # in the frame of the logged ego
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
    np.testing.assert_allclose(recovery_plan(view, scene), 0.0, atol=1e-9)


def test_the_offset_along_the_path_remains() -> None:
    scene = straight_drive(10.0)
    view = shifted_scene(scene, np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(recovery_plan(view, scene), scene.human_plan(), atol=1e-9)


def test_recovery_ends_on_the_logged_poses() -> None:
    scene = straight_drive(12.0)
    view = shifted_scene(scene, np.array([0.0, -0.8, -0.05]))
    end = compose(view.current.ego.pose_global, recovery_plan(view, scene)[-1])
    np.testing.assert_allclose(end, scene.future[7].ego.pose_global, atol=1e-6)
    assert relative_to(end, scene.future[7].ego.pose_global)[2] == pytest.approx(0.0)


def test_ego_mlp_learns_constant_velocity_and_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    history = np.zeros((256, 4, 7), np.float32)
    history[:, -1, 3] = rng.uniform(0, 15, 256)
    command = rng.integers(0, 3, 256)
    plans = np.zeros((256, 8, 3), np.float32)
    plans[..., 0] = history[:, -1, 3:4] * 0.5 * np.arange(1, 9)
    config = EgoMlpConfig(hidden=32, steps=300, batch_size=64, learning_rate=3e-3)
    model = train_ego_mlp(history, command, plans, config, seed=0)
    planned = ego_mlp_plans(model, history, command)
    assert planned.shape == (256, 8, 3)
    assert np.abs(planned[..., 0] - plans[..., 0]).mean() < 1.0 < np.abs(plans[..., 0] - plans[..., 0].mean(0)).mean()
    save_ego_mlp(model, tmp_path, config, Provenance(0))
    np.testing.assert_array_equal(ego_mlp_plans(load_ego_mlp(tmp_path), history, command), planned)
    with pytest.raises(CheckpointError, match="run `irl-vla pretrain`"):
        load_ego_mlp(tmp_path / "absent")
