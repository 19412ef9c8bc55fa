"""Observations, scene tokens and perception targets as tensors, and their compact form for a training cache.

The compact form of one scene is a mapping of named arrays whose shapes and types depend on the configuration alone
(:func:`sample_layout`, :func:`target_layout`), so that a cache can be one memory-mapped array a name. Images and
LiDAR rasters stay uint8 there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from irl_vla.errors import ConfigError, SceneError
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.instruction import encode_instruction
from irl_vla.policy.perception.lidar import raster_shape, rasterise_sweeps
from irl_vla.scene import COMMAND_NAMES, HISTORY_FRAMES, OBJECT_NAMES, Observation

#: Name -> (shape, data type) of the arrays of one scene.
Layout = dict[str, tuple[tuple[int, ...], type[np.generic]]]

BOX_VALUES = 9  # x, y, z, length, width, height, heading, vx, vy
IGNORED = -1  # class of a padded box, action of a scene without a plan to imitate


@dataclass(frozen=True, slots=True, eq=False)
class ObservationBatch:
    """What the encoder sees; everything in the ego frame of the current frame.

    Attributes:
        images: (B, C, 3, h, w) float32 in [0, 1]; zero where the camera is missing.
        camera_valid: (B, C) bool.
        intrinsics: (B, C, 3, 3) float32, pixels.
        camera_to_ego: (B, C, 4, 4) float32.
        lidar: (B, 3 * sweeps, rows, columns) float32 in [0, 1]; see ``perception.lidar``.
        history: (B, 4, 7) float32 x, y, heading, vx, vy, ax, ay, oldest first.
        command: (B,) int64, index into ``COMMAND_NAMES``.
        instruction_ids: (B, L) int64.
        instruction_mask: (B, L) bool, True on text.
    """

    images: Tensor
    camera_valid: Tensor
    intrinsics: Tensor
    camera_to_ego: Tensor
    lidar: Tensor
    history: Tensor
    command: Tensor
    instruction_ids: Tensor
    instruction_mask: Tensor

    def __len__(self) -> int:
        return len(self.command)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return type(self)(*(getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)))


class SceneTokens(NamedTuple):
    """What the planner and the reward world model attend to; each (B, n, D) with n fixed by the configuration."""

    meta: Tensor
    bev: Tensor
    map: Tensor
    object: Tensor
    ego: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PerceptionTargets:
    """What the encoder's own heads learn.

    Attributes:
        boxes: (B, M, 9) float32 x, y, z, length, width, height, heading, vx, vy in the ego frame (absolute velocity).
        box_classes: (B, M) int64 index into ``OBJECT_NAMES``, -1 on padding.
        raster: (B, classes, rows, columns) float32, 1 where a map class covers a cell of the grid.
        meta_action: (B, 2) int64 index of the speed and of the path action of the plan to imitate, -1 where unknown.
    """

    boxes: Tensor
    box_classes: Tensor
    raster: Tensor
    meta_action: Tensor

    def __len__(self) -> int:
        return len(self.meta_action)

    def to(self, device: torch.device | str) -> Self:
        """The same targets on another device."""
        return type(self)(*(getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)))


def sample_layout(config: EncoderConfig) -> Layout:
    """Shapes and types of the arrays that :func:`encode_sample` returns."""
    cameras, length = config.cameras, config.semantic.language.max_instruction_tokens
    count = len(cameras.names)
    return {
        "images": ((count, cameras.height_px, cameras.width_px, 3), np.uint8),
        "camera_valid": ((count,), np.bool_),
        "intrinsics": ((count, 3, 3), np.float32),
        "camera_to_ego": ((count, 4, 4), np.float32),
        "lidar": (raster_shape(config.lidar, config.grid), np.uint8),
        "history": ((HISTORY_FRAMES, 7), np.float32),
        "command": ((), np.int64),
        "instruction_ids": ((length,), np.int32),
        "instruction_mask": ((length,), np.bool_),
    }


def target_layout(config: EncoderConfig) -> Layout:
    """Shapes and types of the arrays that :func:`encode_targets` returns."""
    perception, grid = config.perception, config.grid
    return {
        "boxes": ((perception.max_boxes, BOX_VALUES), np.float32),
        "box_classes": ((perception.max_boxes,), np.int64),
        "raster": ((perception.map_classes, grid.rows, grid.columns), np.uint8),
        "meta_action": ((2,), np.int64),
    }


def encode_sample(observation: Observation, config: EncoderConfig) -> dict[str, NDArray[Any]]:
    """Turns an observation into its compact form.

    Raises:
        ConfigError: if cameras, image size or instruction length are not those of the configuration.
        SceneError: if the observation's history, command or number of sweeps is impossible.
    """
    where = f"scene {observation.token}"
    if observation.camera_names != config.cameras.names:
        raise ConfigError(
            f"{where}: expected cameras {config.cameras.names}, found {observation.camera_names}; "
            "let the data section and the encoder section name the same cameras in one order"
        )
    if observation.command not in range(len(COMMAND_NAMES)):
        raise SceneError(f"{where}: expected a command of 0..{len(COMMAND_NAMES) - 1}, found {observation.command}")
    if len(observation.sweeps) != HISTORY_FRAMES:
        raise SceneError(f"{where}: expected {HISTORY_FRAMES} LiDAR sweeps, found {len(observation.sweeps)}")
    drawn = [len(observation.sweeps[index]) > 0 for index in config.lidar.sweep_indices]
    if not any(drawn) and any(map(len, observation.sweeps)):
        raise ConfigError(
            f"{where}: expected LiDAR sweeps of history frames {config.lidar.sweep_indices}, found others only; "
            "let the data section load the frames that the encoder section draws"
        )
    if not np.isfinite(observation.history).all():
        raise SceneError(f"{where}: the ego history is not finite; drop the scene from the split")
    ids, mask = encode_instruction(observation.instruction, config.semantic.language)
    sample = {
        "images": observation.images,
        "camera_valid": observation.camera_valid,
        "intrinsics": observation.intrinsics,
        "camera_to_ego": observation.camera_to_ego,
        "lidar": rasterise_sweeps(observation.sweeps, config.lidar, config.grid),
        "history": observation.history,
        "command": np.asarray(observation.command),
        "instruction_ids": ids,
        "instruction_mask": mask,
    }
    return _conform(sample, sample_layout(config), where)


def collate_samples(samples: Sequence[Mapping[str, NDArray[Any]]]) -> ObservationBatch:
    """Stacks compact samples (of one configuration) into a batch."""
    images = _stack(samples, "images").permute(0, 1, 4, 2, 3).to(torch.float32).div_(255)
    return ObservationBatch(
        images=images.contiguous(),
        camera_valid=_stack(samples, "camera_valid"),
        intrinsics=_stack(samples, "intrinsics"),
        camera_to_ego=_stack(samples, "camera_to_ego"),
        lidar=_stack(samples, "lidar").to(torch.float32).div_(255),
        history=_stack(samples, "history"),
        command=_stack(samples, "command"),
        instruction_ids=_stack(samples, "instruction_ids").long(),
        instruction_mask=_stack(samples, "instruction_mask"),
    )


def collate(observations: Sequence[Observation], config: EncoderConfig) -> ObservationBatch:
    """Turns observations into a batch; raises what :func:`encode_sample` raises."""
    return collate_samples([encode_sample(observation, config) for observation in observations])


def encode_targets(
    boxes: ArrayLike, box_classes: ArrayLike, raster: ArrayLike, meta_action: ArrayLike, config: EncoderConfig
) -> dict[str, NDArray[Any]]:
    """Turns one scene's targets into their compact form.

    Boxes outside the grid are left out: no head can predict them. Of more than ``max_boxes`` the nearest are kept.

    Args:
        boxes: (n, 9) x, y, z, length, width, height, heading, vx, vy in the ego frame.
        box_classes: (n,) indices into ``OBJECT_NAMES``.
        raster: (classes, rows, columns) of 0 and 1; rows along x from the rear, columns along y from the right.
        meta_action: (2,) speed and path action, -1 where unknown.

    Raises:
        ConfigError: if the raster does not have the configured shape or an action index is not configured.
    """
    values = np.asarray(boxes, np.float32).reshape(-1, BOX_VALUES)
    classes = np.asarray(box_classes, np.int64).reshape(-1)
    grid, size = config.grid, config.perception.max_boxes
    inside = (values[:, 0] >= grid.x_min_m) & (values[:, 0] < grid.x_max_m)
    inside &= (values[:, 1] >= grid.y_min_m) & (values[:, 1] < grid.y_max_m)
    inside &= (classes >= 0) & (classes < len(OBJECT_NAMES))
    nearest = np.flatnonzero(inside)
    nearest = nearest[np.argsort(np.hypot(*values[nearest, :2].T), kind="stable")][:size]
    padded, padded_classes = np.zeros((size, BOX_VALUES), np.float32), np.full(size, IGNORED, np.int64)
    padded[: len(nearest)], padded_classes[: len(nearest)] = values[nearest], classes[nearest]

    actions = np.asarray(meta_action, np.int64)
    language = config.semantic.language
    limits = np.array([len(language.speed_actions), len(language.path_actions)])
    if actions.shape != (2,) or (actions < IGNORED).any() or (actions >= limits).any():
        raise ConfigError(f"meta action: expected two indices in -1..{limits - 1}, found {actions.tolist()}")
    targets: dict[str, NDArray[Any]] = {
        "boxes": padded,
        "box_classes": padded_classes,
        "raster": np.asarray(raster),
        "meta_action": actions,
    }
    return _conform(targets, target_layout(config), "perception targets")


def collate_targets(samples: Sequence[Mapping[str, NDArray[Any]]]) -> PerceptionTargets:
    """Stacks the compact targets of several scenes (of one configuration)."""
    return PerceptionTargets(
        boxes=_stack(samples, "boxes"),
        box_classes=_stack(samples, "box_classes"),
        raster=_stack(samples, "raster").to(torch.float32),
        meta_action=_stack(samples, "meta_action"),
    )


def _conform(arrays: Mapping[str, NDArray[Any]], layout: Layout, where: str) -> dict[str, NDArray[Any]]:
    for name, (shape, _) in layout.items():
        if arrays[name].shape != shape:
            raise ConfigError(
                f"{where}: expected {name} of shape {shape}, found {arrays[name].shape}; "
                "let the data section and the encoder section agree"
            )
    return {name: np.asarray(arrays[name], dtype, order="C") for name, (_, dtype) in layout.items()}


def _stack(samples: Sequence[Mapping[str, NDArray[Any]]], name: str) -> Tensor:
    return torch.from_numpy(np.stack([sample[name] for sample in samples]))
