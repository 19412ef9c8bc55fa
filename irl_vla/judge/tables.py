"""Scores as rows, terminal tables and files, of one stage and of two."""

import csv
import json
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats
from irl_vla.judge.equal_progress import Driving, equal_progress
from irl_vla.judge.intervals import Interval, group_bootstrap
from irl_vla.judge.one_stage import SplitScores
from irl_vla.judge.slowed import FRONTIER
from irl_vla.judge.two_stage import STAGES, PairScores
from irl_vla.ledger.files import atomic_path, write_text
from irl_vla.ledger.storage import Location
from irl_vla.scene import SUBSCORES

_EP: Final = SUBSCORES.index("ep")


def one_stage_rows(
    scores: Mapping[str, SplitScores], against: Sequence[str], samples: int, seed: int
) -> list[dict[str, float | str]]:
    """One row a policy: sub-scores, EPDMS with its interval, and paired differences to the policies in ``against``.

    Where imitation was judged with its slowed plans, the others get their gain at equal progress, too. Differences are
    over the frames that all policies concerned were judged on; none is given without two groups of them.

    Values are percentages points of EPDMS times 100, as the benchmark prints them.
    """
    rows = []
    for name, split in scores.items():
        row: dict[str, float | str] = {"policy": name}
        row |= {column: 100 * value for column, value in split.means().items()}
        if len(set(split.groups)) > 1:
            interval = group_bootstrap(100 * split.score, split.groups, np.random.default_rng(seed), samples)
            row |= {"epdms_low": interval.low, "epdms_high": interval.high}
            for other in against:
                if other in scores and other != name and _common_groups([split, scores[other]]) > 1:
                    gap = difference(split, scores[other], np.random.default_rng(seed), samples)
                    row |= _columns(f"minus_{other}", gap)
            frontier = [scores[point] for point in _frontier(name, scores)]
            if frontier and _common_groups([split, *frontier]) > 1:
                gap = _equal_progress(split, frontier, np.random.default_rng(seed), samples)
                row |= _columns("equal_progress", gap)
        rows.append(row)
    return rows


def two_stage_rows(
    scores: Mapping[str, PairScores], against: Sequence[str], samples: int, seed: int
) -> list[dict[str, float | str]]:
    """One row a policy, times 100: the combined result without a prefix, then both stages with theirs.

    Intervals, paired differences and gains at equal progress (of the combined score and EP) resample groups of
    independence, not scenes. Differences and gains need policies that were scored on the same pairs.
    """
    rows = []
    for name, found in scores.items():
        row: dict[str, float | str] = {"policy": name}
        for stage in STAGES:
            prefix = "" if stage == "combined" else f"{stage}_"
            row |= {f"{prefix}{column}": 100 * value for column, value in found.means(stage).items()}
            if len(set(found.groups)) > 1:
                values = 100 * found.scores(stage)
                interval = group_bootstrap(values, found.groups, np.random.default_rng(seed), samples)
                row |= {f"{prefix}epdms_low": interval.low, f"{prefix}epdms_high": interval.high}
        for other in against:
            if other in scores and other != name and _paired(found, scores[other]):
                gaps = found.scores("combined") - scores[other].scores("combined")
                gap = group_bootstrap(gaps, found.groups, np.random.default_rng(seed), samples)
                row |= _columns(f"minus_{other}", gap)
        frontier = [scores[point] for point in _frontier(name, scores)]
        if frontier and all(_paired(found, other) for other in frontier):
            driven, *slower = (Driving(*item.stages.product[:, [_EP, -1]].T) for item in (found, *frontier))
            gap = equal_progress(driven, slower, found.groups, np.random.default_rng(seed), samples)
            row |= _columns("equal_progress", gap)
        rows.append(row)
    return rows


def difference(better: SplitScores, baseline: SplitScores, rng: np.random.Generator, samples: int) -> Interval:
    """Paired difference of the final score over the frames that both have, with its interval over groups.

    Raises:
        ValueError: if the common frames are of fewer than two groups.
    """
    left, right = _common_rows([better, baseline])
    return group_bootstrap(better.score[left] - baseline.score[right], _groups(better, left), rng, samples)


def one_stage_table(rows: Sequence[Mapping[str, float | str]], title: str, caption: str) -> Table:
    """The result rows as a terminal table."""
    table = _table(rows, title, caption, "policy")
    for row in rows:
        cells = ["none" if np.isnan(float(row[column])) else f"{row[column]:.1f}" for column in SUBSCORES]
        interval = f"{row['epdms_low']:.1f}–{row['epdms_high']:.1f}" if "epdms_low" in row else "one group"
        gain = [equal_progress_cell(row)] if _has_gains(rows) else []
        table.add_row(str(row["policy"]), *cells, f"{row['epdms']:.2f}", interval, *gain)
    return table


def two_stage_table(rows: Sequence[Mapping[str, float | str]], title: str, caption: str) -> Table:
    """The rows of :func:`two_stage_rows` as a terminal table with a line a stage."""
    table = _table(rows, title, caption, "policy", "stage")
    for row in rows:
        for stage in (*STAGES[1:], STAGES[0]):
            prefix = "" if stage == "combined" else f"{stage}_"
            cells = [f"{row[prefix + column]:.1f}" for column in SUBSCORES]
            low, high = (row.get(f"{prefix}epdms_{side}") for side in ("low", "high"))
            interval = "one group" if low is None else f"{low:.1f}–{high:.1f}"
            name = str(row["policy"]) if stage == STAGES[1] else ""
            gain = [equal_progress_cell(row)] if stage == "combined" and _has_gains(rows) else []
            table.add_row(name, stage.replace("_", " "), *cells, f"{row[prefix + 'epdms']:.2f}", interval, *gain)
    return table


