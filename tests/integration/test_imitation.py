"""Imitation on a small generated world: caches, two steps then resumed to four, and the whole stage under Ctrl-C."""

import os
import pickle
import re
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
from irl_vla.errors import ConfigError
from irl_vla.ledger.arrays import ShardedRows, write_rows
from irl_vla.ledger.artefact import Artefact
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.storage import Location
from irl_vla.policy.batch import observation_batch
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.planner_config import DecoderConfig, PlannerConfig, PolicyConfig
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import build_policy, perception_hash, save_policy
from irl_vla.train.bank import write_banks
from irl_vla.train.config import BankConfig, EgoMlpConfig, ImitationConfig, SampleConfig
from irl_vla.train.encode import encode_view, write_samples
from irl_vla.train.imitation import PretrainInputs, sample_job
from irl_vla.train.loop import ALONE
from irl_vla.train.perception_quality import judge_perception
from irl_vla.train.phases import ImitationModel, Trainee, fit_codec, imitate, make_optimiser, train_steps, training_rows
from irl_vla.train.samples import Samples, open_samples, sample_record, stored_layout
from irl_vla.train.validation import chosen_rows, predict, validate
from irl_vla.world.config import SplitSizeConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate
from irl_vla.world.painted_views import view_sensors
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
    bank=BankConfig(workers=0),
    ego_mlp=EgoMlpConfig(hidden=8, steps=5, batch_size=8),
)


