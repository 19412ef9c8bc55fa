"""Search over the reward weights: short fine-tunings, ranked by the true score on the validation split.

A trial is stage 3 with other weights; token banks, labels and the reward model are shared and read-only.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from irl_vla.errors import ClusterError
from irl_vla.judge.validation import ValidationSpec, open_validator
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location
from irl_vla.ledger.tracking import TrackingConfig, stage_run
from irl_vla.reward.config import RewardWeights
from irl_vla.rl.config import FinetuneConfig, SweepConfig
from irl_vla.rl.finetune import finetune
from irl_vla.rl.job import FinetuneJob, best_row, read_history
from irl_vla.rl.task import TaskSpec

METRIC: Final = "epdms"
_AXES: Final = ("safety", "comfort", "efficiency")
_RESULT: Final = "result.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepJob:
    """What every trial shares.

    Attributes:
        spec: fine-tuning as configured; a trial changes weights and the number of iterations.
        folder: one folder a trial below ``trials``, Tune's own state below ``tune``.
        root: the experiment's folder, where the tracking store lies.
        name: the experiment's name, title of the parent run.
    """

    spec: TaskSpec
    validation: ValidationSpec
    config: SweepConfig
    tracking: TrackingConfig
    folder: Location
    root: Location
    name: str


def sweep(job: SweepJob) -> list[dict[str, Any]]:
    """Runs the search, or what is left of an interrupted one.

    Returns:
        One row a trial, best true score first: weights, sub-scores and EPDMS of its best checkpoint.

    Raises:
        ClusterError: if a trial failed; the command again retries it.
        KeyboardInterrupt: if the search was interrupted; the command again goes on with it.
    """
    state = job.folder / "tune"
    trainable = tune.with_resources(tune.with_parameters(run_trial, job=job), {"CPU": 1})
    if tune.Tuner.can_restore(state.uri):
        tuner = tune.Tuner.restore(state.uri, trainable=trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = _new_tuner(job, trainable, state)
    results = tuner.fit()
    if results.errors:
        raise ClusterError(
            f"sweep: {len(results.errors)} of {len(results)} trials failed, the first: {results.errors[0]}; "
            "run the command again to retry them"
        )
    done = sum(METRIC in (result.metrics or {}) for result in results)
    if done < job.config.trials:  # Tune takes Ctrl-C for itself and returns what it has
        raise KeyboardInterrupt(f"sweep: {done} of {job.config.trials} trials are done")
    return ranked(finished_trials(job.folder / "trials"))


def finished_trials(trials: Location) -> list[dict[str, Any]]:
    """Rows of the trials that are whole; the others are named.

    A trial that was begun behind Tune's last snapshot of itself is unknown to it once it goes on: it draws another one,
    and the folder stays without a result.
    """
    names = trials.children()
    whole = [name for name in names if (trials / name / _RESULT).exists()]
    left_out = [name for name in names if name not in whole]
    if left_out:
        log.warning("sweep: %d trials were begun and not ended; left out: %s", len(left_out), ", ".join(left_out))
    return [json.loads((trials / name / _RESULT).read_text()) for name in whole]


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows by true score, best first; equal scores by weights, so that the order is always the same."""
    return sorted((dict(row) for row in rows), key=lambda row: (-row[METRIC], *(row[axis] for axis in _AXES)))


def trial_name(weights: Mapping[str, float]) -> str:
    """Folder and run name of a trial, e.g. ``s1-c0.5-e0.00213-HASH``: rounded weights, and a hash of the exact ones."""
    exact = content_hash([float(weights[axis]) for axis in _AXES])
    return "-".join([*(f"{axis[0]}{weights[axis]:.3g}" for axis in _AXES), exact])


def run_trial(settings: dict[str, float], job: SweepJob) -> None:
    """One trial, in a Tune worker; resumable like any fine-tuning. One that is whole is only reported again."""
    name = trial_name(settings)
    result = job.folder / "trials" / name / _RESULT
    if not result.exists():
        result.write_text(json.dumps(_fine_tuned(settings, job, name), indent=1))
    tune.report({METRIC: json.loads(result.read_text())[METRIC]})


def trial_config(job: SweepJob, weights: RewardWeights) -> FinetuneConfig:
    """A trial's fine-tuning: it samples and scores in its own process, for it has one CPU and may wait for no other."""
    changes = {
        "weights": weights.model_dump(),
        "iterations": job.config.iterations,
        "env_runners": 0,
        "backend.actors": 0,
    }
    return job.spec.config.with_overrides(changes)


def _fine_tuned(settings: Mapping[str, float], job: SweepJob, name: str) -> dict[str, Any]:
    """Fine-tunes with the trial's weights; returns its row, the scores of its best checkpoint."""
    weights = job.spec.config.weights.with_overrides(settings)
    spec = replace(job.spec, config=trial_config(job, weights))
    folder = job.folder / "trials" / name
    with stage_run(job.tracking, job.root, job.name, f"sweep/{name}", {"weights": weights.model_dump()}) as run:
        finetune(FinetuneJob(spec, folder, open_validator(job.validation), run.metrics))
    best = best_row(read_history(folder), spec.config.max_progress_loss)
    scores = {key.removeprefix("finetune/val_"): value for key, value in best.items() if "val_" in key}
    return {"trial": name} | {axis: settings[axis] for axis in _AXES} | {"iteration": best["iteration"]} | scores


def _new_tuner(job: SweepJob, trainable: Any, state: Location) -> tune.Tuner:
    ranges = {axis: getattr(job.config, axis) for axis in _AXES}
    space = {axis: tune.loguniform(*bounds) for axis, bounds in ranges.items()}
    search = OptunaSearch(
        space,
        metric=METRIC,
        mode="max",
        points_to_evaluate=[dict.fromkeys(_AXES, 1.0)],
        seed=job.spec.seed,
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(search, job.config.concurrent), num_samples=job.config.trials
        ),
        run_config=tune.RunConfig(name=state.name, storage_path=state.parent.uri, verbose=1),
    )
