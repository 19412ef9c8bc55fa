"""EPDMS of NAVSIM v2.2: plans in, sub-scores and scores out.

A context holds what does not depend on the plan (geometry, traffic, the reference's and the human's results); build it
once where a scene is scored more than once. EP of a plan is normalised against the reference and itself, so a plan's
result never depends on the others in its batch.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final

import numpy as np

from irl_vla.epdms.collision import Occupancy, RedLights, occupancy_of, red_lights, replay_tracks
from irl_vla.epdms.comfort import history_comfort, history_rows
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.polygons import Bools, Ints
from irl_vla.epdms.progress import normalise_progress
from irl_vla.epdms.records import ROLLOUT_STEPS, PreparedScene, Tracks
from irl_vla.epdms.road_rules import AREA_NAMES, RoadGeometry, road_geometry
from irl_vla.epdms.rollout import interpolate_plans, interpolate_reference, simulate
from irl_vla.epdms.subscores import RolloutScores, score_rollouts
from irl_vla.epdms.traffic import reactive_tracks, require_start
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.scene import FUTURE_FRAMES, SUBSCORES

#: Weights of EP, TTC, LK, HC and EC; NC, DAC, DDC and TLC multiply.
METRIC_WEIGHTS: Final = (5.0, 5.0, 2.0, 2.0, 2.0)
_MULTIPLIERS: Final = 4  # SUBSCORES starts with the multiplying ones

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ScoringContext:
    """One scene, ready to score plans.

    Attributes:
        scene: where it comes from.
        roads, lights, objects: what the kernels read; ``objects`` is the traffic of the plans.
        history: (n, 11) rows of comfort history.
        reference_m: reference's progress times its multiplier, the rival in EP, in this traffic.
        human: (9,) raw sub-scores of the human plan (EC is NaN), None without a human.
    """

    scene: PreparedScene
    roads: RoadGeometry
    lights: RedLights
    objects: Occupancy
    history: Floats
    reference_m: float
    human: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPlans:
    """Results of P plans.

    Attributes:
        raw, filtered: (P, 9) sub-scores in the order of ``SUBSCORES`` before and after the human filter; EC is NaN.
        score: (P,) final score by the one-stage rule with EC missing, in the configured convention.
        rollouts: (P, 41, 11) simulated states, global.
        progress_m: (P,) raw progress along the centreline.
        human: (9,) raw sub-scores of the human plan or None.
        collision_step, ttc_step: (P,) first step of an at-fault collision and of a TTC violation, or -1.
        areas: (P, 41, 5) flags in the order of ``road_rules.AREA_NAMES``.
        failures: row of a plan without a score to the reason, which names the token. Only reactive traffic fails, where
            the official evaluator does; the row's sub-scores, progress and score are NaN.
    """

    raw: Floats
    filtered: Floats
    score: Floats
    rollouts: Floats
    progress_m: Floats
    human: Floats | None
    collision_step: Ints
    ttc_step: Ints
    areas: Bools
    failures: Mapping[int, str] = field(default_factory=dict)


def scoring_context(scene: PreparedScene) -> ScoringContext:
    """Prepares a scene with log-replay traffic: tracks that touch the ego at the start are removed."""
    traffic = occupancy_of(replay_tracks(scene.tracks, scene.ego_state[:3]))
    context = ScoringContext(
        scene=scene,
        roads=road_geometry(scene.polygons, scene.polygon_layer, scene.polygon_on_route, scene.centerline),
        lights=red_lights(scene.red_lights, scene.red_active),
        objects=traffic,
        history=history_rows(scene.history_time_us, scene.history_states),
        reference_m=0.0,
        human=None,
    )
    return _with_rivals(context, traffic, traffic)


def with_traffic(context: ScoringContext, traffic: Tracks, human_traffic: Tracks | None = None) -> ScoringContext:
    """Replaces log replay by simulated traffic, from which nothing is removed.

    Args:
        context: of the scene.
        traffic: tracks in which plans are scored from now on (reactive traffic differs from plan to plan); the
            reference is scored again in them.
        human_traffic: tracks in which the human is scored again; None keeps the human's present result.
    """
    objects = occupancy_of(traffic)
    if human_traffic is None or human_traffic is traffic:
        return _with_rivals(context, objects, None if human_traffic is None else objects)
    return _with_rivals(context, objects, occupancy_of(human_traffic))


def score_plans(scene: PreparedScene, plans: Floats, config: ScorerConfig) -> ScoredPlans:
    """Scores plans.

    Args:
        scene: prepared scene.
        plans: (P, 8, 3) poses relative to the current rear axle at 0.5 .. 4.0 s.
        config: options.

    Raises:
        SceneError: naming the token, if plans are of another shape or not finite, or if reactive traffic is asked for
            and the scene does not know its lanes.
    """
    return score_in_context(scoring_context(scene), plans, config)


def score_in_context(context: ScoringContext, plans: Floats, config: ScorerConfig) -> ScoredPlans:
    """:func:`score_plans` for a scene that is scored repeatedly.

    With ``config.traffic`` "replay" plans are scored in the traffic of the context (replayed, unless
    :func:`with_traffic` put another in its place); "reactive" simulates traffic for each of them and for the human.
    """
    scene = context.scene
    plans = _checked(plans, scene.token)
    rollouts = simulate(scene.ego_state, interpolate_plans(scene.time_us, scene.ego_state, plans))
    human, failures = context.human, dict[int, str]()
    if config.traffic == "reactive":
        scores, raw, human, failures = _judge_reactively(context, rollouts, human_filter=config.human_filter)
    else:
        scores, raw = _judge(context, rollouts)
    filtered = raw
    if config.human_filter and human is not None:
        filtered = np.where((human == 0.0) & ~np.isnan(raw), 1.0, raw)
    return ScoredPlans(
        raw=raw,
        filtered=filtered,
        score=final_score(filtered if config.filter_convention == "corrected" else raw),
        rollouts=rollouts,
        progress_m=scores.progress_m,
        human=human,
        collision_step=scores.collision_step,
        ttc_step=scores.ttc_step,
        areas=scores.areas,
        failures=failures,
    )


def final_score(subscores: Floats) -> Floats:
    """Combines sub-scores (..., 9) in the order of ``SUBSCORES`` to scores (...) in [0, 1].

    A sum over 16 with EC; where EC is NaN its weight is left out (one-stage rule, sum over 14).
    """
    subscores = np.asarray(subscores, np.float64)
    weighted = subscores[..., _MULTIPLIERS:]
    weights = np.where(np.isnan(weighted), 0.0, METRIC_WEIGHTS)
    # Only EC may be missing; a NaN elsewhere is left to spoil the score visibly.
    weights[..., :-1] = METRIC_WEIGHTS[:-1]
    values = np.concatenate([weighted[..., :-1], np.nan_to_num(weighted[..., -1:])], axis=-1)
    mean = (weights * values).sum(axis=-1) / weights.sum(axis=-1)
    score: Floats = subscores[..., :_MULTIPLIERS].prod(axis=-1) * mean
    return score


def _checked(plans: Floats, token: str) -> Floats:
    plans = np.asarray(plans, np.float64)
    if plans.ndim != 3 or plans.shape[1:] != (FUTURE_FRAMES, 3):
        raise SceneError(f"scene {token}: expected plans of shape (P, {FUTURE_FRAMES}, 3), found {plans.shape}")
    finite = np.isfinite(plans).all(axis=(1, 2))
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise SceneError(
            f"scene {token}: expected finite plans, found NaN or infinity in {len(rows)} of {len(plans)} "
            f"(first: row {rows[0]}); look at the planner that made them"
        )
    return plans


def _with_rivals(context: ScoringContext, objects: Occupancy, human_objects: Occupancy | None) -> ScoringContext:
    """The context with the given traffic and, in it, the results that plans are compared with."""
    scene, human = context.scene, context.human
    paths = [interpolate_reference(scene.time_us, scene.reference_poses)[None]]
    if scene.human_plan is not None and human_objects is not None:
        paths.append(interpolate_plans(scene.time_us, scene.ego_state, scene.human_plan[None]))
    rollouts = simulate(scene.ego_state, np.concatenate(paths))
    scores = _score(context, objects, rollouts)
    rival = float((scores.progress_m * scores.multiplier)[0])
    if len(paths) > 1 and human_objects is not None:
        if human_objects is not objects:
            scores = _score(context, human_objects, rollouts)
        # Scored alone and without history: EP compares the human with itself, and HC is granted.
        human = _subscores(scores, normalise_progress(scores.progress_m, scores.multiplier, 0.0), np.ones(2))[1]
    return replace(context, objects=objects, reference_m=rival, human=human)


def _judge(context: ScoringContext, rollouts: Floats) -> tuple[RolloutScores, Floats]:
    """Details and raw sub-scores (P, 9) of rollouts in the traffic of the context."""
    scores = _score(context, context.objects, rollouts)
    ep = normalise_progress(scores.progress_m, scores.multiplier, context.reference_m)
    return scores, _subscores(scores, ep, history_comfort(rollouts, context.history))


def _judge_reactively(
    context: ScoringContext, rollouts: Floats, *, human_filter: bool
) -> tuple[RolloutScores, Floats, Floats | None, dict[int, str]]:
    """As :func:`_judge`, each rollout in its own traffic; also the human's sub-scores in theirs, and failures by row.

    The human's traffic is simulated for the filter alone; where that fails, no plan has a score.
    """
    scene = context.scene
    require_start(scene)
    if not len(rollouts):
        return *_judge(context, rollouts), None, {}
    human, spoilt = None, ""
    if human_filter and scene.human_plan is not None:
        path = interpolate_plans(scene.time_us, scene.ego_state, scene.human_plan[None])
        tracks = _traffic_or_reason(scene, simulate(scene.ego_state, path)[0])
        if isinstance(tracks, str):
            spoilt = f"{tracks} (with the human plan, which every plan is compared with)"
        else:
            human = with_traffic(context, tracks, tracks).human
    parts: list[tuple[RolloutScores, Floats]] = []
    failures: dict[int, str] = {}
    for row in range(len(rollouts)):
        one = rollouts[row : row + 1]
        tracks = spoilt or _traffic_or_reason(scene, one[0])
        if isinstance(tracks, str):
            failures[row] = tracks
            log.warning("plan %d has no score: %s", row, tracks)
            parts.append(_unscored())
        else:
            parts.append(_judge(with_traffic(context, tracks), one))
    scores = RolloutScores(
        **{item.name: np.concatenate([getattr(part, item.name) for part, _ in parts]) for item in fields(RolloutScores)}
    )
    return scores, np.concatenate([raw for _, raw in parts]), human, failures


def _traffic_or_reason(scene: PreparedScene, rollout: Floats) -> Tracks | str:
    """Reactive traffic around a rollout, or why there is none: a plan that fails must not take others with it."""
    try:
        return reactive_tracks(scene, rollout)
    except SceneError as error:
        return str(error)


def _unscored() -> tuple[RolloutScores, Floats]:
    """In place of the results of one plan that has none."""
    unknown, never = np.full(1, np.nan), np.full(1, -1)
    areas = np.zeros((1, ROLLOUT_STEPS, len(AREA_NAMES)), np.bool_)
    scores = RolloutScores(unknown, unknown, unknown, unknown, unknown, unknown, unknown, never, never, areas)
    return scores, np.full((1, len(SUBSCORES)), np.nan)


def _score(context: ScoringContext, objects: Occupancy, rollouts: Floats) -> RolloutScores:
    return score_rollouts(rollouts, context.roads, objects, context.lights)


def _subscores(scores: RolloutScores, ep: Floats, hc: Floats) -> Floats:
    columns = {
        "nc": scores.nc,
        "dac": scores.dac,
        "ddc": scores.ddc,
        "tlc": scores.tlc,
        "ep": ep,
        "ttc": scores.ttc,
        "lk": scores.lk,
        "hc": hc,
        "ec": np.full(len(hc), np.nan),
    }
    return np.stack([columns[name] for name in SUBSCORES], axis=-1)
