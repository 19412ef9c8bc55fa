"""The reader on two real drives that are kept outside of the repository."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from irl_vla.dataset.config import DataConfig, SceneFilter, SensorConfig, TargetConfig
from irl_vla.dataset.features import build_observation
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.log import LogMeta, read_log, write_log
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.splits import write_split
from irl_vla.dataset.targets import build_targets
from irl_vla.errors import LogFormatError
from irl_vla.geometry import rear_axle_to_centre

DRIVES = Path(__file__).parents[4] / "shared" / "real_drives"
pytestmark = pytest.mark.skipif(not DRIVES.is_dir(), reason="../shared/real_drives is not here")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    splits = tmp_path_factory.mktemp("splits")
    write_split(splits, "all", "mini", SceneFilter(num_future_frames=8, frame_interval=1))
    return open_dataset(DataConfig(root=DRIVES, splits_root=splits / "train_test_split"), {})


@pytest.fixture(scope="module")
def scenes(dataset):
    return list(iter_scenes(dataset, "all"))


@pytest.fixture(scope="module")
def official():
    return {row["token"]: row for row in pq.read_table(DRIVES / "official_scenes.parquet").to_pylist()}


def test_scenes_are_the_official_ones(scenes, official):
    assert {scene.token for scene in scenes} == set(official)
    for scene in scenes:
        row = official[scene.token]
        assert (scene.log_name, scene.map_name) == (row["log"], row["map"])
        assert scene.current.timestamp_us == row["time_us"]
        ego = scene.current.ego
        found = [*ego.pose_global, *ego.velocity_mps, *ego.acceleration_mps2]
        np.testing.assert_allclose(found, row["ego"], rtol=0, atol=2e-9)
        assert len(scene.current.objects) == row["tracks_now"]
        assert len(scene.frames) == 12


def test_map_objects_are_the_official_ones_in_the_official_order(dataset, scenes, official):
    for scene in scenes:
        view = load_map(dataset, scene.map_name)
        x, y, _ = rear_axle_to_centre(scene.current.ego.pose_global)
        blocks, connectors = (view.query(layer, x, y, 100.0) for layer in ("ROADBLOCK", "ROADBLOCK_CONNECTOR"))
        found = [
            *blocks,
            *(lane for block in blocks for lane in view.roadblocks[block].lane_ids),
            *(lane for block in connectors for lane in view.roadblock_connectors[block].lane_ids),
            *view.query("INTERSECTION", x, y, 100.0),
            *view.query("CARPARK_AREA", x, y, 100.0),
        ]
        assert found == official[scene.token]["map_tokens"]


def test_centreline_vertices_are_the_official_numbers(dataset, scenes, official):
    for scene in scenes[::7]:
        lanes = load_map(dataset, scene.map_name)
        vertices = np.concatenate([lane.baseline for lane in (*lanes.lanes.values(), *lanes.lane_connectors.values())])
        centreline = np.array(official[scene.token]["centerline"]).reshape(-1, 3)[:, :2]
        nearest = np.abs(vertices[None] - centreline[:, None]).max(axis=-1).min(axis=1)
        assert nearest.max() < 1e-6


def test_missing_sensors_are_named_only_when_asked_for(dataset, scenes):
    with pytest.raises(LogFormatError, match="CAM_F0: expected a sensor file, found no entry in the log"):
        build_observation(scenes[0], dataset, SensorConfig())
    with pytest.raises(LogFormatError, match=r"LiDAR sweep: expected a sensor file, found no file none\.pcd"):
        build_observation(scenes[0], dataset, SensorConfig(cameras=()))
    observation = build_observation(scenes[0], dataset, SensorConfig(allow_missing=True))
    assert not observation.camera_valid.any()


def test_targets_of_real_scenes(dataset, scenes):
    for scene in scenes[::6]:
        targets = build_targets(scene, load_map(dataset, scene.map_name), TargetConfig())
        assert 0.05 < targets.raster[0].mean() < 0.9
        assert len(targets.boxes.classes) > 5
        assert min(targets.meta_action) >= 0


def test_writing_a_real_log_again_changes_nothing(dataset, tmp_path):
    (path, *_) = sorted(dataset.log_folder("mini").glob("*.pkl"))
    log = read_log(path)
    frames = [log.frame(index) for index in range(len(log))]
    write_log(tmp_path / "again.pkl", frames, LogMeta(path.stem, log.map_name(0)))
    again = read_log(tmp_path / "again.pkl")
    for index, frame in enumerate(frames):
        found = again.frame(index)
        np.testing.assert_array_equal(found.objects.boxes, frame.objects.boxes)
        np.testing.assert_allclose(found.ego.pose_global, frame.ego.pose_global, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found.ego.velocity_mps, frame.ego.velocity_mps)
        assert (found.token, found.roadblock_ids, found.lidar_path) == (
            frame.token,
            frame.roadblock_ids,
            frame.lidar_path,
        )
