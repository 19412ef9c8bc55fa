"""A pretended devkit, by which the parity test itself is tested: the devkit's names and signatures, our own scorer.

:func:`write_checkouts` lays them out as two source trees whose modules import from here. Where a caller names a fault
in the environment, the pretended scorer commits it.
"""

import lzma
import os
import pickle
from dataclasses import dataclass, make_dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import shapely

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import DEVKIT_SPLITS, open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.epdms.comfort import extended_comfort
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.inputs import Moment, drivable_map, plan_scene, prepare_scene
from irl_vla.epdms.records import POLYGON_LAYERS
from irl_vla.epdms.scorer import final_score, score_plans
from irl_vla.epdms.tracks import frame_objects
from irl_vla.epdms.two_stage import second_stage_weights
from irl_vla.geometry import compose, rear_axle_to_centre
from irl_vla.world.second_stage_files import SECOND_STAGE
from tests.parity.devkit_scores import COMFORT, SUBSCORES
from tests.unit.navsim import stand_in
from tests.unit.navsim.stand_in import AbstractAgent, Trajectory, TrajectorySampling

__all__ = ["AbstractAgent", "Trajectory", "TrajectorySampling"]

FAULT = "PRETENDED_FAULT"
Pose = make_dataclass("Pose", ["x", "y", "heading"])
Pose.__module__ = __name__


class SensorConfig(stand_in.SensorConfig):
    @classmethod
    def build_no_sensors(cls) -> "SensorConfig":
        return cls(*[False] * 9)


class SceneFilter:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class SceneLoader:
    def __init__(
        self,
        *,
        data_path: Path,
        original_sensor_path: Path | None,
        scene_filter: SceneFilter,
        synthetic_sensor_path: Path | None = None,
        synthetic_scenes_path: Path | None = None,
        sensor_config: Any = None,
    ) -> None:
        split = SECOND_STAGE if vars(scene_filter)["include_synthetic_scenes"] else data_path.name
        self._folder = data_path
        self._dataset = open_dataset(DataConfig(root=data_path.parents[1]), {})
        self._scenes = {scene.token: scene for scene in iter_scenes(self._dataset, split)}
        self._sensors = sensor_config

    @property
    def tokens(self) -> list[str]:
        return list(self._scenes)

    def get_scene_from_token(self, token: str) -> Any:
        return self._scenes[token]

    def get_agent_input_from_token(self, token: str) -> Any:
        frames = read_pickle(self._folder / f"{self._scenes[token].log_name}.pkl")
        current = [frame["token"] for frame in frames].index(token)
        return stand_in.agent_input(frames[current - 3 : current + 1], self._sensors, self._folder)


class NavSimScenario:
    def __init__(self, scene: Any, map_root: str, map_version: str) -> None:
        assert map_version == "nuplan-maps-v1.0"
        self.scene, self.maps = scene, Path(map_root)


@dataclass
class Steps:
    poses: list[Any]

    def get_sampled_trajectory(self) -> list[Any]:
        return [SimpleNamespace(rear_axle=pose) for pose in self.poses]


class SceneFrameType(Enum):
    ORIGINAL = 0
    SYNTHETIC = 1


class MetricCacheProcessor:
    def __init__(self, cache_path: str, force_feature_computation: bool, proposal_sampling: Any) -> None:
        self._folder = Path(cache_path)

    def compute_and_save_metric_cache(self, scenario: NavSimScenario) -> Path:
        scene = scenario.scene
        view = load_map(open_dataset(DataConfig(root=scenario.maps.parent), {}), scene.map_name)
        ready = prepare_scene(scene, view)
        now = scene.current
        moment = Moment(scene.token, ready.ego_state, tuple(now.roadblock_ids), frame_objects(now), _red(now))
        area = drivable_map(view, rear_axle_to_centre(ready.ego_state[:3])[:2])
        cache = SimpleNamespace(
            ready=ready,
            log_name=scene.log_name,
            scene_type=SceneFrameType(int(scene.is_synthetic)),
            timepoint=SimpleNamespace(time_us=ready.time_us, time_s=ready.time_us * 1e-6),
            trajectory=Steps([Pose(*pose) for pose in ready.reference_poses.tolist()]),
            ego_state=SimpleNamespace(rear_axle=Pose(*ready.ego_state[:3].tolist())),
            centerline=SimpleNamespace(linestring=shapely.LineString(ready.centerline)),
            route_lane_ids=list(plan_scene(view, moment).followed.lane_ids),
            drivable_area_map=SimpleNamespace(
                tokens=area.ids, map_types=[SimpleNamespace(name=POLYGON_LAYERS[layer]) for layer in area.layer]
            ),
        )
        path: Path = self._folder / scene.log_name / "unknown" / scene.token / "metric_cache.pkl"
        path.parent.mkdir(parents=True)
        path.write_bytes(lzma.compress(pickle.dumps(cache), preset=0))
        return path


