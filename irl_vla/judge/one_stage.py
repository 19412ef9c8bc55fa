"""True EPDMS of plans on a split (one-stage rule).

Nothing here knows a reward: whatever a policy was trained on, this is what judges it.
"""

import logging
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from irl_vla.dataset.scenes import SceneRef
from irl_vla.epdms.comfort import extended_comfort
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import ScoredPlans, final_score, score_plans
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.judge.for_each import ForEach, one_by_one
from irl_vla.scene import FUTURE_FRAMES, SUBSCORES, are_pair

_LOGS_A_TASK: Final = 8
#: Tokens that a warning names.
_NAMED: Final = 10

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
    store: PreparedStore,
    frames: Sequence[FrameId],
    plans: Mapping[str, Floats],
    config: ScorerConfig,
    *,
    for_each: ForEach = one_by_one,
) -> SplitScores:
    """Scores one plan a frame, in parallel over logs.

    Args:
        store: the prepared scenes of the split.
        frames: what to score, any order; frames of a log are paired for EC by time.
        plans: token to (8, 3) plan in the ego frame.
        for_each: where the work runs.

    Raises:
        SceneError: naming every token that has no plan, or an unfit one; nothing is scored then.
    """
    check_plans(frames, plans)
    logs, items = _by_log(frames), {}
    for start in range(0, len(logs), _LOGS_A_TASK):
        part = logs[start : start + _LOGS_A_TASK]
        items[part[0][0].log_name] = part, {frame.token: plans[frame.token] for group in part for frame in group}
    found = dict(for_each("score", partial(_score_logs, store, config), items))
    return _with_warnings(join_scores([scores for name in items for scores in found[name]]))


def score_log(
    store: PreparedStore, frames: Sequence[FrameId], plans: Mapping[str, Floats], config: ScorerConfig
) -> SplitScores:
    """Scores the frames of one log in this process; a frame that is a pair with its predecessor gets EC."""
    scenes = sorted(((store[frame.token], frame) for frame in frames), key=lambda pair: pair[0].time_us)
    filtered, raw, ordered, unscored, previous = [], [], [], {}, None
    for scene, frame in scenes:
        scored = score_plans(scene, np.asarray(plans[frame.token], np.float64)[None], config)
        comfort = _pair_comfort(scored, scene.time_us, previous)
        if scored.failures:  # nor has the next frame EC then, as in the official evaluator
            unscored[frame.token], previous = scored.failures[0], None
            continue
        previous = (scored, scene.time_us)
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


def prepared_frames(store: PreparedStore, frames: Sequence[FrameId], split: str) -> list[FrameId]:
    """The frames whose scenes are prepared; the others are counted and named in a warning.

    Args:
        split: their split, for the warning.

    Raises:
        SceneError: if none is prepared.
    """
    return frames_in(store, frames, f"{split}: among the prepared scenes {store.folder}")


def frames_in(known: Container[str], frames: Sequence[FrameId], where: str) -> list[FrameId]:
    """The frames whose tokens are known; the others are counted and named in a warning.

    Args:
        where: the split, and what knows them.

    Raises:
        SceneError: if none is known.
    """
    kept = [frame for frame in frames if frame.token in known]
    missing = [frame.token for frame in frames if frame.token not in known]
    named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
    if frames and not kept:
        raise SceneError(
            f"split {where}: expected {len(frames)} scenes, found none of them; do they belong to the same split?"
        )
    if missing:
        log.warning("split %s: %d of %d scenes are missing and left out: %s", where, len(missing), len(frames), named)
    return kept


def sampled_frames(frames: Sequence[FrameId], count: int, rng: np.random.Generator) -> list[FrameId]:
    """About ``count`` frames in the order given: those of whole logs, drawn until there are enough, for EC needs pairs.

    All of them if there are fewer.
    """
    logs = _by_log(frames)
    drawn: set[str] = set()
    for index in rng.permutation(len(logs)):
        if len(drawn) >= count:
            break
        drawn.update(frame.token for frame in logs[index])
    return [frame for frame in frames if frame.token in drawn]


def _with_warnings(scores: SplitScores) -> SplitScores:
    """The same scores, after a warning for every plan that has none.

    Raises:
        SceneError: if nothing is left.
    """
    for token, reason in scores.unscored.items():
        log.warning("%s has no score and is left out: %s", token, reason)
    if not scores.frames:
        reasons = "; ".join(f"{token}: {reason}" for token, reason in scores.unscored.items())
        raise SceneError(f"expected scores of plans, found none: {reasons}")
    return scores


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
    store: PreparedStore, config: ScorerConfig, part: tuple[Sequence[Sequence[FrameId]], Mapping[str, Floats]]
) -> list[SplitScores]:
    logs, plans = part
    return [score_log(store, frames, plans, config) for frames in logs]
