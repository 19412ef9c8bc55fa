"""Pieces of a Ray Train (v2) run that do not depend on what is trained.

A worker builds its model, takes up the last checkpoint, and reports states and losses; Ray Train's controller passes
them to the driver, which logs them and keeps the history. Random numbers of a step are a function of (seed, step,
worker), so that a state holds none and a run that was stopped and resumed equals one that was not.
"""

import json
import logging
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue

from irl_vla.errors import ClusterError
from irl_vla.ledger.files import atomic_path
from irl_vla.ledger.progress import progress
from irl_vla.ledger.storage import Location

#: Receives metrics and the step that they belong to.
Report = Callable[[Mapping[str, float], int], None]

#: The metric by which the best checkpoint is chosen; higher is better.
SELECTION: Final = "selection"
HISTORY_NAME: Final = "metrics.jsonl"
_STATE_NAME: Final = "state.pt"
_ENTRIES: Final = "entries"
_WAIT_S: Final = 0.5

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """Metrics of one step."""

    step: int
    metrics: Mapping[str, float]


class Rank(NamedTuple):
    """Which of how many workers this is, and where it computes."""

    number: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")


#: A process that trains by itself.
ALONE: Final = Rank()


@dataclass(frozen=True)
class RunSpec:
    """How a training runs.

    Attributes:
        stage: named in errors.
        name: identity of the run: the same name in the same folder goes on where it stopped.
        folder: where Ray Train keeps checkpoints, and the history of the metrics lies.
    """

    stage: str
    name: str
    folder: Location
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
        report: hears the entries of the workers, averaged over them. What it raises is raised after the training.

    Raises:
        ClusterError: if training failed more often than allowed.
    """
    entries = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(num_workers=spec.workers, use_gpu=spec.use_gpu),
        run_config=ray.train.RunConfig(
            name=spec.name,
            storage_path=spec.folder.uri,
            callbacks=[_Forward(entries)],
            failure_config=ray.train.FailureConfig(max_failures=spec.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=SELECTION, checkpoint_score_order="max"
            ),
        ),
    )
    try:
        with following(entries, report, spec):
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


def this_rank() -> Rank:
    """In a worker: which one it is."""
    context = ray.train.get_context()
    return Rank(context.get_world_rank(), context.get_world_size(), get_device())


def use_threads(chosen: int) -> None:
    """In a worker: torch threads; 0 shares the machine's cores among the workers that run on this machine."""
    here = ray.train.get_context().get_local_world_size()
    torch.set_num_threads(chosen or max((os.cpu_count() or 1) // here, 1))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets torch use so many threads of this process for the duration of a piece of work."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def session_cpus() -> int:
    """CPUs of the Ray session."""
    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


def session_gpus() -> float:
    """GPUs of the Ray session."""
    return float(ray.cluster_resources().get("GPU", 0.0))


def report_entries(entries: Sequence[Entry]) -> None:
    """In a worker: hands in metrics. All workers must call it at the same step.

    It costs some milliseconds; more often than every ``RAY_TRAIN_HEALTH_CHECK_INTERVAL_S`` it waits for the controller.
    """
    ray.train.report({_ENTRIES: [[entry.step, dict(entry.metrics)] for entry in entries]})


def report_state(state: Mapping[str, Any], entries: Sequence[Entry], selection: float) -> None:
    """In a worker: hands in a state. All workers must call it at the same step; the first one's state is kept."""
    metrics = {_ENTRIES: [[entry.step, dict(entry.metrics)] for entry in entries], SELECTION: selection}
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        with atomic_path(Path(folder) / _STATE_NAME) as temporary:
            torch.save(dict(state), temporary)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def read_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """The state that :func:`report_state` saved, on the CPU."""
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / _STATE_NAME, map_location="cpu", weights_only=True)
    return state


def history_path(folder: Location, name: str) -> Location:
    """File with the metrics of a run, a line a step."""
    return folder / name / HISTORY_NAME


class _Forward(ray.train.UserCallback):  # type: ignore[misc]
    """Lives in Ray Train's controller and passes on what the workers report."""

    def __init__(self, entries: Any) -> None:
        self._entries = entries

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Hears what all workers reported at one step."""
        del run_context
        self._entries.put((averaged([part[_ENTRIES] for part in metrics]), checkpoint is not None))


def averaged(parts: Sequence[Sequence[tuple[int, Mapping[str, float]]]]) -> list[Entry]:
    """Means over workers of what each reported of the same steps."""
    return [
        Entry(same[0][0], {name: sum(metrics[name] for _, metrics in same) / len(same) for name in same[0][1]})
        for same in zip(*parts, strict=True)
    ]


@contextmanager
def following(entries: Any, report: Report, spec: RunSpec) -> Iterator[None]:
    """While the block runs: passes entries on as they come, keeps the history, and shows how far the training is.

    Args:
        entries: queue of (entries, whether a state was kept with them); ended behind the block, whatever happens in it.
    """
    try:
        with _followed(entries, report, spec):
            yield
    finally:
        _end(entries)


@contextmanager
def _followed(entries: Any, report: Report, spec: RunSpec) -> Iterator[None]:
    stop = threading.Event()
    history = read_history(history_path(spec.folder, spec.name))
    with progress(spec.stage, "steps", spec.steps) as shown:

        def follow() -> None:
            is_begun = False
            for found, is_state in _arriving(entries, stop):
                for entry in found:
                    history[entry.step] = {**history.get(entry.step, {}), **entry.metrics}
                    report(entry.metrics, entry.step)
                    if not is_begun:  # starting the workers, and steps before a resumption, are not its rate
                        shown.start_from(entry.step)
                        is_begun = True
                    shown.reach(entry.step, _loss(entry))
                if is_state:
                    write_history(history_path(spec.folder, spec.name), history)

        with ThreadPoolExecutor(1, thread_name_prefix=spec.stage) as pool:
            done = pool.submit(follow)
            try:
                yield
            finally:
                stop.set()
        done.result()
    if history:
        write_history(history_path(spec.folder, spec.name), history)


def _end(entries: Any) -> None:
    """Ends the queue's actor; where Ray is gone, so is the actor; the error that tells of it is not hidden."""
    try:
        entries.shutdown()
    except ray.exceptions.RayError as error:
        log.warning("training metrics: their queue could not be ended (%s)", error)


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


def read_history(path: Location) -> dict[int, dict[str, float]]:
    """Metrics by step; empty where there is no history yet."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {entry["step"]: entry["metrics"] for entry in map(json.loads, lines)}


def write_history(path: Location, history: Mapping[int, Mapping[str, float]]) -> None:
    """Writes the whole history, a line a step; steps that a resumed run repeats stand there once."""
    path.write_text("".join(json.dumps({"step": step, "metrics": history[step]}) + "\n" for step in sorted(history)))


def _arriving(entries: Any, stop: threading.Event) -> Iterator[tuple[list[Entry], bool]]:
    """What comes out of the queue until ``stop`` is set and nothing is left, or Ray is gone."""
    while True:
        last = stop.is_set()
        try:
            yield entries.get(timeout=None if last else _WAIT_S, block=not last)
        except queue.Empty:
            if last:
                return
        except ray.exceptions.RayError as error:
            log.warning("training metrics: the connection to the workers is lost (%s)", error)
            return


def _loss(entry: Entry) -> str:
    """The first loss of an entry with its name; empty if it has none."""
    return next((f"{name} {value:.4g}" for name, value in entry.metrics.items() if "loss" in name), "")
