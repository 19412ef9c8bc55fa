"""A generated world that is small enough for tests: two logs a split, 64 x 36 pixels."""

from pathlib import Path

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.world.config import SplitSizeConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate
from irl_vla.world.sensor_config import LidarConfig

SENSORS = WorldSensorConfig(image_height_px=36, image_width_px=64, lidar=LidarConfig(rings=4, azimuths=60))


def write_tiny_world(root: Path, sensors: WorldSensorConfig | None) -> Dataset:
    size = SplitSizeConfig(logs=2, layouts=2)
    generate(WorldConfig(train=size, val=size, test=size, frames_per_log=13, sensors=sensors), root, seed=3)
    return open_dataset(DataConfig(root=root), {})
