"""The main golden set: scenes with 29 plans each, in replayed traffic and, a few, in recorded reactive traffic."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from irl_vla.epdms.comfort import comfort_flags
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.golden_records import Row, by_scene, load_scenes, read_rows, tracks_from
from irl_vla.epdms.progress import normalise_progress, progress
from irl_vla.epdms.records import ROLLOUT_STEPS
from irl_vla.epdms.road_rules import AREA_NAMES, MULTIPLE_LANES, NON_DRIVABLE, ONCOMING
from irl_vla.epdms.rollout import interpolate_plans, interpolate_reference, simulate
from irl_vla.epdms.scorer import (
    ScoredPlans,
    ScoringContext,
    final_score,
    score_in_context,
    scoring_context,
    with_traffic,
)
from irl_vla.epdms.subscores import score_rollouts
from irl_vla.judge.official.observation import (
    EXACT,
    PROGRESS,
    REPORTED,
    SCORE,
    STATE,
    Observation,
    column,
    plans_of,
)
from irl_vla.scene import OFFICIAL_SUBSCORES

#: Names of the sub-scores in the evaluator's own tables.
LONG_NAMES: Final = tuple(OFFICIAL_SUBSCORES.values())


def check_results(folder: Path) -> Iterator[Observation]:
    """Scenes with their plans in replayed traffic, and what the plans are compared with."""
    scenes, results = load_scenes(folder), by_scene(read_rows(folder, "results"))
    for row in read_rows(folder, "scenes"):
        context = scoring_context(scenes[row["scene_id"]])
        rows = results[row["scene_id"]]
        scored = score_in_context(context, plans_of(rows), ScorerConfig())
        yield from _subscore_columns(context, scored, rows)
        yield from _trace_columns(context, scored, rows)
        yield from _rival_columns(context, scored, row, rows)


def _subscore_columns(context: ScoringContext, scored: ScoredPlans, rows: Sequence[Row]) -> Iterator[Observation]:
    for kind, values in (("raw", scored.raw), ("filt", scored.filtered)):
        for index, name in enumerate(REPORTED):
            tolerance = SCORE if name == "ep" else EXACT
            yield Observation(f"results.{kind}_{name}", values[:, index], column(rows, f"{kind}_{name}"), tolerance)
        product = values[:, :4].prod(axis=-1)
        yield Observation(f"results.{kind}_mult", product, column(rows, f"{kind}_mult"))
    weighted = np.concatenate([scored.filtered[:, 4:8], np.zeros((len(rows), 1))], axis=-1)
    yield Observation("results.filt_weighted_metrics", weighted, column(rows, "filt_weighted_metrics"), SCORE)
    before = score_in_context(context, plans_of(rows), ScorerConfig(filter_convention="before"))
    yield Observation("results.raw_pdm_score", final_score(scored.raw), column(rows, "raw_pdm_score"), SCORE)
    yield Observation("results.filt_pdm_score_column", before.score, column(rows, "filt_pdm_score_column"), SCORE)
    yield Observation("results.final_ec_nan", scored.score, column(rows, "final_ec_nan"), SCORE)
    for ec in (0.0, 1.0):
        filled = scored.filtered.copy()
        filled[:, 8] = ec
        name = f"final_ec{ec:.0f}"
        yield Observation(f"results.{name}", final_score(filled), column(rows, name), SCORE)


def _trace_columns(context: ScoringContext, scored: ScoredPlans, rows: Sequence[Row]) -> Iterator[Observation]:
    yield Observation("results.progress_raw", scored.progress_m, column(rows, "progress_raw"), PROGRESS)
    yield Observation("results.collision_time_idx", scored.collision_step, column(rows, "collision_time_idx"))
    yield Observation("results.ttc_time_idx", scored.ttc_step, column(rows, "ttc_time_idx"))
    for flag in (MULTIPLE_LANES, NON_DRIVABLE, ONCOMING):
        name = f"mask_{AREA_NAMES[flag]}"
        recorded = np.array([[row[name] >> step & 1 for step in range(ROLLOUT_STEPS)] for row in rows])
        yield Observation(f"results.{name}", scored.areas[:, :, flag], recorded)
    past = np.broadcast_to(context.history, (len(rows), *context.history.shape))
    flags = comfort_flags(np.concatenate([past, scored.rollouts], axis=1))
    yield Observation("results.comfort6", flags, column(rows, "comfort6"))
    yield Observation("results.sim_end", scored.rollouts[:, -1], column(rows, "sim_end"), STATE)


def _rival_columns(
    context: ScoringContext, scored: ScoredPlans, row: Row, rows: Sequence[Row]
) -> Iterator[Observation]:
    scene = context.scene
    path = interpolate_reference(scene.time_us, scene.reference_poses)
    rollout = simulate(scene.ego_state, path[None])
    scores = score_rollouts(rollout, context.roads, context.objects, context.lights)
    yield Observation("scenes.pdm_sim_end", rollout[0, -1], np.array(row["pdm_sim_end"]), STATE)
    yield Observation("scenes.pdm_progress_raw", scores.progress_m, [row["pdm_progress_raw"]], PROGRESS)
    yield Observation("results.pdm_mult", np.full(len(rows), scores.multiplier[0]), column(rows, "pdm_mult"))
    discrete = [scores.nc, scores.dac, scores.ddc, scores.tlc, scores.ttc, scores.lk]
    recorded = np.array(row["pdm_scores"])
    yield Observation("scenes.pdm_scores", np.concatenate(discrete), recorded[[0, 1, 2, 3, 5, 6]])
    rivals = scored.progress_m * scored.raw[:, :4].prod(axis=-1)
    ep = normalise_progress(scores.progress_m, scores.multiplier, rivals[0])
    yield Observation("scenes.pdm_scores.ep", ep, recorded[4:5], SCORE)
    best = max(context.reference_m, float(rivals.max()))
    batch = normalise_progress(scored.progress_m, np.zeros(len(rows)), best)
    yield Observation("results.batch_ep", batch, column(rows, "batch_ep"), SCORE)
    together = scored.raw.copy()
    together[:, 4] = batch
    yield Observation("results.batch_pdm_score", final_score(together), column(rows, "batch_pdm_score"), SCORE)
    if scene.human_plan is not None and context.human is not None:
        rollout = simulate(scene.ego_state, interpolate_plans(scene.time_us, scene.ego_state, scene.human_plan[None]))
        metres = progress(rollout, scene.centerline)
        yield Observation("scenes.human_scores", context.human[:8], row["human_scores"])
        yield Observation("scenes.human_progress_raw", metres, [row["human_progress_raw"]], PROGRESS)


def check_reactive(folder: Path) -> Iterator[Observation]:
    """Some of the plans in recorded reactive traffic."""
    scenes, plans = load_scenes(folder), {}
    for row in read_rows(folder, "results"):
        plans[row["scene_id"], row["candidate"]] = row
    traffic: dict[tuple[str, str, str], list[Row]] = {}
    for row in read_rows(folder, "reactive_tracks"):
        traffic.setdefault((row["scene_id"], row["candidate"], row["role"]), []).append(row)
    for row in read_rows(folder, "reactive_results"):
        key = row["scene_id"], row["candidate"]
        context = scoring_context(scenes[row["scene_id"]])
        human = tracks_from(traffic.get((*key, "human"), []))
        context = with_traffic(context, tracks_from(traffic.get((*key, "candidate"), [])), human)
        scored = score_in_context(context, plans_of([plans[key]]), ScorerConfig())
        for kind, values in (("raw", scored.raw), ("filt", scored.filtered)):
            for index, name in enumerate(REPORTED):
                tolerance = SCORE if name == "ep" else EXACT
                recorded = [row[f"{kind}_{LONG_NAMES[index]}"]]
                yield Observation(f"reactive.{kind}_{name}", values[:, index], recorded, tolerance)
            product = values[:, :4].prod(axis=-1)
            yield Observation(f"reactive.{kind}_mult", product, [row[f"{kind}_multiplicative_metrics_prod"]])
            # The evaluator's column stays unfiltered.
            yield Observation("reactive.pdm_score", final_score(scored.raw), [row[f"{kind}_pdm_score"]], SCORE)
        yield Observation("reactive.progress_raw", scored.progress_m, [row["progress_raw"]], PROGRESS)
        if row["human"] is not None and context.human is not None:
            yield Observation("reactive.human", context.human[:8], row["human"])


def check_rollouts(folder: Path) -> Iterator[Observation]:
    """Interpolated and simulated states of some of the plans and of the reference."""
    scenes = load_scenes(folder)
    poses = {(row["scene_id"], row["candidate"]): row for row in read_rows(folder, "results")}
    for row in read_rows(folder, "sim_states"):
        scene = scenes[row["scene_id"]]
        if row["candidate"] == "__pdm__":
            path = interpolate_reference(scene.time_us, scene.reference_poses)[None]
        else:
            plans = plans_of([poses[row["scene_id"], row["candidate"]]])
            path = interpolate_plans(scene.time_us, scene.ego_state, plans)
        yield Observation("sim_states.reference", path.ravel(), row["reference"], STATE)
        yield Observation("sim_states.states", simulate(scene.ego_state, path).ravel(), row["states"], STATE)
