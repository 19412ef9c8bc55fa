"""Rules for the poses of one frame: they stand in a file several times over, and readers take different copies."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from irl_vla.dataset.checks.findings import Breach, breach_of
from irl_vla.dataset.raw_frame import RawFrame
from irl_vla.errors import LogFormatError
from irl_vla.geometry import Floats

ROTATION_TOLERANCE: Final = 1e-3
_POSITION_TOLERANCE_M: Final = 1e-3
_MOTION_TOLERANCE: Final = 1e-3
#: A car leans less than this; a quaternion in another order of its numbers leans more at most headings.
_LEAN_RAD: Final = 0.5
#: The LiDAR frame is the ego frame up to centimetres and milliradians.
_LIDAR_SHIFT_M: Final = 0.2
_LIDAR_TURN_RAD: Final = 0.05
_COPIES: Final = (
    ("ego2global", (4, 4)),
    ("lidar2ego", (4, 4)),
    ("lidar2global", (4, 4)),
    ("lidar2ego_translation", (3,)),
    ("lidar2ego_rotation", (4,)),
    ("can_bus", (18,)),
)


def pose_breaches(raw: RawFrame) -> Iterator[Breach]:
    """What the copies of a frame's pose and motion have in common; they need not be there, the first one is."""
    rotation = raw.floats("ego2global_rotation", (4,))
    yield from _quaternion("ego2global_rotation", rotation)
    for key, shape in _COPIES:
        if key in raw.values:
            try:
                raw.floats(key, shape)
            except LogFormatError as error:
                yield "warning", "frame.pose", *breach_of(error, raw.path, raw.index)
                return
    expected = _transform(rotation, raw.floats("ego2global_translation", (3,)))
    if np.arccos(np.clip(expected[2, 2], -1, 1)) > _LEAN_RAD:
        text = "expected w, x, y, z of a car on its wheels, found it on its side"
        yield "warning", "frame.pose", "ego2global_rotation", text
    yield from _same_matrix(raw, "ego2global", expected)
    yield from _lidar(raw)
    if {"ego2global", "lidar2ego", "lidar2global"} <= set(raw.values):
        product = raw.floats("ego2global", (4, 4)) @ raw.floats("lidar2ego", (4, 4))
        if not _close(raw.floats("lidar2global", (4, 4)), product):
            yield "warning", "frame.pose", "lidar2global", "expected ego2global @ lidar2ego, found another matrix"
    if "can_bus" in raw.values:
        yield from _can_bus(raw, rotation)


def _quaternion(key: str, rotation: Floats) -> Iterator[Breach]:
    norm = float(np.linalg.norm(rotation))
    if not abs(norm - 1.0) <= ROTATION_TOLERANCE:
        yield "warning", "frame.pose", key, f"expected a quaternion of norm 1, found {norm:.4f}"


def _lidar(raw: RawFrame) -> Iterator[Breach]:
    if "lidar2ego_rotation" in raw.values:
        yield from _quaternion("lidar2ego_rotation", raw.floats("lidar2ego_rotation", (4,)))
    if {"lidar2ego_rotation", "lidar2ego_translation"} <= set(raw.values):
        rotation = raw.floats("lidar2ego_rotation", (4,))
        yield from _same_matrix(raw, "lidar2ego", _transform(rotation, raw.floats("lidar2ego_translation", (3,))))
    if "lidar2ego" in raw.values:
        matrix = raw.floats("lidar2ego", (4, 4))
        shift_m = float(np.abs(matrix[:3, 3]).max())
        turn_rad = float(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
        if not (shift_m <= _LIDAR_SHIFT_M and turn_rad <= _LIDAR_TURN_RAD):
            text = f"expected the ego frame up to centimetres and milliradians, found {shift_m:.3g} m, {turn_rad:.3f}"
            yield "warning", "frame.pose", "lidar2ego", f"{text} rad"


def _can_bus(raw: RawFrame, rotation: Floats) -> Iterator[Breach]:
    """Layout of the 18 numbers; angular rates stand nowhere else and are not compared."""
    bus, dynamics = raw.floats("can_bus", (18,)), raw.floats("ego_dynamic_state", (4,))
    parts = (
        ("0:3", "ego2global_translation", bus[:3], raw.floats("ego2global_translation", (3,)), _POSITION_TOLERANCE_M),
        ("3:7", "ego2global_rotation", bus[3:7], rotation, ROTATION_TOLERANCE),
        ("7:9", "the accelerations of ego_dynamic_state", bus[7:9], dynamics[2:], _MOTION_TOLERANCE),
        ("10:12", "the velocities of ego_dynamic_state", bus[10:12], dynamics[:2], _MOTION_TOLERANCE),
        ("16:18", "zeros", bus[16:], np.zeros(2), 0.0),
    )
    for place, name, found, expected, tolerance in parts:
        if np.abs(found - expected).max() > tolerance:
            text = f"expected {name} at {place}, {expected.tolist()}, found {found.tolist()}"
            yield "warning", "frame.can_bus", "can_bus", text
            return


def _same_matrix(raw: RawFrame, key: str, expected: Floats) -> Iterator[Breach]:
    if key in raw.values and not _close(raw.floats(key, (4, 4)), expected):
        yield "warning", "frame.pose", key, "expected translation and rotation as a matrix, found another one"


def _transform(rotation: Floats, translation: Floats) -> Floats:
    """Matrix (4, 4) of a translation (3,) and a quaternion (4,) w, x, y, z, whose norm does not count.

    A quaternion of zeros gives NaN, which is close to nothing.
    """
    w, x, y, z = rotation / np.linalg.norm(rotation)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return matrix


def _close(found: Floats, expected: Floats) -> bool:
    return bool(
        np.abs(found[:3, :3] - expected[:3, :3]).max() < ROTATION_TOLERANCE
        and np.abs(found[:3, 3] - expected[:3, 3]).max() < _POSITION_TOLERANCE_M
        and found[3].tolist() == [0, 0, 0, 1]
    )
