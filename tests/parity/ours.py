"""A small generated data set, plans for its scenes, and what this project makes of them, as the devkit's child does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.splits import StagePair, read_split
from irl_vla.driving.route import distinct_blocks
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.inputs import Moment, drivable_map, plan_scene, prepare_scene
from irl_vla.epdms.records import POLYGON_LAYERS, PreparedScene
from irl_vla.epdms.scorer import final_score, score_plans
from irl_vla.epdms.store import PreparedStore
from irl_vla.epdms.tracks import frame_objects
from irl_vla.geometry import Floats, rear_axle_to_centre
from irl_vla.judge.baselines import constant_acceleration, constant_velocity, reference
from irl_vla.judge.one_stage import FrameId, SplitScores, join_scores, score_log
from irl_vla.judge.two_stage import STAGES, score_pairs
from irl_vla.scene import MapView, Scene
from irl_vla.world.config import SplitSizeConfig, TwoStageConfig, WorldConfig
from irl_vla.world.generate import generate
from irl_vla.world.second_stage_files import SECOND_STAGE
from tests.parity.devkit_scores import COMFORT, SUBSCORES, TRAFFIC

SEED = 7
#: The one-stage rule judges the first, the two-stage rule the second.
SPLITS = ("test", SECOND_STAGE)

Loaded = dict[str, tuple[Scene, MapView, PreparedScene]]


def make_world(root: Path, logs: int = 6, groups: int = 2) -> Dataset:
    """Logs and maps without sensors; two scenes half a second apart in every log, follow-ups behind some of them."""
    unused = SplitSizeConfig(logs=2, layouts=2)
    test = SplitSizeConfig(logs=logs, layouts=2)
    two_stage = TwoStageConfig(groups=groups, pairs_min=2, pairs_max=2)
    config = WorldConfig(train=unused, val=unused, test=test, frames_per_log=13, sensors=None, two_stage=two_stage)
    generate(config, root, SEED)
    return open_dataset(DataConfig(root=root), {})


def load_scenes(dataset: Dataset, split: str) -> Loaded:
    """Scenes of a split by token, with their maps, and prepared."""
    found: Loaded = {}
    for scene in iter_scenes(dataset, split):
        view = load_map(dataset, scene.map_name)
        found[scene.token] = scene, view, prepare_scene(scene, view)
    return found


def make_request(dataset: Dataset, scenes: Mapping[str, Loaded], checkouts: Sequence[Path]) -> dict[str, Any]:
    """What the devkit's child is asked to do.

    Args:
        dataset: generated.
        scenes: by split.
        checkouts: of navsim and of nuplan-devkit.
    """
    splits = {}
    for name, loaded in scenes.items():
        split = read_split(dataset, name)
        splits[name] = {
            "file": str(dataset.splits_root / f"{name}.yaml"),
            "logs": str(dataset.log_folder(split.data_split)),
            "second_stage": str(dataset.second_stage_folder(name)),
            "stage_pairs": [[pair.now, pair.previous, pair.second] for pair in split.stage_pairs],
            "plans": {token: make_plans(scene, row) for row, (token, (_, _, scene)) in enumerate(loaded.items())},
        }
    return {"checkouts": [str(path) for path in checkouts], "splits": splits}


def make_plans(scene: PreparedScene, row: int) -> dict[str, list[list[float]]]:
    """Plans for one scene, good and bad; the human's only where somebody drove."""
    generator = np.random.default_rng([SEED, row])
    jittered = reference(scene) + generator.normal(0, 1, (8, 3)) * [0.4, 0.2, 0.05]
    off_road = reference(scene)
    off_road[:, 1] += generator.choice([-1.0, 1.0]) * np.linspace(0, 12, 8)
    plans = {
        "constant_velocity": constant_velocity(scene),
        "jittered": jittered,
        "off_road": off_road,
        "speeding": constant_acceleration(scene, 2.5),
        "hard_brake": constant_acceleration(scene, -5.0),
    }
    if scene.human_plan is not None:
        plans["human"] = scene.human_plan
    return {name: plan.tolist() for name, plan in plans.items()}


def our_answer(request: Mapping[str, Any], scenes: Mapping[str, Loaded]) -> dict[str, Any]:
    """The same as the devkit's child answers, by this project."""
    return {name: _split_answer(split, scenes[name]) for name, split in request["splits"].items()}


