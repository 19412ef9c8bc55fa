"""The camera rig of the ego vehicle: where each camera sits, where it looks and what its lens does.

Typical extrinsics and the intrinsic matrix of NAVSIM's recording vehicles (nuPlan, 1920 x 1080 images), without
distortion. Camera axes: x right, y down, z forward; ego frame: rear axle, x forward, y left, z up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from irl_vla.errors import ConfigError
from irl_vla.geometry import Floats
from irl_vla.scene import CAMERA_MOUNTS, CAMERA_NAMES, Camera

_FOCAL_PX: Final = 1545.0
_CENTRE_PX: Final = (960.0, 560.0)
_FULL_SIZE_PX: Final = (1920, 1080)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Mount:
    """One camera of a rig, a pinhole.

    Attributes:
        rotation: (3, 3) camera -> ego.
        translation_m: (3,) camera position in the ego frame.
        intrinsic: (3, 3) for an image of ``width`` x ``height`` pixels; pixel centres are at whole numbers.
    """

    rotation: Floats
    translation_m: Floats
    intrinsic: Floats
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """Cameras by NAVSIM name."""

    mounts: Mapping[str, Mount]


def default_rig(names: Iterable[str], width: int, height: int) -> Rig:
    """NAVSIM's cameras, their intrinsics scaled to ``width`` x ``height`` pixels (the field of view is kept).

    Raises:
        ConfigError: if a name is no NAVSIM camera or the size is not positive.
    """
    names = tuple(names)
    unknown = [name for name in names if name not in CAMERA_MOUNTS]
    if unknown:
        raise ConfigError(f"camera rig: unknown cameras {unknown}; expected names out of {', '.join(CAMERA_NAMES)}")
    if width <= 0 or height <= 0:
        raise ConfigError(f"camera rig: the image size must be positive, found {width} x {height}; try 480 x 270")
    scale_x, scale_y = width / _FULL_SIZE_PX[0], height / _FULL_SIZE_PX[1]
    intrinsic = np.array(
        [
            [_FOCAL_PX * scale_x, 0.0, _CENTRE_PX[0] * scale_x],
            [0.0, _FOCAL_PX * scale_y, _CENTRE_PX[1] * scale_y],
            [0.0, 0.0, 1.0],
        ]
    )
    mounts = {}
    for name in names:
        heading_deg, position = CAMERA_MOUNTS[name]
        mounts[name] = Mount(_looking(np.radians(heading_deg)), np.array(position), intrinsic, width, height)
    return Rig(mounts)


def rig_cameras(rig: Rig, log_name: str, token: str) -> dict[str, Camera]:
    """The ``Camera`` records of one frame; image paths are ``<log>/<camera>/<token>.jpg``."""
    return {
        name: Camera(
            path=f"{log_name}/{name}/{token}.jpg",
            rotation=mount.rotation,
            translation_m=mount.translation_m,
            intrinsic=mount.intrinsic,
            distortion=np.zeros(5),
        )
        for name, mount in rig.mounts.items()
    }


def _looking(heading: float) -> Floats:
    """(3, 3) camera -> ego rotation of a level camera; columns are the camera's axes in the ego frame."""
    cos, sin = np.cos(heading), np.sin(heading)
    return np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])
