"""The stage `evaluate`: plans of every policy of an experiment on the test split, judged by the true EPDMS."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import read_split
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.store import PreparedStore
from irl_vla.geometry import Floats
from irl_vla.judge import baselines
from irl_vla.judge.bank_plans import bank_plans, best_of_plans, perceived_frames
from irl_vla.judge.fingerprint import write_fingerprint
from irl_vla.judge.for_each import ForEach
from irl_vla.judge.judgement import (
    GENERATED,
    REAL,
    JudgeSettings,
    frames_to_judge,
    judge,
    withdraw_results,
    write_judgement,
)
from irl_vla.judge.one_stage import FrameId, SplitScores, frames_of_refs, prepared_frames
from irl_vla.judge.policies import POLICIES
from irl_vla.judge.tables import log_rows, write_judged_plans
from irl_vla.navsim.results import write_results
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import ORIGINAL, TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.reward.backends import RewardBackend, make_backend
from irl_vla.reward.config import BackendConfig
from irl_vla.reward.quality import mean_rewards
from irl_vla.stages import folders
from irl_vla.stages.experiment import Experiment
from irl_vla.train.ego_mlp import ego_mlp_plans, load_ego_mlp

#: Scenes on which the constant manoeuvre is fitted; more do not change the choice among 14 accelerations.
_MANOEUVRE_SCENES: Final = 500

log = logging.getLogger(__name__)


def write_evaluation(
    experiment: Experiment,
    dataset: Dataset,
    store: PreparedStore,
    folder: Path,
    report: Callable[[Mapping[str, float], int], None],
    *,
    for_each: ForEach,
) -> list[Path]:
    """Judges all policies on the test split, by the two-stage rule if it is a two-stage split.

    Writes ``results.csv`` (a row a policy), ``frames.csv`` (a row a frame), ``logs.csv``, ``plans.json`` and, for every
    policy, ``official_<policy>.csv`` in the form of the official evaluator. Every table has the evaluator's fingerprint
    beside it; ``results.csv`` is written last.

    Returns:
        Paths of the tables.

    Raises:
        CheckpointError: if a checkpoint or token bank does not fit.
    """
    split, chosen = experiment.data.test, experiment.evaluate
    frames = prepared_frames(store, frames_of_refs(scene_refs(dataset, split)), split)
    if any(POLICIES[name].kind == "trained" for name in chosen.policies):
        frames = perceived_frames(TokenBank.open(folders.bank_path(experiment, "test")), frames, split)
    judged = frames_to_judge(frames, read_split(dataset, split).stage_pairs)
    if judged.left_out:
        log.warning("%d scenes of both stages left out: %s", len(judged.left_out), ", ".join(judged.left_out))
    settings = JudgeSettings(
        scorer=chosen.scorer,
        against=chosen.against,
        samples=chosen.bootstrap_samples,
        seed=experiment.data_seed,
        title=f"{folders.title(experiment)}: true EPDMS on {split}",
        origin=REAL if experiment.generate is None else GENERATED,
    )
    judgement = judge(store, judged, planned(experiment, store, judged.frames), settings, for_each=for_each)
    for row in judgement.rows:
        row.update(predicted_columns(experiment, judgement.scores, str(row["policy"])))
        report({f"evaluate/{row['policy']}_{key}": v for key, v in row.items() if isinstance(v, float)}, 0)
    logs = log_rows(judgement.scores)
    withdraw_results(folder)
    official = {folder / f"official_{name}.csv": results for name, results in judgement.official.items()}
    for path, results in official.items():
        write_fingerprint(path, judgement.evaluator)
        write_results(path, results)
    write_judged_plans(folder / "plans.json", split, judgement.scores)
    tables = [*write_judgement(folder, judgement, {"logs.csv": logs}), *official]
    console = Console(width=140)
    console.print(judgement.table)
    if experiment.generate is None:
        for line in logs:
            console.print(f"{line['log']}  {line['policy']}: {line['epdms']:.2f} ({line['frames']} frames)")
    return tables


def planned(
    experiment: Experiment, store: PreparedStore, frames: Sequence[FrameId]
) -> Iterator[tuple[str, dict[str, Floats]]]:
    """The plans of every configured policy, by token."""
    for name in experiment.evaluate.policies:
        policy = POLICIES[name]
        if policy.kind == "baseline":
            yield name, BASELINE_PLANS[name](experiment, store, frames)
        else:
            bank = TokenBank.open(folders.bank_path(experiment, "test"))
            chain = load_chain(folders.checkpoint(experiment, name), perception_hash=bank.perception_hash)
            yield name, _best_of(experiment, chain, bank) if policy.is_best_of else bank_plans(chain, bank)


def predicted_columns(experiment: Experiment, scores: Mapping[str, SplitScores], name: str) -> dict[str, float]:
    """For trained policies, what the reward model predicts beside the truth (both without EC, times 100)."""
    model = folders.reward_path(experiment)
    if POLICIES[name].kind != "trained" or not model.exists():
        return {}
    path = folders.bank_path(experiment, "test")
    backend = _learned_reward(experiment)
    judged = scores[name]
    tokens = [frame.token for frame in judged.frames]
    predicted, true = mean_rewards(backend, TokenBank.open(path), tokens, judged.plans, judged.subscores)
    return {"predicted": 100 * predicted, "true": 100 * true}


def _best_of(experiment: Experiment, chain: DenoisingChain, bank: TokenBank) -> dict[str, Floats]:
    return best_of_plans(chain, bank, _learned_reward(experiment), experiment.evaluate.candidates)


def _learned_reward(experiment: Experiment) -> RewardBackend:
    """The reward world model on the test split's token bank."""
    path = folders.bank_path(experiment, "test")
    return make_backend(BackendConfig(kind="rwm"), path, model=folders.reward_path(experiment))


