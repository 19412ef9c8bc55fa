"""Rules for the calibrations of one frame's cameras: pinhole matrices, rotations, and where each camera looks."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from irl_vla.dataset.checks.findings import Breach
from irl_vla.dataset.checks.pose import ROTATION_TOLERANCE
from irl_vla.dataset.log import parse_cameras
from irl_vla.dataset.raw_frame import RawFrame
from irl_vla.geometry import wrap_angle
from irl_vla.scene import CAMERA_MOUNTS, Camera

#: Mounts of vehicles differ by centimetres and a few degrees; a matrix in the other direction differs by far more.
_YAW_TOLERANCE_DEG: Final = 15.0
_PLACE_TOLERANCE_M: Final = 1.0
#: The z of the axis that points down, of a camera that is pitched or rolled by 15 degrees.
_DOWN: Final = -0.966
_FOCAL_RATIO: Final = 0.02


def camera_breaches(raw: RawFrame) -> Iterator[Breach]:
    """What does not fit in the calibrations of a frame whose cameras could be read."""
    cameras = parse_cameras(raw.inner("cams"))
    for name, camera in cameras.items():
        yield from _lens(f"cams.{name}", camera)
        yield from _mount(f"cams.{name}", name, camera)
    first = next(iter(cameras.values()), None)
    for name, camera in cameras.items():
        if first is not None and not np.array_equal(camera.intrinsic, first.intrinsic):
            text = "expected the same matrix for all cameras of a frame, found another one"
            yield "note", "frame.calibration", f"cams.{name}.cam_intrinsic", text


def _lens(key: str, camera: Camera) -> Iterator[Breach]:
    matrix = camera.intrinsic
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or matrix[2].tolist() != [0, 0, 1]:
        yield "error", "frame.calibration", f"{key}.cam_intrinsic", "expected a pinhole matrix, found another one"
    elif matrix[0, 1] != 0 or matrix[1, 0] != 0 or abs(matrix[0, 0] / matrix[1, 1] - 1) > _FOCAL_RATIO:
        text = f"expected square pixels without skew, found {matrix[:2, :2].tolist()}"
        yield "warning", "frame.calibration", f"{key}.cam_intrinsic", text


def _mount(key: str, name: str, camera: Camera) -> Iterator[Breach]:
    """Camera axes are x right, y down, z forward; the matrix takes them to ego axes."""
    rotation = camera.rotation
    close = np.abs(rotation @ rotation.T - np.eye(3)).max() <= ROTATION_TOLERANCE
    if not (close and np.linalg.det(rotation) > 0):
        yield "warning", "frame.calibration", f"{key}.sensor2lidar_rotation", "expected a rotation, found a distortion"
        return
    yaw_deg, place = CAMERA_MOUNTS[name]
    down, forward = rotation[:, 1], rotation[:, 2]
    found_deg = float(np.degrees(np.arctan2(forward[1], forward[0])))
    off_deg = abs(np.degrees(float(wrap_angle(np.radians(found_deg - yaw_deg)))))
    if off_deg > _YAW_TOLERANCE_DEG or down[2] > _DOWN:
        text = f"expected the camera upright with a yaw near {yaw_deg:.0f} degrees, found axis {forward.round(2)}"
        yield "warning", "frame.calibration", f"{key}.sensor2lidar_rotation", f"{text}, down {down.round(2)}"
    if np.abs(camera.translation_m - place).max() > _PLACE_TOLERANCE_M:
        text = f"expected within {_PLACE_TOLERANCE_M:.0f} m of {place}, found {camera.translation_m.tolist()}"
        yield "warning", "frame.calibration", f"{key}.sensor2lidar_translation", text
