"""Stand-alone golden cases: simulator, comfort, extended comfort, collisions, rules, two stages."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

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
from irl_vla.epdms.golden_records import NO_POLYGONS, Row, polygons_from, read_json, read_rows
from irl_vla.epdms.polygons import boxes_intersect, fill_ego_box
from irl_vla.epdms.records import POLYGON_LAYERS, ROLLOUT_STEPS
from irl_vla.epdms.road_rules import road_geometry
from irl_vla.epdms.rollout import interpolate_plans, simulate
from irl_vla.epdms.scorer import final_score
from irl_vla.epdms.subscores import score_rollouts
from irl_vla.epdms.two_stage import StageGroup, aggregate, second_stage_weights
from irl_vla.geometry import Floats
from irl_vla.judge.official.observation import PROGRESS, SCORE, SIGNAL, STATE, Observation, plans_of
from irl_vla.judge.official.results import LONG_NAMES
from irl_vla.scene import OBJECT_NAMES


def _rolled_out(row: Row, state: str, prefix: str = "") -> tuple[Floats, Floats]:
    """Interpolated poses (41, 3) and states (41, 11) of the plan in a stand-alone row."""
    initial = np.array(row[state])
    path = interpolate_plans(row[f"{prefix}time_us"], initial, plans_of([row], f"{prefix}poses"))
    return path[0], simulate(initial, path)[0]


def check_simulation(folder: Path) -> Iterator[Observation]:
    """Interpolation and simulation, also of reversing, standing and teleporting plans."""
    for row in read_rows(folder, "sim_cases"):
        path, states = _rolled_out(row, "ego_init_state")
        yield Observation("sim_cases.reference", path.ravel(), row["reference"], STATE)
        yield Observation("sim_cases.states", states.ravel(), row["states"], STATE)


def check_comfort(folder: Path) -> Iterator[Observation]:
    """Comfort signals of made-up states, and whether they stay within their bounds."""
    for row in read_rows(folder, "comfort_cases"):
        states = np.array(row["states"]).reshape(1, row["n"], 11)
        for name, signal in zip(COMFORT_NAMES, comfort_signals(states)[:, 0], strict=True):
            yield Observation(f"comfort_cases.{name}", signal, row[name], SIGNAL)
        order = [COMFORT_NAMES.index(name) for name in row["names"]]
        yield Observation("comfort_cases.results", comfort_flags(states)[0, order], row["results"])


def check_extended_comfort(folder: Path) -> Iterator[Observation]:
    """Extended comfort of pairs of plans."""
    for row in read_rows(folder, "ec_cases"):
        now, previous = (_rolled_out(row, f"{prefix}init_state", prefix)[1] for prefix in ("now_", "prev_"))
        interval_s = row["now_start_time"] - row["prev_start_time"]
        recorded = [row[f"rms_{name}"] for name in ("acceleration", "jerk", "yaw_rate", "yaw_accel")]
        yield Observation("ec_cases.rms", extended_comfort_rms(now, previous, interval_s), recorded, STATE)
        yield Observation("ec_cases.ec", [extended_comfort(now, previous, interval_s)], [row["ec"]])
        if row["now_states"] is not None:
            yield Observation("ec_cases.now_states", now.ravel(), row["now_states"], STATE)
            yield Observation("ec_cases.prev_states", previous.ravel(), row["prev_states"], STATE)


def check_collision_types(folder: Path) -> Iterator[Observation]:
    """Class of single contacts."""
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
        yield Observation("collision_type_cases.rel_angle_rad", [angle], [row["rel_angle_rad"]], STATE)
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


def check_rules(folder: Path) -> Iterator[Observation]:
    """Made-up states on one lane with an intersection and a moving box."""
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
        yield Observation("micro_cases.progress_raw", scores.progress_m, [row["progress_raw"]], PROGRESS)


def check_two_stage(folder: Path) -> Iterator[Observation]:
    """Two-stage aggregation."""
    cases = read_json(folder, "two_stage_cases")
    comfort = {row["case"]: row["ec"] for row in read_rows(folder, "ec_cases")}
    columns = (*LONG_NAMES, "score")
    for case in cases:
        rows = {row["token"]: row for row in case["rows"]}
        values = {}
        for row in case["out_rows"]:
            source = rows[row["token"]]
            subscores = np.array([*(source[name] for name in LONG_NAMES[:8]), comfort[source["ec_case"]]])
            values[row["token"]] = np.array([*subscores, final_score(subscores)])
            yield Observation("two_stage.rows.score", values[row["token"]][-1:], [row["score"]], SCORE)
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
                yield Observation("two_stage.rows.weight", found, [weights[t] for t in seconds], SCORE)
        result = aggregate(groups)
        for name in ("combined", "stage_one", "stage_two"):
            recorded = [case[name][column] for column in columns]
            yield Observation(f"two_stage.{name}", getattr(result, name), recorded, SCORE)
