"""The stage `evaluate`: plans of every policy on the test split, judged by the true EPDMS."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.second_stage import TOKEN_LENGTH
from irl_vla.dataset.splits import StagePair, read_split
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.store import PreparedStore
from irl_vla.geometry import Floats
from irl_vla.judge import baselines
from irl_vla.judge.fingerprint import Fingerprint, fingerprint, write_fingerprint
from irl_vla.judge.one_stage import (
    FrameId,
    SplitScores,
    bank_plans,
    frame_rows,
    frames_of_refs,
    render_table,
    result_rows,
    score_split,
    write_csv,
)
from irl_vla.judge.two_stage import PairScores, render_stages, score_pairs, two_stage_rows, usable_pairs
from irl_vla.judge.validation import opinions
from irl_vla.ledger.files import write_text
from irl_vla.navsim.results import OfficialResults, one_stage_results, two_stage_results, write_results
from irl_vla.policy.token_bank import ORIGINAL, TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.reward.backends import make_backend
from irl_vla.reward.config import BackendConfig
from irl_vla.scene import SUBSCORES
from irl_vla.stages import folders
from irl_vla.stages.experiment import Experiment
from irl_vla.train.ego_mlp import ego_mlp_plans, load_ego_mlp

GENERATED: Final = "Generated data: not a NAVSIM result."
REAL: Final = "Data read as it is."
_FROM_SCENE: Final[Mapping[str, Callable[[PreparedScene], Floats]]] = {
    "constant_velocity": baselines.constant_velocity,
    "human": baselines.human,
    "reference": baselines.reference,
}

log = logging.getLogger(__name__)


def write_evaluation(
    experiment: Experiment,
    dataset: Dataset,
    store: PreparedStore,
    folder: Path,
    report: Callable[[Mapping[str, float], int], None],
) -> list[Path]:
    """Judges all policies on the test split, by the two-stage rule if it is a two-stage split.

    Writes ``results.csv`` (a row a policy), ``frames.csv`` (a row a frame), ``logs.csv``, ``plans.json`` and, for every
    policy, ``official_<policy>.csv`` in the form of the official evaluator. Every table has the evaluator's fingerprint
    beside it.

    Raises:
        CheckpointError: if a checkpoint or token bank does not fit.
    """
    frames = [frame for frame in frames_of_refs(scene_refs(dataset, experiment.data.test)) if frame.token in store]
    pairs = read_split(dataset, experiment.data.test).stage_pairs
    judge = _judge_two_stages if pairs else _judge_one_stage
    judged = judge(experiment, store, frames, pairs)
    for row in judged.rows:
        row.update(predicted_columns(experiment, judged.scores, str(row["policy"])))
        report({f"evaluate/{row['policy']}_{key}": v for key, v in row.items() if isinstance(v, float)}, 0)
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        "results.csv": judged.rows,
        "frames.csv": [line for name, split in judged.scores.items() for line in frame_rows(name, split)],
        "logs.csv": log_rows(judged.scores),
    }
    for name, table in tables.items():
        write_csv(folder / name, table)
        write_fingerprint(folder / name, judged.evaluator)
    for name, results in judged.official.items():
        write_results(folder / f"official_{name}.csv", results)
        write_fingerprint(folder / f"official_{name}.csv", judged.evaluator)
    write_plans(folder / "plans.json", judged.scores)
    console = Console(width=140)
    console.print(judged.table)
    if experiment.generate is None:
        for line in log_rows(judged.scores):
            console.print(f"{line['log']}  {line['policy']}: {line['epdms']:.2f} ({line['frames']} frames)")
    return [*(folder / name for name in tables), *(folder / f"official_{name}.csv" for name in judged.official)]


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """What a rule makes of all policies, by policy or as rows."""

    evaluator: Fingerprint
    scores: Mapping[str, SplitScores]
    rows: Sequence[dict[str, float | str]]
    official: Mapping[str, OfficialResults]
    table: Table


def _judge_one_stage(
    experiment: Experiment, store: PreparedStore, frames: Sequence[FrameId], pairs: Sequence[StagePair]
) -> _Judged:
    del pairs  # a split of one stage has none
    settings = experiment.evaluate
    evaluator = fingerprint(settings.scorer, [store.folder], [frame.token for frame in frames])
    scores: dict[str, SplitScores] = {}
    for name, plans in planned(experiment, store, frames):
        scores[name] = score_split(store, frames, plans, settings.scorer)
        log.info("evaluate: %s %.2f", name, 100 * scores[name].score.mean())
    rows = result_rows(scores, settings.against, settings.bootstrap_samples, experiment.data_seed)
    official = {
        name: one_stage_results([frame.token for frame in split.frames], split.subscores, split.score)
        for name, split in scores.items()
    }
    unscored = sum(len(split.unscored) for split in scores.values())
    note = f" {unscored} plans that do not count." if unscored else ""
    table = render_table(rows, _title(experiment), _caption(experiment, frames, note, evaluator))
    return _Judged(evaluator, scores, rows, official, table)


def _judge_two_stages(
    experiment: Experiment, store: PreparedStore, frames: Sequence[FrameId], pairs: Sequence[StagePair]
) -> _Judged:
    settings = experiment.evaluate
    usable, left_out = usable_pairs(pairs, [frame.token for frame in frames])
    if left_out:
        log.warning("evaluate: %d scenes of both stages left out: %s", len(left_out), ", ".join(left_out))
    wanted = frozenset(token for pair in usable for token in pair.tokens)
    frames = [frame for frame in frames if frame.token in wanted]
    evaluator = fingerprint(settings.scorer, [store.folder], wanted, "two-stage")
    scores: dict[str, PairScores] = {}
    for name, plans in planned(experiment, store, frames):
        scores[name] = score_pairs(store, frames, usable, plans, settings.scorer)
        log.info("evaluate: %s %.2f", name, 100 * scores[name].means("combined")["epdms"])
    rows = two_stage_rows(scores, settings.against, settings.bootstrap_samples, experiment.data_seed)
    unscored = sum(len(found.left_out) for found in scores.values())
    note = f" {len(usable)} pairs; {len(left_out)} scenes left out, {unscored} plans that do not count."
    return _Judged(
        evaluator=evaluator,
        scores={name: found.split for name, found in scores.items()},
        rows=rows,
        official={name: _official(found) for name, found in scores.items()},
        table=render_stages(rows, _title(experiment), _caption(experiment, frames, note, evaluator)),
    )


def _official(found: PairScores) -> OfficialResults:
    split, unscored = found.split, tuple(found.left_out)
    tokens = (*(frame.token for frame in split.frames), *unscored)
    none = np.full((len(unscored), len(SUBSCORES) + 1), np.nan)
    return two_stage_results(
        tokens,
        np.array([len(token) == TOKEN_LENGTH for token in tokens]),
        np.concatenate([split.subscores, none[:, :-1]]),
        np.concatenate([split.score, none[:, -1]]),
        (found.stages.stage_one, found.stages.stage_two, found.stages.combined),
    )


def _title(experiment: Experiment) -> str:
    return f"{folders.title(experiment)}: true EPDMS on {experiment.data.test}"


def _caption(experiment: Experiment, frames: Sequence[FrameId], note: str, evaluator: Fingerprint) -> str:
    what = GENERATED if experiment.generate is not None else REAL
    groups = len({frame.group for frame in frames})
    convention = experiment.evaluate.scorer.filter_convention
    return f"{what} {len(frames)} frames, {groups} groups; convention {convention}.{note}\n{evaluator}"


def planned(
    experiment: Experiment, store: PreparedStore, frames: Sequence[FrameId]
) -> Iterator[tuple[str, dict[str, Floats]]]:
    """The plans of every configured policy, by token."""
    for name in experiment.evaluate.policies:
        if name in _FROM_SCENE:
            yield name, {frame.token: _FROM_SCENE[name](store[frame.token]) for frame in frames}
        elif name == "constant_acceleration":
            yield name, _best_manoeuvre(experiment, store, frames)
        elif name == "ego_mlp":
            yield name, _ego_mlp(experiment)
        else:
            bank = TokenBank.open(folders.bank_path(experiment, "test").path)
            chain = load_chain(experiment.folder / folders.TRAINED[name], perception_hash=bank.perception_hash)
            yield name, bank_plans(chain, bank)


def predicted_columns(experiment: Experiment, scores: Mapping[str, SplitScores], name: str) -> dict[str, float]:
    """For trained policies, the reward model's opinion beside the truth (both without EC, times 100)."""
    if name not in folders.TRAINED or not folders.reward_path(experiment).exists():
        return {}
    path = folders.bank_path(experiment, "test").path
    backend = make_backend(BackendConfig(kind="rwm"), path, model=folders.reward_path(experiment).path)
    predicted, true = opinions(TokenBank.open(path), backend, scores[name])
    return {"predicted": 100 * predicted, "true": 100 * true}