def make_inputs(root: Path) -> PretrainInputs:
    """A generated world of two logs a split."""
    size = SplitSizeConfig(logs=2, layouts=2)
    sensors = WorldSensorConfig(cameras=("CAM_F0", "CAM_L0"), image_height_px=32, image_width_px=48)
    generate(WorldConfig(train=size, val=size, test=size, frames_per_log=15, sensors=sensors), root, seed=1)
    data = DataConfig(root=root)
    dataset = open_dataset(data)
    return PretrainInputs(
        dataset=dataset,
        fingerprints=dict.fromkeys(("train", "val", "test"), "d"),
        splits=data,
        validation=None,
        scorer=ScorerConfig(),
        views=ViewConfig(),
        data_seed=5,
        view_sensors=view_sensors(dataset, 5),
        samples={purpose: Location.of(root / "samples" / purpose) for purpose in ("train", "val", "test")},
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> PretrainInputs:
    return make_inputs(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def samples(inputs: PretrainInputs) -> Samples:
    return write_samples({"train": sample_job(inputs, "train", POLICY, CONFIG)})["train"]


def trainee(samples: Samples) -> Trainee:
    policy = build_policy(POLICY, fit_codec(samples, 0.03), seed=0)
    return Trainee(policy, ImitationModel(policy, CONFIG), *make_optimiser(policy, CONFIG))


def run(subject: Trainee, samples: Samples, steps: range) -> list[float]:
    losses: list[float] = []
    train_steps(
        imitate(subject, samples, CONFIG, seed=9),
        steps,
        CONFIG,
        seed=9,
        rank=ALONE,
        after=lambda _, metrics: losses.append(metrics["pretrain/loss_total"]),
    )
    return losses


def every_column(samples: Samples) -> ShardedRows:
    record = sample_record(samples.place)
    shards = dict(record.facts["shards"])
    return ShardedRows.open(samples.place, shards, stored_layout(record), record.fingerprint, "make them")


def test_cache_holds_every_scene_and_some_shifted_views(inputs: PretrainInputs, samples: Samples) -> None:
    views = samples.rows.view
    assert (views == "original").sum() == 2 * 4  # 15 frames hold four windows of 4 + 8
    assert 0 < (views == "s1").sum() < 8
    assert set(samples.rows.token[views == "s1"]) == {f"{t}-s1" for t in samples.rows.scene_token[views == "s1"]}
    row = int(np.flatnonzero(views == "s1")[0])
    scene = load_scene(inputs.dataset, "train", str(samples.rows.scene_token[row]))
    job = sample_job(inputs, "train", POLICY, CONFIG)
    shifted = scene_views(scene, inputs.views, inputs.data_seed)[0]
    stored = every_column(samples)
    for name, value in encode_view(job, shifted, scene).items():
        found = stored.take(name, [row])[0]
        if stored.take(name, [0]).dtype.kind == "U":
            assert found == value, name
        else:
            np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(samples.rows.plan[row], imitated_plan(shifted), atol=1e-4)
    assert samples.rows.has_plan.all()
    np.testing.assert_array_equal(samples.rows.has_human, views == "original")
    original = int(np.flatnonzero(samples.rows.token == scene.token)[0])
    for name, changes in (("images", True), ("lidar", True), ("camera_to_ego", False)):
        pair = stored.take(name, [row, original])
        assert (pair[0] != pair[1]).any() == changes, name


def test_samples_are_taken_up_and_mended(
    inputs: PretrainInputs, samples: Samples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = sample_job(inputs, "train", POLICY, CONFIG)
    before = samples.take(np.arange(len(samples)))
    first, second = (samples.place.path / f"{name}.arrow" for name in samples.stored.names)
    (tmp_path / "half").write_bytes(first.read_bytes()[:5000])
    (tmp_path / "half").replace(first)  # what is mapped into memory must not shrink
    stamp = second.stat().st_mtime_ns
    again = write_samples({"train": job})["train"]
    assert f"{first.name}: expected a whole Arrow file" in caplog.text
    first.unlink()
    again = write_samples({"train": job})["train"]
    assert second.stat().st_mtime_ns == stamp, "a whole shard is not touched"
    assert again.fingerprint == samples.fingerprint
    for name, array in again.take(np.arange(len(again))).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data_seed": 6}, "views: 5 then, 6 now"),
        ({"fingerprints": {"train": "other"}}, "inputs.dataset: 'd' then, 'other' now"),
    ],
)
def test_samples_of_other_data_or_seed_are_refused(inputs: PretrainInputs, samples: Samples, change, named) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        write_samples({"train": sample_job(replace(inputs, **change), "train", POLICY, CONFIG)})
    workers = CONFIG.with_overrides({"samples.workers": None})
    assert sample_job(inputs, "train", POLICY, workers).artefact.fingerprint == samples.fingerprint


def test_shards_of_other_sizes_make_the_same_training(samples: Samples, tmp_path: Path) -> None:
    record = sample_record(samples.place)
    columns, layout = every_column(samples), stored_layout(record)
    artefact = Artefact(Location.of(tmp_path), record.identity, "")
    artefact.begin()
    shards = []
    for start in range(0, len(samples), 3):
        part = np.arange(start, min(start + 3, len(samples)))
        batches = [{name: columns.take(name, some) for name in columns.columns} for some in (part[:1], part[1:])]
        shards.append([f"s{start}", write_rows(tmp_path / f"s{start}.arrow", layout, batches, record.fingerprint)])
    artefact.finish(dict(record.facts) | {"shards": shards})
    other = open_samples(tmp_path)
    assert len(other.stored.names) == 5 > len(samples.stored.names)
    assert run(trainee(other), other, range(4)) == run(trainee(samples), samples, range(4))


def test_two_steps_stopped_and_resumed_to_four_equal_four(samples: Samples, tmp_path: Path) -> None:
    straight = trainee(samples)
    losses = run(straight, samples, range(4))
    first = trainee(samples)
    run(first, samples, range(2))
    torch.save(first.state(2), tmp_path / "state.pt")
    second = trainee(samples)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second.restore(state)
    assert run(second, samples, range(state["step"], 4)) == losses[2:]
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
    val = write_samples({"val": sample_job(inputs, "val", POLICY, CONFIG)})["val"]
    assert set(val.rows.view) == {"original"}
    assert len(chosen_rows(val, 1)) == 4
    assert len(chosen_rows(val, 0)) == 8
    metrics = validate(trainee(samples).policy.eval(), val, None, ScorerConfig(), logs=0)
    assert metrics["fde_m"] > metrics["ade_m"] > 0
    nothing = predict(trainee(samples).policy, val, np.zeros(0, np.int64), "cpu")  # a worker without a log
    assert (nothing.plans.shape, nothing.answers.shape, nothing.sight) == ((0, 8, 3), (0, 2), None)
    assert 0 <= metrics["answer_accuracy"] <= 1
    actual = val.take(np.arange(8))["meta_action"]
    assert metrics["answer_majority"] == pytest.approx(np.unique(actual, axis=0, return_counts=True)[1].max() / 8)


def test_tables_of_perception_say_what_validation_says(
    inputs: PretrainInputs, samples: Samples, tmp_path: Path
) -> None:
    val = write_samples({"val": sample_job(inputs, "val", POLICY, CONFIG)})["val"]
    policy = trainee(samples).policy.eval()
    checkpoint = save_policy(policy, tmp_path / "policy", POLICY, Provenance(0)).folder
    found = judge_perception(checkpoint, val.place, 0, "cpu")
    metrics = validate(policy, val, None, ScorerConfig(), logs=0)
    assert found.figures == pytest.approx({name: value for name, value in metrics.items() if "de_m" not in name})
    assert {"iou_drivable", "answer_speed_majority"} <= found.figures.keys()
    objects = (val.take(np.arange(len(val)))["box_classes"] >= 0).sum()
    assert sum(row.objects for row in found.boxes) == objects > 0


def bank_of(samples: Samples, folder: Path, use_gpu: bool = False) -> TokenBank:
    places = {"bank": samples.place}
    return write_banks(folder / "policy", places, Location.of(folder), BankConfig(workers=0), use_gpu)["bank"]


def test_bank_holds_the_tokens_of_the_frozen_encoder(samples: Samples, tmp_path: Path) -> None:
    policy = trainee(samples).policy.eval()
    save_policy(policy, tmp_path / "policy", POLICY, Provenance(0))
    bank = bank_of(samples, tmp_path)
    assert bank.perception_hash == perception_hash(policy.encoder)
    np.testing.assert_array_equal(bank.token, samples.rows.token)
    with torch.inference_mode():
        tokens = pack_tokens(policy.encoder(observation_batch(samples.take([3]))))
    np.testing.assert_allclose(bank.tokens([3])[0], tokens[0].numpy(), atol=2e-2)
    originals = np.flatnonzero(bank.view == "original")
    assert (bank.previous_row[originals] >= 0).sum() == 2 * 3
    linked = originals[bank.previous_row[originals] >= 0]
    gaps = bank.timestamp_us[linked] - bank.timestamp_us[bank.previous_row[linked]]
    np.testing.assert_allclose(gaps, 500_000, atol=50_000)
    first, second = (tmp_path / "bank" / f"{name}.arrow" for name in samples.stored.names)
    stamp = second.stat().st_mtime_ns
    kept = bank.tokens(np.arange(len(bank)))
    first.unlink()
    again = bank_of(samples, tmp_path)
    assert second.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.tokens(np.arange(len(again))), kept)


def test_a_bank_without_the_gpu_that_was_asked_for_says_so(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_policy(trainee(samples).policy, tmp_path / "policy", POLICY, Provenance(0))
    bank_of(samples, tmp_path, use_gpu=True)
    assert "there is no GPU here; perception runs on CPUs" in caplog.text


def test_training_rows_have_a_plan_to_imitate(samples: Samples) -> None:
    assert len(training_rows(samples)) == len(samples)


PROGRAM = """
import pickle, sys
from pathlib import Path
from irl_vla.ledger.storage import Location
from irl_vla.stages.session import RayConfig, ray_session
from irl_vla.train.imitation import pretrain
inputs, policy, config = pickle.loads(Path(sys.argv[1]).read_bytes())
folder = Location.of(sys.argv[2])
with ray_session(RayConfig(cpus=1)):
    pretrain(inputs, policy, config, folder, seed=0, report=lambda metrics, step: print(step, flush=True))
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
