"""The devkit's agent, run inside a stand-in of the devkit on a generated world."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.features import build_observation
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.errors import CheckpointError, ConfigError, SceneError
from irl_vla.ledger.checkpoint import Provenance, save_checkpoint
from irl_vla.ledger.storage import Location
from irl_vla.navsim.agent import CONFIG_PATH, devkit_readings, irl_vla_agent
from irl_vla.policy.batch import collate
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.config import sensor_config
from irl_vla.policy.deployment import checkpoint_folder, plan_of
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.planner_config import DecoderConfig
from irl_vla.policy.vla import build_policy, load_policy, perception_hash, save_policy, token_layout
from irl_vla.reward import candidates
from irl_vla.reward.config import RewardModelConfig
from irl_vla.reward.model import STAGE, RewardWorldModel, Views
from irl_vla.reward.relations import RELATIONS, STEPS
from irl_vla.scene import Scene
from irl_vla.world.config import SplitSizeConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate
from tests.unit.navsim import stand_in
from tests.unit.policy.test_planner_core import human_plans
from tests.unit.policy.test_vla import CONFIG

SPLIT = "train"
SMALL = SplitSizeConfig(logs=2, layouts=2)


class Moment(NamedTuple):
    """One scene, and the raw frames of its history."""

    scene: Scene
    frames: list[dict[str, Any]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("world")
    sensors = WorldSensorConfig(image_height_px=36, image_width_px=64)
    generate(WorldConfig(train=SMALL, val=SMALL, test=SMALL, frames_per_log=13, sensors=sensors), root, seed=5)
    return open_dataset(DataConfig(root=root))


@pytest.fixture(scope="module")
def moments(dataset: Dataset) -> list[Moment]:
    found = []
    for scene in iter_scenes(dataset, SPLIT):
        frames = read_pickle(dataset.log_folder(SPLIT) / f"{scene.log_name}.pkl")
        current = [frame["token"] for frame in frames].index(scene.token)
        found.append(Moment(scene, frames[current - 3 : current + 1]))
    return found


@pytest.fixture(scope="module")
def seed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy where imitation leaves its own; every weight shaken, so that every input counts."""
    folder = tmp_path_factory.mktemp("run") / "seed-0"
    policy = build_policy(CONFIG, PlanCodec.fit(human_plans(100), 0.03), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_policy(policy, folder / "pretrain" / "policy", CONFIG, Provenance(0))
    return folder


@pytest.fixture(autouse=True)
def devkit(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.install(monkeypatch)


@pytest.fixture
def agent(seed_folder: Path) -> Any:
    made = irl_vla_agent(str(seed_folder))
    made.initialize()
    return made


def given(agent: Any, dataset: Dataset, moment: Moment) -> stand_in.AgentInput:
    return stand_in.agent_input(moment.frames, agent.get_sensor_config(), dataset.sensor_folder(SPLIT))


def test_plans_are_those_of_our_own_pipeline(
    agent: Any, dataset: Dataset, moments: list[Moment], seed_folder: Path
) -> None:
    policy, config = load_policy(seed_folder / "pretrain" / "policy")
    sensors = sensor_config(config.encoder, allow_missing=False)
    assert len(moments) == 4
    plans = []
    for moment in moments:
        trajectory = agent.compute_trajectory(given(agent, dataset, moment))
        own = plan_of(policy, build_observation(moment.scene, dataset, sensors))
        assert type(trajectory) is stand_in.Trajectory
        assert trajectory.poses.dtype == np.float32
        np.testing.assert_array_equal(trajectory.poses, own)  # every bit
        plans.append(own)
    assert np.abs(np.diff(plans, axis=0)).max(axis=(1, 2)).min() > 1e-3, "different moments, different plans"


def test_half_precision_tokens_hardly_matter(
    agent: Any, dataset: Dataset, moments: list[Moment], seed_folder: Path
) -> None:
    """Banks keep tokens in half precision: what is judged there is within a centimetre of what the agent drives."""
    policy, config = load_policy(seed_folder / "pretrain" / "policy")
    seen = [build_observation(m.scene, dataset, sensor_config(config.encoder, False)) for m in moments]
    with torch.inference_mode():
        tokens = pack_tokens(policy.encoder(collate(seen, config.encoder)))
        plans = policy.plans_from(tokens.half().float()).numpy()
    for plan, moment in zip(plans, moments, strict=True):
        np.testing.assert_allclose(agent.compute_trajectory(given(agent, dataset, moment)).poses, plan, atol=0.01)


@pytest.mark.parametrize("change", ["image", "calibration", "sweep", "past sweep", "past pose", "speed", "command"])
def test_every_input_counts(agent: Any, dataset: Dataset, moments: list[Moment], change: str) -> None:
    before = agent.compute_trajectory(given(agent, dataset, moments[0])).poses
    changed = given(agent, dataset, moments[0])
    camera, status = changed.cameras[-1].cam_f0, changed.ego_statuses[-1]
    match change:
        case "image":
            camera.image = 255 - camera.image
        case "calibration":
            camera.sensor2lidar_translation = camera.sensor2lidar_translation + np.array([5.0, 0, 0])
        case "sweep":
            changed.lidars[3].lidar_pc = changed.lidars[3].lidar_pc[:, ::3]
        case "past sweep":
            changed.lidars[2].lidar_pc = changed.lidars[2].lidar_pc[:, ::3]
        case "past pose":
            changed.ego_statuses[0].ego_pose = changed.ego_statuses[0].ego_pose - np.array([3, 0, 0], np.float32)
        case "speed":
            status.ego_velocity = status.ego_velocity + np.array([5, 0], np.float32)
        case "command":
            status.driving_command = np.roll(status.driving_command, 1)
    assert np.abs(agent.compute_trajectory(changed).poses - before).max() > 1e-6


def test_best_of_many_is_what_the_reward_likes_best(
    dataset: Dataset, moments: list[Moment], seed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward that likes far ends; with one sample the better of two plans, with many a farther one."""
    policy, config = load_policy(seed_folder / "pretrain" / "policy")
    layout = token_layout(config.encoder)
    settings = RewardModelConfig(decoder=DecoderConfig(width=16, heads=2, layers=1, feedforward=16))
    states = {"member_0": RewardWorldModel(layout, settings).state_dict()}
    place, hashed = seed_folder / "train_reward" / "checkpoint", perception_hash(policy.encoder)
    save_checkpoint(place, STAGE, states, settings, Provenance(0, {"perception": hashed}))

    def far_ends(models: Any, views: Views) -> torch.Tensor:
        assert len(models) == 1
        assert views.tokens is not None
        assert views.tokens.shape[1:] == (layout.total, layout.width)
        assert views.relations is not None
        assert views.relations.shape == (*views.plans.shape[:2], STEPS, len(RELATIONS))
        return torch.sigmoid(views.plans[..., -1, :1] / 100).expand(*views.plans.shape[:2], 8)

    monkeypatch.setattr(candidates, "predict_subscores", far_ends)
    ends = []
    for samples in (1, 64):
        made = irl_vla_agent(str(seed_folder), reward=str(place), candidates={"samples": samples})
        seen = given(made, dataset, moments[0])
        ends.append(made.compute_trajectory(seen).poses[-1, 0])
        np.testing.assert_array_equal(made.compute_trajectory(seen).poses, made.compute_trajectory(seen).poses)
    plain = irl_vla_agent(str(seed_folder)).compute_trajectory(seen).poses[-1, 0]
    assert plain <= ends[0] < ends[1]
    with pytest.raises(ConfigError, match="samples"):
        irl_vla_agent(str(seed_folder), reward=str(place), candidates={"sample": 4})


def test_asks_for_what_it_reads(agent: Any) -> None:
    config = agent.get_sensor_config()
    assert config.at(3) == {"cam_f0", "cam_l0", "lidar_pc"}
    assert config.at(2) == {"lidar_pc"}
    assert config.at(0) == config.at(1) == set()
    assert agent.name() == "irl_vla"
    assert agent.requires_scene is False
    assert isinstance(agent, stand_in.AbstractAgent)
    assert isinstance(agent, torch.nn.Module)


def test_sensors_that_it_did_not_ask_for_change_nothing(agent: Any, dataset: Dataset, moments: list[Moment]) -> None:
    everything = stand_in.SensorConfig(
        **{**dict.fromkeys(stand_in.CAMERAS, False), "cam_f0": True, "cam_l0": True}, lidar_pc=True
    )
    more = stand_in.agent_input(moments[0].frames, everything, dataset.sensor_folder(SPLIT))
    np.testing.assert_array_equal(
        agent.compute_trajectory(more).poses, agent.compute_trajectory(given(agent, dataset, moments[0])).poses
    )


def test_says_which_sensor_is_missing(agent: Any, dataset: Dataset, moments: list[Moment], seed_folder: Path) -> None:
    blind = given(agent, dataset, moments[0])
    blind.lidars[2].lidar_pc = None
    with pytest.raises(SceneError, match="LiDAR sweep of history frame 2: expected sensor data, found none"):
        agent.compute_trajectory(blind)
    blind.cameras[-1].cam_l0 = stand_in.Camera()
    with pytest.raises(SceneError, match=r"CAM_L0: expected sensor data, .* set allow_missing_sensors=true"):
        agent.compute_trajectory(blind)
    bold = irl_vla_agent(str(seed_folder), allow_missing_sensors=True)
    scene = moments[0].scene
    frames = list(scene.frames)
    frames[2] = replace(frames[2], lidar_path=None)
    frames[3] = replace(frames[3], cameras={"CAM_F0": frames[3].cameras["CAM_F0"]})
    policy, config = load_policy(seed_folder / "pretrain" / "policy")
    seen = build_observation(replace(scene, frames=tuple(frames)), dataset, sensor_config(config.encoder, True))
    np.testing.assert_array_equal(bold.compute_trajectory(blind).poses, plan_of(policy, seen))


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda i: i.lidars.pop(), "lidars: expected 4 history frames, found 3"),
        (lambda i: setattr(i.ego_statuses[0], "in_global_frame", True), "relative to the current rear axle"),
        (lambda i: setattr(i.ego_statuses[1], "ego_pose", np.zeros(2)), r"expected pose \(3,\)"),
        (lambda i: setattr(i.ego_statuses[3], "driving_command", np.zeros(4)), "expected a one-hot"),
        (lambda i: setattr(i.cameras[3].cam_f0, "image", np.zeros((9, 9))), r"CAM_F0: expected an \(h, w, 3\) uint8"),
        (lambda i: setattr(i.lidars[3], "lidar_pc", np.zeros((3, 9))), r"history frame 3: expected \(6, n\)"),
    ],
)
def test_impossible_inputs_are_named(
    agent: Any, dataset: Dataset, moments: list[Moment], breaks: Any, message: str
) -> None:
    broken = given(agent, dataset, moments[0])
    breaks(broken)
    with pytest.raises(SceneError, match=message):
        agent.compute_trajectory(broken)


def test_no_observation_reaches_behind_the_current_frame(
    agent: Any, dataset: Dataset, moments: list[Moment], seed_folder: Path
) -> None:
    _, config = load_policy(seed_folder / "pretrain" / "policy")
    readings = devkit_readings(given(agent, dataset, moments[0]), sensor_config(config.encoder, False))
    assert readings.history.shape == (4, 7)
    np.testing.assert_array_equal(readings.history[-1, :3], 0.0)
    assert (readings.history[:3, 0] <= 0).all(), "the past lies behind"


def test_plans_at_its_own_times_only(seed_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected 8 poses every 0.5 s, .* found 40 every 0.1 s"):
        irl_vla_agent(str(seed_folder), stand_in.TrajectorySampling(num_poses=40, interval_length=0.1))


def test_the_settings_make_an_agent(seed_folder: Path) -> None:
    """As Hydra does: every ``_target_`` is called with the keys beside it."""
    values = yaml.safe_load(CONFIG_PATH.read_text())
    assert values.pop("_target_") == f"{irl_vla_agent.__module__}.{irl_vla_agent.__name__}"
    assert values["checkpoint"] == "???", "Hydra's mark of a value that has to be given"
    sampling = values.pop("trajectory_sampling")
    assert sampling["_target_"].rpartition(".")[0] in stand_in.MODULES
    times = {key: value for key, value in sampling.items() if not key.startswith("_")}
    arguments = {key: value for key, value in values.items() if not key.startswith("_")}
    made = irl_vla_agent(
        **(arguments | {"checkpoint": str(seed_folder)}), trajectory_sampling=stand_in.TrajectorySampling(**times)
    )
    assert made.get_sensor_config().lidar_pc == [2, 3]


def test_the_devkit_is_imported_by_nobody_else() -> None:
    code = (
        "import sys; import irl_vla.navsim.agent as agent\n"
        "assert not {'navsim', 'nuplan'} & set(sys.modules)\n"
        "try: agent.irl_vla_agent('nowhere')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.startswith("ConfigError expected the NAVSIM devkit")
    assert "github.com/autonomousvision/navsim" in found
    assert "PyPI is an unrelated project" in found


def test_the_unrelated_package_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["navsim.common.dataclasses"], "SensorConfig")
    with pytest.raises(ConfigError, match="unrelated project: uninstall it if it is here"):
        irl_vla_agent("nowhere")


def test_checkpoints_are_found_in_the_folders_of_an_experiment(seed_folder: Path, tmp_path: Path) -> None:
    imitation = seed_folder / "pretrain" / "policy"
    assert checkpoint_folder(imitation) == Location.of(imitation)
    assert checkpoint_folder(seed_folder) == checkpoint_folder(seed_folder.parent) == Location.of(imitation)
    with pytest.raises(CheckpointError, match="found no such folder; run `irl-vla pretrain`"):
        checkpoint_folder(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="found neither"):
        checkpoint_folder(tmp_path)
    for name in ("finetune/checkpoint", "pretrain/policy"):
        shutil.copytree(imitation, tmp_path / "seed-0" / name)
    best = Location.of(tmp_path / "seed-0" / "finetune" / "checkpoint")
    assert checkpoint_folder(tmp_path) == best, "fine-tuned before imitation"
    (tmp_path / "seed-1").mkdir()
    with pytest.raises(CheckpointError, match="expected one training seed, found seed-0, seed-1"):
        checkpoint_folder(tmp_path)
