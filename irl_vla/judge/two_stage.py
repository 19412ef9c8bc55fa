"""True EPDMS of plans on a two-stage split: NAVSIM's pseudo closed-loop rule, with intervals over layouts.

A pair of first-stage scenes and all second-stage scenes tied to it are scored together: extended comfort compares the
plans of "now" with those of "previous", and the end of a first-stage plan says how much each second-stage scene counts.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import ray
from rich.table import Table

from irl_vla.dataset.splits import StagePair
from irl_vla.epdms.comfort import extended_comfort
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import ScoredPlans, final_score, score_plans
from irl_vla.epdms.store import PreparedStore
from irl_vla.epdms.two_stage import StageGroup, TwoStageScores, aggregate
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats, compose
from irl_vla.judge.intervals import group_bootstrap
from irl_vla.judge.one_stage import FrameId, SplitScores, check_plans, join_scores
from irl_vla.scene import MAX_PAIR_GAP_US, SUBSCORES, are_pair

#: Columns of aggregated values.
COLUMNS: Final = (*SUBSCORES, "epdms")
STAGES: Final = ("combined", "stage_one", "stage_two")
_PAIRS_A_TASK: Final = 4
_WITH_OTHERS: Final = "a scene that it is judged with has no score"
_EC: Final = SUBSCORES.index("ec")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of one policy on both stages.

    Attributes:
        split: a row a scene of either stage, EC from its partner half a second away.
        stages: two groups a pair, of "now" and of "previous"; columns ``COLUMNS`` as shares of 1.
        groups: the unit of independence of every group of ``stages``.
        left_out: scenes that do not count, to the reason: those without a score, and those that are judged with them.
    """

    split: SplitScores
    stages: TwoStageScores
    groups: tuple[str, ...]
    left_out: Mapping[str, str]

    def means(self, stage: str) -> dict[str, float]:
        """Mean of every sub-score and of EPDMS ("epdms") in one of ``STAGES``."""
        return dict(zip(COLUMNS, getattr(self.stages, stage).tolist(), strict=True))

    def scores(self, stage: str) -> Floats:
        """(G,) EPDMS of every group in one of ``STAGES``."""
        values = {"combined": self.stages.product, "stage_one": self.stages.first, "stage_two": self.stages.second}
        return values[stage][:, -1]


def usable_pairs(pairs: Sequence[StagePair], tokens: Iterable[str]) -> tuple[list[StagePair], list[str]]:
    """The pairs as far as their scenes exist, and the tokens that had to be left out.

    A second-stage pair goes with either of its scenes, a first-stage pair with either of its own, or with its last
    second-stage pair.
    """
    known, left_out = frozenset(tokens), []
    usable = []
    for pair in pairs:
        second = tuple(two for two in pair.second if known.issuperset(two))
        whole = bool(second) and known.issuperset((pair.now, pair.previous))
        kept = StagePair(pair.now, pair.previous, second) if whole else None
        remaining = frozenset() if kept is None else frozenset(kept.tokens)
        left_out += [token for token in pair.tokens if token not in remaining]
        if kept is not None:
            usable.append(kept)
    return usable, left_out


def score_pairs(
    store: PreparedStore,
    frames: Sequence[FrameId],
    pairs: Sequence[StagePair],
    plans: Mapping[str, Floats],
    config: ScorerConfig,
) -> PairScores:
    """Scores one plan a scene of both stages, in parallel over pairs on Ray.

    Args:
        store: the prepared scenes of the split.
        frames: those of the pairs, in any order; others are not scored.
        pairs: at least one, of :func:`usable_pairs`.
        plans: token to (8, 3) plan in the ego frame.

    Raises:
        SceneError: naming every token that has no plan, or an unfit one, and pairs that are not half a second apart;
            or if no pair has a score.
    """
    by_token = _checked(frames, pairs, plans)
    task = ray.remote(num_cpus=1)(_score_some)
    shared = ray.put(store)
    pending = []
    for start in range(0, len(pairs), _PAIRS_A_TASK):
        part = pairs[start : start + _PAIRS_A_TASK]
        tokens = [token for pair in part for token in pair.tokens]
        needed = {token: plans[token] for token in tokens}
        pending.append(task.remote(shared, {token: by_token[token] for token in tokens}, part, needed, config))
    return _joined(list(chain.from_iterable(ray.get(pending))))


