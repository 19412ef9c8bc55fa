"""Planar geometry: angles, SE(2) poses, oriented boxes, and the ego vehicle's body.

Right-handed frames, x forward, y left, heading counter-clockwise in radians. A pose is ``(x, y, heading)``
and sits in the last axis of an array. Conversions between the rear axle and the box centre live here only.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VehicleBody:
    """Dimensions of the ego vehicle in metres, measured from its rear axle."""

    width: float
    front_length: float
    rear_length: float
    height: float
    wheel_base: float

    @property
    def length(self) -> float:
        """Bumper to bumper."""
        return self.front_length + self.rear_length

    @property
    def rear_axle_to_centre(self) -> float:
        """Distance from the rear axle forward to the centre of the bounding box."""
        return self.length / 2 - self.rear_length


#: Chrysler Pacifica of nuPlan and NAVSIM (nuPlan devkit, ``vehicle_parameters.py``).
PACIFICA: Final = VehicleBody(width=2.297, front_length=4.049, rear_length=1.127, height=1.777, wheel_base=3.089)


def wrap_angle(angle: Floats | float) -> Floats:
    """Wraps angles to [-pi, pi)."""
    return (np.asarray(angle, dtype=np.float64) + np.pi) % (2 * np.pi) - np.pi


def compose(origin: Floats, relative: Floats) -> Floats:
    """Moves poses from the frame of ``origin`` to the frame in which ``origin`` is given.

    Args:
        origin: (..., 3) pose.
        relative: (..., 3) poses relative to ``origin``; leading axes broadcast.

    Returns:
        (..., 3) poses, heading wrapped.
    """
    origin, relative = np.asarray(origin, np.float64), np.asarray(relative, np.float64)
    xy = origin[..., :2] + rotate(relative[..., :2], origin[..., 2])
    return np.concatenate([xy, wrap_angle(origin[..., 2:] + relative[..., 2:])], axis=-1)


def relative_to(origin: Floats, poses: Floats) -> Floats:
    """Inverse of :func:`compose`: expresses ``poses`` (..., 3) in the frame of ``origin`` (..., 3)."""
    origin, poses = np.asarray(origin, np.float64), np.asarray(poses, np.float64)
    xy = rotate(poses[..., :2] - origin[..., :2], -origin[..., 2])
    return np.concatenate([xy, wrap_angle(poses[..., 2:] - origin[..., 2:])], axis=-1)


def rotate(vectors: Floats, angle: Floats | float) -> Floats:
    """Rotates (..., 2) vectors counter-clockwise by ``angle`` (...)."""
    vectors = np.asarray(vectors, np.float64)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)


def rear_axle_to_centre(poses: Floats, body: VehicleBody = PACIFICA) -> Floats:
    """Moves rear-axle poses (..., 3) forward to the centre of the ego box."""
    return compose(poses, np.array([body.rear_axle_to_centre, 0.0, 0.0]))


def box_corners(centres: Floats, length: Floats | float, width: Floats | float) -> Floats:
    """Corners of oriented boxes.

    Args:
        centres: (..., 3) box centre poses.
        length, width: (...) full extents in metres.

    Returns:
        (..., 4, 2) corners: front-left, rear-left, rear-right, front-right.
    """
    centres = np.asarray(centres, np.float64)
    half_length = np.asarray(length, np.float64)[..., None] / 2 * np.array([1.0, -1.0, -1.0, 1.0])
    half_width = np.asarray(width, np.float64)[..., None] / 2 * np.array([1.0, 1.0, -1.0, -1.0])
    offsets = np.stack(np.broadcast_arrays(half_length, half_width), axis=-1)
    return centres[..., None, :2] + rotate(offsets, centres[..., 2:])
