"""Agreement with the official evaluator: ``python -m irl_vla.epdms.golden DIR``.

``DIR`` holds inputs and outputs of the official evaluator as Parquet and JSON files. Every recorded column is computed
again and compared; the exit status is 1 if any value lies beyond its tolerance.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from irl_vla.epdms.collision import (
    AHEAD_RAD,
    BEHIND_RAD,
    CollisionType,
    Occupancy,
    angle_to,
    collision_type,
    occupancy,
    red_lights,
)
from irl_vla.epdms.comfort import COMFORT_NAMES, comfort_flags, comfort_signals, extended_comfort, extended_comfort_rms
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.golden_records import NO_POLYGONS, Row, by_scene, load_scenes, polygons_from, read_rows, tracks_from
from irl_vla.epdms.polygons import boxes_intersect, fill_ego_box
from irl_vla.epdms.progress import normalise_progress, progress
from irl_vla.epdms.records import POLYGON_LAYERS, ROLLOUT_STEPS
from irl_vla.epdms.road_rules import AREA_NAMES, MULTIPLE_LANES, NON_DRIVABLE, ONCOMING, road_geometry
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
from irl_vla.epdms.two_stage import StageGroup, aggregate, second_stage_weights
from irl_vla.errors import CheckpointError, IrlVlaError
from irl_vla.geometry import Floats
from irl_vla.scene import OBJECT_NAMES

EXACT: Final = 0.0
_STATE: Final = 1e-8
_PROGRESS: Final = 1e-7
_SCORE: Final = 1e-9
_SIGNAL: Final = 2e-8  # two units of the evaluator's rounding
_REPORTED: Final = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")
_LONG_NAMES: Final = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
    "ego_progress",
    "time_to_collision_within_bound",
    "lane_keeping",
    "history_comfort",
    "two_frame_extended_comfort",
)


@dataclass(frozen=True, slots=True)
class Observation:
    """Computed and recorded values of one column; ``tolerance`` is absolute, NaN equals NaN."""

    column: str
    found: Any
    expected: Any
    tolerance: float = EXACT


@dataclass(frozen=True, slots=True)
class Comparison:
    """Agreement in one column over all its rows."""

    column: str
    rows: int
    mismatches: int
    largest: float


def compare_folder(folder: Path) -> list[Comparison]:
    """Computes everything recorded in a folder again and compares it, column by column."""
    grouped: dict[str, list[tuple[int, int, float]]] = {}
    for check in _CHECKS:
        for item in check(folder):
            grouped.setdefault(item.column, []).append(_compare(item))
    return [
        Comparison(column, sum(r for r, _, _ in parts), sum(m for _, m, _ in parts), max(d for _, _, d in parts))
        for column, parts in grouped.items()
    ]


def _compare(item: Observation) -> tuple[int, int, float]:
    found, expected = np.asarray(item.found, np.float64), np.asarray(item.expected, np.float64)
    if found.shape != expected.shape:
        raise CheckpointError(f"{item.column}: expected shape {expected.shape}, computed {found.shape}")
    difference = np.abs(found - expected)
    difference[np.isnan(found) & np.isnan(expected)] = 0.0
    return difference.size, int(np.sum(~(difference <= item.tolerance))), float(np.max(difference, initial=0.0))


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows], np.float64)


def _plans(rows: Sequence[Row], name: str = "poses") -> Floats:
    return _column(rows, name).reshape(-1, 8, 3)


def _check_results(folder: Path) -> Iterator[Observation]:
    scenes, results = load_scenes(folder), by_scene(read_rows(folder, "results"))
    for row in read_rows(folder, "scenes"):
        context = scoring_context(scenes[row["scene_id"]])
        rows = results[row["scene_id"]]
        scored = score_in_context(context, _plans(rows), ScorerConfig())
        yield from _subscore_columns(context, scored, rows)
        yield from _trace_columns(context, scored, rows)
        yield from _rival_columns(context, scored, row, rows)


def _subscore_columns(context: ScoringContext, scored: ScoredPlans, rows: Sequence[Row]) -> Iterator[Observation]:
    for kind, values in (("raw", scored.raw), ("filt", scored.filtered)):
        for index, name in enumerate(_REPORTED):
            tolerance = _SCORE if name == "ep" else EXACT
            yield Observation(f"results.{kind}_{name}", values[:, index], _column(rows, f"{kind}_{name}"), tolerance)
        product = values[:, :4].prod(axis=-1)
        yield Observation(f"results.{kind}_mult", product, _column(rows, f"{kind}_mult"))
    weighted = np.concatenate([scored.filtered[:, 4:8], np.zeros((len(rows), 1))], axis=-1)
    yield Observation("results.filt_weighted_metrics", weighted, _column(rows, "filt_weighted_metrics"), _SCORE)
    before = score_in_context(context, _plans(rows), ScorerConfig(filter_convention="before"))
    yield Observation("results.raw_pdm_score", final_score(scored.raw), _column(rows, "raw_pdm_score"), _SCORE)
    yield Observation("results.filt_pdm_score_column", before.score, _column(rows, "filt_pdm_score_column"), _SCORE)
    yield Observation("results.final_ec_nan", scored.score, _column(rows, "final_ec_nan"), _SCORE)
    for ec in (0.0, 1.0):
        filled = scored.filtered.copy()
        filled[:, 8] = ec
        name = f"final_ec{ec:.0f}"
        yield Observation(f"results.{name}", final_score(filled), _column(rows, name), _SCORE)


def _trace_columns(context: ScoringContext, scored: ScoredPlans, rows: Sequence[Row]) -> Iterator[Observation]:
    yield Observation("results.progress_raw", scored.progress_m, _column(rows, "progress_raw"), _PROGRESS)
    yield Observation("results.collision_time_idx", scored.collision_step, _column(rows, "collision_time_idx"))
    yield Observation("results.ttc_time_idx", scored.ttc_step, _column(rows, "ttc_time_idx"))
    for flag in (MULTIPLE_LANES, NON_DRIVABLE, ONCOMING):
        name = f"mask_{AREA_NAMES[flag]}"
        recorded = np.array([[row[name] >> step & 1 for step in range(ROLLOUT_STEPS)] for row in rows])
        yield Observation(f"results.{name}", scored.areas[:, :, flag], recorded)
    past = np.broadcast_to(context.history, (len(rows), *context.history.shape))
    flags = comfort_flags(np.concatenate([past, scored.rollouts], axis=1))
    yield Observation("results.comfort6", flags, _column(rows, "comfort6"))
    yield Observation("results.sim_end", scored.rollouts[:, -1], _column(rows, "sim_end"), _STATE)


def _rival_columns(
    context: ScoringContext, scored: ScoredPlans, row: Row, rows: Sequence[Row]
) -> Iterator[Observation]:
    scene = context.scene
    path = interpolate_reference(scene.time_us, scene.reference_poses)
    rollout = simulate(scene.ego_state, path[None])
    scores = score_rollouts(rollout, context.roads, context.objects, context.lights)
    yield Observation("scenes.pdm_sim_end", rollout[0, -1], np.array(row["pdm_sim_end"]), _STATE)
    yield Observation("scenes.pdm_progress_raw", scores.progress_m, [row["pdm_progress_raw"]], _PROGRESS)
    yield Observation("results.pdm_mult", np.full(len(rows), scores.multiplier[0]), _column(rows, "pdm_mult"))
    discrete = [scores.nc, scores.dac, scores.ddc, scores.tlc, scores.ttc, scores.lk]
    recorded = np.array(row["pdm_scores"])
    yield Observation("scenes.pdm_scores", np.concatenate(discrete), recorded[[0, 1, 2, 3, 5, 6]])
    rivals = scored.progress_m * scored.raw[:, :4].prod(axis=-1)
    ep = normalise_progress(scores.progress_m, scores.multiplier, rivals[0])
    yield Observation("scenes.pdm_scores.ep", ep, recorded[4:5], _SCORE)
    best = max(context.reference_m, float(rivals.max()))
    batch = normalise_progress(scored.progress_m, np.zeros(len(rows)), best)
    yield Observation("results.batch_ep", batch, _column(rows, "batch_ep"), _SCORE)
    together = scored.raw.copy()
    together[:, 4] = batch
    yield Observation("results.batch_pdm_score", final_score(together), _column(rows, "batch_pdm_score"), _SCORE)
    if scene.human_plan is not None and context.human is not None:
        rollout = simulate(scene.ego_state, interpolate_plans(scene.time_us, scene.ego_state, scene.human_plan[None]))
        metres = progress(rollout, scene.centerline)
        yield Observation("scenes.human_scores", context.human[:8], row["human_scores"])
        yield Observation("scenes.human_progress_raw", metres, [row["human_progress_raw"]], _PROGRESS)


def _check_reactive(folder: Path) -> Iterator[Observation]:
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
        scored = score_in_context(context, _plans([plans[key]]), ScorerConfig())
        for kind, values in (("raw", scored.raw), ("filt", scored.filtered)):
            for index, name in enumerate(_REPORTED):
                tolerance = _SCORE if name == "ep" else EXACT
                recorded = [row[f"{kind}_{_LONG_NAMES[index]}"]]
                yield Observation(f"reactive.{kind}_{name}", values[:, index], recorded, tolerance)
            product = values[:, :4].prod(axis=-1)
            yield Observation(f"reactive.{kind}_mult", product, [row[f"{kind}_multiplicative_metrics_prod"]])
            # The evaluator's column stays unfiltered.
            yield Observation("reactive.pdm_score", final_score(scored.raw), [row[f"{kind}_pdm_score"]], _SCORE)
        yield Observation("reactive.progress_raw", scored.progress_m, [row["progress_raw"]], _PROGRESS)
        if row["human"] is not None and context.human is not None:
            yield Observation("reactive.human", context.human[:8], row["human"])


def _rolled_out(row: Row, state: str, prefix: str = "") -> tuple[Floats, Floats]:
    """Interpolated poses (41, 3) and states (41, 11) of the plan in a stand-alone row."""
    initial = np.array(row[state])
    path = interpolate_plans(row[f"{prefix}time_us"], initial, _plans([row], f"{prefix}poses"))
    return path[0], simulate(initial, path)[0]


def _check_simulation(folder: Path) -> Iterator[Observation]:
    for row in read_rows(folder, "sim_cases"):
        path, states = _rolled_out(row, "ego_init_state")
        yield Observation("sim_cases.reference", path.ravel(), row["reference"], _STATE)
        yield Observation("sim_cases.states", states.ravel(), row["states"], _STATE)


def _check_rollouts(folder: Path) -> Iterator[Observation]:
    scenes = load_scenes(folder)
    poses = {(row["scene_id"], row["candidate"]): row for row in read_rows(folder, "results")}
    for row in read_rows(folder, "sim_states"):
        scene = scenes[row["scene_id"]]
        if row["candidate"] == "__pdm__":
            path = interpolate_reference(scene.time_us, scene.reference_poses)[None]
        else:
            plans = _plans([poses[row["scene_id"], row["candidate"]]])
            path = interpolate_plans(scene.time_us, scene.ego_state, plans)
        yield Observation("sim_states.reference", path.ravel(), row["reference"], _STATE)
        yield Observation("sim_states.states", simulate(scene.ego_state, path).ravel(), row["states"], _STATE)


def _check_comfort(folder: Path) -> Iterator[Observation]:
    for row in read_rows(folder, "comfort_cases"):
        states = np.array(row["states"]).reshape(1, row["n"], 11)
        for name, signal in zip(COMFORT_NAMES, comfort_signals(states)[:, 0], strict=True):
            yield Observation(f"comfort_cases.{name}", signal, row[name], _SIGNAL)
        order = [COMFORT_NAMES.index(name) for name in row["names"]]
        yield Observation("comfort_cases.results", comfort_flags(states)[0, order], row["results"])


def _check_extended_comfort(folder: Path) -> Iterator[Observation]:
    for row in read_rows(folder, "ec_cases"):
        now, previous = (_rolled_out(row, f"{prefix}init_state", prefix)[1] for prefix in ("now_", "prev_"))
        interval_s = row["now_start_time"] - row["prev_start_time"]
        recorded = [row[f"rms_{name}"] for name in ("acceleration", "jerk", "yaw_rate", "yaw_accel")]
        yield Observation("ec_cases.rms", extended_comfort_rms(now, previous, interval_s), recorded, _STATE)
        yield Observation("ec_cases.ec", [extended_comfort(now, previous, interval_s)], [row["ec"]])
        if row["now_states"] is not None:
            yield Observation("ec_cases.now_states", now.ravel(), row["now_states"], _STATE)
            yield Observation("ec_cases.prev_states", previous.ravel(), row["prev_states"], _STATE)


def _check_collision_types(folder: Path) -> Iterator[Observation]:
    for row in read_rows(folder, "collision_type_cases"):
        pose = np.array([row["obj_x"], row["obj_y"], row["obj_heading"]])
        objects = _object(row, np.broadcast_to(pose, (ROLLOUT_STEPS, 3)))
        state, box = np.array(row["ego_state"]), np.empty((6, 2))
        fill_ego_box(state, box)
        kind = CollisionType(collision_type(state, box, objects, 0, 0))
        angle = angle_to(state, row["obj_x"], row["obj_y"])
        yield Observation(
            "collision_type_cases.collision_type", [f"{kind.name}_COLLISION" == row["collision_type"]], [True]
        )
        yield Observation("collision_type_cases.rel_angle_rad", [angle], [row["rel_angle_rad"]], _STATE)
        sectors = [angle < AHEAD_RAD, angle > BEHIND_RAD]
        yield Observation("collision_type_cases.sectors", sectors, [row["is_ahead"], row["is_behind"]])
        meets = boxes_intersect(box[:4], objects.corners[0, 0])
        yield Observation("collision_type_cases.intersects", [meets], [row["intersects"]])


def _object(row: Row, poses: Floats) -> Occupancy:
    """The single object of a stand-alone row, at box centres (41, 3)."""
    return occupancy(
        poses[None],
        np.array([[row["obj_length"], row["obj_width"]]]),
        np.ones((1, ROLLOUT_STEPS), np.bool_),
        np.array([OBJECT_NAMES.index(row["obj_type"].lower())]),
        np.array([[row["obj_vx"], row["obj_vy"]]]),
    )


def _check_rules(folder: Path) -> Iterator[Observation]:
    lights = red_lights(NO_POLYGONS, np.zeros((0, ROLLOUT_STEPS), np.bool_))
    for row in read_rows(folder, "micro_cases"):
        corners = [np.array(ring).reshape(-1, 2) for ring in row["polygons"]]
        roads = road_geometry(
            polygons_from([np.concatenate([ring, ring[:1]]) for ring in corners]),
            np.array([POLYGON_LAYERS.index(layer) for layer in row["polygon_layers"]]),
            np.array([token in row["route_lane_ids"] for token in row["polygon_tokens"]]),
            np.array(row["centerline"]).reshape(-1, 3)[:, :2],
        )
        poses = np.stack([row["obj_x"], row["obj_y"], np.full(ROLLOUT_STEPS, row["obj_heading"])], axis=-1)
        rollout = np.array(row["states"]).reshape(1, ROLLOUT_STEPS, 11)
        scores = score_rollouts(rollout, roads, _object(row, poses), lights)
        for name in ("nc", "dac", "ddc", "ttc", "lk"):
            yield Observation(f"micro_cases.{name}", getattr(scores, name), [row[name]])
        yield Observation("micro_cases.collision_time_idx", scores.collision_step, [row["collision_time_idx"]])
        yield Observation("micro_cases.ttc_time_idx", scores.ttc_step, [row["ttc_time_idx"]])
        yield Observation("micro_cases.progress_raw", scores.progress_m, [row["progress_raw"]], _PROGRESS)


def _check_two_stage(folder: Path) -> Iterator[Observation]:
    path = folder / "two_stage_cases.json"
    try:
        cases = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: expected golden cases in JSON format, found {error}") from error
    comfort = {row["case"]: row["ec"] for row in read_rows(folder, "ec_cases")}
    columns = (*_LONG_NAMES, "score")
    for case in cases:
        rows = {row["token"]: row for row in case["rows"]}
        values = {}
        for row in case["out_rows"]:
            source = rows[row["token"]]
            subscores = np.array([*(source[name] for name in _LONG_NAMES[:8]), comfort[source["ec_case"]]])
            values[row["token"]] = np.array([*subscores, final_score(subscores)])
            yield Observation("two_stage.rows.score", values[row["token"]][-1:], [row["score"]], _SCORE)
            yield Observation("two_stage.rows.ec", subscores[-1:], [row["two_frame_extended_comfort"]])
        weights = {row["token"]: row["weight"] for row in case["out_rows"]}
        groups = []
        for mapping in case["mappings"]:
            for first, seconds in zip(
                (mapping["now"], mapping["prev"]), zip(*mapping["second_stage"], strict=True), strict=True
            ):
                starts = np.array([[rows[t]["start_point_x"], rows[t]["start_point_y"]] for t in seconds])
                endpoint = np.array([rows[first]["endpoint_x"], rows[first]["endpoint_y"]])
                groups.append(StageGroup(values[first], endpoint, np.stack([values[t] for t in seconds]), starts))
                found = second_stage_weights(endpoint, starts)
                yield Observation("two_stage.rows.weight", found, [weights[t] for t in seconds], _SCORE)
        result = aggregate(groups)
        for name in ("combined", "stage_one", "stage_two"):
            recorded = [case[name][column] for column in columns]
            yield Observation(f"two_stage.{name}", getattr(result, name), recorded, _SCORE)


_CHECKS: Final[tuple[Callable[[Path], Iterator[Observation]], ...]] = (
    _check_results,
    _check_rollouts,
    _check_simulation,
    _check_comfort,
    _check_extended_comfort,
    _check_collision_types,
    _check_rules,
    _check_two_stage,
    _check_reactive,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison with a golden folder; returns 1 if any column disagrees."""
    parser = argparse.ArgumentParser(prog="python -m irl_vla.epdms.golden", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder with scenes.parquet, results.parquet, ...")
    console = Console()
    try:
        comparisons = compare_folder(parser.parse_args(arguments).folder)
    except IrlVlaError as error:
        console.print(f"[red]{error}[/red]")
        return 2
    table = Table("column", "rows", "mismatches", "largest difference")
    for item in comparisons:
        table.add_row(item.column, f"{item.rows}", f"{item.mismatches}", f"{item.largest:.1e}")
    console.print(table)
    mismatches = sum(item.mismatches for item in comparisons)
    console.print(f"{len(comparisons)} columns, {mismatches} mismatches")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
