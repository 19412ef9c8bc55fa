import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from irl_vla.cli.main import main
from irl_vla.dataset.checks.dataset import check_dataset
from irl_vla.dataset.config import DataConfig, SensorConfig
from irl_vla.dataset.features import build_observation
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.scenes import load_scene
from irl_vla.dataset.splits import read_split
from irl_vla.errors import LogFormatError
from irl_vla.world.config import SplitSizeConfig, TwoStageConfig, WorldConfig
from irl_vla.world.generate import generate
from irl_vla.world.painted_follow_ups import begin_second_stage, paint_pair, second_stage_pairs
from irl_vla.world.painted_logs import Painted, PaintJob
from irl_vla.world.second_stage_files import SECOND_STAGE
from tests.unit.dataset.tiny_world import SENSORS


def write_world(root, sensors):
    size = SplitSizeConfig(logs=1, layouts=2)
    two_stage = TwoStageConfig(groups=1, pairs_min=2, pairs_max=2)
    config = WorldConfig(train=size, val=size, test=size, frames_per_log=13, sensors=sensors, two_stage=two_stage)
    generate(config, root, seed=7)
    return open_dataset(DataConfig(root=root), {})


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A world without sensors and with two pairs of follow-up scenes; read only."""
    return write_world(tmp_path_factory.mktemp("bare") / "world", None)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("full") / "world", SENSORS)


def pairs_of(dataset):
    return second_stage_pairs(dataset, read_split(dataset, SECOND_STAGE))


def job(dataset, target):
    return PaintJob(dataset, SECOND_STAGE, target, SENSORS, seed=0, is_second_stage=True)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_painted_follow_ups_pass_the_check_and_are_observed(bare, tmp_path):
    target, before = tmp_path / "painted", files(bare.root)
    sizes = ["--width", "64", "--height", "36", "--split", SECOND_STAGE]
    assert main(["render", str(bare.root), "--output", str(target), *sizes]) == 0
    assert files(bare.root) == before
    painted = open_dataset(DataConfig(root=target), {})
    report = check_dataset(painted, (SECOND_STAGE,), decode=True)
    assert {kind for part in report.parts.values() for kind in part.kinds} == {
        "second.group_size reactive_all_mapping"  # two pairs are few, as asked for
    }
    (second,) = report.second_stages
    assert (second.scenes, second.frames) == (4, 16)
    assert second.missing.of("CAM_F0") == second.missing.of("LiDAR") == 0
    for token in pairs_of(bare)[0]:
        found, plain = (load_scene(dataset, SECOND_STAGE, token) for dataset in (painted, bare))
        observation = build_observation(found, painted, SensorConfig())
        assert observation.camera_valid.all()
        assert observation.images.std() > 10
        assert len(observation.sweeps[3]) > 50
        for mine, theirs in zip(found.frames, plain.frames, strict=True):
            np.testing.assert_array_equal(mine.ego.pose_global, theirs.ego.pose_global)
            np.testing.assert_array_equal(mine.objects.boxes, theirs.objects.boxes)
            assert mine.traffic_lights == theirs.traffic_lights
    assert (target / SECOND_STAGE / "synthetic_scenes_attributes.csv").read_bytes() == (
        bare.root / SECOND_STAGE / "synthetic_scenes_attributes.csv"
    ).read_bytes()


def test_frames_that_both_scenes_of_a_pair_see_are_painted_once(bare, tmp_path):
    pair = pairs_of(bare)[0]
    log_name = load_scene(bare, SECOND_STAGE, pair[0]).log_name
    begin_second_stage(job(bare, tmp_path))
    assert paint_pair(job(bare, tmp_path), pair) == Painted(log_name, frames=5, images=15, sweeps=5)
    once = files(tmp_path)
    (tmp_path / SECOND_STAGE / "synthetic_scene_pickles" / f"{pair[1]}.pkl").unlink()
    lost = sorted((tmp_path / SECOND_STAGE / "sensor_blobs" / log_name / "CAM_F0").iterdir())
    for path in lost:
        path.unlink()
    again = paint_pair(job(bare, tmp_path), pair)
    assert (again.frames, again.images) == (4, 4)  # those of the previous scene; the other one was written already
    assert files(tmp_path).items() <= once.items()


def test_in_place_paints_lost_files_alone(full, tmp_path):
    root = Path(shutil.copytree(full.root, tmp_path / "world"))
    dataset, before = open_dataset(DataConfig(root=root), {}), files(root)
    pair = pairs_of(dataset)[0]
    scene = load_scene(dataset, SECOND_STAGE, pair[0])
    image = root / SECOND_STAGE / "sensor_blobs" / scene.current.cameras["CAM_L0"].path
    image.unlink()
    assert main(["render", str(root), "--in-place", "--split", SECOND_STAGE]) == 0
    assert files(root).keys() == before.keys()
    changed = {path for path, data in files(root).items() if data != before[path]}
    assert changed <= {image.relative_to(root)}


def test_in_place_needs_entries(bare, tmp_path):
    with pytest.raises(LogFormatError, match="found none at all; paint into a new data set"):
        paint_pair(job(bare, None), pairs_of(bare)[0])


def test_splits_without_scenes_have_none_to_paint(bare, tmp_path, caplog):
    assert second_stage_pairs(bare, read_split(bare, "test")) == []
    root = Path(shutil.copytree(bare.root, tmp_path / "world"))
    shutil.rmtree(root / SECOND_STAGE)
    assert caplog.messages == []
    assert pairs_of(open_dataset(DataConfig(root=root), {})) == []
    assert f"the second stage of split {SECOND_STAGE} is left out" in caplog.text


def test_scenes_keep_all_but_their_sensors(bare, tmp_path):
    pair = pairs_of(bare)[0]
    paint_pair(job(bare, tmp_path), pair)
    name = f"{SECOND_STAGE}/synthetic_scene_pickles/{pair[0]}.pkl"
    old, new = ((root / name).read_bytes() for root in (bare.root, tmp_path))
    assert b"nuplan.common.actor_state.agent" in new
    assert new[:2] == pickle.PROTO + b"\x04"
    assert len(new) > len(old)
