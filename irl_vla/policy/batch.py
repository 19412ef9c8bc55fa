"""Observations, scene tokens and perception targets as tensors, and their compact form for a training cache.

The compact form of one scene is a mapping of named arrays whose shapes and types depend on the configuration alone
(:func:`sample_layout`, :func:`target_layout`), so that samples can be stored in columns. Images and
LiDAR rasters stay uint8 there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irl_vla.dataset.targets import Targets
from irl_vla.errors import ConfigError, SceneError
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.instruction import encode_instruction
from irl_vla.policy.perception.lidar import rasterise_sweeps
from irl_vla.policy.sample_layout import Layout, sample_layout, target_layout
from irl_vla.scene import COMMAND_NAMES, HISTORY_FRAMES, OBJECT_NAMES, ROAD_FIELDS, Observation

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
        futures: (B, M, 8, 3) float32 x, y, heading of the boxes at 0.5 .. 4.0 s in the current ego frame.
        future_known: (B, M, 8) bool, False where the log does not know and on padding.
        raster: (B, classes, rows, columns) float32, 1 where a map class covers a cell of the grid.
        fields: (B, 6, rows, columns) float32 metres in the order of ``ROAD_FIELDS``.
        has_fields: (B,) bool, False where the scene has no route that the map knows.
        meta_action: (B, 2) int64 index of the speed and of the path action of the plan to imitate, -1 where unknown.
    """

    boxes: Tensor
    box_classes: Tensor
    futures: Tensor
    future_known: Tensor
    raster: Tensor
    fields: Tensor
    has_fields: Tensor
    meta_action: Tensor

    def __len__(self) -> int:
        return len(self.meta_action)

    def to(self, device: torch.device | str) -> Self:
        """The same targets on another device."""
        return type(self)(*(getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)))


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


def stacked(samples: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Name to (B, ...) of B compact samples or targets of one configuration."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def observation_batch(arrays: Mapping[str, NDArray[Any]]) -> ObservationBatch:
    """A batch from stacked compact samples, name to (B, ...)."""
    tensor = {name: torch.from_numpy(arrays[name]) for name in (item.name for item in fields(ObservationBatch))}
    images = tensor["images"].permute(0, 1, 4, 2, 3).to(torch.float32).div_(255)
    return ObservationBatch(
        images=images.contiguous(),
        camera_valid=tensor["camera_valid"],
        intrinsics=tensor["intrinsics"],
        camera_to_ego=tensor["camera_to_ego"],
        lidar=tensor["lidar"].to(torch.float32).div_(255),
        history=tensor["history"],
        command=tensor["command"],
        instruction_ids=tensor["instruction_ids"].long(),
        instruction_mask=tensor["instruction_mask"],
    )


def collate(observations: Sequence[Observation], config: EncoderConfig) -> ObservationBatch:
    """Turns observations into a batch; raises what :func:`encode_sample` raises."""
    return observation_batch(stacked([encode_sample(observation, config) for observation in observations]))


def encode_targets(
    targets: Targets, fields: NDArray[np.floating[Any]] | None, config: EncoderConfig
) -> dict[str, NDArray[Any]]:
    """Turns one scene's targets into their compact form.

    Boxes outside the grid are left out: no head can predict them. Of more than ``max_boxes`` the nearest are kept.

    Args:
        targets: on the encoder's grid.
        fields: (6, rows, columns) of ``epdms.road_fields``; None where the scene has none.

    Raises:
        ConfigError: if raster or fields do not have the configured shape or an action index is not configured.
    """
    grid, size = config.grid, config.perception.max_boxes
    values, classes = targets.boxes.boxes.astype(np.float32), targets.boxes.classes
    inside = (values[:, 0] >= grid.x_min_m) & (values[:, 0] < grid.x_max_m)
    inside &= (values[:, 1] >= grid.y_min_m) & (values[:, 1] < grid.y_max_m)
    inside &= (classes >= 0) & (classes < len(OBJECT_NAMES))
    nearest = np.flatnonzero(inside)
    nearest = nearest[np.argsort(np.hypot(*values[nearest, :2].T), kind="stable")][:size]

    actions = np.asarray(targets.meta_action, np.int64)
    language = config.semantic.language
    limits = np.array([len(language.speed_actions), len(language.path_actions)])
    if (actions < IGNORED).any() or (actions >= limits).any():
        raise ConfigError(f"meta action: expected two indices in -1..{limits - 1}, found {actions.tolist()}")
    encoded: dict[str, NDArray[Any]] = {
        "boxes": _padded(values[nearest], size, 0),
        "box_classes": _padded(classes[nearest], size, IGNORED),
        "futures": _padded(targets.boxes.futures[nearest], size, 0),
        "future_known": _padded(targets.boxes.future_known[nearest], size, False),
        "raster": targets.raster,
        "fields": np.zeros((len(ROAD_FIELDS), grid.rows, grid.columns)) if fields is None else fields,
        "has_fields": np.asarray(fields is not None),
        "meta_action": actions,
    }
    return _conform(encoded, target_layout(config), "perception targets")


def target_batch(arrays: Mapping[str, NDArray[Any]]) -> PerceptionTargets:
    """Targets from stacked compact ones, name to (B, ...)."""
    tensor = {item.name: torch.from_numpy(arrays[item.name]) for item in fields(PerceptionTargets)}
    return PerceptionTargets(**tensor | {name: tensor[name].to(torch.float32) for name in ("raster", "fields")})


def _padded(values: NDArray[Any], size: int, padding: float) -> NDArray[Any]:
    """Rows (n, ...) followed by padding, (size, ...)."""
    result = np.full((size, *values.shape[1:]), padding, values.dtype)
    result[: len(values)] = values
    return result


def _conform(arrays: Mapping[str, NDArray[Any]], layout: Layout, where: str) -> dict[str, NDArray[Any]]:
    for name, (shape, _) in layout.items():
        if arrays[name].shape != shape:
            raise ConfigError(
                f"{where}: expected {name} of shape {shape}, found {arrays[name].shape}; "
                "let the data section and the encoder section agree"
            )
    return {name: np.asarray(arrays[name], dtype, order="C") for name, (_, dtype) in layout.items()}