def save_cache_metadata(entries: list[Path], cache_path: Path, node_id: int) -> None:
    (cache_path / "metadata").mkdir()
    (cache_path / "metadata" / "all.csv").write_text("\n".join(["file_name", *map(str, entries)]))


class MetricCacheLoader:
    def __init__(self, cache_path: Path) -> None:
        paths = next((cache_path / "metadata").glob("*.csv")).read_text().splitlines()[1:]
        self._paths = {path.split("/")[-2]: path for path in paths}
        self.tokens = list(self._paths)

    def get_from_token(self, token: str) -> Any:
        return pickle.loads(lzma.decompress(Path(self._paths[token]).read_bytes()))


class PDMSimulator:
    def __init__(self, proposal_sampling: Any) -> None:
        self.proposal_sampling = proposal_sampling


@dataclass
class PDMScorerConfig:
    human_penalty_filter: bool | None = None
    stopped_speed_threshold: float = 5e-3


class PDMScorer:
    def __init__(self, proposal_sampling: Any, config: PDMScorerConfig) -> None:
        assert isinstance(config.stopped_speed_threshold, float)
        self.proposal_sampling, self._config = proposal_sampling, config


class LogReplayTrafficAgents:
    traffic = "replay"

    def __init__(self, future_trajectory_sampling: Any) -> None:
        assert future_trajectory_sampling.num_poses == 40


class NavsimIDMAgents:
    def __init__(self, target_velocity: float) -> None:
        assert target_velocity == 10


class NavsimIDMTrafficAgents(LogReplayTrafficAgents):
    traffic = "reactive"

    def __init__(self, future_trajectory_sampling: Any, idm_agents_observation: NavsimIDMAgents) -> None:
        super().__init__(future_trajectory_sampling)


def pdm_score(
    *,
    metric_cache: Any,
    model_trajectory: Trajectory,
    future_sampling: Any,
    simulator: PDMSimulator,
    scorer: PDMScorer,
    traffic_agents_policy: LogReplayTrafficAgents,
) -> tuple[pd.DataFrame, Any]:
    config = ScorerConfig.model_validate(
        {"human_filter": scorer._config.human_penalty_filter, "traffic": traffic_agents_policy.traffic}
    )
    scored = score_plans(metric_cache.ready, model_trajectory.poses[None], config)
    row = dict(zip(SUBSCORES, scored.filtered[0, :8].tolist(), strict=True))
    row |= {"multiplicative_metrics_prod": scored.filtered[0, :4].prod(), "pdm_score": final_score(scored.raw[0])}
    if (fault := os.environ.get(FAULT)) in row:
        row[fault] += 0.5
    return pd.DataFrame([row]), scored.rollouts[0]


def infer_start_adjacent_mapping(table: pd.DataFrame) -> dict[str, str]:
    found: dict[str, str] = {}
    for _, log in table.sort_values("start_time").groupby("log_name"):
        found |= dict(zip(log["token"][1:], log["token"][:-1], strict=True))
    return found


def create_scene_aggregators(mapping: dict[Any, Any], table: pd.DataFrame, sampling: Any) -> pd.DataFrame:
    """Both scripts have a function of this name: one maps a token to its predecessor, the other pairs to pairs."""
    rows = table.set_index("token").assign(weight=1.0, **{COMFORT: np.nan})
    for key, second in mapping.items():
        one_stage = isinstance(second, str)
        for now, previous in [(key, second)] if one_stage else [key, *second]:
            states, interval_s = rows["ego_simulated_states"], rows["start_time"][now] - rows["start_time"][previous]
            comfort = float(extended_comfort(states[now], states[previous], interval_s))
            rows.loc[[now] if one_stage else [now, previous], COMFORT] = comfort
        for first, tokens in [] if one_stage else zip(key, zip(*second, strict=True), strict=True):
            end = rows.loc[first, ["endpoint_x", "endpoint_y"]].to_numpy(float)
            starts = rows.loc[list(tokens), ["start_point_x", "start_point_y"]].to_numpy(float)
            rows.loc[list(tokens), "weight"] = second_stage_weights(end, starts)
    return rows.reset_index()


