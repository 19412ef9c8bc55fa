"""Samples, banks and trainings by two workers on two CPUs: the same results as by hand, also after a crash."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irl_vla.epdms.config import ScorerConfig
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.storage import Location
from irl_vla.policy.vla import build_policy, save_policy
from irl_vla.reward.config import LabelConfig, ProposalConfig, RewardTrainConfig
from irl_vla.reward.labels import LabelInputs, write_labels
from irl_vla.reward.loss import class_weights
from irl_vla.stages.session import RayConfig, ray_session
from irl_vla.train import phases, reward_data, reward_model
from irl_vla.train.bank import write_banks
from irl_vla.train.config import BankConfig
from irl_vla.train.encode import write_samples
from irl_vla.train.imitation import sample_job
from irl_vla.train.loader import batch_rows, step_generator, step_seed
from irl_vla.train.loop import RunSpec, history_path, read_history, run_training
from irl_vla.train.phases import (
    ImitationJob,
    ImitationModel,
    Trainee,
    draw_batch,
    fit_codec,
    imitation_worker,
    make_optimiser,
    training_rows,
)
from irl_vla.train.reward_data import FitJob, open_data
from irl_vla.train.reward_model import Ensemble, fit_worker
from irl_vla.train.samples import Samples
from irl_vla.train.validation import validate
from tests.integration.test_imitation import CONFIG, POLICY, make_inputs
from tests.unit.reward.roads import write_world

SEED, WORKERS = 9, 2
REWARD = RewardTrainConfig(
    steps=4, rows_per_batch=4, proposals_per_row=4, holdout_fraction=0.3, checkpoint_every=2, workers=WORKERS
).with_overrides({"model.members": 3, "model.decoder.layers": 1})

Heard = list[tuple[dict[str, float], int]]


@pytest.fixture(scope="module", autouse=True)
def session(s3_server: None) -> Iterator[None]:
    """Ray starts behind the object store, so that its workers know the address."""
    with ray_session(RayConfig(cpus=WORKERS)):
        yield


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Samples]:
    """Of the training and the validation split, made by actors."""
    inputs = make_inputs(tmp_path_factory.mktemp("world"))
    config = CONFIG.with_overrides({"samples.workers": WORKERS})
    return write_samples({name: sample_job(inputs, name, POLICY, config) for name in ("train", "val")})


def job_of(samples: Mapping[str, Samples]) -> ImitationJob:
    return ImitationJob(
        train=samples["train"].place,
        val=samples["val"].place,
        policy=POLICY,
        config=CONFIG,
        validation=None,
        scorer=ScorerConfig(),
        seed=SEED,
    )


def fit(worker: Any, job: ImitationJob, folder: Path, name: str) -> tuple[dict[str, Any], Heard]:
    heard: Heard = []
    steps = job.config.sight.steps + job.config.steps
    spec = RunSpec("pretrain", name, Location.of(folder), steps, WORKERS, use_gpu=False, max_failures=1)
    state = run_training(worker, job, spec, lambda metrics, step: heard.append((dict(metrics), step)))
    return state, heard


@pytest.fixture(scope="module")
def straight(
    samples: Mapping[str, Samples], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Heard, Path]:
    folder = tmp_path_factory.mktemp("straight")
    return *fit(imitation_worker, job_of(samples), folder, "run"), folder


def fresh(samples: Samples) -> Trainee:
    policy = build_policy(POLICY, fit_codec(samples, POLICY.planner.mode_floor), SEED)
    return Trainee(policy, ImitationModel(policy, CONFIG), *make_optimiser(policy, CONFIG))


def by_hand(samples: Samples, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The training of two workers in one process: mean losses of every step, and the weights."""
    subject, rows, losses = fresh(samples), training_rows(samples), []
    for step in range(steps):
        subject.optimiser.zero_grad(set_to_none=True)
        parts = []
        for worker in range(WORKERS):
            places = batch_rows(len(rows), CONFIG.batch_size, step, worker=worker, workers=WORKERS, seed=SEED)
            noise = step_generator(SEED, step, worker)
            batch = draw_batch(samples, rows[places], CONFIG.noise_draws, POLICY.planner.chain.steps, generator=noise)
            subject.policy.train()
            torch.manual_seed(step_seed(SEED, step, worker))
            total = subject.model(*batch)["total"]
            (total / WORKERS).backward()
            parts.append(float(total.detach()))
        torch.nn.utils.clip_grad_norm_(subject.policy.parameters(), CONFIG.grad_norm)
        subject.optimiser.step()
        subject.schedule.step()
        losses.append(float(np.mean(parts)))
    return losses, subject.policy.state_dict()


