"""Compact samples, batches and target encoding."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from irl_vla.dataset.targets import MetaAction, Targets
from irl_vla.errors import ConfigError, SceneError
from irl_vla.policy.batch import (
    collate,
    encode_sample,
    encode_targets,
    observation_batch,
    stacked,
    target_batch,
)
from irl_vla.policy.config import EncoderConfig, GridConfig, LidarConfig
from irl_vla.policy.perception.lidar import rasterise_sweeps
from irl_vla.policy.sample_layout import sample_layout, target_layout
from tests.unit.policy import scenes
from tests.unit.policy.scenes import box_targets

CONFIG = scenes.tiny_config()


def make_observation(seed: int = 0):
    return scenes.observation(CONFIG, np.random.default_rng(seed))


def test_sample_has_the_announced_layout_and_is_compact():
    sample = encode_sample(make_observation(), CONFIG)
    layout = sample_layout(CONFIG)
    assert {name: (value.shape, value.dtype) for name, value in sample.items()} == {
        name: (shape, np.dtype(dtype)) for name, (shape, dtype) in layout.items()
    }
    demo = sample_layout(EncoderConfig())
    size = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in demo.values())
    assert size < 300_000  # three images of 62 kB and 98 kB of LiDAR raster


def test_batch_holds_the_observation_in_network_units():
    first, second = make_observation(0), replace(make_observation(1), command=2)
    batch = collate([first, second], CONFIG)
    assert batch.images.shape == (2, 2, 3, 32, 48)
    assert batch.images[1, 0, 2, 5, 7].item() == pytest.approx(second.images[0, 5, 7, 2] / 255)
    assert batch.command.tolist() == [1, 2]
    assert batch.history.dtype == torch.float32
    torch.testing.assert_close(batch.history[1], torch.tensor(second.history, dtype=torch.float32))
    assert batch.lidar.max() <= 1
    assert batch.instruction_mask.sum(1).tolist() == [11, 11]  # ten words and a question mark


def test_stored_samples_collate_to_the_same_batch():
    observations = [make_observation(0), make_observation(1)]
    samples = [encode_sample(observation, CONFIG) for observation in observations]
    for name in sample_layout(CONFIG):
        assert torch.equal(
            getattr(observation_batch(stacked(samples)), name), getattr(collate(observations, CONFIG), name)
        )


def test_other_cameras_or_image_sizes_are_refused_with_the_scene_named():
    with pytest.raises(ConfigError, match=r"scene scene: expected cameras .*CAM_L0.*found .*CAM_B0"):
        encode_sample(replace(make_observation(), camera_names=("CAM_F0", "CAM_B0")), CONFIG)
    with pytest.raises(ConfigError, match=r"expected images of shape \(2, 32, 48, 3\), found \(2, 16, 48, 3\)"):
        encode_sample(replace(make_observation(), images=make_observation().images[:, :16]), CONFIG)


def test_sweeps_of_other_frames_are_refused_but_none_at_all_are_a_missing_lidar():
    older, empty = make_observation().sweeps[0], np.zeros((0, 4), np.float32)
    with pytest.raises(ConfigError, match=r"history frames \(2, 3\), found others only"):
        encode_sample(replace(make_observation(), sweeps=(older, empty, empty, empty)), CONFIG)
    assert not encode_sample(replace(make_observation(), sweeps=(empty,) * 4), CONFIG)["lidar"].any()


def test_impossible_values_are_refused():
    with pytest.raises(SceneError, match="not finite"):
        encode_sample(replace(make_observation(), history=np.full((4, 7), np.nan)), CONFIG)
    with pytest.raises(SceneError, match=r"command of 0\.\.3, found 7"):
        encode_sample(replace(make_observation(), command=7), CONFIG)
    with pytest.raises(SceneError, match="expected 4 LiDAR sweeps, found 1"):
        encode_sample(replace(make_observation(), sweeps=make_observation().sweeps[:1]), CONFIG)


def test_overlong_instruction_is_an_error_not_a_truncation():
    with pytest.raises(ConfigError, match="expected at most 32 tokens"):
        encode_sample(replace(make_observation(), instruction="unheard-of words " * 20), CONFIG)


GRID = GridConfig(x_min_m=-4, x_max_m=4, y_min_m=-2, y_max_m=2, cell_m=1.0)
LIDAR = LidarConfig(sweep_indices=(0, 3), min_z_m=-1, max_z_m=4, max_points_per_cell=3)
EMPTY = np.zeros((0, 4), np.float32)


def test_points_land_in_their_cell_with_density_height_and_intensity():
    points = np.array([[1.2, -1.3, 1.5, 51], [1.4, -1.1, 0.0, 153], [9.0, 0, 1, 255], [0, 0, 9.0, 255]], np.float32)
    raster = rasterise_sweeps((EMPTY, EMPTY, EMPTY, points), LIDAR, GRID)
    assert raster.shape == (6, 16, 8)
    assert not raster[:3].any()  # the older sweep is empty
    assert np.argwhere(raster[3:].any(0)).tolist() == [[10, 1]]  # x 1.0..1.5, y -1.5..-1.0; the rest is out of range
    density, height, intensity = raster[3:, 10, 1]
    assert density == round(255 * np.log(2) / np.log(4))  # one of the two is above 0.4 m
    assert height == round(1 + 254 * 2.5 / 5)
    assert intensity == 102  # mean of 51 and 153


def test_a_moving_obstacle_shows_in_different_cells_of_the_two_sweeps():
    then, now = (np.array([[x, 0.1, 1.0, 100.0]], np.float32) for x in (-2.9, 2.1))
    raster = rasterise_sweeps((then, EMPTY, EMPTY, now), LIDAR, GRID)
    assert [np.argwhere(raster[channel])[0].tolist() for channel in (0, 3)] == [[2, 4], [12, 4]]


def encode_boxes_only(boxes, classes, action=(-1, -1), map_classes=CONFIG.perception.map_classes):
    raster = np.zeros((map_classes, CONFIG.grid.rows, CONFIG.grid.columns), np.uint8)
    return encode_targets(Targets(box_targets(boxes, classes), raster, MetaAction(*action)), None, CONFIG)


def test_targets_have_the_announced_layout():
    for boxes in (np.zeros((0, 9)), np.ones((3, 9))):
        encoded = encode_boxes_only(boxes, np.zeros(len(boxes)))
        assert {name: (value.shape, value.dtype) for name, value in encoded.items()} == {
            name: (shape, np.dtype(dtype)) for name, (shape, dtype) in target_layout(CONFIG).items()
        }


def test_boxes_outside_the_grid_are_left_out_and_the_nearest_kept():
    boxes = np.zeros((12, 9))
    boxes[:, 0] = [23, 100, *range(10, 0, -1)]  # the second lies outside; eight fit
    encoded = encode_boxes_only(boxes, np.zeros(12))
    assert encoded["boxes"][:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    few = encode_boxes_only(boxes[:2], [2, 2])
    assert few["box_classes"].tolist() == [2] + [-1] * 7


def test_unknown_meta_action_index_is_refused():
    with pytest.raises(ConfigError, match="meta action"):
        encode_boxes_only(np.zeros((0, 9)), [], action=(4, 0))
    with pytest.raises(ConfigError, match="raster of shape"):
        encode_boxes_only(np.zeros((0, 9)), [], map_classes=1)


def test_futures_stay_with_their_boxes_and_missing_fields_are_told():
    boxes = np.zeros((3, 9))
    boxes[:, 0], boxes[:, 7] = [20, 10, 100], [1, 2, 3]  # the third lies outside
    encoded = encode_boxes_only(boxes, [0, 0, 0])
    assert encoded["futures"][:2, -1, 0].tolist() == [10 + 4 * 2, 20 + 4 * 1]
    assert encoded["future_known"].sum(1).tolist() == [8, 8] + [0] * 6
    assert not encoded["has_fields"]


def test_targets_collate():
    targets = target_batch(stacked([encode_boxes_only(np.ones((n, 9)), np.zeros(n)) for n in (1, 2)]))
    assert (targets.box_classes >= 0).sum(1).tolist() == [1, 2]
    assert targets.raster.dtype == torch.float32