def compute_final_scores(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(score=final_score(table[[*SUBSCORES, COMFORT]].to_numpy(float)))


def calculate_individual_mapping_scores(table: pd.DataFrame, mapping: dict[Any, Any]) -> tuple[pd.Series, ...]:
    """Means over all groups of both stages together, of the first and of the second."""
    rows = table.set_index("token")
    values = rows.drop(columns="weight")
    groups = [
        (a, list(b)) for key, second in mapping.items() for a, b in zip(key, zip(*second, strict=True), strict=True)
    ]
    first = pd.DataFrame([values.loc[token] for token, _ in groups]).reset_index(drop=True)
    second = pd.DataFrame([values.loc[tokens].mul(rows["weight"][tokens], axis=0).sum() for _, tokens in groups])
    return (first * second).mean(), first.mean(), second.mean()


def relative_to_absolute_poses(origin: Any, relative: list[Any]) -> list[Any]:
    place = np.array([origin.x, origin.y, origin.heading])
    return [Pose(*compose(place, np.array([pose.x, pose.y, pose.heading])).tolist()) for pose in relative]


def write_checkouts(folder: Path) -> tuple[Path, Path]:
    """Source trees of the pretended navsim and nuplan-devkit, with settings files as theirs are written."""
    navsim, nuplan = folder / "navsim", folder / "nuplan-devkit"
    for name, names in _MODULES.items():
        path = (navsim if name.startswith("navsim") else nuplan).joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{_NEVER_USED}from tests.parity.pretended import {', '.join(names)}\n")
    settings = navsim / DEVKIT_SPLITS.rsplit("/", 2)[0]
    for name, text in _SETTINGS.items():
        path = settings / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return navsim, nuplan


def _red(frame: Any) -> tuple[str, ...]:
    return tuple(str(connector) for connector, is_red in frame.traffic_lights if is_red)


#: What the devkit's modules import at their top and the scorer does not need.
_NEVER_USED = "import aioboto3\nfrom hydra.utils import instantiate\nimport pytorch_lightning as pl\n"
_SCRIPT = ("create_scene_aggregators", "compute_final_scores")
_MODULES = {
    "navsim.agents.abstract_agent": ("AbstractAgent",),
    "navsim.common.dataclasses": ("SceneFilter", "SensorConfig", "Trajectory"),
    "navsim.common.dataloader": ("MetricCacheLoader", "SceneLoader"),
    "navsim.evaluate.pdm_score": ("pdm_score",),
    "navsim.planning.metric_caching.metric_cache_processor": ("MetricCacheProcessor",),
    "navsim.planning.scenario_builder.navsim_scenario": ("NavSimScenario",),
    "navsim.planning.script.run_pdm_score": (*_SCRIPT, "calculate_individual_mapping_scores"),
    "navsim.planning.script.run_pdm_score_one_stage": (*_SCRIPT, "infer_start_adjacent_mapping"),
    "navsim.planning.simulation.observation.navsim_idm_agents": ("NavsimIDMAgents",),
    "navsim.planning.simulation.planner.pdm_planner.scoring.pdm_scorer": ("PDMScorer", "PDMScorerConfig"),
    "navsim.planning.simulation.planner.pdm_planner.simulation.pdm_simulator": ("PDMSimulator",),
    "navsim.traffic_agents_policies.log_replay_traffic_agents": ("LogReplayTrafficAgents",),
    "navsim.traffic_agents_policies.navsim_IDM_traffic_agents": ("NavsimIDMTrafficAgents",),
    "nuplan.common.actor_state.state_representation": ("Pose as StateSE2",),
    "nuplan.common.geometry.convert": ("relative_to_absolute_poses",),
    "nuplan.planning.simulation.trajectory.trajectory_sampling": ("TrajectorySampling",),
    "nuplan.planning.training.experiments.cache_metadata_entry": ("save_cache_metadata",),
}
_SCORER = "navsim.planning.simulation.planner.pdm_planner.scoring.pdm_scorer"
_SETTINGS = {
    "pdm_scoring/scorer/pdm_scorer.yaml": f"""
_target_: {_SCORER}.PDMScorer
_convert_: 'all'
proposal_sampling: ${{proposal_sampling}}
config:
  _target_: {_SCORER}.PDMScorerConfig
  stopped_speed_threshold: 5e-03
  human_penalty_filter: True
""",
    "pdm_scoring/scorer/another_scorer.yaml": "_target_: navsim.elsewhere.AnotherPDMScorer\n",
    "common/traffic_agents_policy/log_replay_traffic_agents.yaml": """
non_reactive:
  _target_: navsim.traffic_agents_policies.log_replay_traffic_agents.LogReplayTrafficAgents
  _convert_: all
""",
    "common/traffic_agents_policy/navsim_IDM_traffic_agents.yaml": """
reactive:
  _target_: navsim.traffic_agents_policies.navsim_IDM_traffic_agents.NavsimIDMTrafficAgents
  idm_agents_observation:
    _target_: navsim.planning.simulation.observation.navsim_idm_agents.NavsimIDMAgents
    target_velocity: 10
""",
}
