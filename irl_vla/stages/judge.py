"""The stage `evaluate`: plans of every policy on the test split, judged by the true EPDMS."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from irl_vla import baselines
from irl_vla.artifact import write_text
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.store import PreparedStore
from irl_vla.evaluate import (
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
from irl_vla.experiment import Experiment
from irl_vla.fingerprint import fingerprint, write_fingerprint
from irl_vla.geometry import Floats
from irl_vla.policy.vla import load_chain
from irl_vla.reward.backends import make_backend
from irl_vla.reward.config import BackendConfig
from irl_vla.rl.validation import opinions
from irl_vla.stages import folders
from irl_vla.token_bank import ORIGINAL, TokenBank
from irl_vla.train.ego_mlp import ego_mlp_plans, load_ego_mlp

GENERATED: Final = "Generated data: not a NAVSIM result."
REAL: Final = "Data read as it is; one-stage rule, replayed traffic."
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
    """Writes ``results.csv`` (a row a policy), ``frames.csv`` (a row a frame), ``logs.csv`` and ``plans.json``.

    Every table has the evaluator's fingerprint beside it.

    Raises:
        CheckpointError: if a checkpoint or token bank does not fit.
    """
    settings = experiment.evaluate
    frames = [frame for frame in frames_of_refs(scene_refs(dataset, experiment.data.test)) if frame.token in store]
    evaluator = fingerprint(settings.scorer, [store.folder], [frame.token for frame in frames])
    scores: dict[str, SplitScores] = {}
    for name, plans in planned(experiment, store, frames):
        scores[name] = score_split(store, frames, plans, settings.scorer)
        log.info("evaluate: %s %.2f", name, 100 * scores[name].score.mean())
    rows = result_rows(scores, settings.against, settings.bootstrap_samples, experiment.data_seed)
    for row in rows:
        row.update(predicted_columns(experiment, scores, str(row["policy"])))
        report({f"evaluate/{row['policy']}_{key}": v for key, v in row.items() if isinstance(v, float)}, 0)
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        "results.csv": rows,
        "frames.csv": [line for name, split in scores.items() for line in frame_rows(name, split)],
        "logs.csv": log_rows(scores),
    }
    for name, table in tables.items():
        write_csv(folder / name, table)
        write_fingerprint(folder / name, evaluator)
    write_plans(folder / "plans.json", scores)
    groups = len({frame.group for frame in frames})
    what = GENERATED if experiment.generate is not None else REAL
    caption = (
        f"{what} {len(frames)} frames, {groups} groups; convention {settings.scorer.filter_convention}.\n{evaluator}"
    )
    console = Console(width=140)
    console.print(render_table(rows, f"{folders.title(experiment)}: true EPDMS on {experiment.data.test}", caption))
    if experiment.generate is None:
        for line in log_rows(scores):
            console.print(f"{line['log']}  {line['policy']}: {line['epdms']:.2f} ({line['frames']} frames)")
    return [folder / name for name in tables]


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
            bank = TokenBank.open(folders.bank_path(experiment, "test"))
            chain = load_chain(experiment.folder / folders.TRAINED[name], perception_hash=bank.perception_hash)
            yield name, bank_plans(chain, bank)


def predicted_columns(experiment: Experiment, scores: Mapping[str, SplitScores], name: str) -> dict[str, float]:
    """For trained policies, the reward model's opinion beside the truth (both without EC, times 100)."""
    if name not in folders.TRAINED or not (folders.train_reward(experiment).path / "checkpoint").exists():
        return {}
    path = folders.bank_path(experiment, "test")
    backend = make_backend(BackendConfig(kind="rwm"), path, model=folders.train_reward(experiment).path / "checkpoint")
    predicted, true = opinions(TokenBank.open(path), backend, scores[name])
    return {"predicted": 100 * predicted, "true": 100 * true}


def log_rows(scores: Mapping[str, SplitScores]) -> list[dict[str, object]]:
    """Mean score of every policy in every log."""
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
    logged = [token for token in training.tokens if len(token) <= _TOKEN_LENGTH]
    chosen = logged[:: max(1, len(logged) // _MANOEUVRE_SCENES)]
    best, means = baselines.best_constant_acceleration(
        (training[token] for token in chosen), experiment.evaluate.scorer
    )
    shown = ", ".join(f"{a:+.2f}: {100 * m:.1f}" for a, m in zip(baselines.ACCELERATIONS_MPS2, means, strict=True))
    log.info("best constant acceleration on %s: %+.2f m/s^2 (%s)", experiment.data.train, best, shown)
    return {frame.token: baselines.constant_acceleration(store[frame.token], best) for frame in frames}


def _ego_mlp(experiment: Experiment) -> dict[str, Floats]:
    bank = TokenBank.open(folders.bank_path(experiment, "test"))
    rows = np.flatnonzero(bank.view == ORIGINAL)
    model = load_ego_mlp(folders.pretrain(experiment).path / "ego_mlp")
    plans = ego_mlp_plans(model, bank.ego_history[rows], bank.command[rows])
    return {str(bank.token[row]): plan for row, plan in zip(rows, plans, strict=True)}


#: Scenes on which the constant manoeuvre is fitted; more do not change the choice among 14 accelerations.
_MANOEUVRE_SCENES: Final = 500
_TOKEN_LENGTH: Final = 17