def log_rows(scores: Mapping[str, SplitScores]) -> list[dict[str, object]]:
    """Mean score of every policy in every log, in two stages over the frames of both."""
    rows: list[dict[str, object]] = []
    for name, split in scores.items():
        logs = np.array([frame.log_name for frame in split.frames])
        for log_name in sorted(set(logs.tolist())):
            here = logs == log_name
            rows.append(
                {
                    "policy": name,
                    "log": log_name,
                    "frames": int(here.sum()),
                    "epdms": 100 * float(split.score[here].mean()),
                }
            )
    return rows


def write_plans(path: Path, scores: Mapping[str, SplitScores]) -> None:
    """Plans and scores by policy and token, for the report's pictures."""
    values = {
        name: {
            frame.token: {"plan": np.round(plan, 4).tolist(), "score": float(score)}
            for frame, plan, score in zip(split.frames, split.plans, split.score, strict=True)
        }
        for name, split in scores.items()
    }
    write_text(path, json.dumps(values))


def _best_manoeuvre(experiment: Experiment, store: PreparedStore, frames: Sequence[FrameId]) -> dict[str, Floats]:
    training = folders.prepared(experiment, experiment.data.train)
    refs = scene_refs(folders.dataset(experiment), experiment.data.train)
    logged = [ref.token for ref in refs if ref.token in training]
    chosen = logged[:: max(1, len(logged) // _MANOEUVRE_SCENES)]
    best, means = baselines.best_constant_acceleration(
        (training[token] for token in chosen), folders.training_scorer(experiment)
    )
    shown = ", ".join(f"{a:+.2f}: {100 * m:.1f}" for a, m in zip(baselines.ACCELERATIONS_MPS2, means, strict=True))
    log.info("best constant acceleration on %s: %+.2f m/s^2 (%s)", experiment.data.train, best, shown)
    return {frame.token: baselines.constant_acceleration(store[frame.token], best) for frame in frames}


def _ego_mlp(experiment: Experiment) -> dict[str, Floats]:
    bank = TokenBank.open(folders.bank_path(experiment, "test").path)
    rows = np.flatnonzero(bank.view == ORIGINAL)
    model = load_ego_mlp(folders.stage_folder(experiment, "pretrain") / "ego_mlp")
    plans = ego_mlp_plans(model, bank.ego_history[rows], bank.command[rows])
    return {str(bank.token[row]): plan for row, plan in zip(rows, plans, strict=True)}


#: Scenes on which the constant manoeuvre is fitted; more do not change the choice among 14 accelerations.
_MANOEUVRE_SCENES: Final = 500
