"""Geometry of lifting, heads and losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetBackbone, ResNetConfig

from irl_vla.errors import ConfigError
from irl_vla.policy.batch import collate
from irl_vla.policy.config import CameraConfig, EncoderConfig, GridConfig, PerceptionConfig
from irl_vla.policy.perception.bev import BevFeatures, cell_centres, lift_images, project_points
from irl_vla.policy.perception.fields import FieldHead
from irl_vla.policy.perception.heads import DetectionHead, box_cells, decode_boxes, encode_boxes, gather_cells
from irl_vla.policy.perception.image import ImageBackbone
from irl_vla.policy.perception.losses import box_loss, heatmap_loss, heatmap_target, map_loss
from irl_vla.scene import ROAD_FIELDS
from tests.unit.policy import scenes

CONFIG = scenes.tiny_config()
GRID = CONFIG.grid


def test_projection_by_hand():
    # A camera at (1, 0, 1.5) that looks along x, focal length 24, centre (23.5, 15.5).
    intrinsic = torch.tensor([[24.0, 0, 23.5], [0, 24, 15.5], [0, 0, 1]])
    pose = torch.tensor(scenes.forward_camera(), dtype=torch.float32)
    points = torch.tensor([[9.0, 2.0, 0.0], [9.0, -2.0, 1.5], [-3.0, 0.0, 0.0]])
    pixels, depth = project_points(points, intrinsic, pose)
    # Depth 8; two metres left are 24 * 2 / 8 = 6 px left, 1.5 m below the lens are 4.5 px down.
    torch.testing.assert_close(pixels[:2], torch.tensor([[17.5, 20.0], [29.5, 15.5]]))
    assert depth.tolist() == [8.0, 8.0, -4.0]


def test_cells_run_from_rear_right_to_front_left():
    centres = cell_centres(GRID)
    assert centres.shape == (16, 16, 2)
    assert centres[0, 0].tolist() == [-7, -15]
    assert centres[-1, 0].tolist() == [23, -15]
    assert cell_centres(GRID, stride=2)[0, 1].tolist() == [-6, -10]


def painted_ground(height: int, width: int, intrinsic: np.ndarray, x: tuple, y: tuple) -> np.ndarray:
    """Image of the forward camera in which the ground inside the given ranges is white: casts a ray a pixel."""
    v, u = np.mgrid[:height, :width]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsic).T  # right, down, forward
    with np.errstate(divide="ignore"):
        scale = np.where(rays[..., 1] > 0, 1.5 / rays[..., 1], np.nan)
    ground_x, ground_y = 1.0 + scale, -scale * rays[..., 0]
    return (ground_x >= x[0]) & (ground_x < x[1]) & (ground_y >= y[0]) & (ground_y < y[1])


def test_painted_ground_lights_its_cell():
    cameras = CameraConfig(names=("CAM_F0",), height_px=128, width_px=192)
    config = CONFIG.model_copy(update={"cameras": cameras})
    observation = scenes.observation(config, np.random.default_rng(0))
    # Cells of 2 m: x 10..12 is row 9, y 2..4 is column 9.
    white = painted_ground(128, 192, observation.intrinsics[0], (10, 12), (2, 4))
    assert white.sum() > 20
    images = np.repeat(white[None, ..., None] * np.uint8(255), 3, axis=-1)
    batch = collate([replace(observation, images=images)], config)
    centres = cell_centres(GRID).flatten(0, 1)
    ground = torch.cat([centres, torch.zeros(len(centres), 1)], dim=1)
    lifted, seen = lift_images(batch.images, 1, ground, batch)
    grid = lifted[0, 0].view(16, 16)
    assert grid[9, 9] > 0.9
    assert grid.sum() - grid[9, 9] < 0.5
    # The camera opens 45 degrees to each side and sees the ground from 1.5 m * 96 / 63.5 px on.
    x, y = centres[:, 0] - 1, centres[:, 1]
    assert torch.equal(seen[0], (x >= 1.5 * 96 / 63.5) & (96 * y.abs() <= 95.5 * x))


def test_two_cameras_are_averaged_and_an_invalid_one_left_out():
    observation = scenes.observation(CONFIG, np.random.default_rng(0))
    both = np.stack([scenes.forward_camera()] * 2)
    images = np.zeros_like(observation.images)
    images[1] = 255
    points = torch.tensor([[10.0, 0.0, 1.0]])

    def lift(valid: list[bool]) -> tuple[float, bool]:
        changed = replace(observation, images=images, camera_to_ego=both, camera_valid=np.array(valid))
        batch = collate([changed], CONFIG)
        lifted, seen = lift_images(batch.images, 1, points, batch)
        return lifted[0, 0, 0].item(), bool(seen)

    assert lift([True, True]) == (0.5, True)
    assert lift([True, False]) == (0.0, True)
    assert lift([False, True]) == (1.0, True)
    assert lift([False, False]) == (0.0, False)


def test_feature_cells_are_centred_on_multiples_of_the_stride():
    backbone = ImageBackbone(PerceptionConfig(image_channels=(4, 4)))
    for module in list(backbone.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm | nn.ReLU):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.Conv2d):
                nn.init.ones_(child.weight)
    images = torch.zeros(1, 3, 80, 80, requires_grad=True)
    backbone(images)[0, 0, 5, 4].backward()
    weight = images.grad[0, 0]
    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
    assert backbone.stride == 8
    assert (weight * rows).sum() / weight.sum() == pytest.approx(40)
    assert (weight * columns).sum() / weight.sum() == pytest.approx(32)


def test_missing_backbone_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="expected a local transformers backbone"):
        ImageBackbone(PerceptionConfig(image_backbone_path=tmp_path))


def test_local_transformers_backbone_is_used(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetBackbone(config).save_pretrained(tmp_path)
    backbone = ImageBackbone(PerceptionConfig(image_backbone_path=tmp_path))
    assert (backbone.channels, backbone.stride) == (12, 8)
    assert backbone(torch.zeros(2, 3, 32, 48)).shape == (2, 12, 4, 6)


def random_boxes(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    low = torch.tensor([-8.0, -16, -1, 0.5, 0.5, 0.5, -3, -9, -9])
    high = torch.tensor([23.9, 15.9, 2, 12, 3, 4, 3, 9, 9])
    return low + (high - low) * torch.rand((1, count, 9), generator=generator)


def test_boxes_survive_encoding():
    boxes = random_boxes(50)
    centres = cell_centres(GRID).flatten(0, 1)[box_cells(boxes, GRID)]
    encoded = encode_boxes(boxes, centres, GRID.cell_m)
    assert encoded[..., :2].abs().max() <= 0.5 + 1e-6  # a centre is never outside its own cell
    torch.testing.assert_close(decode_boxes(encoded, centres, GRID.cell_m), boxes)


def test_heatmap_target_peaks_at_centres_of_real_boxes():
    boxes = torch.zeros(1, 3, 9)
    boxes[0, :, :2] = torch.tensor([[0.5, 0.5], [20.0, -10.0], [10.0, 10.0]])
    boxes[..., 3:5] = torch.tensor([4.6, 1.9])
    target = heatmap_target(boxes, torch.tensor([[0, 3, -1]]), GRID)
    assert (target == 1).nonzero().tolist() == [[0, 0, 4, 8], [0, 3, 14, 3]]
    # sigma is a quarter of sqrt(4.6 * 1.9) / 2 cells, at least 0.6: one cell aside is exp(-1 / 0.72).
    assert target[0, 0, 5, 8].item() == pytest.approx(np.exp(-1 / 0.72))
    assert not target[0, [1, 2, 4, 5, 6]].any()


def test_heatmap_at_the_border_is_cut_not_wrapped():
    boxes = torch.zeros(1, 1, 9)
    boxes[..., :2] = torch.tensor([-7.9, 15.9])  # first row, last column
    target = heatmap_target(boxes, torch.tensor([[0]]), GRID)[0, 0]
    assert target[0, 15] == 1
    assert not target[:, :8].any()
    assert not target[8:].any()


def head_config() -> EncoderConfig:
    return CONFIG


def test_head_reads_back_planted_boxes_best_first():
    head = DetectionHead(head_config())
    boxes = torch.zeros(1, 2, 9)
    boxes[0, 0] = torch.tensor([10.3, -4.2, 0.8, 4.6, 1.9, 1.6, 0.5, 6.0, 1.0])
    boxes[0, 1] = torch.tensor([3.0, 7.0, 0.9, 0.6, 0.6, 1.7, -2.0, 0.0, 1.2])
    cells = box_cells(boxes, GRID)[0]
    centres = head.centres[cells]
    heatmap, box_map = torch.full((1, 7, 256), -8.0), torch.zeros(1, 10, 256)
    heatmap[0, 0, cells[0]], heatmap[0, 1, cells[1]] = 1.0, 3.0
    heatmap[0, 0, cells[0] + 1] = 0.5  # a shoulder, not a peak
    box_map[0, :, cells] = encode_boxes(boxes[0], centres, GRID.cell_m).T
    found = head.decode(heatmap.view(1, 7, 16, 16), box_map.view(1, 10, 16, 16))
    assert found.boxes.shape == (1, 6, 9)
    assert found.classes[0, :2].tolist() == [1, 0]
    torch.testing.assert_close(found.boxes[0, :2], boxes[0].flip(0))
    torch.testing.assert_close(found.scores[0, :2], torch.tensor([3.0, 1.0]).sigmoid())
    assert found.scores[0, 2] < 0.01


def test_object_tokens_depend_on_box_class_and_features():
    head = DetectionHead(head_config())
    features = BevFeatures(torch.randn(1, 16, 16, 16), torch.randn(1, 24, 8, 8))
    found = head.decode(*head(features))
    tokens = head.tokens(features, found)
    assert tokens.shape == (1, 6, 32)
    faster = found._replace(boxes=found.boxes + torch.tensor([0.0] * 7 + [3.0, 0.0]))
    assert not torch.allclose(head.tokens(features, faster), tokens)
    other = found._replace(class_scores=found.class_scores.flip(-1))
    assert not torch.allclose(head.tokens(features, other), tokens)


def test_losses_are_near_zero_at_the_truth_and_grow_with_error():
    boxes, classes = random_boxes(5), torch.tensor([[0, 1, 2, 3, -1]])
    target = heatmap_target(boxes, classes, GRID)
    right = torch.where(target == 1, 12.0, -12.0)
    assert heatmap_loss(right, target) < 1e-3
    assert heatmap_loss(-right, target) > 1
    centres = cell_centres(GRID).flatten(0, 1)
    cells = box_cells(boxes, GRID)[0]
    truth = torch.zeros(1, 10, 256)
    truth[0, :, cells[:4]] = encode_boxes(boxes[0, :4], centres[cells[:4]], GRID.cell_m).T
    assert max(box_loss(truth.view(1, 10, 16, 16), boxes, classes, centres, GRID)) < 1e-6
    off = box_loss(truth.view(1, 10, 16, 16) + 0.5, boxes, classes, centres, GRID)
    assert (off.shape.item(), off.velocity.item()) == pytest.approx((0.5, 0.5))
    raster = (torch.rand(2, 3, 16, 16) > 0.9).float()
    assert map_loss(24 * raster - 12, raster) < 0.01
    assert map_loss(12 - 24 * raster, raster) > 2


def test_no_boxes_give_finite_losses():
    empty, none = torch.zeros(1, 4, 9), torch.full((1, 4), -1)
    logits = torch.zeros(1, 7, 16, 16)
    assert torch.isfinite(heatmap_loss(logits, heatmap_target(empty, none, GRID)))
    assert box_loss(torch.ones(1, 10, 16, 16), empty, none, cell_centres(GRID).flatten(0, 1), GRID) == (0, 0)


def test_gather_cells_is_row_major():
    features = torch.arange(12.0).view(1, 1, 3, 4)
    assert gather_cells(features, torch.tensor([[5, 11]])).flatten().tolist() == [5, 11]


@pytest.mark.parametrize("values", [{"cell_m": 3.0}, {"x_min_m": 50.0}, {"cell_m": 64.0}])
def test_impossible_grids_are_refused(values):
    with pytest.raises(ValueError, match=r"range|multiple of 4"):
        GridConfig(**values)


def test_a_rare_red_light_is_learned_and_none_is_invented():
    """A mean over all cells would be content with never saying red; a tenth of the scenes has some cells of it."""
    torch.manual_seed(0)
    head = FieldHead(CONFIG)
    seen = torch.zeros(20, CONFIG.perception.fine_channels, 16, 16)
    fields = torch.zeros(20, len(ROAD_FIELDS), 16, 16)
    fields[:, -1] = -4.0
    seen[:2, 0, 3:6, 3:6], fields[:2, -1, 3:6, 3:6] = 3.0, 4.0
    features = BevFeatures(seen, torch.zeros(0))
    assert (head(features)[:, -1] < -3).all()
    optimiser = torch.optim.AdamW(head.parameters(), 2e-2)
    for _ in range(60):
        optimiser.zero_grad()
        head.loss(head(features), fields, torch.ones(20, dtype=torch.bool)).backward()
        optimiser.step()
    with torch.inference_mode():
        found, true = head(features)[:, -1] > 0, fields[:, -1] > 0
    assert (found & true).sum() / (found | true).sum() > 0.5


def test_scenes_without_fields_teach_nothing():
    head = FieldHead(CONFIG)
    predicted = torch.randn(2, len(ROAD_FIELDS), 16, 16).clamp(-3.9, 3.9).requires_grad_(True)
    known = torch.tensor([True, False])
    head.loss(predicted, torch.zeros(2, len(ROAD_FIELDS), 16, 16), known).backward()
    assert predicted.grad[0].abs().sum() > 0
    assert predicted.grad[1].abs().sum() == 0
    assert head.loss(predicted, torch.zeros(2, len(ROAD_FIELDS), 16, 16), ~known & known).item() == 0