def test_actors_write_the_samples_that_one_process_writes(samples: Mapping[str, Samples], tmp_path: Path) -> None:
    alone = write_samples({"train": sample_job(make_inputs(tmp_path), "train", POLICY, CONFIG)})["train"]
    assert alone.fingerprint == samples["train"].fingerprint
    everything = np.arange(len(alone))
    np.testing.assert_array_equal(alone.rows.token, samples["train"].rows.token)
    for name, array in samples["train"].take(everything).items():
        np.testing.assert_array_equal(alone.take(everything)[name], array)


def test_actors_write_the_bank_that_one_process_writes(samples: Mapping[str, Samples], tmp_path: Path) -> None:
    save_policy(fresh(samples["train"]).policy, tmp_path / "policy", POLICY, Provenance(0))
    places = {"train": samples["train"].place}
    banks = [
        write_banks(tmp_path / "policy", places, Location.of(tmp_path / f"{workers}"), BankConfig(workers=workers))[
            "train"
        ]
        for workers in (0, WORKERS)
    ]
    rows = np.arange(len(banks[0]))
    np.testing.assert_allclose(banks[0].tokens(rows), banks[1].tokens(rows), atol=2e-3)
    assert banks[0].fingerprint == banks[1].fingerprint


def test_two_workers_train_on_the_mean_of_their_batches(
    samples: Mapping[str, Samples], straight: tuple[dict[str, Any], Heard, Path]
) -> None:
    state, heard, folder = straight
    losses, weights = by_hand(samples["train"], CONFIG.steps)
    found = [metrics["pretrain/loss_total"] for metrics, _ in heard if "pretrain/loss_total" in metrics]
    np.testing.assert_allclose(found, losses, rtol=1e-3)
    history = read_history(history_path(Location.of(folder), "run"))
    assert sorted(history) == [1, 2, 3, 4]
    assert [history[step]["pretrain/loss_total"] for step in (1, 2, 3, 4)] == found
    if state["step"] == CONFIG.steps:  # the best state may be an earlier one
        for name, value in weights.items():
            torch.testing.assert_close(state["policy"][name], value, rtol=1e-2, atol=1e-4, msg=name)


def test_each_worker_validates_a_part_and_the_whole_is_as_by_one(
    samples: Mapping[str, Samples], straight: tuple[dict[str, Any], Heard, Path]
) -> None:
    state, heard, _ = straight
    subject = fresh(samples["train"])
    subject.restore(state)
    alone = validate(subject.policy.eval(), samples["val"], None, ScorerConfig(), logs=CONFIG.validation_logs)
    told = next(metrics for metrics, step in heard if step == state["step"] and "pretrain/val_ade_m" in metrics)
    assert told == {f"pretrain/val_{name}": pytest.approx(value, rel=1e-4) for name, value in alone.items()}


def stumbling_worker(arguments: dict[str, Any]) -> None:
    """Fails once, behind the first state that was handed in."""
    stumbled = arguments["job"].train.path.parent / "stumbled"
    report = phases.report_state

    def report_and_stumble(*given: Any) -> None:
        report(*given)
        if not stumbled.exists():
            stumbled.touch()
            raise RuntimeError("stumbled on purpose")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "report_state", report_and_stumble)
        imitation_worker(arguments)


