"""Pieces of a Ray Train (v2) run that do not depend on what is trained.

A worker builds its model, takes up the last checkpoint, and reports states; the driver runs the trainer and passes
metrics on while it runs. Random numbers of a step are a function of (seed, step, worker), so that a state holds none
and a run that was stopped and resumed equals one that was not.
"""

import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray.train
import torch
from numpy.typing import NDArray
from ray.train.torch import TorchTrainer
from rich.console import Console
from rich.progress import Progress

from irl_vla.errors import ClusterError

#: Receives metrics and the step that they belong to.
Report = Callable[[Mapping[str, float], int], None]

#: The metric by which the best checkpoint is chosen; higher is better.
SELECTION: Final = "selection"
_STATE_NAME: Final = "state.pt"
HISTORY_NAME: Final = "metrics.jsonl"
_POLL_S: Final = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSpec:
    """How a training runs.

    Attributes:
        stage: named in errors.
        name: identity of the run: the same name in the same folder goes on where it stopped.
        folder: where Ray Train keeps checkpoints, and the metrics lie.
    """

    stage: str
    name: str
    folder: Path
    steps: int
    workers: int
    use_gpu: bool
    max_failures: int


def run_training(
    worker: Callable[[dict[str, Any]], None], job: object, spec: RunSpec, report: Report
) -> dict[str, Any]:
    """Runs or resumes a training and returns the state with the best ``SELECTION``.

    Args:
        worker: loop of one worker; gets ``{"job": job}``.

    Raises:
        ClusterError: if training failed more often than allowed.
    """
    trainer = TorchTrainer(
        worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(num_workers=spec.workers, use_gpu=spec.use_gpu),
        run_config=ray.train.RunConfig(
            name=spec.name,
            storage_path=str(spec.folder.resolve()),
            failure_config=ray.train.FailureConfig(max_failures=spec.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=SELECTION, checkpoint_score_order="max"
            ),
        ),
    )
    try:
        with following(history_path(spec.folder, spec.name), report, spec.steps, spec.stage):
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise ClusterError(
            f"{spec.stage}: training failed more than {spec.max_failures} times; the last cause was: {error}; "
            "run the stage again to go on from its last checkpoint"
        ) from error
    best = result.get_best_checkpoint(SELECTION, "max")
    if best is None:
        raise ClusterError(f"{spec.stage}: {result.path} holds no checkpoint after training; run the stage again")
    return read_state(best)


def last_state() -> dict[str, Any] | None:
    """In a worker: the state of the last checkpoint of this run, None at its beginning."""
    checkpoint = ray.train.get_checkpoint()
    return None if checkpoint is None else read_state(checkpoint)


def report_state(state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """In a worker: hands in a state. All workers must call it at the same step; the first one's state is kept."""
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(dict(metrics))
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(dict(state), Path(folder) / _STATE_NAME)
        ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(folder))


def read_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """The state that :func:`report_state` saved, on the CPU."""
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / _STATE_NAME, map_location="cpu", weights_only=True)
    return state


def history_path(folder: Path, name: str) -> Path:
    """File to which a run's first worker appends its metrics."""
    return folder / name / HISTORY_NAME


def append_history(path: Path, metrics: Mapping[str, float], step: int) -> None:
    """In the first worker: records metrics; the driver reads them along."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")


@contextmanager
def following(path: Path, report: Report, total: int, title: str) -> Iterator[None]:
    """Passes metrics on as they are appended to a file, and shows the progress on a terminal."""
    stop = threading.Event()
    offset = path.stat().st_size if path.exists() else 0
    with Progress(disable=not Console().is_terminal, transient=True) as progress:
        task = progress.add_task(title, total=total)

        def read_new(offset: int) -> int:
            if not path.exists():
                return offset
            with path.open("rb") as stream:
                stream.seek(offset)
                whole = stream.read().rpartition(b"\n")
            for line in whole[0].splitlines():
                entry = json.loads(line)
                report(entry["metrics"], entry["step"])
                progress.update(task, completed=entry["step"])
            return offset + len(whole[0]) + len(whole[1])

        def follow() -> None:
            position = offset
            while not stop.wait(_POLL_S):
                position = read_new(position)
            read_new(position)

        thread = threading.Thread(target=follow, name=f"{title} metrics")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def batch_rows(count: int, size: int, step: int, *, worker: int, workers: int, seed: int) -> NDArray[np.int64]:
    """Rows (size,) of one worker's batch: the workers walk together through one permutation an epoch.

    Args:
        count: number of rows; a batch may reach into the next epoch.
    """
    places = (step * workers + worker) * size + np.arange(size)
    return np.array(
        [_permutation(count, seed, epoch)[place] for epoch, place in zip(*divmod(places, count), strict=True)]
    )


def one_cycle(
    optimiser: torch.optim.Optimizer, steps: int, warmup_fraction: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    """A learning rate that rises to each group's own and falls to nearly 0; momentum stays as it is.

    Args:
        steps: how often the schedule will be stepped.
        warmup_fraction: share of the steps in which the rate rises, two steps at least: the schedule divides by the
            length of the rise less one.
    """
    total = max(steps, 4)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        [group["lr"] for group in optimiser.param_groups],
        total_steps=total,
        pct_start=max(warmup_fraction, 2 / total),
        cycle_momentum=False,
    )


def step_generator(seed: int, step: int, worker: int) -> torch.Generator:
    """The random numbers of one worker in one step. Also seeds torch's own generator, for modules that use it."""
    state = int(np.random.SeedSequence([seed, step, worker]).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(state)
    return torch.Generator().manual_seed(state)


@contextmanager
def all_cores() -> Iterator[None]:
    """Lets torch use every core, for work in a driver whose workers have ended."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
