"""What generating a world takes."""

from typing import Final

from irl_vla.ledger.estimate import Estimate
from irl_vla.world.config import TwoStageConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.second_stage_files import SEEN_FRAMES

# On disk, measured on the generated data of configs/reference.yaml.
_LOG_FRAME_BYTES: Final = 4_200
_IMAGE_BYTES_A_PIXEL: Final = 0.22
_SWEEP_BYTES: Final = 131_000
_MAP_LAYOUT_BYTES: Final = 400_000
#: A pair of follow-up scenes without its sensors (docs/data.md).
_PAIR_BYTES: Final = 190_000
# Processor time of a frame without sensors and, with three cameras of 480 x 270 pixels and LiDAR, what comes on top:
# 237 and 27.2 frames a second (docs/data.md). How that falls to cameras and LiDAR: the same logs with either alone.
_FRAME_S: Final = 0.0042
_CAMERA_S: Final = 0.0008
_PIXEL_S: Final = 6.8e-8
_SWEEP_S: Final = 0.0037
#: A pair without its sensors: one core makes five a second with the default ones (docs/data.md).
_PAIR_S: Final = 0.13


def world_estimate(world: WorldConfig) -> Estimate:
    """Estimates the logs of all splits with their maps and sensor files; rows are frames."""
    splits = (world.train, world.val, world.test)
    frames = world.frames_per_log * sum(split.logs for split in splits)
    hours = frames * (_FRAME_S + painting_s(world.sensors)) / 3600
    maps_bytes = _MAP_LAYOUT_BYTES * sum(split.layouts for split in splits)
    size_bytes = frames * (_LOG_FRAME_BYTES + _sensor_bytes(world.sensors)) + maps_bytes
    return Estimate("generated frames", frames, 0, hours, round(size_bytes))


def follow_ups_estimate(config: TwoStageConfig, sensors: WorldSensorConfig | None) -> Estimate:
    """Estimates the follow-up scenes; rows are scenes, two a pair."""
    pairs = follow_up_pairs(config)
    hours = pairs * (_PAIR_S + SEEN_FRAMES * painting_s(sensors)) / 3600
    size_bytes = pairs * (_PAIR_BYTES + SEEN_FRAMES * _sensor_bytes(sensors))
    return Estimate("follow-up scenes", 2 * pairs, 0, hours, round(size_bytes))


def follow_up_pairs(config: TwoStageConfig) -> int:
    """Pairs of follow-up scenes, if every group gets the mean of the numbers that it may draw."""
    return round(config.groups * (config.pairs_min + config.pairs_max) / 2)


def painting_s(sensors: WorldSensorConfig | None, sweeps: int = 1) -> float:
    """Processor seconds of the images and sweeps of one frame or shifted view."""
    if sensors is None:
        return 0.0
    cast = 0 if sensors.lidar is None else sweeps
    return len(sensors.cameras) * _CAMERA_S + _pixels(sensors) * _PIXEL_S + cast * _SWEEP_S


def _sensor_bytes(sensors: WorldSensorConfig | None) -> float:
    """Of one frame."""
    if sensors is None:
        return 0.0
    return _pixels(sensors) * _IMAGE_BYTES_A_PIXEL + (0 if sensors.lidar is None else _SWEEP_BYTES)


def _pixels(sensors: WorldSensorConfig) -> int:
    return len(sensors.cameras) * sensors.image_height_px * sensors.image_width_px
