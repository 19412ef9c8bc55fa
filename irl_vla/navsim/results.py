"""The official evaluator's results file: the columns, row order within stages and summary rows of its scripts.

One-stage files end with a mean over all frames, two-stage files with a row for each stage and one for both. Scores are
shares of 1, sub-scores those after the human filter; what does not apply is empty.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats
from irl_vla.ledger.files import atomic_path
from irl_vla.scene import OFFICIAL_SUBSCORES, SUBSCORES

STAGE_SUFFIXES: Final = ("_stage_one", "_stage_two")
ONE_STAGE_SUMMARY: Final = "average_all_frames"
TWO_STAGE_SUMMARIES: Final = (
    "extended_pdm_score_stage_one",
    "extended_pdm_score_stage_two",
    "extended_pdm_score_combined",
)
_NAMES: Final = tuple(OFFICIAL_SUBSCORES.values())
_ONE_STAGE: Final = ("", "token", "valid", *_NAMES, "score")
_TWO_STAGE: Final = ("", "token", "valid", *(n + suffix for suffix in STAGE_SUFFIXES for n in _NAMES), "score")


@dataclass(frozen=True, eq=False)
class StageMeans:
    """A summary row.

    Attributes:
        stage_one, stage_two: (9,) mean sub-scores in the order of ``SUBSCORES``, NaN where the row has none.
    """

    stage_one: Floats
    stage_two: Floats
    score: float


@dataclass(frozen=True, eq=False)
class OfficialResults:
    """A results file.

    Attributes:
        tokens: N scenes.
        second_stage: (N,) True for scenes of the second stage.
        valid: (N,) False where the evaluator has no score.
        subscores: (N, 9) in the order of ``SUBSCORES``, NaN where there is none.
        score: (N,).
        summary: token of a summary row to its means, in the file's order.
    """

    tokens: tuple[str, ...]
    second_stage: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    subscores: Floats
    score: Floats
    summary: Mapping[str, StageMeans]

    @property
    def two_stages(self) -> bool:
        """True if the file has the columns of two stages."""
        return ONE_STAGE_SUMMARY not in self.summary


def one_stage_results(tokens: Sequence[str], subscores: Floats, score: Floats) -> OfficialResults:
    """Results of single scenes, with the mean over those that have a value.

    Args:
        subscores: (N, 9), NaN where there is none (EC of a frame without predecessor).
        score: (N,), NaN where a scene has no score.
    """
    none = np.full(len(SUBSCORES), np.nan)
    means = StageMeans(_means(subscores), none, float(_means(score[:, None])[0]))
    first = np.zeros(len(tokens), np.bool_)
    return OfficialResults(tuple(tokens), first, ~np.isnan(score), subscores, score, {ONE_STAGE_SUMMARY: means})


def two_stage_results(
    tokens: Sequence[str],
    second_stage: NDArray[np.bool_],
    subscores: Floats,
    score: Floats,
    stages: tuple[Floats, Floats, Floats],
) -> OfficialResults:
    """Results of both stages.

    Args:
        second_stage: (N,) True for scenes of the second stage.
        subscores, score: (N, 9) and (N,).
        stages: (10,) aggregated sub-scores and score of stage one, of stage two, and of both combined; of the last the
            file keeps the score alone and repeats the sub-scores of the stages.
    """
    one, two, combined = stages
    none = np.full(len(SUBSCORES), np.nan)
    rows = (
        StageMeans(one[:-1], none, float(one[-1])),
        StageMeans(none, two[:-1], float(two[-1])),
        StageMeans(one[:-1], two[:-1], float(combined[-1])),
    )
    summary = dict(zip(TWO_STAGE_SUMMARIES, rows, strict=True))
    return OfficialResults(tuple(tokens), second_stage, ~np.isnan(score), subscores, score, summary)


def write_results(path: Path, results: OfficialResults) -> None:
    """Writes the file as the evaluator's scripts do, atomically; numbers keep all their digits."""
    width = 2 if results.two_stages else 1
    valid = bool(results.valid.all())
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_TWO_STAGE if results.two_stages else _ONE_STAGE)
        for index, token in enumerate(results.tokens):
            stages = [np.full(len(SUBSCORES), np.nan) for _ in range(width)]
            stages[int(results.second_stage[index])] = results.subscores[index]
            cells = _cells(np.append(np.concatenate(stages), results.score[index]))
            writer.writerow([index, token, bool(results.valid[index]), *cells])
        for offset, (token, means) in enumerate(results.summary.items()):
            stages = [means.stage_one, means.stage_two][:width]
            cells = _cells(np.append(np.concatenate(stages), means.score))
            writer.writerow([len(results.tokens) + offset, token, valid, *cells])


def read_results(path: Path) -> OfficialResults:
    """Reads a file of either kind, ours or the evaluator's.

    Raises:
        CheckpointError: if it is missing, or its columns or values are others.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *lines = list(csv.reader(stream))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a results file, found none that can be read ({error})") from error
    if tuple(header) not in (_ONE_STAGE, _TWO_STAGE):
        raise CheckpointError(
            f"{path}: expected the columns {', '.join(_ONE_STAGE[1:])}, or those of both stages, found "
            f"{', '.join(header)}; name the file that the evaluator wrote"
        )
    summaries = TWO_STAGE_SUMMARIES if tuple(header) == _TWO_STAGE else (ONE_STAGE_SUMMARY,)
    rows = [_parsed(path, number, line, len(header)) for number, line in enumerate(lines, start=2)]
    if tuple(token for token, _, _ in rows[-len(summaries) :]) != summaries:
        raise CheckpointError(f"{path}: expected the last rows {', '.join(summaries)}, found others; fetch it again")
    values = np.array([numbers for _, _, numbers in rows])
    stages = values[:, :-1].reshape(len(rows), -1, len(SUBSCORES))
    if stages.shape[1] == 1:
        stages = np.concatenate([stages, np.full_like(stages, np.nan)], axis=1)
    count = len(rows) - len(summaries)
    second = ~np.isnan(stages[:count, 1]).all(axis=1)
    chosen = np.where(second[:, None], stages[:count, 1], stages[:count, 0])
    return OfficialResults(
        tokens=tuple(token for token, _, _ in rows[:count]),
        second_stage=second,
        valid=np.array([valid for _, valid, _ in rows[:count]], np.bool_),
        subscores=chosen,
        score=values[:count, -1],
        summary={
            token: StageMeans(stages[count + index, 0], stages[count + index, 1], float(values[count + index, -1]))
            for index, token in enumerate(summaries)
        },
    )


def _parsed(path: Path, number: int, line: Sequence[str], width: int) -> tuple[str, bool, list[float]]:
    place = f"{path}: line {number}: expected number, token, True or False, then numbers or nothing in {width} cells"
    if len(line) != width or line[2] not in ("True", "False"):
        raise CheckpointError(f"{place}, found {len(line)} cells: {', '.join(line[:3])}; fetch the file again")
    try:
        return line[1], line[2] == "True", [float(cell) if cell else float("nan") for cell in line[3:]]
    except ValueError as error:
        raise CheckpointError(f"{place}, found others ({error}); fetch the file again") from error


def _cells(values: Floats) -> list[str]:
    return ["" if np.isnan(value) else repr(float(value)) for value in values]


def _means(values: Floats) -> Floats:
    """Means (C,) over the rows that have a value; NaN without any."""
    known = ~np.isnan(values)
    sums = np.where(known, values, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    means: Floats = np.divide(sums, count, out=np.full(values.shape[1], np.nan), where=count > 0)
    return means
