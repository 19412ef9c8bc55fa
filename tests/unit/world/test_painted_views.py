"""Which data sets have the sensors of their shifted views painted anew."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from irl_vla.dataset.layout import Dataset
from irl_vla.errors import CheckpointError
from irl_vla.scene import MapView, Scene
from irl_vla.world.config import WorldConfig, WorldSensorConfig
from irl_vla.world.identity import SCHEMA, world_artefact
from irl_vla.world.painted_views import PaintedSensors, view_sensors
from tests.unit.world.sensor_scenes import frame_of

SENSORS = WorldSensorConfig(cameras=("CAM_F0",), image_height_px=32, image_width_px=48)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path, tmp_path / "maps", tmp_path / "splits")


def generated(dataset: Dataset, sensors: WorldSensorConfig | None, schema: int = SCHEMA) -> None:
    world = world_artefact(WorldConfig(sensors=sensors), dataset.root, seed=0)
    replace(world, identity=replace(world.identity, schema=schema)).finish()


def test_a_generated_data_set_is_painted_also_on_another_machine(dataset: Dataset) -> None:
    generated(dataset, SENSORS)
    make = pickle.loads(pickle.dumps(view_sensors(dataset, seed=7)))
    scene = Scene("t", "log", "map", "log", "", "train", (frame_of(),) * 12)
    source = make(scene, MapView("map", {}, {}, {}, {}, {}))
    assert isinstance(source, PaintedSensors)
    assert (source.logged, source.sensors, source.seed) == (scene, SENSORS, 7)


def test_real_data_and_worlds_without_sensors_keep_what_is_there(dataset: Dataset) -> None:
    assert view_sensors(dataset, seed=0) is None
    generated(dataset, None)
    assert view_sensors(dataset, seed=0) is None


def test_a_data_set_of_another_version_is_refused(dataset: Dataset) -> None:
    generated(dataset, SENSORS, SCHEMA + 1)
    with pytest.raises(CheckpointError, match="generate the data set again"):
        view_sensors(dataset, seed=0)
