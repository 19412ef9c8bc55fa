"""Stage 3: PPO on the learned reward, watched by the true score on the validation split, resumable at any moment."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import LEARNER_RESULTS
from rich.progress import track

from irl_vla.errors import ClusterError
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.files import write_text
from irl_vla.policy.averaging import mean_policy
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import save_finetuned
from irl_vla.rl.ppo import CHAINS, ChainPPO, ppo_config
from irl_vla.rl.task import TaskSpec

_BEST, _LATEST = "checkpoint", "latest.json"

Metrics = Mapping[str, float]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watch:
    """Who looks on while fine-tuning runs.

    Attributes:
        folder: holds the resumable state and the best checkpoint.
        validate: true sub-scores and "epdms" of the deterministic policy on the validation split.
        report: called with metrics and iteration.
    """

    spec: TaskSpec
    folder: Path
    validate: Callable[[DenoisingChain], Metrics]
    report: Callable[[Metrics, int], None]


def finetune(watch: Watch) -> Path:
    """Fine-tunes the planner; a run that was interrupted goes on from its last state.

    Returns:
        Folder of the checkpoint with the best true validation score among those that keep the imitation policy's
        progress; that policy itself competes.

    Raises:
        ClusterError: if sampling broke down and returned nothing.
    """
    spec, folder = watch.spec, watch.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    algorithm = ppo_config(spec).build_algo()
    try:
        history = _resume(algorithm, folder)
        if not history:
            history.append(_validated(algorithm, watch, history))
        remaining = range(algorithm.iteration, spec.config.iterations)
        for _ in track(remaining, description="finetune", disable=not logging.root.isEnabledFor(logging.INFO)):
            if _stale(history, spec.config.patience):
                log.info("finetune: no better true score in %d validations; stopped", spec.config.patience)
                _save_state(algorithm, folder, history)
                break
            metrics = _iterate(algorithm)
            watch.report(metrics, algorithm.iteration)
            last = algorithm.iteration == spec.config.iterations
            if algorithm.iteration % spec.config.validate_every == 0 or last:
                history.append(_validated(algorithm, watch, history) | metrics)
            if algorithm.iteration % spec.config.checkpoint_every == 0 or last:
                _save_state(algorithm, folder, history)
    finally:
        algorithm.stop()
    return folder / _BEST


def read_history(folder: Path) -> list[dict[str, float]]:
    """Validations of a fine-tuning run up to its last resumable state, in order; empty for a fresh one."""
    path = folder / _LATEST
    history: list[dict[str, float]] = json.loads(path.read_text())["history"] if path.exists() else []
    return history


def planner_chain(algorithm: ChainPPO) -> DenoisingChain:
    """The policy so far: the running average of what the learner has had, which a few updates hardly shake."""
    return mean_policy(algorithm.learned_module().average)


def _iterate(algorithm: Any) -> dict[str, float]:
    result = algorithm.train()
    if CHAINS not in result:
        raise ClusterError("an iteration returned no chains: all env runners are lost; run the command again")
    learner = result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
    metrics = {f"finetune/{name}": float(value) for name, value in result[CHAINS].items()}
    for name in ("policy_loss", "clip_fraction", "kl_to_imitation", "critic_loss"):
        if name in learner:
            metrics[f"finetune/{name}"] = float(learner[name])
    return metrics


def _validated(algorithm: Any, watch: Watch, history: list[dict[str, float]]) -> dict[str, float]:
    """Scores the current policy on the validation split; a new best one becomes the checkpoint."""
    chain = planner_chain(algorithm)
    scores = {f"finetune/val_{name}": value for name, value in watch.validate(chain).items()}
    watch.report(scores, algorithm.iteration)
    score = scores["finetune/val_epdms"]
    if best_row([*history, scores], watch.spec.config.max_progress_loss) is scores:
        spec = watch.spec
        inputs = {"bank": TokenBank.open(spec.bank).fingerprint}
        origin = Provenance(spec.seed, inputs, {"iteration": algorithm.iteration, "val_epdms": score})
        save_finetuned(chain, spec.policy, watch.folder / _BEST, origin)
    return {"iteration": float(algorithm.iteration)} | scores


def best_row(history: Sequence[Metrics], max_progress_loss: float) -> Metrics:
    """The first validation with the best true score among those that keep the imitation policy's progress.

    In EPDMS a policy may buy safety by slowing down; a state whose EP lies more than ``max_progress_loss`` below that
    of iteration 0, the first row, is no candidate.
    """
    least = history[0]["finetune/val_ep"] - max_progress_loss
    return max((row for row in history if row["finetune/val_ep"] >= least), key=lambda row: row["finetune/val_epdms"])


def _stale(history: list[dict[str, float]], patience: int) -> bool:
    scores = [row["finetune/val_epdms"] for row in history]
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def _resume(algorithm: Any, folder: Path) -> list[dict[str, float]]:
    path = folder / _LATEST
    if not path.exists():
        return []
    latest = json.loads(path.read_text())
    algorithm.restore_from_path(str((folder / latest["state"]).resolve()))
    log.info("finetune: resumed at iteration %d", algorithm.iteration)
    history: list[dict[str, float]] = latest["history"]
    return history


def _save_state(algorithm: Any, folder: Path, history: list[dict[str, float]]) -> None:
    """Writes a new state beside the old one, then points to it: a kill at any moment leaves a whole one."""
    name = f"state-{algorithm.iteration:06d}"
    shutil.rmtree(folder / name, ignore_errors=True)  # what a killed run may have left
    algorithm.save_to_path(str((folder / name).resolve()))
    write_text(folder / _LATEST, json.dumps({"state": name, "history": history}, indent=1))
    for old in folder.glob("state-*"):
        if old.name != name:
            shutil.rmtree(old)
