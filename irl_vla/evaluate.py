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
import torch
from rich.table import Table

from irl_vla.artifact import atomic_path
from irl_vla.dataset.scenes import SceneRef
from irl_vla.epdms.comfort import extended_comfort
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import ScoredPlans, final_score, score_plans
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.intervals import Interval, group_bootstrap
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.scene import SUBSCORES
from irl_vla.token_bank import ORIGINAL, TokenBank

#: A frame's extended comfort compares it with its predecessor at most this far back (spec section 17).
MAX_PAIR_GAP_S: Final = 0.55
_LOGS_A_TASK: Final = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FrameId:
    """A judged frame: its token, its log, its unit of independence and its scenario."""

    token: str
    log_name: str
    group: str
    kind: str


@dataclass(frozen=True, eq=False)
class SplitScores:
    """Scores of one policy, a row a frame.

    Attributes:
        frames: which.
        subscores: (N, 9) after the human filter, ``SUBSCORES`` order; EC is NaN where a frame has no predecessor.
        score: (N,) final score, in the configured convention of the human filter.
        plans: (N, 8, 3).
    """

    frames: tuple[FrameId, ...]
    subscores: Floats
    score: Floats
    plans: Floats

    @property
    def groups(self) -> list[str]:
        """The unit of independence of every row."""
        return [frame.group for frame in self.frames]

    def means(self) -> dict[str, float]:
        """Mean of every sub-score (EC over the frames that have it, NaN without any) and of the score."""
        known = ~np.isnan(self.subscores)
        count = known.sum(axis=0)
        sums = np.where(known, self.subscores, 0.0).sum(axis=0)
        means = np.divide(sums, count, out=np.full(len(SUBSCORES), np.nan), where=count > 0)
        return dict(zip(SUBSCORES, means.tolist(), strict=True)) | {"epdms": float(self.score.mean())}


def score_split(
    store: PreparedStore, frames: Sequence[FrameId], plans: Mapping[str, Floats], config: ScorerConfig
) -> SplitScores:
    """Scores one plan a frame, in parallel over logs on Ray.

    Args:
        store: the prepared scenes of the split.
        frames: what to score, any order; frames of a log are paired for EC by time.
        plans: token to (8, 3) plan in the ego frame.

    Raises:
        SceneError: naming tokens without a plan, or whose plan is not finite.
    """
    check_plans(frames, plans)
    logs = _by_log(frames)
    task = ray.remote(num_cpus=1)(_score_logs)
    shared = ray.put(store)
    pending = []
    for start in range(0, len(logs), _LOGS_A_TASK):
        part = logs[start : start + _LOGS_A_TASK]
        needed = {frame.token: plans[frame.token] for group in part for frame in group}
        pending.append(task.remote(shared, part, needed, config))
    return join_scores([scores for result in ray.get(pending) for scores in result])


def score_here(
    store: PreparedStore, frames: Sequence[FrameId], plans: Mapping[str, Floats], config: ScorerConfig
) -> SplitScores:
    """As :func:`score_split`, in this process: inside a Ray worker, tasks could wait forever for a free CPU."""
    check_plans(frames, plans)
    return join_scores(_score_logs(store, _by_log(frames), plans, config))


def score_log(
    store: PreparedStore, frames: Sequence[FrameId], plans: Mapping[str, Floats], config: ScorerConfig
) -> SplitScores:
    """Scores the frames of one log in this process; a frame within 0.55 s of its predecessor gets EC."""
    scenes = sorted(((store[frame.token], frame) for frame in frames), key=lambda pair: pair[0].time_us)
    filtered, raw, previous = [], [], None
    for scene, frame in scenes:
        scored = score_plans(scene, np.asarray(plans[frame.token], np.float64)[None], config)
        comfort = _pair_comfort(scored, scene.time_us, previous)
        filtered.append(np.append(scored.filtered[0, :-1], comfort))  # EC stands last and knows no human filter
        raw.append(np.append(scored.raw[0, :-1], comfort))
        previous = (scored, scene.time_us)
    ordered = tuple(frame for _, frame in scenes)
    judged = filtered if config.filter_convention == "corrected" else raw
    return SplitScores(
        frames=ordered,
        subscores=np.stack(filtered),
        score=final_score(np.stack(judged)),
        plans=np.stack([np.asarray(plans[frame.token]) for frame in ordered]),
    )