def _from_scene(
    planner: Callable[[PreparedScene], Floats],
    experiment: Experiment,
    store: PreparedStore,
    frames: Sequence[FrameId],
) -> dict[str, Floats]:
    """Plans of a baseline that looks at the prepared scene alone."""
    del experiment
    return {frame.token: planner(store[frame.token]) for frame in frames}


def _best_manoeuvre(experiment: Experiment, store: PreparedStore, frames: Sequence[FrameId]) -> dict[str, Floats]:
    split = experiment.data.train
    training = folders.prepared(experiment, split)
    logged = prepared_frames(training, frames_of_refs(scene_refs(folders.dataset(experiment), split)), split)
    chosen = logged[:: max(1, len(logged) // _MANOEUVRE_SCENES)]
    best, means = baselines.best_constant_acceleration(
        (training[frame.token] for frame in chosen), folders.training_scorer(experiment)
    )
    shown = ", ".join(f"{a:+.2f}: {100 * m:.1f}" for a, m in zip(baselines.ACCELERATIONS_MPS2, means, strict=True))
    log.info("best constant acceleration on %s: %+.2f m/s^2 (%s)", split, best, shown)
    return {frame.token: baselines.constant_acceleration(store[frame.token], best) for frame in frames}


def _ego_mlp(experiment: Experiment, store: PreparedStore, frames: Sequence[FrameId]) -> dict[str, Floats]:
    del store, frames  # the bank has what it looks at
    bank = TokenBank.open(folders.bank_path(experiment, "test"))
    rows = np.flatnonzero(bank.view == ORIGINAL)
    model = load_ego_mlp(folders.checkpoint(experiment, "ego_mlp"))
    plans = ego_mlp_plans(model, bank.ego_history[rows], bank.command[rows])
    return {str(bank.token[row]): plan for row, plan in zip(rows, plans, strict=True)}


#: From an experiment, the prepared test scenes and the frames to plans by token.
BaselinePlans = Callable[[Experiment, PreparedStore, Sequence[FrameId]], dict[str, Floats]]
BASELINE_PLANS: Final[Mapping[str, BaselinePlans]] = {
    "constant_velocity": partial(_from_scene, baselines.constant_velocity),
    "constant_acceleration": _best_manoeuvre,
    "human": partial(_from_scene, baselines.human),
    "ego_mlp": _ego_mlp,
    "reference": partial(_from_scene, baselines.reference),
}
