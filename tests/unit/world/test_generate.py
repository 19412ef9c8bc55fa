"""A generated data set is deterministic, resumable, readable, and split by road layout."""

import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes, scene_refs
from irl_vla.dataset.sensors import load_image, load_sweep
from irl_vla.dataset.splits import read_layouts
from irl_vla.errors import CheckpointError
from irl_vla.scene import CITIES
from irl_vla.world import generate as module
from irl_vla.world.config import ScenarioWeights, SplitSizeConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate
from irl_vla.world.identity import BEGUN_NAME
from irl_vla.world.plan import EVERY_ROAD, LEAST_SHARE, SPLITS, kind_counts, layout_plans, log_plans, network_of
from irl_vla.world.scenarios import KINDS
from irl_vla.world.sensor_config import LidarConfig

TINY = SplitSizeConfig(logs=3, layouts=2)
CONFIG = WorldConfig(train=TINY, val=TINY, test=TINY, frames_per_log=13, sensors=None)


def digests(root: Path) -> dict[str, str]:
    """Hashes of all logs and maps; the manifest and times are left out."""
    files = sorted([*root.glob("navsim_logs/**/*.pkl"), *root.glob("maps/**/*.gpkg")])
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    generate(CONFIG, root, seed=7)
    return root


def test_same_seed_same_files_whatever_the_order(world, tmp_path):
    plans = log_plans(CONFIG, 7)
    for plan in reversed(plans):
        module.generate_log(CONFIG, tmp_path, 7, plan)
    made = digests(tmp_path)
    assert made == {name: digest for name, digest in digests(world).items() if name.endswith(".pkl")}


def test_another_seed_gives_other_drives(world, tmp_path):
    plan = log_plans(CONFIG, 8)[0]
    name = module.generate_log(CONFIG, tmp_path, 8, plan)
    assert digests(tmp_path)[f"navsim_logs/train/{name}.pkl"] not in digests(world).values()


