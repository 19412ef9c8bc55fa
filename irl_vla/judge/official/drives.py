"""Real drives against what the official evaluator recorded of them, from log and map alone."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from irl_vla.driving.route import distinct_blocks
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.golden_records import Row, by_scene, read_rows
from irl_vla.epdms.inputs import Moment, drivable_map, plan_scene, prepare_scene
from irl_vla.epdms.records import POLYGON_LAYERS, ROLLOUT_STEPS, PreparedScene
from irl_vla.epdms.rollout import interpolate_plans, simulate
from irl_vla.epdms.scorer import ScoredPlans, score_plans
from irl_vla.epdms.tracks import frame_objects
from irl_vla.errors import CheckpointError
from irl_vla.geometry import rear_axle_to_centre, wrap_angle
from irl_vla.judge.official.observation import EXACT, METRES, REPORTED, Observation, column, plans_of, same
from irl_vla.judge.official.planning import planned_columns
from irl_vla.judge.official.traffic import recorded_traffic, traffic_columns
from irl_vla.scene import MapView, Scene


def check_drives(folder: Path, scenes: Iterable[tuple[Scene, MapView]]) -> Iterator[Observation]:
    """Plans, prepares and scores real scenes again.

    Args:
        folder: ``official_scenes``, ``official_scores`` and ``official_inputs/`` with ``scenes``, ``reactive_plans``
            and ``reactive_tracks``, all Parquet.
        scenes: windows of four history and eight future frames with their maps, out of the recorded ones.

    Raises:
        CheckpointError: if a file is missing or damaged, or a scene is not in it.
    """
    inputs = folder / "official_inputs"
    planned = {row["token"]: row for row in read_rows(inputs, "scenes")}
    prepared = {row["token"]: row for row in read_rows(folder, "official_scenes")}
    scores = by_scene(read_rows(folder, "official_scores"), "token")
    plans = by_scene(read_rows(inputs, "reactive_plans"), "token")
    traffic = recorded_traffic(read_rows(inputs, "reactive_tracks"))
    for scene, view in scenes:
        token = scene.token
        if token not in planned:
            raise CheckpointError(f"{inputs}: expected a recorded scene {token} of log {scene.log_name}, found none")
        ready = prepare_scene(scene, view)
        yield from _planning_columns(planned[token], scene, view, ready)
        yield from _prepared_columns(prepared[token], view, ready)
        yield from _score_columns(scores[token], ready, "replay")
        yield from _score_columns(scores[token], ready, "reactive")
        for plan in plans[token]:
            states = np.array(plan["ego_states"]).reshape(ROLLOUT_STEPS, 11)
            poses = interpolate_plans(ready.time_us, ready.ego_state, np.array(plan["poses"]).reshape(1, 8, 3))
            rollout = simulate(ready.ego_state, poses)[0]
            yield Observation("reactive_plans.ego_states", rollout, states, METRES)
            yield from traffic_columns("reactive_tracks", ready, rollout, traffic[token, plan["plan"]])


def _planning_columns(row: Row, scene: Scene, view: MapView, ready: PreparedScene) -> Iterator[Observation]:
    now = scene.current
    red = tuple(str(connector) for connector, is_red in now.traffic_lights if is_red)
    route = distinct_blocks(view, now.roadblock_ids)
    planned = plan_scene(view, Moment(scene.token, ready.ego_state, route, frame_objects(now), red))
    yield from planned_columns("official_inputs", row, planned)


def _prepared_columns(row: Row, view: MapView, ready: PreparedScene) -> Iterator[Observation]:
    area = drivable_map(view, rear_axle_to_centre(ready.ego_state[:3])[:2])
    yield same("official_scenes.map_tokens", list(area.ids), row["map_tokens"])
    yield same("official_scenes.map_layers", [POLYGON_LAYERS[layer] for layer in area.layer], row["map_layers"])
    yield Observation("official_scenes.time_us", [ready.time_us], [row["time_us"]])
    yield Observation("official_scenes.ego", ready.ego_state[:7], row["ego"], METRES)
    recorded = np.array(row["centerline"]).reshape(len(ready.centerline), -1)
    yield Observation("official_scenes.centerline", ready.centerline, recorded[:, :2], METRES)
    poses = np.array(row["pdm_poses"]).reshape(-1, 3)
    yield Observation("official_scenes.pdm_poses.xy", ready.reference_poses[:, :2], poses[:, :2], METRES)
    turned = wrap_angle(ready.reference_poses[:, 2] - poses[:, 2])
    yield Observation("official_scenes.pdm_poses.heading", turned, np.zeros(len(poses)), METRES)


def _score_columns(
    rows: Sequence[Row], ready: PreparedScene, traffic: Literal["replay", "reactive"]
) -> Iterator[Observation]:
    rows = [row for row in rows if row["traffic"] == traffic]
    scored = score_plans(ready, plans_of(rows), ScorerConfig(traffic=traffic))
    name = f"official_scores.{traffic}"
    yield same(f"{name}.failures", dict(scored.failures), {})
    yield Observation(f"{name}.sim_end", scored.rollouts[:, -1], column(rows, "sim_end"), METRES)
    yield from _subscore_columns(name, rows, scored)


def _subscore_columns(name: str, rows: Sequence[Row], scored: ScoredPlans) -> Iterator[Observation]:
    for kind, values in (("raw", scored.raw), ("filt", scored.filtered)):
        for index, item in enumerate(REPORTED):
            tolerance = METRES if item == "ep" else EXACT
            yield Observation(f"{name}.{kind}_{item}", values[:, index], column(rows, f"{kind}_{item}"), tolerance)
        yield Observation(f"{name}.{kind}_mult", values[:, :4].prod(axis=-1), column(rows, f"{kind}_mult"))
