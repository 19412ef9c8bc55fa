"""True EPDMS of plans on a split (one-stage rule), with intervals over layouts.

Nothing here knows a reward: whatever a policy was trained on, this is what judges it.
"""

import csv
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import ray
from rich.table import Table

from irl_vla.artifact import atomic_path
from irl_vla.dataset.splits import SceneRef
from irl_vla.epdms.comfort import extended_comfort
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import ScoredPlans, final_score, score_plans
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.intervals import Interval, group_bootstrap
from irl_vla.scene import SUBSCORES

#: A frame's extended comfort compares it with its predecessor at most this far back (spec section 17).
MAX_PAIR_GAP_S: Final = 0.55
_LOGS_A_TASK: Final = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SplitScores:
    """Scores of one policy, a row a frame.

    Attributes:
        refs: the frames.
        subscores: (N, 9) after the human filter, ``SUBSCORES`` order; EC is NaN where a frame has no predecessor.
        score: (N,) final score.
        plans: (N, 8, 3).
    """

    refs: tuple[SceneRef, ...]
    subscores: Floats
    score: Floats
    plans: Floats

    @property
    def groups(self) -> list[str]:
        """The unit of independence of every row."""
        return [ref.group for ref in self.refs]

    def means(self) -> dict[str, float]:
        """Mean of every sub-score (EC over the frames that have it) and of the score."""
        columns = dict(zip(SUBSCORES, np.nanmean(self.subscores, axis=0).tolist(), strict=True))
        return columns | {"epdms": float(self.score.mean())}


def score_split(
    store: PreparedStore, refs: Sequence[SceneRef], plans: Mapping[str, Floats], config: ScorerConfig
) -> SplitScores:
    """Scores one plan a frame, in parallel over logs on Ray.

    Args:
        store: the prepared scenes of the split.
        refs: the frames to score, any order; frames of a log are paired for EC by time.
        plans: token to (8, 3) plan in the ego frame.

    Raises:
        SceneError: naming tokens without a plan, or whose plan is not finite.
    """
    check_plans(refs, plans)
    by_log: dict[str, list[SceneRef]] = defaultdict(list)
    for ref in refs:
        by_log[ref.log_name].append(ref)
    logs = list(by_log.values())
    task = ray.remote(num_cpus=1)(_score_logs)
    shared = ray.put(store)
    pending = []
    for start in range(0, len(logs), _LOGS_A_TASK):
        part = logs[start : start + _LOGS_A_TASK]
        needed = {ref.token: plans[ref.token] for group in part for ref in group}
        pending.append(task.remote(shared, part, needed, config))
    parts = [scores for result in ray.get(pending) for scores in result]
    return join_scores(parts)


def score_log(
    store: PreparedStore, refs: Sequence[SceneRef], plans: Mapping[str, Floats], config: ScorerConfig
) -> SplitScores:
    """Scores the frames of one log in this process; a frame within 0.55 s of its predecessor gets EC."""
    scenes = sorted(((store[ref.token], ref) for ref in refs), key=lambda pair: pair[0].time_us)
    rows, previous = [], None
    for scene, ref in scenes:
        plan = np.asarray(plans[ref.token], np.float64)
        scored = score_plans(scene, plan[None], config)
        values = scored.filtered[0].copy()
        values[SUBSCORES.index("ec")] = _pair_comfort(scored, scene.time_us, previous)
        rows.append((ref, values, plan))
        previous = (scored, scene.time_us)
    subscores = np.stack([values for _, values, _ in rows])
    return SplitScores(
        tuple(ref for ref, _, _ in rows), subscores, final_score(subscores), np.stack([plan for _, _, plan in rows])
    )


def join_scores(parts: Sequence[SplitScores]) -> SplitScores:
    """One record out of several disjoint ones."""
    return SplitScores(
        tuple(ref for part in parts for ref in part.refs),
        np.concatenate([part.subscores for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.plans for part in parts]),
    )


def check_plans(refs: Sequence[SceneRef], plans: Mapping[str, Floats]) -> None:
    """Raises SceneError naming the frames whose plan is missing, of a wrong shape or not finite."""
    missing = [ref.token for ref in refs if ref.token not in plans]
    if missing:
        raise SceneError(f"{len(missing)} of {len(refs)} frames have no plan, the first: {', '.join(missing[:3])}")
    for ref in refs:
        plan = np.asarray(plans[ref.token])
        if plan.shape != (8, 3) or not np.isfinite(plan).all():
            raise SceneError(f"{ref.token}: expected a finite (8, 3) plan, found shape {plan.shape}: {plan.tolist()}")


def difference(better: SplitScores, baseline: SplitScores, rng: np.random.Generator, samples: int) -> Interval:
    """Paired difference of the final score, frame by frame, with its interval over groups."""
    position = {ref.token: index for index, ref in enumerate(baseline.refs)}
    order = [position[ref.token] for ref in better.refs]
    return group_bootstrap(better.score - baseline.score[order], better.groups, rng, samples)


def result_rows(
    scores: Mapping[str, SplitScores], against: Sequence[str], samples: int, seed: int
) -> list[dict[str, float | str]]:
    """One row a policy: sub-scores, EPDMS with its interval, and paired differences to the policies in ``against``.

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
                if other in scores and other != name:
                    gap = difference(split, scores[other], np.random.default_rng(seed), samples)
                    row |= {
                        f"minus_{other}": 100 * gap.mean,
                        f"minus_{other}_low": 100 * gap.low,
                        f"minus_{other}_high": 100 * gap.high,
                    }
        rows.append(row)
    return rows


def render_table(rows: Sequence[Mapping[str, float | str]], title: str, caption: str) -> Table:
    """The result rows as a terminal table."""
    table = Table(title=title, caption=caption, caption_justify="left", title_justify="left")
    table.add_column("policy", no_wrap=True)
    for column in (*SUBSCORES, "EPDMS", "95 %"):
        table.add_column(column.upper() if column in SUBSCORES else column, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row[column]:.1f}" for column in SUBSCORES]
        interval = f"{row['epdms_low']:.1f}–{row['epdms_high']:.1f}" if "epdms_low" in row else "one group"
        table.add_row(str(row["policy"]), *cells, f"{row['epdms']:.2f}", interval)
    return table


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows atomically; columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def frame_rows(name: str, split: SplitScores) -> list[dict[str, object]]:
    """One row a frame for the CSV: token, log, group, kind, sub-scores and score."""
    return [
        {"policy": name, "token": ref.token, "log": ref.log_name, "group": ref.group, "kind": ref.kind}
        | dict(zip(SUBSCORES, values.tolist(), strict=True))
        | {"score": float(score)}
        for ref, values, score in zip(split.refs, split.subscores, split.score, strict=True)
    ]


def _pair_comfort(scored: ScoredPlans, time_us: int, previous: tuple[ScoredPlans, int] | None) -> float:
    if previous is None:
        return float("nan")
    interval_s = (time_us - previous[1]) * 1e-6
    if not 0 < interval_s <= MAX_PAIR_GAP_S:
        return float("nan")
    return float(extended_comfort(scored.rollouts[0], previous[0].rollouts[0], interval_s))


def _score_logs(
    store: PreparedStore, logs: Sequence[Sequence[SceneRef]], plans: Mapping[str, Floats], config: ScorerConfig
) -> list[SplitScores]:
    return [score_log(store, refs, plans, config) for refs in logs]
