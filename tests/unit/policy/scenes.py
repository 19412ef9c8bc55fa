"""Small observations and configurations for the encoder's tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from irl_vla.dataset.targets import BoxTargets, MetaAction, Targets
from irl_vla.policy.batch import PerceptionTargets, encode_targets, stacked, target_batch
from irl_vla.policy.config import (
    CameraConfig,
    EncoderConfig,
    GridConfig,
    LanguageConfig,
    PerceptionConfig,
    SemanticConfig,
)
from irl_vla.scene import ROAD_FIELDS, Observation

QUESTION = "What is your driving decision for the next four seconds?"


def tiny_config() -> EncoderConfig:
    """Two cameras, a 16x16 grid of 2 m cells, narrow networks: milliseconds a forward pass."""
    return EncoderConfig(
        width=32,
        cameras=CameraConfig(names=("CAM_F0", "CAM_L0"), height_px=32, width_px=48),
        grid=GridConfig(x_min_m=-8, x_max_m=24, y_min_m=-16, y_max_m=16, cell_m=2.0),
        semantic=SemanticConfig(
            vision_width=32,
            vision_layers=1,
            patch_height_px=16,
            adaptor_queries=4,
            meta_tokens=4,
            language=LanguageConfig(width=32, layers=2, heads=2, key_value_heads=1, feed_forward=64),
        ),
        perception=PerceptionConfig(
            image_channels=(8, 16),
            fine_channels=16,
            coarse_channels=24,
            deep_channels=24,
            deep_blocks=1,
            object_tokens=6,
            bev_tokens=(4, 4),
            map_tokens=(4, 2),
            map_classes=2,
            max_boxes=8,
        ),
    )


def forward_camera() -> NDArray[np.float64]:
    """(4, 4) camera -> ego of a camera at 1.5 m height that looks along x."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    pose[:3, 3] = [1.0, 0.0, 1.5]
    return pose


def leftward_camera() -> NDArray[np.float64]:
    """(4, 4) camera -> ego of a camera at 1.5 m height that looks along y."""
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    pose[:3, 3] = [1.0, 0.0, 1.5]
    return pose


def observation(config: EncoderConfig, generator: np.random.Generator, command: int = 1) -> Observation:
    """A random observation of a forward and (if there are more cameras) leftward cameras."""
    cameras = config.cameras
    count, width, height = len(cameras.names), cameras.width_px, cameras.height_px
    intrinsic = np.array([[width / 2, 0, (width - 1) / 2], [0, width / 2, (height - 1) / 2], [0, 0, 1.0]])
    low, high = [config.grid.x_min_m, config.grid.y_min_m, 0, 0], [config.grid.x_max_m, config.grid.y_max_m, 2, 255]
    return Observation(
        token="scene",
        camera_names=cameras.names,
        images=generator.integers(0, 256, (count, height, width, 3)).astype(np.uint8),
        camera_valid=np.ones(count, bool),
        intrinsics=np.stack([intrinsic] * count),
        camera_to_ego=np.stack([forward_camera()] + [leftward_camera()] * (count - 1)),
        sweeps=tuple(generator.uniform(low, high, (400, 4)).astype(np.float32) for _ in range(4)),
        history=generator.normal(size=(4, 7)),
        command=command,
        instruction=QUESTION,
    )


def box_targets(boxes: Sequence[Sequence[float]] | NDArray[np.float64], classes: Sequence[int]) -> BoxTargets:
    """Boxes (N, 9) that go on at constant velocity."""
    values = np.asarray(boxes, np.float64).reshape(-1, 9)
    times_s = 0.5 * np.arange(1, 9)[:, None]
    futures = np.zeros((len(values), 8, 3))
    futures[..., :2] = values[:, None, :2] + times_s * values[:, None, 7:]
    futures[..., 2] = values[:, None, 6]
    tokens = tuple(f"track-{index}" for index in range(len(values)))
    known = np.ones((len(values), 8), np.bool_)
    return BoxTargets(values, np.asarray(classes, np.int64), tokens, futures, known)


def targets(config: EncoderConfig, generator: np.random.Generator, count: int) -> PerceptionTargets:
    """Random targets: three vehicles, slanted fields, a raster of where they are above 0 and different meta-actions."""
    samples = []
    for index in range(count):
        boxes = np.tile([0.0, 0, 0.8, 4.6, 1.9, 1.6, 0.3, 2.0, -1.0], (3, 1))
        boxes[:, :2] = generator.uniform([0, -12], [20, 12], (3, 2))
        cells = (config.grid.rows, config.grid.columns)
        action = MetaAction(index % 4, index % 5)
        slope = generator.uniform(-0.3, 0.3, (2, len(ROAD_FIELDS), 1, 1))
        fields = slope[0] * np.arange(-8, cells[0] - 8)[:, None] + slope[1] * np.arange(-8, cells[1] - 8)
        raster = (fields[: config.perception.map_classes] > 0).astype(np.uint8)
        samples.append(encode_targets(Targets(box_targets(boxes, [0, 0, 1]), raster, action), fields, config))
    return target_batch(stacked(samples))
