# mypy: disable-error-code="import-not-found"
"""The official devkit scores plans: ``python -m tests.parity.devkit_scores REQUEST ANSWER``, in a process of its own.

Needs the environment variables OPENSCENE_DATA_ROOT and NUPLAN_MAPS_ROOT of the data set. Nothing of irl_vla is imported
here. Steps, settings and the columns of a row are those of the devkit's run_metric_caching, run_pdm_score and
run_pdm_score_one_stage.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import shapely
import yaml

from tests.parity.stand_ins import DEVKIT_LIBRARIES, install

#: The devkit's names of the sub-scores of a single scene.
SUBSCORES = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
    "ego_progress",
    "time_to_collision_within_bound",
    "lane_keeping",
    "history_comfort",
)
COMFORT = "two_frame_extended_comfort"
TRAFFIC = {"replay": "LogReplayTrafficAgents", "reactive": "NavsimIDMTrafficAgents"}
_SETTINGS = "navsim/planning/script/config"
_MAP_VERSION = "nuplan-maps-v1.0"
_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")  # a number to hydra, a text to PyYAML


class Evaluator:
    """The devkit's simulator, scorers and traffic, made from its own settings files."""

    def __init__(self, checkout: Path) -> None:
        from navsim.planning.simulation.planner.pdm_planner.scoring.pdm_scorer import PDMScorer
        from navsim.planning.simulation.planner.pdm_planner.simulation.pdm_simulator import PDMSimulator
        from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

        self.sampling = TrajectorySampling(num_poses=40, interval_length=0.1)
        self.simulator = PDMSimulator(self.sampling)
        given = {"proposal_sampling": self.sampling}
        filtered = instantiate(_settings(checkout, "pdm_scoring/scorer", "PDMScorer"), given)
        config = filtered._config
        if config.human_penalty_filter is not True:
            raise SystemExit(f"expected the human filter in the devkit's settings, found {config}")
        self.scorers = {
            "filtered": filtered,
            "raw": PDMScorer(self.sampling, replace(config, human_penalty_filter=False)),
        }
        self.traffic = {
            name: instantiate(_settings(checkout, "common/traffic_agents_policy", kind), given, self.sampling)
            for name, kind in TRAFFIC.items()
        }

    def score(self, cache: Any, plan: list[list[float]], scorer: str, traffic: str) -> tuple[Any, Any]:
        """The devkit's table of one row, and the simulated states (41, 11)."""
        from navsim.evaluate.pdm_score import pdm_score

        table, states = pdm_score(
            metric_cache=cache,
            model_trajectory=_trajectory(plan),
            future_sampling=self.sampling,
            simulator=self.simulator,
            scorer=self.scorers[scorer],
            traffic_agents_policy=self.traffic[traffic],
        )
        return table, states