def score_pairs_here(
    store: PreparedStore,
    frames: Sequence[FrameId],
    pairs: Sequence[StagePair],
    plans: Mapping[str, Floats],
    config: ScorerConfig,
) -> PairScores:
    """As :func:`score_pairs`, in this process."""
    return _joined(_score_some(store, _checked(frames, pairs, plans), pairs, plans, config))


def two_stage_rows(
    scores: Mapping[str, PairScores], against: Sequence[str], samples: int, seed: int
) -> list[dict[str, float | str]]:
    """One row a policy, times 100: the combined result without a prefix, then both stages with theirs.

    Intervals and paired differences (of the combined score) resample groups of independence, not scenes. Differences
    need policies that were scored on the same pairs.
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
                gaps = 100 * (found.scores("combined") - scores[other].scores("combined"))
                gap = group_bootstrap(gaps, found.groups, np.random.default_rng(seed), samples)
                row |= {f"minus_{other}": gap.mean, f"minus_{other}_low": gap.low, f"minus_{other}_high": gap.high}
        rows.append(row)
    return rows


def render_stages(rows: Sequence[Mapping[str, float | str]], title: str, caption: str) -> Table:
    """The rows of :func:`two_stage_rows` as a terminal table with a line a stage."""
    table = Table(title=title, caption=caption, caption_justify="left", title_justify="left")
    table.add_column("policy", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    for column in (*SUBSCORES, "EPDMS", "95 %"):
        table.add_column(column.upper() if column in SUBSCORES else column, justify="right", no_wrap=True)
    for row in rows:
        for stage in (*STAGES[1:], STAGES[0]):
            prefix = "" if stage == "combined" else f"{stage}_"
            cells = [f"{row[prefix + column]:.1f}" for column in SUBSCORES]
            low, high = (row.get(f"{prefix}epdms_{side}") for side in ("low", "high"))
            interval = "one group" if low is None else f"{low:.1f}–{high:.1f}"
            name = str(row["policy"]) if stage == STAGES[1] else ""
            table.add_row(name, stage.replace("_", " "), *cells, f"{row[prefix + 'epdms']:.2f}", interval)
    return table


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """One scene, scored: sub-scores (9,) before and after the human filter, EC still NaN."""

    frame: FrameId
    scored: ScoredPlans
    time_us: int
    plan: Floats
    start: Floats
    endpoint: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _ScoredPair:
    """One pair; no groups where the policy has no score on a first-stage scene or on any of the second stage."""

    split: SplitScores | None
    groups: tuple[StageGroup, ...]
    group: str
    left_out: Mapping[str, str]


def _checked(frames: Sequence[FrameId], pairs: Sequence[StagePair], plans: Mapping[str, Floats]) -> dict[str, FrameId]:
    by_token = {frame.token: frame for frame in frames}
    missing = [token for pair in pairs for token in pair.tokens if token not in by_token]
    if missing or not pairs:
        found = f"{len(missing)} scenes that the split does not have, first {missing[0]}" if missing else "none"
        raise SceneError(f"expected pairs of scenes of a two-stage split, found {found}; prepare the split again")
    check_plans([by_token[token] for pair in pairs for token in pair.tokens], plans)
    return by_token


def _score_some(
    store: PreparedStore,
    by_token: Mapping[str, FrameId],
    pairs: Sequence[StagePair],
    plans: Mapping[str, Floats],
    config: ScorerConfig,
) -> list[_ScoredPair]:
    return [_score_pair(store, by_token, pair, plans, config) for pair in pairs]


def _score_pair(
    store: PreparedStore,
    by_token: Mapping[str, FrameId],
    pair: StagePair,
    plans: Mapping[str, Floats],
    config: ScorerConfig,
) -> _ScoredPair:
    scored = {token: _score(store, by_token[token], plans[token], config) for token in pair.tokens}
    failures = {token: item.scored.failures[0] for token, item in scored.items() if item.scored.failures}
    second = [two for two in pair.second if not failures.keys() & set(two)]
    whole = bool(second) and not failures.keys() & {pair.now, pair.previous}
    group = by_token[pair.now].group
    counted = {pair.now, pair.previous, *chain.from_iterable(second)} if whole else set()
    left_out = {token: failures.get(token, _WITH_OTHERS) for token in pair.tokens if token not in counted}
    if not whole:
        return _ScoredPair(None, (), group, left_out)
    rows: dict[str, tuple[Floats, Floats]] = {}
    for now, previous in ((pair.now, pair.previous), *second):
        comfort = _comfort(scored[now], scored[previous])
        for token in (now, previous):
            rows[token] = _with_comfort(scored[token].scored, comfort)
    judged = {token: after if config.filter_convention == "corrected" else raw for token, (raw, after) in rows.items()}
    score = {token: float(final_score(values)) for token, values in judged.items()}
    values = {token: np.append(after, score[token]) for token, (_, after) in rows.items()}
    groups = [
        StageGroup(
            first=values[first],
            endpoint=scored[first].endpoint,
            second=np.stack([values[token] for token in tokens]),
            start_points=np.stack([scored[token].start for token in tokens]),
        )
        for first, tokens in zip((pair.now, pair.previous), zip(*second, strict=True), strict=True)
    ]
    split = SplitScores(
        frames=tuple(scored[token].frame for token in rows),
        subscores=np.stack([after for _, after in rows.values()]),
        score=np.array(list(score.values())),
        plans=np.stack([scored[token].plan for token in rows]),
        judged=np.stack(list(judged.values())),
    )
    return _ScoredPair(split, tuple(groups), group, left_out)


def _score(store: PreparedStore, frame: FrameId, plan: Floats, config: ScorerConfig) -> _Scored:
    scene = store[frame.token]
    plan = np.asarray(plan, np.float64)
    return _Scored(
        frame=frame,
        scored=score_plans(scene, plan[None], config),
        time_us=scene.time_us,
        plan=plan,
        start=scene.ego_state[:2],
        endpoint=compose(scene.ego_state[:3], plan[-1])[:2],
    )


def _comfort(now: _Scored, previous: _Scored) -> float:
    gap_us = now.time_us - previous.time_us
    if not are_pair(gap_us):
        raise SceneError(
            f"scenes {now.frame.token} and {previous.frame.token}: expected the first to be at most "
            f"{MAX_PAIR_GAP_US / 1e6} s after the second, found {gap_us / 1e6:.3f} s; correct the split's mapping"
        )
    return float(extended_comfort(now.scored.rollouts[0], previous.scored.rollouts[0], gap_us * 1e-6))


def _with_comfort(scored: ScoredPlans, comfort: float) -> tuple[Floats, Floats]:
    raw, after = scored.raw[0].copy(), scored.filtered[0].copy()
    raw[_EC] = after[_EC] = comfort
    return raw, after


def _joined(parts: Sequence[_ScoredPair]) -> PairScores:
    left_out = {token: reason for part in parts for token, reason in part.left_out.items()}
    splits = [part.split for part in parts if part.split is not None]
    if not splits:
        raise SceneError(f"expected scores of pairs, none has one (first: {next(iter(left_out.items()))})")
    for token, reason in left_out.items():
        log.warning("two-stage: scene %s left out: %s", token, reason)
    return PairScores(
        split=join_scores(splits),
        stages=aggregate([group for part in parts for group in part.groups]),
        groups=tuple(part.group for part in parts for _ in part.groups),
        left_out=left_out,
    )


def _paired(left: PairScores, right: PairScores) -> bool:
    same = [frame.token for frame in left.split.frames] == [frame.token for frame in right.split.frames]
    return same and len(set(left.groups)) > 1
