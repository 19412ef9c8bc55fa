import json
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
from irl_vla.dataset.safe_pickle import write_pickle
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.errors import CheckpointError, ConfigError, LogFormatError
from irl_vla.world.painted_logs import Painted, PaintJob, begin_output, paint_log
from tests.unit.dataset.tiny_world import SENSORS, write_tiny_world

DRIVES = Path(__file__).parents[4] / "shared" / "real_drives"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A world without sensors; read only."""
    return write_tiny_world(tmp_path_factory.mktemp("bare") / "world", None)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_tiny_world(tmp_path_factory.mktemp("full") / "world", SENSORS)


def job(dataset, target, sensors=SENSORS):
    return PaintJob(dataset, "val", target, sensors, seed=0)


def logs(dataset):
    return sorted(path.stem for path in dataset.log_folder("val").glob("*.pkl"))


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_painted_logs_pass_the_check_and_are_observed(bare, tmp_path):
    target = tmp_path / "painted"
    before = files(bare.root)
    sizes = ["--width", "64", "--height", "36", "--split", "val"]
    assert main(["render", str(bare.root), "--output", str(target), *sizes]) == 0
    assert files(bare.root) == before
    painted = open_dataset(DataConfig(root=target), {})
    report = check_dataset(painted, ("val",), decode=True)
    assert {kind for folder in report.folders for kind in folder.gathered.kinds} == set()
    assert report.total("error") == report.total("warning") == 0
    assert [folder.missing.of("CAM_F0") for folder in report.folders] == [0]
    for found, plain in zip(iter_scenes(painted, "val"), iter_scenes(bare, "val"), strict=True):
        observation = build_observation(found, painted, SensorConfig())
        assert observation.camera_valid.all()
        assert observation.images.std() > 10
        assert len(observation.sweeps[3]) > 50
        np.testing.assert_array_equal(found.current.ego.pose_global, plain.current.ego.pose_global)
        np.testing.assert_array_equal(found.current.objects.boxes, plain.current.objects.boxes)
        assert (found.kind, found.group) == (plain.kind, plain.group)


def test_logs_keep_all_but_their_sensors(bare, tmp_path):
    (name, *_) = logs(bare)
    assert paint_log(job(bare, tmp_path), name) == Painted(name, frames=13, images=39, sweeps=13)
    source = pickle.loads((bare.log_folder("val") / f"{name}.pkl").read_bytes())
    written = pickle.loads((tmp_path / "navsim_logs/val" / f"{name}.pkl").read_bytes())
    for old, new in zip(source, written, strict=True):
        assert old.keys() == new.keys()
        for key in old.keys() - {"cams", "anns"}:
            np.testing.assert_array_equal(old[key], new[key])
        for key, value in old["anns"].items():
            np.testing.assert_array_equal(value, new["anns"][key])
        assert {camera for camera, entry in new["cams"].items() if entry} == set(SENSORS.cameras)


def test_an_interrupted_log_goes_on_and_gives_the_same(bare, tmp_path):
    (name, *_) = logs(bare)
    paint_log(job(bare, tmp_path / "once"), name)
    paint_log(job(bare, tmp_path / "twice"), name)
    (tmp_path / "twice/navsim_logs/val" / f"{name}.pkl").unlink()
    images = sorted((tmp_path / "twice/sensor_blobs/val" / name / "CAM_F0").iterdir())
    for path in images[:4]:
        path.unlink()
    assert paint_log(job(bare, tmp_path / "twice"), name) == Painted(name, frames=4, images=4, sweeps=0)
    assert paint_log(job(bare, tmp_path / "twice"), name) == Painted(name, 0, 0, 0)
    assert files(tmp_path / "once") == files(tmp_path / "twice")


def test_what_a_log_has_is_linked(full, tmp_path):
    (name, *_) = logs(full)
    folder = full.sensor_folder("val") / name
    wider = SENSORS.model_copy(update={"cameras": (*SENSORS.cameras, "CAM_B0")})
    assert paint_log(job(full, tmp_path, wider), name) == Painted(name, frames=13, images=13, sweeps=0)
    painted = tmp_path / "sensor_blobs/val" / name
    for path in (folder / "CAM_F0").iterdir():
        assert (painted / "CAM_F0" / path.name).is_symlink()
        assert (painted / "CAM_F0" / path.name).read_bytes() == path.read_bytes()
    assert not any(path.is_symlink() for path in (painted / "CAM_B0").iterdir())


def test_in_place_paints_lost_files_as_they_were(full, tmp_path):
    root = Path(shutil.copytree(full.root, tmp_path / "world"))
    dataset = open_dataset(DataConfig(root=root), {})
    (name, *_) = logs(dataset)
    before = files(root)
    folder = root / "sensor_blobs/val" / name
    lost = sorted((folder / "CAM_L0").iterdir())[0]
    lost.unlink()
    for path in (folder / "MergedPointCloud").iterdir():
        path.unlink()
    assert main(["render", str(root), "--in-place", "--split", "val"]) == 0
    after = files(root)
    assert after.keys() == before.keys()
    changed = {path for path in before if before[path] != after[path]}
    assert all("MergedPointCloud" in path.parts for path in changed)  # noise drawn anew; the first image is the same


def test_in_place_needs_entries_of_its_own(full, tmp_path):
    root = Path(shutil.copytree(full.root, tmp_path / "world"))
    dataset = open_dataset(DataConfig(root=root), {})
    name, other = logs(dataset)
    for log, key, value, hint in (
        (name, "lidar_path", "none.pcd", "found one that frames share"),
        (other, "cams", {}, "found none at all"),
    ):
        path = dataset.log_folder("val") / f"{log}.pkl"
        frames = pickle.loads(path.read_bytes())
        for item in frames:
            item[key] = value
            item["lidar_path"] = item["lidar_path"] if key == "lidar_path" else None
        write_pickle(path, frames)
        with pytest.raises(LogFormatError, match=f"{hint}; paint into a new data set"):
            paint_log(job(dataset, None), log)
    path = dataset.log_folder("val") / f"{name}.pkl"
    frames = pickle.loads(path.read_bytes())
    frames[2]["cams"]["CAM_F0"]["distortion"] = np.full(5, 0.1)
    write_pickle(path, frames)
    with pytest.raises(LogFormatError, match=r"frame 2: cams\.CAM_F0\.distortion: expected zeros"):
        paint_log(job(dataset, None), name)


def test_output_folders_are_not_mixed(bare, tmp_path):
    target = tmp_path / "painted"
    begin_output(bare, target, SENSORS, seed=0)
    begin_output(bare, target, SENSORS, seed=0)
    assert json.loads((target / "render.json").read_text())["seed"] == 0
    with pytest.raises(CheckpointError, match="choose another output folder"):
        begin_output(bare, target, SENSORS, seed=1)
    with pytest.raises(ConfigError, match="nested"):
        begin_output(bare, bare.root / "painted", SENSORS, seed=0)
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled/x").write_text("")
    with pytest.raises(ConfigError, match="expected a new or empty folder"):
        begin_output(bare, tmp_path / "filled", SENSORS, seed=0)


@pytest.mark.skipif(not DRIVES.is_dir(), reason="../shared/real_drives is not here")
def test_real_drives_can_be_painted(tmp_path):
    target = tmp_path / "painted"
    assert main(["render", str(DRIVES), "--output", str(target), "--width", "64", "--height", "36"]) == 0
    painted = open_dataset(DataConfig(root=target), {})
    report = check_dataset(painted, decode=True)
    assert set(report.maps.kinds) == {"map.column stop_polygons.lane_fids", "map.unread_layers traffic_lights"}
    assert [(folder.frames, folder.missing.of("CAM_F0"), folder.missing.of("LiDAR")) for folder in report.folders] == [
        (64, 0, 0)
    ]
    (folder,) = report.folders
    assert all(item.severity == "note" for kind in folder.gathered.kinds.values() for item in kind.examples)  # names
    scene = next(iter_scenes(painted, "mini"))
    assert build_observation(scene, painted, SensorConfig()).camera_valid.all()
    assert main(["render", str(DRIVES), "--in-place"]) == 2  # the drives name one sweep for all frames