def score_split(evaluator: Evaluator, split: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything of one split: what was prepared of its scenes, scores of all plans, and aggregates."""
    caches = _metric_caches(split, evaluator.sampling, folder)
    scenes = {token: prepared(caches.get_from_token(token)) for token in caches.tokens}
    scores: dict[str, Any] = {}
    tables: dict[tuple[str, str], list[Any]] = {}
    for token in caches.tokens:
        for name, plan in split["plans"][token].items():
            for traffic in TRAFFIC:
                # A scoring call leaves its traffic behind in the cache, so every call reads its own.
                raw, _ = evaluator.score(caches.get_from_token(token), plan, "raw", traffic)
                cache = caches.get_from_token(token)
                table, states = evaluator.score(cache, plan, "filtered", traffic)
                scores[f"{token} {name} {traffic}"] = {
                    "raw": _subscores(raw),
                    "filtered": _subscores(table),
                    "sim_end": states[-1].tolist(),
                }
                tables.setdefault((name, traffic), []).append(_result_row(table, states, cache, plan, token))
    pairs = split["stage_pairs"]
    results = {}
    for (name, traffic), rows in tables.items():
        if len(rows) == len(caches.tokens):  # nobody drove a second stage, so the human has no plan there
            results[f"{name} {traffic}"] = _two_stage(rows, pairs, evaluator) if pairs else _one_stage(rows, evaluator)
    return {"scenes": scenes, "scores": scores, "results": results}


def prepared(cache: Any) -> dict[str, Any]:
    """What the devkit prepared of a scene; headings as cosine and sine, which know no wrapping."""
    poses = [state.rear_axle for state in cache.trajectory.get_sampled_trajectory()]
    axle, area = cache.ego_state.rear_axle, cache.drivable_area_map
    return {
        "time_us": cache.timepoint.time_us,
        "ego": [axle.x, axle.y, float(np.cos(axle.heading)), float(np.sin(axle.heading))],
        "reference": [[p.x, p.y, float(np.cos(p.heading)), float(np.sin(p.heading))] for p in poses],
        "centreline": shapely.get_coordinates(cache.centerline.linestring).tolist(),
        "route_lane_ids": sorted(cache.route_lane_ids),
        "map_ids": list(area.tokens),
        "map_layers": [layer.name for layer in area.map_types],
    }


def instantiate(node: Any, given: Mapping[str, Any], *arguments: Any) -> Any:
    """Hydra's ``instantiate``, as far as the devkit's settings need it.

    Args:
        node: of a YAML file.
        given: values of ``${name}``.
        arguments: positional ones of the outermost call.
    """
    if isinstance(node, dict):
        values = {key: instantiate(value, given) for key, value in node.items() if not key.startswith("_")}
        if "_target_" not in node:
            return values
        module, _, name = node["_target_"].rpartition(".")
        return getattr(import_module(module), name)(*arguments, **values)
    if isinstance(node, list):
        return [instantiate(item, given) for item in node]
    if isinstance(node, str) and node.startswith("${"):
        return given[node[2:-1]]
    return float(node) if isinstance(node, str) and _EXPONENT.fullmatch(node) else node


def _settings(checkout: Path, folder: str, kind: str) -> Any:
    """The settings in one of the devkit's folders, at any depth of a file, that make an object of class ``kind``."""
    files = sorted((checkout / _SETTINGS / folder).rglob("*.yaml"))
    found = [node for path in files for node in _targets(yaml.safe_load(path.read_text()), f".{kind}")]
    if not found or any(node != found[0] for node in found):
        raise SystemExit(f"{checkout / _SETTINGS / folder}: expected one way to make {kind}, found {len(found)}")
    return found[0]


def _targets(node: Any, ending: str) -> Iterator[Any]:
    if isinstance(node, dict):
        if str(node.get("_target_")).endswith(ending):
            yield node
        for value in node.values():
            yield from _targets(value, ending)


def _trajectory(plan: list[list[float]]) -> Any:
    from navsim.common.dataclasses import Trajectory
    from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

    return Trajectory(np.array(plan), TrajectorySampling(time_horizon=4, interval_length=0.5))


def _metric_caches(split: Mapping[str, Any], sampling: Any, folder: Path) -> Any:
    """The devkit's caches of all scenes that its loader finds in the split."""
    from navsim.common.dataclasses import SensorConfig
    from navsim.common.dataloader import MetricCacheLoader, SceneLoader
    from navsim.planning.metric_caching.metric_cache_processor import MetricCacheProcessor
    from navsim.planning.scenario_builder.navsim_scenario import NavSimScenario
    from nuplan.planning.training.experiments.cache_metadata_entry import save_cache_metadata

    loader = SceneLoader(
        data_path=Path(split["logs"]),
        original_sensor_path=None,
        scene_filter=instantiate(yaml.safe_load(Path(split["file"]).read_text())["scene_filter"], {}),
        synthetic_sensor_path=None,
        synthetic_scenes_path=Path(split["second_stage"]),
        sensor_config=SensorConfig.build_no_sensors(),
    )
    entries = []
    for token in loader.tokens:
        # A planner forgets no object that the ego ever touched: every scene gets a new one.
        processor = MetricCacheProcessor(
            cache_path=str(folder), force_feature_computation=True, proposal_sampling=sampling
        )
        scene = loader.get_scene_from_token(token)
        scenario = NavSimScenario(scene, map_root=os.environ["NUPLAN_MAPS_ROOT"], map_version=_MAP_VERSION)
        entries.append(processor.compute_and_save_metric_cache(scenario))
    save_cache_metadata(entries, folder, 0)
    return MetricCacheLoader(folder)


def _subscores(table: Any) -> dict[str, float]:
    names = (*SUBSCORES, "multiplicative_metrics_prod", "pdm_score")
    return {name: float(table[name].iloc[0]) for name in names}


def _result_row(table: Any, states: Any, cache: Any, plan: list[list[float]], token: str) -> Any:
    from nuplan.common.actor_state.state_representation import StateSE2
    from nuplan.common.geometry.convert import relative_to_absolute_poses

    axle = cache.ego_state.rear_axle
    end = relative_to_absolute_poses(axle, [StateSE2(*plan[-1])])[0]
    return table.assign(
        valid=True,
        log_name=cache.log_name,
        frame_type=cache.scene_type,
        start_time=cache.timepoint.time_s,
        endpoint_x=end.x,
        endpoint_y=end.y,
        start_point_x=axle.x,
        start_point_y=axle.y,
        ego_simulated_states=[states],
        token=token,
    )


def _one_stage(rows: list[Any], evaluator: Evaluator) -> dict[str, Any]:
    import pandas as pd
    from navsim.planning.script import run_pdm_score_one_stage as script

    table = pd.concat(rows)
    neighbours = script.infer_start_adjacent_mapping(table)
    table = script.compute_final_scores(script.create_scene_aggregators(neighbours, table, evaluator.sampling))
    return {"rows": _final_rows(table), "score": float(table["score"].mean())}


def _two_stage(rows: list[Any], pairs: list[Any], evaluator: Evaluator) -> dict[str, Any]:
    import pandas as pd
    from navsim.planning.script import run_pdm_score as script

    mapping = {(now, previous): [tuple(pair) for pair in second] for now, previous, second in pairs}
    table = script.create_scene_aggregators(mapping, pd.concat(rows), evaluator.sampling)
    table = script.compute_final_scores(table)
    columns = [*SUBSCORES, COMFORT, "score"]
    means = script.calculate_individual_mapping_scores(table[[*columns, "token", "weight"]], mapping)
    stages = ("combined", "stage_one", "stage_two")
    return {"rows": _final_rows(table)} | {
        stage: {name: float(mean[name]) for name in columns} for stage, mean in zip(stages, means, strict=True)
    }


def _final_rows(table: Any) -> dict[str, Any]:
    named = zip(table["token"], table[COMFORT], table["score"], strict=True)
    return {token: {COMFORT: float(comfort), "score": float(score)} for token, comfort, score in named}


def main(request_path: Path, answer_path: Path) -> None:
    request = json.loads(request_path.read_text())
    sys.path[:0] = request["checkouts"]
    install(DEVKIT_LIBRARIES)
    evaluator = Evaluator(Path(request["checkouts"][0]))
    answer = {}
    for name, split in request["splits"].items():
        with TemporaryDirectory() as folder:
            answer[name] = score_split(evaluator, split, Path(folder) / "metric_cache")
    answer_path.write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
