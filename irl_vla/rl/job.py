"""What fine-tuning and its control share: iterations, true scores, the choice of a state, resumable at any moment.

PPO and its control differ in how one iteration changes the policy, and in nothing else.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
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
        Folder of the checkpoint that :func:`best_row` chooses among all validated states; imitation itself competes.
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
    log.info("%s: %s", folder.name, choice(history, config.max_progress_loss))
    return folder / BEST


def read_history(folder: Location) -> list[dict[str, float]]:
    """Validations of a job up to its last resumable state, in order; empty for a fresh one."""
    return _latest(folder)["history"] or []


def read_choice(folder: Location) -> str:
    """What :func:`choice` said of the validations up to a job's last resumable state; empty for a fresh one."""
    return str(_latest(folder).get("choice", ""))


def best_row(history: Sequence[Metrics], max_progress_loss: float) -> Metrics:
    """The point that is chosen: the validation with the best true score among the :func:`admissible` ones.

    Of equal scores the one with more EP, so that it lies on the Pareto set; of equal points the first.
    """
    return max(admissible(history, max_progress_loss), key=lambda row: (row[_SCORE], row[_PROGRESS]))


def pareto_set(history: Sequence[Metrics]) -> list[Metrics]:
    """The validations that no other one equals or beats in both true score and EP (of equal ones the first), in order.

    In EPDMS a policy may buy safety by slowing down: which of these points is best is a choice, not a fact.
    """
    rows, best_ep = [], -inf
    for row in sorted(history, key=lambda row: (-row[_SCORE], -row[_PROGRESS])):
        if row[_PROGRESS] > best_ep:
            best_ep = row[_PROGRESS]
            rows.append(row)
    return [row for row in history if any(row is kept for kept in rows)]


def choice(history: Sequence[Metrics], max_progress_loss: float) -> str:
    """One sentence: which state is kept, by which rule, and the Pareto set over (EPDMS, EP) that it was chosen from."""
    points = "; ".join(map(_point, pareto_set(history)))
    return (
        f"kept: {_point(best_row(history, max_progress_loss))}, the highest EPDMS whose EP is at most "
        f"{100 * max_progress_loss:.1f} below imitation's; on the Pareto set: {points}"
    )


def admissible(history: Sequence[Metrics], max_progress_loss: float) -> list[Metrics]:
    """The validations that the rule chooses from: their EP is at most ``max_progress_loss`` below that of the first.

    The first row is that of iteration 0, imitation.
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


def _point(row: Metrics) -> str:
    return f"iteration {row['iteration']:.0f} (EPDMS {100 * row[_SCORE]:.1f}, EP {100 * row[_PROGRESS]:.1f})"


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
    loss = job.spec.config.max_progress_loss
    points = [int(row["iteration"]) for row in pareto_set(history)]
    latest = {"state": name, "choice": choice(history, loss), "pareto_iterations": points, "history": history}
    (folder / _LATEST).write_text(json.dumps(latest, indent=1))
    for old in folder.children():
        if old.startswith("state-") and old != name:
            (folder / old).delete()
