"""Planar curves as arrays of vertices: building, offsetting, resampling."""

from typing import Final

import numpy as np

from irl_vla.geometry import Floats

_NEARLY_STRAIGHT_RAD: Final = 0.6


def integrate(start: Floats, curvature: Floats, step_m: float) -> Floats:
    """Follows a curvature profile.

    Args:
        start: (3,) pose.
        curvature: (V - 1,) 1/m of each step, positive to the left.

    Returns:
        (V, 3) poses ``step_m`` apart along the curve; the heading is not wrapped.
    """
    heading = start[2] + np.concatenate([[0.0], np.cumsum(curvature) * step_m])
    middle = (heading[1:] + heading[:-1]) / 2
    moves = np.stack([np.cos(middle), np.sin(middle)], axis=1) * step_m
    xy = start[:2] + np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    return np.column_stack([xy, heading])


def offset(poses: Floats, left_m: float) -> Floats:
    """(V, 2) points beside poses (V, 3), ``left_m`` to their left."""
    normal = np.stack([-np.sin(poses[:, 2]), np.cos(poses[:, 2])], axis=1)
    return poses[:, :2] + left_m * normal


def turn(start: Floats, end: Floats, step_m: float = 1.0) -> Floats:
    """Smooth curve between two poses: the cubic that approximates a conic arc tangent to both.

    Args:
        start, end: (3,) poses in driving direction.

    Returns:
        (V, 2) vertices, both end points included.
    """
    angle = (end[2] - start[2] + np.pi) % (2 * np.pi) - np.pi
    chord = end[:2] - start[:2]
    first, second = _unit(start[2]), _unit(end[2])
    if abs(angle) < _NEARLY_STRAIGHT_RAD:  # the tangents may cross anywhere
        handles = (np.linalg.norm(chord) / 3,) * 2
    else:  # distances from both poses to where their tangents cross, shortened as for a circle
        cross = first[0] * second[1] - first[1] * second[0]
        reach = (
            (chord[0] * second[1] - chord[1] * second[0]) / cross,
            (first[0] * chord[1] - first[1] * chord[0]) / cross,
        )
        ratio = 4 / 3 * np.tan(abs(angle) / 4) / np.tan(abs(angle) / 2)
        limit = float(np.linalg.norm(chord))
        handles = (np.clip(reach[0], 1.0, limit) * ratio, np.clip(reach[1], 1.0, limit) * ratio)
    control = np.stack([start[:2], start[:2] + handles[0] * first, end[:2] - handles[1] * second, end[:2]])
    t = np.linspace(0.0, 1.0, 65)[:, None]
    curve = (
        (1 - t) ** 3 * control[0]
        + 3 * (1 - t) ** 2 * t * control[1]
        + 3 * (1 - t) * t**2 * control[2]
        + t**3 * control[3]
    )
    return resample(curve, step_m)


def lengths(xy: Floats) -> Floats:
    """(V,) arc length from the first vertex of (V, 2)."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])


def resample(xy: Floats, step_m: float) -> Floats:
    """Vertices evenly spaced by about ``step_m``; the end points stay."""
    along = lengths(xy)
    count = max(2, round(along[-1] / step_m) + 1)
    return at(xy, along, np.linspace(0.0, along[-1], count))


def at(xy: Floats, along: Floats, positions: Floats) -> Floats:
    """Points of a polyline (V, 2) at arc lengths; ``along`` (V,) as of :func:`lengths`."""
    return np.column_stack([np.interp(positions, along, xy[:, 0]), np.interp(positions, along, xy[:, 1])])


def headings(xy: Floats) -> Floats:
    """(V,) unwrapped headings at the vertices of (V, 2), by central differences."""
    return np.unwrap(np.arctan2(np.gradient(xy[:, 1]), np.gradient(xy[:, 0])))


def joined(pieces: list[Floats]) -> Floats:
    """Concatenates (V_i, 2) pieces, dropping the vertices that repeat at the joints."""
    xy = np.concatenate(pieces)
    keep = np.concatenate([[True], np.linalg.norm(np.diff(xy, axis=0), axis=1) > 1e-6])
    return np.asarray(xy[keep])


def _unit(heading: float) -> Floats:
    return np.array([np.cos(heading), np.sin(heading)])
