"""Names, shapes and types of what a stored sample holds, out of the configuration alone (imports no torch)."""

from typing import Final

import numpy as np

from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.perception.lidar import raster_shape
from irl_vla.scene import FUTURE_FRAMES, HISTORY_FRAMES, ROAD_FIELDS

#: Name -> (shape, data type) of the arrays of one scene.
Layout = dict[str, tuple[tuple[int, ...], type[np.generic]]]

BOX_VALUES: Final = 9  # x, y, z, length, width, height, heading, vx, vy


def sample_layout(config: EncoderConfig) -> Layout:
    """Shapes and types of the arrays that ``batch.encode_sample`` returns."""
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
    """Shapes and types of the arrays that ``batch.encode_targets`` returns."""
    perception, grid = config.perception, config.grid
    return {
        "boxes": ((perception.max_boxes, BOX_VALUES), np.float32),
        "box_classes": ((perception.max_boxes,), np.int64),
        "futures": ((perception.max_boxes, FUTURE_FRAMES, 3), np.float32),
        "future_known": ((perception.max_boxes, FUTURE_FRAMES), np.bool_),
        "fields": ((len(ROAD_FIELDS), grid.rows, grid.columns), np.float16),
        "has_fields": ((), np.bool_),
        "raster": ((perception.map_classes, grid.rows, grid.columns), np.uint8),
        "meta_action": ((2,), np.int64),
    }
