"""Samples and token banks: bytes follow from the configuration, hours from rows and images."""

import pytest

from irl_vla.policy.config import EncoderConfig
from irl_vla.train.estimate import bank_estimate, samples_estimate

ENCODER = EncoderConfig()
SMALL = {"image_pixels": 144 * 256, "painting_s": 0.02}


def test_a_row_of_samples_is_as_large_as_its_layout() -> None:
    images, lidar, raster = 3 * 108 * 192 * 3, 6 * 128 * 128, 7 * 64 * 64
    calibration = 3 * (1 + 4 * 9 + 4 * 16)
    targets = 64 * (9 * 4 + 8 + 8 * (3 * 4 + 1)) + 6 * 64 * 64 * 2 + 1 + 2 * 8
    ego = 4 * 7 * 4 + 8 + 32 * (4 + 1)
    aside = 6 * 32 + 8 + 8 * 3 * 4 + 2
    found = samples_estimate(10, 5, ENCODER, **SMALL)
    assert found.rows == 15
    assert found.size_bytes == 15 * (images + lidar + raster + calibration + targets + ego + aside)
    assert found.size_bytes / 15 == pytest.approx(373_665, rel=0.002), "what benchmarks/encoding.py measures"


def test_a_row_of_a_bank_is_as_large_as_its_tokens_and_what_lies_beside_them() -> None:
    tokens = (8 + 64 + 32 + 30 + 2) * 64 * 2
    sight = 6 * 64 * 64 + 30 * 2 * (9 + 7 + 3 * 8 * 2 + 3 + 8)
    beside = 6 * 32 + 8 + 4 * 7 * 4 + 8 + 8 * 3 * 4 + 2 + sight
    assert bank_estimate(100, ENCODER).size_bytes == 100 * (tokens + beside)
    wide = ENCODER.with_overrides({"width": 128})
    assert bank_estimate(100, wide).size_bytes == 100 * (2 * tokens + beside)


def test_hours_grow_with_rows_images_and_painted_views() -> None:
    scenes, views = samples_estimate(1000, 0, ENCODER, **SMALL), samples_estimate(0, 1000, ENCODER, **SMALL)
    assert scenes.core_hours == pytest.approx(1000 * (0.0096 + 3 * 144 * 256 * 4.7e-9) / 3600)
    assert views.core_hours == pytest.approx(scenes.core_hours + 1000 * 0.02 / 3600)
    recorded = samples_estimate(1000, 0, ENCODER, image_pixels=1080 * 1920, painting_s=0.0)
    assert recorded.core_hours == pytest.approx(39 / 3600, rel=0.02), "39 ms a row"
    assert bank_estimate(2000, ENCODER).core_hours == pytest.approx(2 * bank_estimate(1000, ENCODER).core_hours)
