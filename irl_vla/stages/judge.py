"""The stage `evaluate`: plans of every policy of an experiment on the test split, judged by the true EPDMS."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
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
from irl_vla.judge.bank_plans import bank_plans, best_of_plans, frames_of_bank, perceived_frames
from irl_vla.judge.fingerprint import write_fingerprint
from irl_vla.judge.for_each import ForEach
from irl_vla.judge.judgement import (
    GENERATED,
    REAL,
    RESULTS_NAME,
    TRAINING,
    JudgedFrames,
    Judgement,
    JudgeSettings,
    frames_to_judge,
    judge,
    withdraw_results,
    write_judgement,
)
from irl_vla.judge.one_stage import SplitScores, frames_of_refs, prepared_frames, sampled_frames
from irl_vla.judge.policies import POLICIES, Role
from irl_vla.judge.slowed import IMITATION, slowed_plans
from irl_vla.judge.tables import equal_progress_cell, log_rows, write_judged_plans
from irl_vla.ledger.storage import Location
from irl_vla.navsim.results import write_results
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


@dataclass(frozen=True)
class JudgedScenes:
    """Scenes of the test split, or of the training split.

    Attributes:
        role: "test" or "train"; trained policies plan from the token bank of this split.
        store: prepared scenes of the split.
        judged: which of them.
    """

    role: Role
    store: PreparedStore
    judged: JudgedFrames


def write_evaluation(
    experiment: Experiment,
    dataset: Dataset,
    store: PreparedStore,
    place: Location,
    report: Callable[[Mapping[str, float], int], None],
    *,
    for_each: ForEach,
) -> list[Location]:
    """Judges all policies on the test split, by the two-stage rule if it is a two-stage split; and on training scenes.

    Writes ``results.csv`` (a row a policy), ``frames.csv`` (a row a frame), ``logs.csv``, ``plans.json`` and, for every
    policy, ``official_<policy>.csv`` in the form of the official evaluator; of training scenes
    ``training_results.csv`` and ``training_frames.csv``. Every table has the evaluator's fingerprint beside it; both
    results of an earlier call are removed first, and ``results.csv`` comes last.

    Args:
        place: holds the tables afterwards.

    Returns:
        Where the tables lie.

    Raises:
        CheckpointError: if a checkpoint or token bank does not fit.
    """
    test = _test_scenes(experiment, dataset, store)
    judgement = _judged(experiment, test, report, for_each)
    training = training_scenes(experiment, len(test.judged.frames))
    trained_on = None if training is None else _judged(experiment, training, report, for_each)
    logs = log_rows(judgement.scores)
    withdraw_results(place)
    withdraw_results(place, TRAINING)
    with place.filling(last=RESULTS_NAME) as folder:
        official = {folder / f"official_{name}.csv": results for name, results in judgement.official.items()}
        for path, results in official.items():
            write_fingerprint(path, judgement.evaluator)
            write_results(path, results)
        write_judged_plans(folder / "plans.json", experiment.data.test, judgement.scores)
        further = [] if trained_on is None else write_judgement(folder, trained_on, {}, TRAINING)
        tables = [*write_judgement(folder, judgement, {"logs.csv": logs}), *official, *further]
    console = Console(width=160)
    for shown in (judgement, trained_on):
        if shown is not None:
            console.print(shown.table)
    if experiment.generate is None:
        for line in logs:
            console.print(f"{line['log']}  {line['policy']}: {line['epdms']:.2f} ({line['frames']} frames)")
    return [place / table.name for table in tables]


def training_scenes(experiment: Experiment, count: int) -> JudgedScenes | None:
    """A sample of training scenes, the same for all training seeds, to be judged beside ``count`` test scenes.

    None if it is switched off, or if no trained policy is judged, or where bank and prepared scenes of the training
    split are not at hand.
    """
    chosen, split = experiment.evaluate, experiment.data.train
    wanted = count if chosen.training_scenes is None else chosen.training_scenes
    if not wanted or all(POLICIES[name].kind != "trained" for name in chosen.policies):
        return None
    bank, prepared = folders.bank_path(experiment, "train"), experiment.shared / "prepared" / split
    missing = [str(place) for place in (bank, prepared) if not place.exists()]
    if missing:
        log.info("training layouts are not judged: expected what imitation left, found no %s", ", ".join(missing))
        return None
    store, rng = PreparedStore.open(prepared), np.random.default_rng(experiment.data_seed)
    frames = prepared_frames(store, frames_of_bank(TokenBank.open(bank)), split)
    return JudgedScenes("train", store, frames_to_judge(sampled_frames(frames, wanted, rng), ()))


def plans_of(name: str, experiment: Experiment, scenes: JudgedScenes) -> dict[str, Floats]:
    """The plans of one policy, by token."""
    if POLICIES[name].kind == "baseline":
        return BASELINE_PLANS[name](experiment, scenes)
    bank = TokenBank.open(folders.bank_path(experiment, scenes.role))
    chain = load_chain(folders.checkpoint(experiment, name), perception_hash=bank.perception_hash)
    if POLICIES[name].is_best_of:
        return best_of_plans(chain, bank, _learned_reward(experiment, scenes.role), experiment.evaluate.candidates)
    return bank_plans(chain, bank)


def predicted_columns(
    experiment: Experiment, role: Role, scores: Mapping[str, SplitScores], name: str
) -> dict[str, float | str]:
    """For trained policies, what the reward model predicts beside the truth (both without EC, times 100)."""
    model = folders.reward_path(experiment)
    if name not in POLICIES or POLICIES[name].kind != "trained" or not model.exists():
        return {}
    path = folders.bank_path(experiment, role)
    backend = _learned_reward(experiment, role)
    judged = scores[name]
    tokens = [frame.token for frame in judged.frames]
    predicted, true = mean_rewards(backend, TokenBank.open(path), tokens, judged.plans, judged.subscores)
    return {"predicted": 100 * predicted, "true": 100 * true}


def _learned_reward(experiment: Experiment, role: Role) -> RewardBackend:
    """The reward world model on the token bank of a split."""
    path = folders.bank_path(experiment, role)
    return make_backend(BackendConfig(kind="rwm"), path, model=folders.reward_path(experiment))


def _test_scenes(experiment: Experiment, dataset: Dataset, store: PreparedStore) -> JudgedScenes:
    split = experiment.data.test
    frames = prepared_frames(store, frames_of_refs(scene_refs(dataset, split)), split)
    if any(POLICIES[name].kind == "trained" for name in experiment.evaluate.policies):
        frames = perceived_frames(TokenBank.open(folders.bank_path(experiment, "test")), frames, split)
    judged = frames_to_judge(frames, read_split(dataset, split).stage_pairs)
    if judged.left_out:
        log.warning("%d scenes of both stages left out: %s", len(judged.left_out), ", ".join(judged.left_out))
    return JudgedScenes("test", store, judged)


def _judged(
    experiment: Experiment,
    scenes: JudgedScenes,
    report: Callable[[Mapping[str, float], int], None],
    for_each: ForEach,
) -> Judgement:
    """Judges all policies on a split; rows say which, and their figures are reported."""
    chosen, split, is_training = experiment.evaluate, experiment.data.splits[scenes.role], scenes.role == "train"
    where = f"TRAINING scenes, a part of {split}" if is_training else split
    settings = JudgeSettings(
        scorer=chosen.scorer,
        against=chosen.against,
        samples=chosen.bootstrap_samples,
        seed=experiment.data_seed,
        title=f"{folders.title(experiment)}: true EPDMS on {where}",
        origin=REAL if experiment.generate is None else GENERATED,
    )
    found = judge(scenes.store, scenes.judged, _planned(experiment, scenes), settings, for_each=for_each)
    rows: list[dict[str, float | str]] = []
    for row in found.rows:
        name, gain = str(row["policy"]), equal_progress_cell(row)
        figures = row | predicted_columns(experiment, scenes.role, found.scores, name)
        rows.append({"policy": name, "split": split, **figures})
        prefix = f"{TRAINING if is_training else ''}{name}"
        report({f"evaluate/{prefix}_{key}": value for key, value in figures.items() if isinstance(value, float)}, 0)
        if gain:
            log.info("%s: %s at equal progress on %s", name, gain, split)
    return replace(found, rows=rows)


def _planned(experiment: Experiment, scenes: JudgedScenes) -> Iterator[tuple[str, dict[str, Floats]]]:
    """The plans of every configured policy; behind those of imitation its slowed ones."""
    for name in experiment.evaluate.policies:
        plans = plans_of(name, experiment, scenes)
        yield name, plans
        if name == IMITATION:
            yield from slowed_plans(plans)


def _from_scene(
    planner: Callable[[PreparedScene], Floats], experiment: Experiment, scenes: JudgedScenes
) -> dict[str, Floats]:
    """Plans of a baseline that looks at the prepared scene alone."""
    del experiment
    return {frame.token: planner(scenes.store[frame.token]) for frame in scenes.judged.frames}


def _best_manoeuvre(experiment: Experiment, scenes: JudgedScenes) -> dict[str, Floats]:
    best = _best_acceleration(experiment)
    return _from_scene(partial(baselines.constant_acceleration, acceleration_mps2=best), experiment, scenes)


@lru_cache(maxsize=1)
def _best_acceleration(experiment: Experiment) -> float:
    """The one acceleration that scores best on training scenes; two splits are judged, and it is found once."""
    split = experiment.data.train
    training = folders.prepared(experiment, split)
    logged = prepared_frames(training, frames_of_refs(scene_refs(folders.dataset(experiment), split)), split)
    chosen = logged[:: max(1, len(logged) // _MANOEUVRE_SCENES)]
    best, means = baselines.best_constant_acceleration(
        (training[frame.token] for frame in chosen), folders.training_scorer(experiment)
    )
    shown = ", ".join(f"{a:+.2f}: {100 * m:.1f}" for a, m in zip(baselines.ACCELERATIONS_MPS2, means, strict=True))
    log.info("best constant acceleration on %s: %+.2f m/s^2 (%s)", split, best, shown)
    return best


def _ego_mlp(experiment: Experiment, scenes: JudgedScenes) -> dict[str, Floats]:
    bank = TokenBank.open(folders.bank_path(experiment, scenes.role))
    rows = np.flatnonzero(bank.view == ORIGINAL)
    model = load_ego_mlp(folders.checkpoint(experiment, "ego_mlp"))
    plans = ego_mlp_plans(model, bank.ego_history[rows], bank.command[rows])
    return {str(bank.token[row]): plan for row, plan in zip(rows, plans, strict=True)}


#: From an experiment and the scenes that are judged to plans by token.
BaselinePlans = Callable[[Experiment, JudgedScenes], dict[str, Floats]]
BASELINE_PLANS: Final[Mapping[str, BaselinePlans]] = {
    "constant_velocity": partial(_from_scene, baselines.constant_velocity),
    "constant_acceleration": _best_manoeuvre,
    "human": partial(_from_scene, baselines.human),
    "ego_mlp": _ego_mlp,
    "reference": partial(_from_scene, baselines.reference),
}
