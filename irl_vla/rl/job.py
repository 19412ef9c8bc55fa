"""What fine-tuning and its control share: iterations, true scores, the choice of a state, resumable at any moment.

PPO and its control differ in how one iteration changes the policy, and in nothing else.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.progress import progress
from irl_vla.ledger.storage import Location
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
    folder: Location
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


def run_job(job: FinetuneJob, training: Training) -> Location:
    """Trains, validates and keeps the best state; a job that was interrupted goes on from its last resumable state.

    Returns:
        Folder of the checkpoint with the best true validation score among those that keep the imitation policy's
        progress; that policy itself competes.
    """
    config, folder = job.spec.config, job.folder
    history = _resumed(job, training)
    if not history:
        history.append(_validated(job, training, history))
    with progress(folder.name, "iterations", config.iterations) as shown:
        shown.start_from(training.iteration)
        while training.iteration < config.iterations:
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
            shown.reach(training.iteration)
    return folder / BEST


def read_history(folder: Location) -> list[dict[str, float]]:
    """Validations of a job up to its last resumable state, in order; empty for a fresh one."""
    return _latest(folder)["history"] or []


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


def _latest(folder: Location) -> dict[str, Any]:
    """Name of the last resumable state, and the validations up to it; None for both in a fresh folder."""
    try:
        found: dict[str, Any] = json.loads((folder / _LATEST).read_text())
    except FileNotFoundError:
        return {"state": None, "history": None}
    return found


def _resumed(job: FinetuneJob, training: Training) -> list[dict[str, float]]:
    latest = _latest(job.folder)
    if latest["state"] is None:
        return []
    training.restore((job.folder / latest["state"]).local())
    log.info("%s: resumed at iteration %d", job.folder.name, training.iteration)
    return list(latest["history"])


def _save_state(job: FinetuneJob, training: Training, history: list[dict[str, float]]) -> None:
    """Writes a new state beside the old one, then points to it: a kill at any moment leaves a whole one."""
    folder, name = job.folder, f"state-{training.iteration:06d}"
    (folder / name).delete()  # what a killed run may have left
    with (folder / name).filling() as path:
        training.save(path)
    (folder / _LATEST).write_text(json.dumps({"state": name, "history": history}, indent=1))
    for old in folder.children():
        if old.startswith("state-") and old != name:
            (folder / old).delete()