def test_resumes_after_an_interruption(world, tmp_path, monkeypatch):
    made: list[str] = []
    write = module.write_log

    def interrupted(path, frames, meta):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(meta.log_name)
        write(path, frames, meta)

    monkeypatch.setattr(module, "write_log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(CONFIG, tmp_path, seed=7)
    assert not (tmp_path / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("navsim_logs/**/*.pkl")}
    assert len(kept) == 2

    monkeypatch.setattr(module, "write_log", write)
    generate(CONFIG, tmp_path, seed=7)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert digests(tmp_path) == digests(world)
    assert (tmp_path / "manifest.json").exists()


def test_refuses_to_mix_data_sets(world):
    with pytest.raises(CheckpointError, match="another folder"):
        generate(CONFIG, world, seed=8)


def test_refuses_to_continue_another_unfinished_data_set(tmp_path):
    (tmp_path / BEGUN_NAME).write_text('{"world": "0"}')
    with pytest.raises(CheckpointError, match="unfinished"):
        generate(CONFIG, tmp_path, seed=7)


def test_never_writes_into_data_that_it_did_not_make(tmp_path):
    (tmp_path / "maps").mkdir()
    with pytest.raises(CheckpointError, match="not generated here"):
        generate(CONFIG, tmp_path, seed=7)
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


def test_reader_accepts_everything(world):
    dataset = open_dataset(DataConfig(root=world))
    maps = {city: load_map(dataset, city) for city in CITIES}
    for split in ("train", "val", "test"):
        scenes = list(iter_scenes(dataset, split))
        assert len(scenes) == 3 * 2  # 13 frames hold two windows of twelve
        for scene in scenes:
            city = maps[scene.map_name]
            assert all(
                block in city.roadblocks or block in city.roadblock_connectors for block in scene.current.roadblock_ids
            )
            assert all(str(light) in city.lane_connectors for light, _ in scene.current.traffic_lights)
            assert len(set(scene.current.objects.track_tokens)) == len(scene.current.objects)
            assert np.isfinite(scene.human_plan()).all()
            assert scene.group.startswith(split)
            assert scene.kind in KINDS


def test_splits_never_share_a_layout(world):
    dataset = open_dataset(DataConfig(root=world))
    layouts = read_layouts(dataset)
    groups = {
        split: {layouts[ref.log_name].layout for ref in scene_refs(dataset, split)}
        for split in ("train", "val", "test")
    }
    assert not groups["train"] & groups["val"]
    assert not groups["test"] & (groups["train"] | groups["val"])


def test_layouts_of_different_splits_are_different_roads():
    """Not by name alone: no two layouts, wherever they lie, have the same bends."""
    split = SplitSizeConfig(logs=1, layouts=EVERY_ROAD)
    plans = [plan for found in layout_plans(WorldConfig(train=split, val=split, test=split)).values() for plan in found]
    bends = [tuple(np.round(np.diff(network_of(plan, 0).layout.arms[0].line[:, 2]), 6)) for plan in plans]
    assert len(set(bends)) == len(plans) == 3 * EVERY_ROAD


def test_default_sizes_hold_enough_layouts_for_statistics():
    plans = layout_plans(WorldConfig())
    assert len(plans["test"]) >= 20
    assert len(plans["val"]) >= 8
    assert len({plan.number for split in plans.values() for plan in split}) == sum(map(len, plans.values()))


@pytest.mark.parametrize("logs", [24, 40, 64, 120, 400])
def test_every_kind_has_its_share(logs):
    weights = ScenarioWeights(cruise=50.0).model_dump()
    counts = kind_counts(logs, weights)
    assert sum(counts.values()) == logs
    assert min(counts.values()) >= min(math.ceil(LEAST_SHARE * logs), logs // len(KINDS)) >= 1
    assert counts["cruise"] == max(counts.values())


def test_kinds_without_a_weight_are_left_out():
    assert kind_counts(10, {"cruise": 1.0, "merge": 3.0}) == {"cruise": 3, "merge": 7}


def test_few_layouts_leave_out_what_they_cannot_show():
    split = SplitSizeConfig(logs=25, layouts=2)  # a signalled crossing and a priority road
    plans = log_plans(WorldConfig(train=split, val=split, test=split), 0)
    assert len(plans) == 75
    kinds = {plan.kind for plan in plans}
    assert {"cruise", "red_light", "turn_left", "crossing", "parked"} <= kinds
    assert not {"merge", "roundabout", "lane_drop", "stop_sign"} & kinds


def test_a_split_of_eight_layouts_shows_every_kind():
    split = SplitSizeConfig(logs=48, layouts=EVERY_ROAD)
    plans = log_plans(WorldConfig(train=split, val=split, test=split), 3)
    for name in SPLITS:
        assert {plan.kind for plan in plans if plan.layout.split == name} == set(KINDS)


def test_log_names_are_unique_and_layouts_evenly_used():
    config = WorldConfig(test=SplitSizeConfig(logs=96, layouts=16), train=TINY, val=TINY)
    plans = log_plans(config, 0)
    names = [plan.log_name(28) for plan in plans]
    assert len(set(names)) == len(names)
    assert {plan.kind for plan in plans if plan.layout.split == "test"} == set(KINDS)
    used = Counter(plan.layout.name for plan in plans if plan.layout.split == "test")
    assert len(used) == 16
    assert max(used.values()) <= 2 * 96 / 16  # roads for one kind only get fewer


def test_sensors_are_written_where_frames_point(tmp_path):
    sensors = WorldSensorConfig(
        cameras=("CAM_F0",), image_height_px=54, image_width_px=96, lidar=LidarConfig(rings=4, azimuths=60)
    )
    one = SplitSizeConfig(logs=1, layouts=2)
    config = WorldConfig(train=one, val=one, test=one, frames_per_log=12, sensors=sensors)
    generate(config, tmp_path, seed=0)
    dataset = open_dataset(DataConfig(root=tmp_path))
    (scene,) = iter_scenes(dataset, "val")
    frame = scene.current
    assert load_image(dataset, "val", frame.cameras["CAM_F0"]).shape == (54, 96, 3)
    assert frame.lidar_path is not None
    assert load_sweep(dataset, "val", frame.lidar_path).shape[0] == 6