@pytest.mark.slow
def test_stopped_and_resumed_equals_straight(
    samples: Mapping[str, Samples], straight: tuple[dict[str, Any], Heard, Path], tmp_path: Path
) -> None:
    state, _ = fit(stumbling_worker, job_of(samples), tmp_path, "run")
    assert (samples["train"].place.path.parent / "stumbled").exists()
    assert state["step"] == straight[0]["step"]
    for name, value in straight[0]["policy"].items():
        torch.testing.assert_close(state["policy"][name], value, rtol=0, atol=0, msg=name)
    histories = [read_history(history_path(Location.of(folder), "run")) for folder in (tmp_path, straight[2])]
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_perception_alone_comes_first_is_never_chosen_and_resumes(
    samples: Mapping[str, Samples], tmp_path: Path
) -> None:
    config = CONFIG.with_overrides({"sight.steps": 4, "sight.batch_size": 2, "validate_every": 2})
    job = replace(job_of(samples), config=config)
    (samples["train"].place.path.parent / "stumbled").unlink(missing_ok=True)
    straight, heard = fit(imitation_worker, job, tmp_path / "straight", "run")
    stumbled, _ = fit(stumbling_worker, job, tmp_path / "stumbled", "run")
    assert straight["step"] > 4
    alone = [metrics for metrics, step in heard if step <= 4]
    assert any("pretrain/val_iou_drivable" in metrics for metrics in alone)
    assert not any("pretrain/val_ade_m" in metrics or "pretrain/loss_diffusion" in metrics for metrics in alone)
    assert heard[-1][1] == 4 + config.steps
    for name, value in straight["policy"].items():
        torch.testing.assert_close(stumbled["policy"][name], value, rtol=0, atol=0, msg=name)


def ensemble_by_hand(job: FitJob) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The fit of two workers in one process: mean losses of every step, and the weights of all members."""
    torch.manual_seed(job.seed)
    data, config, losses = open_data(job), job.config, []
    ensemble = Ensemble(data.bank.layout, config).train()
    optimiser, schedule = reward_model.make_optimiser(ensemble.parameters(), config)
    weights = class_weights(torch.from_numpy(data.subscores[data.train].reshape(-1, 8)), config.model.class_balance)
    for step in range(config.steps):
        optimiser.zero_grad(set_to_none=True)
        parts = []
        for worker in range(WORKERS):
            batch = reward_data.draw_batch(data, config, job.seed, step, worker)
            loss, _ = reward_model.ensemble_loss(ensemble, batch, config.model, weights)
            (loss / WORKERS).backward()
            parts.append(float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(ensemble.parameters(), config.grad_norm)
        optimiser.step()
        schedule.step()
        losses.append(float(np.mean(parts)))
    return losses, ensemble.state_dict()


def test_two_workers_fit_three_members_and_keep_their_states_in_an_object_store(
    bucket: Location, tmp_path: Path
) -> None:
    bank, store = write_world(tmp_path, rows=24)
    labels = LabelConfig(proposals=ProposalConfig(vocabulary_size=16))
    write_labels(LabelInputs(bank, store), tmp_path / "labels", labels, ScorerConfig(), seed=0)
    job = FitJob(bank, Location.of(tmp_path / "labels"), bucket / "training", REWARD, SEED)
    heard: Heard = []
    spec = RunSpec("train-reward", "fit", job.folder, REWARD.steps, WORKERS, use_gpu=False, max_failures=0)
    state = run_training(fit_worker, job, spec, lambda metrics, step: heard.append((dict(metrics), step)))
    losses, weights = ensemble_by_hand(job)
    assert state["step"] == REWARD.steps
    assert heard[-1][1] == REWARD.steps
    assert heard[-1][0]["train_reward/loss"] == pytest.approx(losses[-1], rel=1e-3)
    assert {name.split(".")[1] for name in state["model"]} == {"0", "1", "2"}
    for name, value in weights.items():
        torch.testing.assert_close(state["model"][name], value, rtol=1e-2, atol=1e-4, msg=name)
    history = read_history(history_path(job.folder, "fit"))
    assert history[REWARD.steps] == heard[-1][0]
    assert any(name.startswith("checkpoint") for name in (job.folder / "fit").children())