def join_scores(parts: Sequence[SplitScores]) -> SplitScores:
    """One record out of several disjoint ones."""
    return SplitScores(
        tuple(frame for part in parts for frame in part.frames),
        np.concatenate([part.subscores for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.plans for part in parts]),
    )


def check_plans(frames: Sequence[FrameId], plans: Mapping[str, Floats]) -> None:
    """Raises SceneError naming the frames whose plan is missing, of a wrong shape or not finite."""
    missing = [frame.token for frame in frames if frame.token not in plans]
    if missing:
        raise SceneError(f"{len(missing)} of {len(frames)} frames have no plan, the first: {', '.join(missing[:3])}")
    for frame in frames:
        plan = np.asarray(plans[frame.token])
        if plan.shape != (8, 3) or not np.isfinite(plan).all():
            raise SceneError(f"{frame.token}: expected a finite (8, 3) plan, found shape {plan.shape}: {plan.tolist()}")


def frames_of_refs(refs: Sequence[SceneRef]) -> list[FrameId]:
    """The frames of a data split."""
    return [FrameId(ref.token, ref.log_name, ref.group, ref.kind) for ref in refs]


def frames_of_bank(bank: TokenBank) -> list[FrameId]:
    """The original views of a token bank."""
    columns = (bank.token, bank.log_name, bank.group, bank.kind)
    return [FrameId(*(str(column[row]) for column in columns)) for row in np.flatnonzero(bank.view == ORIGINAL)]


def bank_plans(chain: DenoisingChain, bank: TokenBank, rows_per_batch: int = 128) -> dict[str, Floats]:
    """Deterministic plans for the original views of a bank, by token."""
    plans: dict[str, Floats] = {}
    originals = np.flatnonzero(bank.view == ORIGINAL)
    with torch.inference_mode():
        for start in range(0, len(originals), rows_per_batch):
            rows = originals[start : start + rows_per_batch]
            keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(rows)))
            for row, plan in zip(rows, chain.plans(keys)[:, 0].numpy(), strict=True):
                plans[str(bank.token[row])] = plan.astype(np.float64)
    return plans


def difference(better: SplitScores, baseline: SplitScores, rng: np.random.Generator, samples: int) -> Interval:
    """Paired difference of the final score, frame by frame, with its interval over groups."""
    position = {frame.token: index for index, frame in enumerate(baseline.frames)}
    order = [position[frame.token] for frame in better.frames]
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
        cells = ["none" if np.isnan(float(row[column])) else f"{row[column]:.1f}" for column in SUBSCORES]
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
        {"policy": name, "token": frame.token, "log": frame.log_name, "group": frame.group, "kind": frame.kind}
        | dict(zip(SUBSCORES, values.tolist(), strict=True))
        | {"score": float(score)}
        for frame, values, score in zip(split.frames, split.subscores, split.score, strict=True)
    ]


def _by_log(frames: Sequence[FrameId]) -> list[list[FrameId]]:
    logs: dict[str, list[FrameId]] = defaultdict(list)
    for frame in frames:
        logs[frame.log_name].append(frame)
    return list(logs.values())


def _pair_comfort(scored: ScoredPlans, time_us: int, previous: tuple[ScoredPlans, int] | None) -> float:
    if previous is None:
        return float("nan")
    interval_s = (time_us - previous[1]) * 1e-6
    if not 0 < interval_s <= MAX_PAIR_GAP_S:
        return float("nan")
    return float(extended_comfort(scored.rollouts[0], previous[0].rollouts[0], interval_s))


def _score_logs(
    store: PreparedStore, logs: Sequence[Sequence[FrameId]], plans: Mapping[str, Floats], config: ScorerConfig
) -> list[SplitScores]:
    return [score_log(store, frames, plans, config) for frames in logs]
