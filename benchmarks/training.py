"""Training under Ray Train against a bare loop on the same batches, for imitation and for the reward model.

Run: OMP_NUM_THREADS=1 python -m benchmarks.training [--steps 120]
Uses the samples, bank and drawn labels of ``tests/golden/curves`` (networks of configs/smoke.yaml, a world of some
logs). The bare loop reads a batch, then steps, in one process and one thread; under Ray one worker reads batches ahead,
logs losses every 20 steps and hands in one state at the end. The first 20 steps of both are not counted.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import build_policy
from irl_vla.stages.session import RayConfig, ray_session
from irl_vla.train import phases, reward_data, reward_model
from irl_vla.train.loop import ALONE, Entry, RunSpec, report_entries, report_state, run_training
from irl_vla.train.phases import ImitationModel, Trainee, fit_codec, train_steps
from irl_vla.train.samples import open_samples
from tests.golden.curves.curves import drawn_labels, imitation_curve, smoke_experiment

WARM_UP, LOG_EVERY = 20, 20

After = Callable[[int, Mapping[str, float]], None]


def imitate(folder: Path, steps: int, after: After) -> None:
    """Imitation on the samples in ``folder``, by this process."""
    experiment, samples = smoke_experiment(), open_samples(folder / "samples" / "train")
    config = experiment.pretrain.model_copy(update={"steps": steps})
    policy = build_policy(experiment.model, fit_codec(samples, experiment.model.planner.mode_floor), experiment.seed)
    subject = Trainee(policy, ImitationModel(policy, config), *phases.make_optimiser(policy, config))
    phase = phases.imitate(subject, samples, config, seed=0)
    train_steps(phase, range(steps), config, seed=0, rank=ALONE, after=after)


def fit(folder: Path, steps: int, after: After) -> None:
    """The reward model's fit on the bank in ``folder`` and drawn labels, by this process."""
    config = smoke_experiment().train_reward.model_copy(update={"steps": steps})
    bank = TokenBank.open(folder / "bank")
    ensemble = reward_model.Ensemble(bank.layout, config)
    job = reward_data.FitJob(folder, folder, Location.of(folder), config, 0)
    optimiser = reward_model.make_optimiser(ensemble.parameters(), config)
    reward_model.fit_steps(
        ensemble,
        *optimiser,
        drawn_labels(bank),
        steps=range(steps),
        job=job,
        after=after,
    )


def bare_rate(train: Callable[[Path, int, After], None], folder: Path, steps: int) -> float:
    """Steps a second of a loop that reads a batch when it needs it."""

    def one_by_one(make: Callable[[int], Any], numbers: range, threads: int = 1) -> Iterator[tuple[int, Any]]:
        for step in numbers:
            yield step, make(step)

    times: list[float] = []
    with (
        mock.patch.object(phases, "prefetched", one_by_one),
        mock.patch.object(reward_model, "prefetched", one_by_one),
    ):
        train(folder, steps, lambda step, losses: times.append(time.perf_counter()))
    return rate(times)


def worker(arguments: dict[str, Any]) -> None:
    """As the workers of the stages: logs losses, hands in a state."""
    train, folder, steps = arguments["job"]
    torch.set_num_threads(1)
    times: list[float] = []

    def after(step: int, losses: Mapping[str, float]) -> None:
        times.append(time.perf_counter())
        if step == steps:
            report_state({"rate": rate(times)}, [Entry(step, losses)], selection=float(step))
        elif step % LOG_EVERY == 0:
            report_entries([Entry(step, losses)])

    train(folder, steps, after)


def rate(times: list[float]) -> float:
    return (len(times) - 1 - WARM_UP) / (times[-1] - times[WARM_UP])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        imitation_curve(folder)
        for title, train in (("imitation", imitate), ("reward model", fit)):
            before = bare_rate(train, folder, steps)
            with ray_session(RayConfig(cpus=1)):
                spec = RunSpec(title, title.replace(" ", "-"), Location.of(folder / "ray"), steps, 1, False, 0)
                state = run_training(worker, (train, folder, steps), spec, lambda metrics, step: None)
            after = bare_rate(train, folder, steps)
            bare, under_ray = float(np.mean([before, after])), float(state["rate"])
            print(f"{title}: bare {before:.2f} and {after:.2f} steps/s, under Ray Train {under_ray:.2f}", end="; ")
            print(f"ratio {under_ray / bare:.2f}")


if __name__ == "__main__":
    main()
