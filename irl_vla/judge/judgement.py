"""Plans of several policies judged on one split: the one place where scores become tables.

The stage ``evaluate`` and the command ``score`` differ in where plans come from; what is done with them is here.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.table import Table

from irl_vla.dataset.second_stage import TOKEN_LENGTH
from irl_vla.dataset.splits import StagePair
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.geometry import Floats
from irl_vla.judge.fingerprint import Fingerprint, fingerprint, sidecar, write_fingerprint
from irl_vla.judge.for_each import ForEach
from irl_vla.judge.one_stage import FrameId, SplitScores, score_split
from irl_vla.judge.tables import (
    frame_rows,
    one_stage_rows,
    one_stage_table,
    two_stage_rows,
    two_stage_table,
    write_csv,
)
from irl_vla.judge.two_stage import PairScores, score_pairs, usable_pairs
from irl_vla.ledger.storage import Location
from irl_vla.navsim.results import OfficialResults, one_stage_results, two_stage_results
from irl_vla.scene import SUBSCORES

GENERATED: Final = "Generated data: not a NAVSIM result."
REAL: Final = "Data read as it is."
RESULTS_NAME: Final = "results.csv"
FRAMES_NAME: Final = "frames.csv"
#: Before the names of the two tables of training scenes.
TRAINING: Final = "training_"

log = logging.getLogger(__name__)

PlansByPolicy = Iterable[tuple[str, Mapping[str, Floats]]]


@dataclass(frozen=True, slots=True)
class JudgedFrames:
    """What is judged of a split.

    Attributes:
        frames: in the order of the split.
        pairs: of a two-stage split, which is judged by the two-stage rule; empty if nothing of it is left, None for a
            split of one stage.
        left_out: tokens that cannot be judged because another scene of their pair is missing.
    """

    frames: tuple[FrameId, ...]
    pairs: tuple[StagePair, ...] | None
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How plans are judged.

    Attributes:
        scorer: of the plans.
        against: policies to whose scores all others are compared, frame by frame.
        samples, seed: draws of the bootstrap over groups.
        title: heads the printed table.
        origin: of the data, for the table's caption: ``GENERATED`` or ``REAL``.
    """

    scorer: ScorerConfig
    against: Sequence[str]
    samples: int
    seed: int
    title: str
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What became of all policies.

    Attributes:
        evaluator: who judged.
        scores: by policy, a row a frame.
        rows: a row a policy, scores times 100.
        official: by policy, as the official evaluator would write them.
        unscored: by policy, tokens of plans that do not count, to the reason.
        table: the rows for a terminal.
    """

    evaluator: Fingerprint
    scores: Mapping[str, SplitScores]
    rows: Sequence[dict[str, float | str]]
    official: Mapping[str, OfficialResults]
    unscored: Mapping[str, Mapping[str, str]]
    table: Table


def frames_to_judge(frames: Sequence[FrameId], pairs: Sequence[StagePair]) -> JudgedFrames:
    """The frames that can be judged by the split's rule.

    Args:
        frames: that have plans and are prepared.
        pairs: of the split; none in a split of one stage.
    """
    if not pairs:
        return JudgedFrames(tuple(frames), None, ())
    usable, left_out = usable_pairs(pairs, [frame.token for frame in frames])
    wanted = frozenset(token for pair in usable for token in pair.tokens)
    return JudgedFrames(tuple(frame for frame in frames if frame.token in wanted), tuple(usable), tuple(left_out))


def judge(
    store: PreparedStore, judged: JudgedFrames, plans: PlansByPolicy, settings: JudgeSettings, *, for_each: ForEach
) -> Judgement:
    """Scores all plans and compares the policies.

    Args:
        store: the prepared scenes of the split.
        judged: which of them.
        plans: name of a policy and its plans (8, 3) by token; taken one policy after the other.
        settings: how.
        for_each: where the work runs.

    Raises:
        SceneError: naming every frame without a usable plan; or if nothing has a score.
    """
    if judged.pairs is None:
        return _judge_one_stage(store, judged.frames, plans, settings, for_each)
    return _judge_two_stages(store, judged, judged.pairs, plans, settings, for_each=for_each)


def write_judgement(
    folder: Path, judgement: Judgement, further: Mapping[str, Sequence[Mapping[str, object]]], prefix: str = ""
) -> list[Path]:
    """Writes ``results.csv`` (a row a policy), ``frames.csv`` (a row a frame) and further tables, by file name.

    Every table has the evaluator's fingerprint beside it. By ``results.csv`` a folder is known as judged: that of an
    earlier call is removed first, and the new one comes last.

    Args:
        prefix: of the names of those two, for a second judgement in the same folder.

    Returns:
        Paths of the tables.
    """
    withdraw_results(folder, prefix)
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        prefix + FRAMES_NAME: [line for name, split in judgement.scores.items() for line in frame_rows(name, split)],
        **further,
        prefix + RESULTS_NAME: judgement.rows,
    }
    for name, table in tables.items():
        write_fingerprint(folder / name, judgement.evaluator)
        write_csv(folder / name, table)
    return [folder / name for name in tables]


def withdraw_results(folder: Path | Location, prefix: str = "") -> None:
    """Removes ``results.csv`` of an earlier judgement, and who judged, before anything else of it is replaced."""
    results = f"{prefix}{RESULTS_NAME}"
    for name in (results, sidecar(Path(results)).name):
        (Location.of(folder) / name).delete()


def _judge_one_stage(
    store: PreparedStore,
    frames: Sequence[FrameId],
    plans: PlansByPolicy,
    settings: JudgeSettings,
    for_each: ForEach,
) -> Judgement:
    evaluator = fingerprint(settings.scorer, [store.folder], [frame.token for frame in frames])
    scores: dict[str, SplitScores] = {}
    for name, own in plans:
        scores[name] = score_split(store, frames, own, settings.scorer, for_each=for_each)
        log.info("%s: EPDMS %.2f", name, 100 * scores[name].score.mean())
    rows = one_stage_rows(scores, settings.against, settings.samples, settings.seed)
    unscored = {name: split.unscored for name, split in scores.items()}
    caption = _caption(settings, frames, _not_counted(unscored, ""), evaluator)
    return Judgement(
        evaluator=evaluator,
        scores=scores,
        rows=rows,
        official={
            name: one_stage_results([frame.token for frame in split.frames], split.subscores, split.score)
            for name, split in scores.items()
        },
        unscored=unscored,
        table=one_stage_table(rows, settings.title, caption),
    )


def _judge_two_stages(
    store: PreparedStore,
    judged: JudgedFrames,
    pairs: Sequence[StagePair],
    plans: PlansByPolicy,
    settings: JudgeSettings,
    *,
    for_each: ForEach,
) -> Judgement:
    frames = judged.frames
    evaluator = fingerprint(settings.scorer, [store.folder], [frame.token for frame in frames], "two-stage")
    scores: dict[str, PairScores] = {}
    for name, own in plans:
        scores[name] = score_pairs(store, frames, pairs, own, settings.scorer, for_each=for_each)
        log.info("%s: EPDMS %.2f in both stages", name, 100 * scores[name].means("combined")["epdms"])
    rows = two_stage_rows(scores, settings.against, settings.samples, settings.seed)
    unscored = {name: found.left_out for name, found in scores.items()}
    note = _not_counted(unscored, f" {len(pairs)} pairs; {len(judged.left_out)} scenes left out,")
    return Judgement(
        evaluator=evaluator,
        scores={name: found.split for name, found in scores.items()},
        rows=rows,
        official={name: _official_two_stages(found) for name, found in scores.items()},
        unscored=unscored,
        table=two_stage_table(rows, settings.title, _caption(settings, frames, note, evaluator)),
    )


def _official_two_stages(found: PairScores) -> OfficialResults:
    """The official form, which has empty rows for scenes that do not count."""
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


def _not_counted(unscored: Mapping[str, Mapping[str, str]], before: str) -> str:
    count = sum(map(len, unscored.values()))
    return f"{before} {count} plans that do not count." if count or before else ""


def _caption(settings: JudgeSettings, frames: Sequence[FrameId], note: str, evaluator: Fingerprint) -> str:
    groups = len({frame.group for frame in frames})
    convention = settings.scorer.filter_convention
    return f"{settings.origin} {len(frames)} frames, {groups} groups; convention {convention}.{note}\n{evaluator}"
