"""What generating takes, by what was measured of it."""

import pytest

from irl_vla.world.config import TwoStageConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.estimate import follow_up_pairs, follow_ups_estimate, painting_s, world_estimate

WORLD = WorldConfig(sensors=None)
FRAMES = 28 * (400 + 64 + 120)


def test_frames_a_second_are_those_of_the_documentation() -> None:
    assert world_estimate(WORLD).rows == FRAMES
    assert world_estimate(WORLD).core_hours == pytest.approx(FRAMES / 237 / 3600, rel=0.02)
    large = WORLD.model_copy(update={"sensors": WorldSensorConfig(image_height_px=270, image_width_px=480)})
    assert world_estimate(large).core_hours == pytest.approx(FRAMES / 27.2 / 3600, rel=0.02)


def test_sensors_are_nearly_all_of_the_size() -> None:
    maps = 400_000 * (40 + 10 + 24)
    assert world_estimate(WORLD).size_bytes == FRAMES * 4_200 + maps
    seen = WORLD.model_copy(update={"sensors": WorldSensorConfig()})
    assert world_estimate(seen).size_bytes == round(FRAMES * (4_200 + 3 * 144 * 256 * 0.22 + 131_000) + maps)


def test_without_lidar_no_sweep_is_cast() -> None:
    both, images = WorldSensorConfig(), WorldSensorConfig(lidar=None)
    assert painting_s(both, sweeps=2) - painting_s(both, sweeps=1) == pytest.approx(0.0037)
    assert painting_s(images, sweeps=2) == painting_s(images, sweeps=0) == painting_s(both, sweeps=0)
    assert painting_s(None) == 0


def test_follow_ups_of_the_documentation() -> None:
    """docs/data.md: a pair takes 1 MB with the default sensors, 0.19 MB without; one core makes five a second."""
    config = TwoStageConfig(groups=10, pairs_min=4, pairs_max=6)
    assert follow_up_pairs(config) == 50
    found = follow_ups_estimate(config, WorldSensorConfig())
    assert found.rows == 100
    assert found.core_hours == pytest.approx(10 / 3600, rel=0.05)
    assert found.size_bytes == pytest.approx(50e6, rel=0.05)
    assert follow_ups_estimate(config, None).size_bytes == 50 * 190_000
