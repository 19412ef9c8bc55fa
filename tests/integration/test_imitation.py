"""Imitation on a small generated world: caches, two steps then resumed to four, and the whole stage under Ctrl-C."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from irl_vla.dataset.config import DataConfig, ViewConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.scenes import load_scene
from irl_vla.dataset.views import imitated_plan, scene_views
from irl_vla.epdms.config import ScorerConfig
from irl_vla.errors import CheckpointError
from irl_vla.policy.batch import collate_samples
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.planner_config import DecoderConfig, PlannerConfig, PolicyConfig
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import build_policy, perception_hash
from irl_vla.train.bank import write_bank
from irl_vla.train.config import EgoMlpConfig, ImitationConfig, SampleConfig
from irl_vla.train.data import Samples, encode_view, write_samples
from irl_vla.train.imitation import (
    ImitationModel,
    Place,
    PretrainInputs,
    Trainee,
    fit_codec,
    make_optimiser,
    sample_job,
    train_steps,
    training_rows,
)
from irl_vla.train.validation import chosen_rows, validate
from irl_vla.world.config import SplitSizeConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate
from tests.unit.policy import scenes

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 120
POLICY = PolicyConfig(
    encoder=scenes.tiny_config().with_overrides({"perception.map_classes": 7}),
    planner=PlannerConfig(decoder=DecoderConfig(width=16, heads=2, layers=1, feedforward=32, queries=2)),
)
CONFIG = ImitationConfig(
    steps=4,
    batch_size=3,
    noise_draws=2,
    learning_rate=3e-3,
    validate_every=2,
    log_every=1,
    threads_per_worker=1,
    samples=SampleConfig(view_fraction=0.6, workers=0),
    ego_mlp=EgoMlpConfig(hidden=8, steps=5, batch_size=8),
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> PretrainInputs:
    root = tmp_path_factory.mktemp("world")
    size = SplitSizeConfig(logs=2, layouts=2)
    sensors = WorldSensorConfig(cameras=("CAM_F0", "CAM_L0"), image_height_px=32, image_width_px=48)
    generate(WorldConfig(train=size, val=size, test=size, frames_per_log=15, sensors=sensors), root, seed=1)
    data = DataConfig(root=root)
    return PretrainInputs(open_dataset(data), data, None, ScorerConfig(), ViewConfig(), 5, root / "samples")


@pytest.fixture(scope="module")
def samples(inputs: PretrainInputs) -> Samples:
    return write_samples(sample_job(inputs, "train", POLICY, CONFIG))


def trainee(samples: Samples) -> Trainee:
    policy = build_policy(POLICY, fit_codec(samples, 0.03), seed=0)
    return Trainee(policy, ImitationModel(policy, CONFIG), *make_optimiser(policy, CONFIG))


def run(subject: Trainee, samples: Samples, steps: range) -> list[float]:
    losses: list[float] = []
    train_steps(
        subject,
        samples,
        CONFIG,
        steps=steps,
        seed=9,
        place=Place(),
        after=lambda _, metrics: losses.append(metrics["pretrain/loss_total"]),
    )
    return losses


def test_cache_holds_every_scene_and_some_shifted_views(inputs: PretrainInputs, samples: Samples) -> None:
    views = samples.rows.view
    assert (views == "original").sum() == 2 * 4  # 15 frames hold four windows of 4 + 8
    assert 0 < (views == "s1").sum() < 8
    assert set(samples.rows.token[views == "s1"]) == {f"{t}-s1" for t in samples.rows.scene_token[views == "s1"]}
    row = int(np.flatnonzero(views == "s1")[0])
    scene = load_scene(inputs.dataset, "train", str(samples.rows.scene_token[row]))
    job = sample_job(inputs, "train", POLICY, CONFIG)
    shifted = scene_views(scene, inputs.views, inputs.data_seed)[0]
    for name, value in encode_view(job, shifted, scene).items():
        if name in samples.arrays:
            np.testing.assert_allclose(samples.arrays[name][row], value, rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(samples.rows.plan[row], imitated_plan(shifted), atol=1e-4)
    assert samples.rows.has_plan.all()
    np.testing.assert_array_equal(samples.rows.has_human, views == "original")
    original = int(np.flatnonzero(samples.rows.token == scene.token)[0])
    assert (samples.arrays["images"][row] != samples.arrays["images"][original]).any()
    assert (samples.arrays["lidar"][row] != samples.arrays["lidar"][original]).any()
    np.testing.assert_array_equal(samples.arrays["camera_to_ego"][row], samples.arrays["camera_to_ego"][original])


def test_cache_goes_on_where_it_stopped_and_refuses_another_job(inputs: PretrainInputs, samples: Samples) -> None:
    before = {name: np.array(array) for name, array in samples.arrays.items()}
    done = sorted((samples.folder / "done").iterdir())
    done[0].unlink()
    (samples.folder / "manifest.json").unlink()
    stamp = done[1].stat().st_mtime_ns
    again = write_samples(sample_job(inputs, "train", POLICY, CONFIG))
    assert done[1].stat().st_mtime_ns == stamp
    assert again.fingerprint == samples.fingerprint
    for name, array in before.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    other = CONFIG.with_overrides({"samples.view_fraction": 0.1})
    with pytest.raises(CheckpointError, match="other data, configuration or seed"):
        write_samples(sample_job(inputs, "train", POLICY, other))


def test_two_steps_stopped_and_resumed_to_four_equal_four(samples: Samples, tmp_path: Path) -> None:
    straight = trainee(samples)
    losses = run(straight, samples, range(4))
    first = trainee(samples)
    run(first, samples, range(2))
    torch.save(first.state(2), tmp_path / "state.pt")
    second = trainee(samples)
    start = second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert run(second, samples, range(start, 4)) == losses[2:]
    for name, value in straight.policy.state_dict().items():
        torch.testing.assert_close(second.policy.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_training_whose_rise_would_be_a_single_step_has_a_schedule(samples: Samples) -> None:
    policy = build_policy(POLICY, fit_codec(samples, 0.03), seed=0)
    _, schedule = make_optimiser(policy, CONFIG.model_copy(update={"steps": 20, "warmup_fraction": 0.05}))
    assert max(schedule.get_last_lr()) > 0


def test_loss_falls_on_scenes_that_are_seen_again_and_again(samples: Samples) -> None:
    fresh = trainee(samples)
    for group in fresh.optimiser.param_groups:
        group["lr"] = group["max_lr"]  # the schedule begins with a 25th of it
    constant = torch.optim.lr_scheduler.ConstantLR(fresh.optimiser, 1.0)
    losses = run(replace(fresh, schedule=constant), samples, range(30))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_validation_counts_what_it_says(inputs: PretrainInputs, samples: Samples) -> None:
    val = write_samples(sample_job(inputs, "val", POLICY, CONFIG))
    assert set(val.rows.view) == {"original"}
    assert len(chosen_rows(val, 1)) == 4
    assert len(chosen_rows(val, 0)) == 8
    metrics = validate(trainee(samples).policy.eval(), val, None, ScorerConfig(), logs=0)
    assert metrics["fde_m"] > metrics["ade_m"] > 0
    assert 0 <= metrics["answer_accuracy"] <= 1
    actual = val.arrays["meta_action"]
    assert metrics["answer_majority"] == pytest.approx(np.unique(actual, axis=0, return_counts=True)[1].max() / 8)


def test_bank_holds_the_tokens_of_the_frozen_encoder(samples: Samples, tmp_path: Path) -> None:
    policy = trainee(samples).policy.eval()
    bank = write_bank(policy.encoder, samples, tmp_path / "bank", seed=0)
    assert bank.perception_hash == perception_hash(policy.encoder)
    np.testing.assert_array_equal(bank.token, samples.rows.token)
    with torch.inference_mode():
        tokens = pack_tokens(policy.encoder(collate_samples(samples.take(np.array([3])))))
    np.testing.assert_allclose(bank.tokens([3])[0], tokens[0].numpy(), atol=2e-2)
    originals = np.flatnonzero(bank.view == "original")
    assert (bank.previous_row[originals] >= 0).sum() == 2 * 3
    linked = originals[bank.previous_row[originals] >= 0]
    gaps = bank.timestamp_us[linked] - bank.timestamp_us[bank.previous_row[linked]]
    np.testing.assert_allclose(gaps, 500_000, atol=50_000)
    stamp = (tmp_path / "bank" / "rows.arrow").stat().st_mtime_ns
    write_bank(policy.encoder, samples, tmp_path / "bank", seed=0)
    assert (tmp_path / "bank" / "rows.arrow").stat().st_mtime_ns == stamp


def test_training_rows_have_a_plan_to_imitate(samples: Samples) -> None:
    assert len(training_rows(samples)) == len(samples)


PROGRAM = """
import pickle, sys
from pathlib import Path
from irl_vla.stages.session import RayConfig, ray_session
from irl_vla.train.imitation import pretrain
inputs, policy, config = pickle.loads(Path(sys.argv[1]).read_bytes())
with ray_session(RayConfig(cpus=1)):
    pretrain(inputs, policy, config, Path(sys.argv[2]), seed=0, report=lambda metrics, step: print(step, flush=True))
"""


def start(job: Path, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(job), str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_give_the_same_policy(inputs: PretrainInputs, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 60, "validate_every": 10})
    job = tmp_path / "job.pkl"
    job.write_bytes(pickle.dumps((inputs, POLICY, config)))
    stopped = start(job, tmp_path / "stopped")
    assert stopped.stdout is not None
    deadline = time.monotonic() + PATIENCE_S
    for line in stopped.stdout:
        if int(line) >= 12 or time.monotonic() > deadline:
            break
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(PATIENCE_S) != 0
    assert not (tmp_path / "stopped" / "policy").exists()
    for folder in ("stopped", "straight"):
        again = start(job, tmp_path / folder)
        assert again.wait(PATIENCE_S) == 0
    folders = [tmp_path / name for name in ("stopped", "straight")]
    weights = [safetensors.torch.load_file(folder / "policy" / "chain.safetensors") for folder in folders]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    banks = [TokenBank.open(folder / "banks" / "train") for folder in folders]
    assert banks[0].perception_hash == banks[1].perception_hash