def _split_answer(split: Mapping[str, Any], loaded: Loaded) -> dict[str, Any]:
    scores = {}
    for token, plans in split["plans"].items():
        for traffic in TRAFFIC:
            scored = score_plans(loaded[token][2], np.array(list(plans.values())), _config(traffic))
            if scored.failures:
                raise AssertionError(f"expected plans that can be scored, found {scored.failures}")
            for row, name in enumerate(plans):
                scores[f"{token} {name} {traffic}"] = {
                    "raw": _subscores(scored.raw[row], scored.raw[row]),
                    "filtered": _subscores(scored.filtered[row], scored.raw[row]),
                    "sim_end": scored.rollouts[row, -1].tolist(),
                }
    everywhere = set.intersection(*(set(plans) for plans in split["plans"].values()))
    return {
        "scenes": {token: _prepared(*parts) for token, parts in loaded.items()},
        "scores": scores,
        "results": {
            f"{name} {traffic}": _results(name, split, loaded, _config(traffic))
            for name in everywhere
            for traffic in TRAFFIC
        },
    }


def _prepared(scene: Scene, view: MapView, ready: PreparedScene) -> dict[str, Any]:
    now = scene.current
    red = tuple(str(connector) for connector, is_red in now.traffic_lights if is_red)
    route = distinct_blocks(view, now.roadblock_ids)
    planned = plan_scene(view, Moment(scene.token, ready.ego_state, route, frame_objects(now), red))
    area = drivable_map(view, rear_axle_to_centre(ready.ego_state[:3])[:2])
    return {
        "time_us": ready.time_us,
        "ego": _unwrapped(ready.ego_state[:3]),
        "reference": _unwrapped(ready.reference_poses),
        "centreline": ready.centerline.tolist(),
        "route_lane_ids": sorted(planned.followed.lane_ids),
        "map_ids": list(area.ids),
        "map_layers": [POLYGON_LAYERS[layer] for layer in area.layer],
    }


def _results(name: str, split: Mapping[str, Any], loaded: Loaded, config: ScorerConfig) -> dict[str, Any]:
    """Final scores of the plans of one name, by the rule of the split."""
    plans = {token: np.array(given[name]) for token, given in split["plans"].items()}
    store = cast(PreparedStore, {token: ready for token, (_, _, ready) in loaded.items()})
    frames = [FrameId(token, scene.log_name, scene.group, scene.kind) for token, (scene, _, _) in loaded.items()]
    if split["stage_pairs"]:
        pairs = [StagePair(now, previous, tuple(map(tuple, second))) for now, previous, second in split["stage_pairs"]]
        found = score_pairs(store, frames, pairs, plans, config)
        names = (*SUBSCORES, COMFORT, "score")
        means = {stage: dict(zip(names, found.means(stage).values(), strict=True)) for stage in STAGES}
        return {"rows": _rows(found.split)} | means
    logs = dict.fromkeys(frame.log_name for frame in frames)
    scored = join_scores(
        [score_log(store, [frame for frame in frames if frame.log_name == log], plans, config) for log in logs]
    )
    return {"rows": _rows(scored), "score": float(scored.score.mean())}


def _rows(scores: SplitScores) -> dict[str, Any]:
    named = zip(scores.frames, scores.subscores[:, -1].tolist(), scores.score.tolist(), strict=True)
    return {frame.token: {COMFORT: comfort, "score": score} for frame, comfort, score in named}


def _subscores(values: Floats, raw: Floats) -> dict[str, float]:
    """Sub-scores (9,) under the devkit's names; its column pdm_score stays that of the unfiltered ones."""
    named = dict(zip(SUBSCORES, values[:8].tolist(), strict=True))
    return named | {"multiplicative_metrics_prod": float(values[:4].prod()), "pdm_score": float(final_score(raw))}


def _unwrapped(poses: Floats) -> Any:
    """Poses (..., 3) as (..., 4): x, y, cosine and sine of the heading."""
    heading = poses[..., 2:]
    return np.concatenate([poses[..., :2], np.cos(heading), np.sin(heading)], axis=-1).tolist()


def _config(traffic: str) -> ScorerConfig:
    return ScorerConfig.model_validate({"traffic": traffic})
