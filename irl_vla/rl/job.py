"""What fine-tuning and its control share: iterations, true scores, the choice of a state, resumable at any moment.

PPO and its control differ in how one iteration changes the policy, and in nothing else.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from rich.progress import track

from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.files import write_text
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import save_finetuned
from irl_vla.rl.task import TaskSpec

BEST: Final = "checkpoint"
_LATEST: Final = "latest.json"
_SCORE, _PROGRESS = "finetune/val_epdms", "finetune/val_ep"

Metrics = Mapping[str, float]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneJob:
    """One fine-tuning.

    Attributes:
        spec: what it runs on.
        folder: holds the resumable state and the best checkpoint.
        validate: true sub-scores and "epdms" of the deterministic policy on the validation split.
        report: called with metrics and iteration.
    """

    spec: TaskSpec
    folder: Path
    validate: Callable[[DenoisingChain], Metrics]
    report: Callable[[Metrics, int], None]


class Training(Protocol):
    """A policy that is trained in iterations."""

    @property
    def iteration(self) -> int:
        """Iterations done."""

    def train(self) -> dict[str, float]:
        """Does one iteration; returns its metrics, named ``finetune/...``."""

    def policy(self) -> DenoisingChain:
        """The policy that is validated and kept."""

    def save(self, folder: Path) -> None:
        """Writes everything needed to go on."""

    def restore(self, folder: Path) -> None:
        """Goes on from what :meth:`save` wrote."""


def run_job(job: FinetuneJob, training: Training) -> Path:
    """Trains, validates and keeps the best state; a job that was interrupted goes on from its last resumable state.

    Returns:
        Folder of the checkpoint with the best true validation score among those that keep the imitation policy's
        progress; that policy itself competes.
    """
    config, folder = job.spec.config, job.folder
    folder.mkdir(parents=True, exist_ok=True)
    history = _resumed(job, training)
    if not history:
        history.append(_validated(job, training, history))
    remaining = range(training.iteration, config.iterations)
    for _ in track(remaining, description=folder.name, disable=not logging.root.isEnabledFor(logging.INFO)):
        if is_stale(history, config.patience, config.max_progress_loss):
            log.info("%s: no better true score in %d validations; stopped", folder.name, config.patience)
            _save_state(job, training, history)
            break
        metrics = training.train()
        job.report(metrics, training.iteration)
        last = training.iteration == config.iterations
        if training.iteration % config.validate_every == 0 or last:
            history.append(_validated(job, training, history) | metrics)
        if training.iteration % config.checkpoint_every == 0 or last:
            _save_state(job, training, history)
    return folder / BEST


def read_history(folder: Path) -> list[dict[str, float]]:
    """Validations of a job up to its last resumable state, in order; empty for a fresh one."""
    path = folder / _LATEST
    history: list[dict[str, float]] = json.loads(path.read_text())["history"] if path.exists() else []
    return history


def best_row(history: Sequence[Metrics], max_progress_loss: float) -> Metrics:
    """The first validation with the best true score among the admissible ones, see :func:`admissible`."""
    return max(admissible(history, max_progress_loss), key=lambda row: row[_SCORE])


def admissible(history: Sequence[Metrics], max_progress_loss: float) -> list[Metrics]:
    """The validations whose state may be kept: those that keep the imitation policy's progress.

    In EPDMS a policy may buy safety by slowing down; a state whose EP lies more than ``max_progress_loss`` below that
    of iteration 0, the first row, is no candidate.
    """
    least = history[0][_PROGRESS] - max_progress_loss
    return [row for row in history if row[_PROGRESS] >= least]


def is_stale(history: Sequence[Metrics], patience: int, max_progress_loss: float) -> bool:
    """True if the last ``patience`` admissible validations brought no new best one."""
    scores = [row[_SCORE] for row in admissible(history, max_progress_loss)]
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def _validated(job: FinetuneJob, training: Training, history: list[dict[str, float]]) -> dict[str, float]:
    """Scores the current policy on the validation split; a new best one becomes the checkpoint."""
    chain, spec = training.policy(), job.spec
    scores = {f"finetune/val_{name}": value for name, value in job.validate(chain).items()}
    job.report(scores, training.iteration)
    if best_row([*history, scores], spec.config.max_progress_loss) is scores:
        inputs = {"bank": TokenBank.open(spec.bank).fingerprint}
        origin = Provenance(spec.seed, inputs, {"iteration": training.iteration, "val_epdms": scores[_SCORE]})
        save_finetuned(chain, spec.policy, job.folder / BEST, origin)
    return {"iteration": float(training.iteration)} | scores


def _resumed(job: FinetuneJob, training: Training) -> list[dict[str, float]]:
    path = job.folder / _LATEST
    if not path.exists():
        return []
    training.restore((job.folder / json.loads(path.read_text())["state"]).resolve())
    log.info("%s: resumed at iteration %d", job.folder.name, training.iteration)
    return read_history(job.folder)


def _save_state(job: FinetuneJob, training: Training, history: list[dict[str, float]]) -> None:
    """Writes a new state beside the old one, then points to it: a kill at any moment leaves a whole one."""
    folder, name = job.folder, f"state-{training.iteration:06d}"
    shutil.rmtree(folder / name, ignore_errors=True)  # what a killed run may have left
    training.save((folder / name).resolve())
    write_text(folder / _LATEST, json.dumps({"state": name, "history": history}, indent=1))
    for old in folder.glob("state-*"):
        if old.name != name:
            shutil.rmtree(old)
