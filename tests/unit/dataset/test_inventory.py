"""Which sensor files scenes lack, by log and sensor."""

from dataclasses import replace
from pathlib import Path

import pytest

from irl_vla.dataset.config import SensorConfig
from irl_vla.dataset.inventory import MissingSensor, SensorInventory, inventory_of, joined, spread_inventory
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.log import LogMeta, write_log
from irl_vla.dataset.scenes import iter_scenes, scene_refs, split_logs
from irl_vla.dataset.sensors import write_image
from irl_vla.dataset.splits import read_split
from irl_vla.errors import LogFormatError

from .example import CITY, LOG, gradient, log_frames, write_example
from .second_stage_example import NOW, SPLIT, scene_dict, synthetic_token, write_scene, write_two_stage

OTHER = LOG.replace("veh-01", "veh-02")
SENSORS = SensorConfig(cameras=("CAM_F0",), lidar_history=(2, 3))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two logs of 14 frames: scenes at frames 3, 4 and 5 of each."""
    found: Dataset = write_example(tmp_path, logs=(LOG, OTHER), count=14)
    return found


def look(dataset: Dataset, sensors: SensorConfig = SENSORS) -> SensorInventory:
    return spread_inventory(dataset, "train", sensors)


def image(dataset: Dataset, log: str, frame: int) -> Path:
    return dataset.root / "sensor_blobs/mini" / log_frames(14, log=log)[frame].cameras["CAM_F0"].path


def sweep(dataset: Dataset, log: str, frame: int) -> Path:
    return dataset.root / "sensor_blobs/mini" / log_frames(14, log=log)[frame].lidar_path


def test_whole_scenes_lack_nothing(dataset: Dataset) -> None:
    found = look(dataset)
    assert found.missing == {}
    assert found.whole == tuple(ref.token for ref in scene_refs(dataset, "train"))
    assert found.describe() == "all sensor files of 6 scenes are there"


def test_lost_files_are_counted_by_log_and_sensor(dataset: Dataset) -> None:
    """An image serves one scene, a sweep those of its frame and of the next; nobody takes the image of frame 0."""
    image(dataset, LOG, 4).unlink()
    sweep(dataset, LOG, 3).unlink()
    sweep(dataset, OTHER, 5).unlink()
    image(dataset, LOG, 0).unlink()
    found = look(dataset)
    tokens = {(ref.log_name, ref.index): ref.token for ref in scene_refs(dataset, "train")}
    path = str(image(dataset, LOG, 4).relative_to(dataset.root / "sensor_blobs/mini"))
    assert found.missing[tokens[LOG, 4]][0] == MissingSensor("CAM_F0", path)
    assert {token: [item.sensor for item in items] for token, items in found.missing.items()} == {
        tokens[LOG, 3]: ["sweep 3"],
        tokens[LOG, 4]: ["CAM_F0", "sweep 2"],
        tokens[OTHER, 5]: ["sweep 3"],
    }
    assert found.by_sensor() == {"CAM_F0": 1, "sweep 2": 1, "sweep 3": 2}
    assert found.by_log() == {LOG: 2, OTHER: 1}
    assert found.whole == (tokens[LOG, 5], tokens[OTHER, 3], tokens[OTHER, 4])
    assert found.describe().startswith("3 of 6 scenes lack sensors (CAM_F0 1, sweep 2 1, sweep 3 2), in 2 logs")


def test_sensors_that_the_log_does_not_name_are_missing(dataset: Dataset) -> None:
    frames = log_frames(14, log=OTHER, cameras=False)
    write_log(dataset.log_folder("mini") / f"{OTHER}.pkl", frames, LogMeta(OTHER, CITY))
    found = look(dataset)
    assert found.by_log() == {OTHER: 3}
    assert {str(item) for items in found.missing.values() for item in items} == {"CAM_F0: not in the log"}


def test_only_what_a_policy_takes_is_looked_for(dataset: Dataset) -> None:
    sweep(dataset, LOG, 5).unlink()
    assert look(dataset, SensorConfig(cameras=("CAM_F0",), lidar_history=())).missing == {}
    assert len(look(dataset, SensorConfig(cameras=("CAM_B0",), lidar_history=())).missing) == 6


def test_parts_join_to_the_whole(dataset: Dataset) -> None:
    image(dataset, OTHER, 3).unlink()
    selection = read_split(dataset, "train")
    parts = [inventory_of(dataset, selection, SENSORS, [name]) for name in split_logs(dataset, "train")]
    whole, found = look(dataset), joined(parts)
    assert (found.log_of, found.missing) == (whole.log_of, whole.missing)


def test_frames_are_not_converted(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irl_vla.dataset.log.parse_ego", None)
    with pytest.raises(TypeError):
        next(iter_scenes(dataset, "train"))
    assert len(look(dataset).log_of) == 6


def test_paths_stay_below_the_folder(dataset: Dataset) -> None:
    frames = log_frames(14, log=OTHER)
    outside = [replace(item, lidar_path="../../secret.pcd") for item in frames]
    write_log(dataset.log_folder("mini") / f"{OTHER}.pkl", outside, LogMeta(OTHER, CITY))
    with pytest.raises(LogFormatError, match="expected a path below this folder"):
        look(dataset)


def test_second_stage_scenes_have_sensors_of_their_own(tmp_path: Path) -> None:
    dataset = write_two_stage(tmp_path, asides=(0.0,))
    now, before = synthetic_token(LOG, "a-now"), synthetic_token(LOG, "a-before")
    write_scene(dataset, scene_dict(LOG, start=NOW, name="a-now", sensors=True))
    found = spread_inventory(dataset, SPLIT, SENSORS)
    assert list(found.log_of)[-2:] == [now, before]
    image = f"{LOG}/CAM_F0/{now}.jpg"
    assert found.missing[now][0] == MissingSensor("CAM_F0", image)
    assert found.missing[before][0] == MissingSensor("CAM_F0", None)
    write_image(dataset.root / SPLIT / "sensor_blobs" / image, gradient())
    found = spread_inventory(dataset, SPLIT, SENSORS)
    assert [item.sensor for item in found.missing[now]] == ["sweep 2", "sweep 3"], "they have no sweeps"
