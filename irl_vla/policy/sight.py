"""Sight: what perception says of a scene in metres, as the token bank keeps it and the reward world model reads it
(imports no torch).

Fields are stored as small integers (3 cm, progress 0.5 m), boxes and futures in half precision: at default sizes 30 kB
a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.sample_layout import BOX_VALUES, Layout
from irl_vla.scene import FUTURE_FRAMES, OBJECT_NAMES, ROAD_FIELDS

#: Metres a unit of the stored fields, in the order of ``ROAD_FIELDS``.
_UNIT_M: Final = np.array([4 / 127, 4 / 127, 4 / 127, 4 / 127, 0.5, 4 / 127], np.float32)[:, None, None]


@dataclass(frozen=True, slots=True)
class SightLayout:
    """Sizes of what is kept.

    Attributes:
        x_min_m, y_min_m, cell_m, rows, columns: the grid of the fields, as in ``GridConfig``.
        objects: N, detections of a scene.
        modes: F, futures of each.
    """

    x_min_m: float
    y_min_m: float
    cell_m: float
    rows: int
    columns: int
    objects: int
    modes: int

    @property
    def stored(self) -> Layout:
        """Shapes and types of the columns of a bank."""
        return {
            "fields": ((len(ROAD_FIELDS), self.rows, self.columns), np.int8),
            "boxes": ((self.objects, BOX_VALUES), np.float16),
            "object_scores": ((self.objects, len(OBJECT_NAMES)), np.float16),
            "futures": ((self.objects, self.modes, FUTURE_FRAMES, 2), np.float16),
            "future_chances": ((self.objects, self.modes), np.float16),
            "future_spread_m": ((self.objects, FUTURE_FRAMES), np.float16),
        }


class Sight(NamedTuple):
    """What perception says of B scenes, ego frame of each.

    Attributes:
        layout: its sizes.
        fields: (B, 6, rows, columns) metres in the order of ``ROAD_FIELDS``.
        boxes: (B, N, 9) x, y, z, length, width, height, heading, vx, vy.
        object_scores: (B, N, 7) in [0, 1], of all classes.
        futures: (B, N, F, 8, 2) box centres at 0.5 .. 4.0 s.
        future_chances: (B, N, F), summing to 1.
        future_spread_m: (B, N, 8) expected error of the mode that comes true.
    """

    layout: SightLayout
    fields: NDArray[np.float32]
    boxes: NDArray[np.float32]
    object_scores: NDArray[np.float32]
    futures: NDArray[np.float32]
    future_chances: NDArray[np.float32]
    future_spread_m: NDArray[np.float32]


def sight_layout(config: EncoderConfig) -> SightLayout:
    """Of an encoder."""
    grid, perception = config.grid, config.perception
    sizes = (grid.rows, grid.columns, perception.object_tokens, perception.motion_modes)
    return SightLayout(grid.x_min_m, grid.y_min_m, grid.cell_m, *sizes)


def stored_fields(fields: NDArray[np.floating[Any]]) -> NDArray[np.int8]:
    """Fields (B, 6, rows, columns) as a bank keeps them."""
    stored: NDArray[np.int8] = np.clip(np.rint(fields / _UNIT_M), -127, 127).astype(np.int8)
    return stored


def read_sight(columns: Mapping[str, NDArray[Any]], layout: SightLayout) -> Sight:
    """What columns of a bank say, (B, ...) each."""
    wide = {name: np.asarray(columns[name], np.float32) for name in layout.stored}
    return Sight(layout, **wide | {"fields": wide["fields"] * _UNIT_M})