def equal_progress_cell(row: Mapping[str, float | str]) -> str:
    """A policy's gain at equal progress with its interval; empty where there is none."""
    if "equal_progress" not in row:
        return ""
    return f"{row['equal_progress']:+.1f} [{row['equal_progress_low']:+.1f}, {row['equal_progress_high']:+.1f}]"


def frame_rows(name: str, split: SplitScores) -> list[dict[str, object]]:
    """One row a frame for the CSV: token, log, group, kind, sub-scores, score, and where it lost points."""
    return [
        {"policy": name, "token": frame.token, "log": frame.log_name, "group": frame.group, "kind": frame.kind}
        | dict(zip(SUBSCORES, values.tolist(), strict=True))
        | {"score": float(score), "lost": points_lost(judged)}
        for frame, values, score, judged in zip(split.frames, split.subscores, split.score, split.judged, strict=True)
    ]


def points_lost(judged: Floats) -> str:
    """The sub-scores (9,) that kept a frame from a score of 1, e.g. "nc=0 ep=0.62"; empty where none did."""
    lost = ((name, value) for name, value in zip(SUBSCORES, judged.tolist(), strict=True) if value < 1)
    return " ".join(f"{name}={np.floor(1000 * value) / 1000:g}" for name, value in lost)  # never rounded up to 1


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


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows atomically; columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows of a table with numbers as numbers."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


@dataclass(frozen=True, slots=True)
class JudgedPlans:
    """What was judged, for the report's pictures.

    Attributes:
        split: that the tokens are of.
        policies: policy to token to its "plan" (8 poses) and "score" (0 to 1).
    """

    split: str
    policies: Mapping[str, Mapping[str, Mapping[str, Any]]]


def write_judged_plans(path: Path, split: str, scores: Mapping[str, SplitScores]) -> None:
    """Writes the plans and scores of a split, see :class:`JudgedPlans`."""
    policies = {
        name: {
            frame.token: {"plan": np.round(plan, 4).tolist(), "score": float(score)}
            for frame, plan, score in zip(judged.frames, judged.plans, judged.score, strict=True)
        }
        for name, judged in scores.items()
    }
    write_text(path, json.dumps({"split": split, "policies": policies}))


def read_judged_plans(place: Location) -> JudgedPlans:
    """Reads what :func:`write_judged_plans` wrote.

    Raises:
        CheckpointError: if the file does not say which split was judged.
    """
    values = json.loads(place.read_text())
    if set(values) != {"split", "policies"}:
        raise CheckpointError(
            f"{place}: expected the judged split and its plans, found {', '.join(sorted(values))}; "
            "run `irl-vla evaluate` again"
        )
    return JudgedPlans(**values)


def _table(rows: Sequence[Mapping[str, float | str]], title: str, caption: str, *names: str) -> Table:
    """An empty table; a column "equal progress" if some row has one."""
    table = Table(title=title, caption=caption, caption_justify="left", title_justify="left")
    for name in names:
        table.add_column(name, no_wrap=True)
    for column in (*SUBSCORES, "EPDMS", "95 %"):
        table.add_column(column.upper() if column in SUBSCORES else column, justify="right", no_wrap=True)
    if _has_gains(rows):
        table.add_column("equal progress", justify="right", no_wrap=True)
    return table


def _has_gains(rows: Sequence[Mapping[str, float | str]]) -> bool:
    return any("equal_progress" in row for row in rows)


def _columns(name: str, interval: Interval) -> dict[str, float | str]:
    """A difference with its interval as columns, times 100."""
    return {f"{name}{end}": 100 * value for end, value in zip(("", "_low", "_high"), interval, strict=True)}


def _frontier(policy: str, judged: Container[str]) -> Sequence[str]:
    """Names of imitation and its slowed plans, if all were judged and the policy is none of them; else none."""
    return FRONTIER if policy not in FRONTIER and all(name in judged for name in FRONTIER) else ()


def _equal_progress(
    split: SplitScores, frontier: Sequence[SplitScores], rng: np.random.Generator, samples: int
) -> Interval:
    rows = _common_rows([split, *frontier])
    driven, *slower = (
        Driving(item.subscores[own, _EP], item.score[own]) for item, own in zip((split, *frontier), rows, strict=True)
    )
    return equal_progress(driven, slower, _groups(split, rows[0]), rng, samples)


def _common_rows(splits: Sequence[SplitScores]) -> list[list[int]]:
    """Rows of each policy of the frames that all were judged on, in the first one's order."""
    positions = [{frame.token: index for index, frame in enumerate(split.frames)} for split in splits]
    common = [token for token in positions[0] if all(token in position for position in positions)]
    return [[position[token] for token in common] for position in positions]


def _groups(split: SplitScores, rows: Sequence[int]) -> list[str]:
    return [split.frames[row].group for row in rows]


def _common_groups(splits: Sequence[SplitScores]) -> int:
    return len(set(_groups(splits[0], _common_rows(splits)[0])))


def _paired(left: PairScores, right: PairScores) -> bool:
    same = [frame.token for frame in left.split.frames] == [frame.token for frame in right.split.frames]
    return same and len(set(left.groups)) > 1
