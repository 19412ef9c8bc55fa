"""True EPDMS of plans on a split (one-stage rule), with intervals over layouts.

Nothing here knows a reward: whatever a policy was trained on, this is what judges it.
"""

import csv
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import ray
import torch
from rich.table import Table

from irl_vla.dataset.scenes import SceneRef
from irl_vla.epdms.comfort import extended_comfort
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import ScoredPlans, final_score, score_plans
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.judge.intervals import Interval, group_bootstrap
from irl_vla.ledger.files import atomic_path
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import ORIGINAL, TokenBank
from irl_vla.scene import FUTURE_FRAMES, SUBSCORES, are_pair

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
        judged: (N, 9) the sub-scores that made the score: ``subscores``, or those before the human filter in the
            convention "before".
        unscored: frames without a row, to the reason: in reactive traffic a plan may have no score, and is left out as
            by the official evaluator.
    """

    frames: tuple[FrameId, ...]
    subscores: Floats
    score: Floats
    plans: Floats
    judged: Floats
    unscored: Mapping[str, str] = field(default_factory=dict)

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
        SceneError: naming every token that has no plan, or an unfit one; nothing is scored then.
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
    return _told(join_scores([scores for result in ray.get(pending) for scores in result]))


def score_here(
    store: PreparedStore, frames: Sequence[FrameId], plans: Mapping[str, Floats], config: ScorerConfig
) -> SplitScores:
    """As :func:`score_split`, in this process: inside a Ray worker, tasks could wait forever for a free CPU."""
    check_plans(frames, plans)
    return _told(join_scores(_score_logs(store, _by_log(frames), plans, config)))


def score_log(
    store: PreparedStore, frames: Sequence[FrameId], plans: Mapping[str, Floats], config: ScorerConfig
) -> SplitScores:
    """Scores the frames of one log in this process; a frame that is a pair with its predecessor gets EC."""
    scenes = sorted(((store[frame.token], frame) for frame in frames), key=lambda pair: pair[0].time_us)
    filtered, raw, ordered, unscored, previous = [], [], [], {}, None
    for scene, frame in scenes:
        scored = score_plans(scene, np.asarray(plans[frame.token], np.float64)[None], config)
        comfort = _pair_comfort(scored, scene.time_us, previous)
        previous = (scored, scene.time_us)
        if scored.failures:
            unscored[frame.token] = scored.failures[0]
            continue
        ordered.append(frame)
        filtered.append(np.append(scored.filtered[0, :-1], comfort))  # EC stands last and knows no human filter
        raw.append(np.append(scored.raw[0, :-1], comfort))
    shape = (len(ordered), len(SUBSCORES))
    judged = np.reshape(filtered if config.filter_convention == "corrected" else raw, shape)
    return SplitScores(
        frames=tuple(ordered),
        subscores=np.reshape(filtered, shape),
        score=final_score(judged),
        plans=np.reshape([plans[frame.token] for frame in ordered], (len(ordered), FUTURE_FRAMES, 3)),
        judged=judged,
        unscored=unscored,
    )


def join_scores(parts: Sequence[SplitScores]) -> SplitScores:
    """One record out of several disjoint ones."""
    return SplitScores(
        tuple(frame for part in parts for frame in part.frames),
        np.concatenate([part.subscores for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.plans for part in parts]),
        np.concatenate([part.judged for part in parts]),
        {token: reason for part in parts for token, reason in part.unscored.items()},
    )


def check_plans(frames: Sequence[FrameId], plans: Mapping[str, Floats]) -> None:
    """Refuses to judge a policy on a part of the frames.

    Raises:
        SceneError: naming every frame whose plan is missing, of a wrong shape or not finite.
    """
    unfit = unfit_plans(frames, plans)
    if unfit:
        by_reason: dict[str, list[str]] = defaultdict(list)
        for token, reason in unfit.items():
            by_reason[reason].append(token)
        shown = "; ".join(f"{reason}: {', '.join(tokens)}" for reason, tokens in by_reason.items())
        raise SceneError(
            f"{len(unfit)} of {len(frames)} frames have no usable plan ({shown}); look at the planner that made them"
        )


def unfit_plans(frames: Sequence[FrameId], plans: Mapping[str, Floats]) -> dict[str, str]:
    """What is wrong with the plan of every frame that cannot be scored, by token.

    Leaving such frames out may move the score of their successors, which then have no EC.
    """
    found = {frame.token: _unfit(plans.get(frame.token)) for frame in frames}
    return {token: reason for token, reason in found.items() if reason is not None}


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
    """Paired difference of the final score over the frames that both have, with its interval over groups.

    Raises:
        ValueError: if the common frames are of fewer than two groups.
    """
    position = {frame.token: index for index, frame in enumerate(baseline.frames)}
    common = [index for index, frame in enumerate(better.frames) if frame.token in position]
    order = [position[better.frames[index].token] for index in common]
    groups = [better.frames[index].group for index in common]
    return group_bootstrap(better.score[common] - baseline.score[order], groups, rng, samples)


def result_rows(
    scores: Mapping[str, SplitScores], against: Sequence[str], samples: int, seed: int
) -> list[dict[str, float | str]]:
    """One row a policy: sub-scores, EPDMS with its interval, and paired differences to the policies in ``against``.

    Differences are over the frames that both policies were judged on; none is given without two groups of them.

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
                if other in scores and other != name and _common_groups(split, scores[other]) > 1:
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


def _told(scores: SplitScores) -> SplitScores:
    """The scores, after saying what is left out of them.

    Raises:
        SceneError: if nothing is left.
    """
    for token, reason in scores.unscored.items():
        log.warning("%s has no score and is left out: %s", token, reason)
    if not scores.frames:
        reasons = "; ".join(f"{token}: {reason}" for token, reason in scores.unscored.items())
        raise SceneError(f"expected scores of plans, found none: {reasons}")
    return scores


def _common_groups(left: SplitScores, right: SplitScores) -> int:
    tokens = {frame.token for frame in right.frames}
    return len({frame.group for frame in left.frames if frame.token in tokens})


def _unfit(plan: Floats | None) -> str | None:
    if plan is None:
        return "no plan"
    values = np.asarray(plan)
    if values.shape != (FUTURE_FRAMES, 3):
        return f"expected a plan of shape ({FUTURE_FRAMES}, 3), found {values.shape}"
    return None if np.isfinite(values).all() else "expected a finite plan, found NaN or infinity"


def _by_log(frames: Sequence[FrameId]) -> list[list[FrameId]]:
    logs: dict[str, list[FrameId]] = defaultdict(list)
    for frame in frames:
        logs[frame.log_name].append(frame)
    return list(logs.values())


def _pair_comfort(scored: ScoredPlans, time_us: int, previous: tuple[ScoredPlans, int] | None) -> float:
    if previous is None:
        return float("nan")
    gap_us = time_us - previous[1]
    if not are_pair(gap_us):
        return float("nan")
    return float(extended_comfort(scored.rollouts[0], previous[0].rollouts[0], gap_us * 1e-6))


def _score_logs(
    store: PreparedStore, logs: Sequence[Sequence[FrameId]], plans: Mapping[str, Floats], config: ScorerConfig
) -> list[SplitScores]:
    return [score_log(store, frames, plans, config) for frames in logs]
