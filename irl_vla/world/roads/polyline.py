"""Planar curves as arrays of vertices: building, offsetting, resampling."""

from typing import Final

import numpy as np
import shapely

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


def around(centre: Floats, radius_m: float, entry_radius_m: float, start: Floats, end: Floats) -> Floats:
    """Way through a counter-clockwise roundabout: an arc to the right, the ring, an arc to the right, all tangent.

    Args:
        radius_m: of the ring around ``centre`` (2,).
        entry_radius_m: of the arcs from and to the straights.
        start, end: (3,) poses before and behind it, with the centre to the left of both lines of travel.

    Returns:
        (V, 2) vertices about 1 m apart, both end points included.
    """
    way_in = _entry(centre, radius_m, entry_radius_m, start)
    mirrored = np.array([2 * centre[0] - end[0], end[1], -end[2]])  # leaving is entering, reflected and run backwards
    way_out = _entry(centre, radius_m, entry_radius_m, mirrored)[::-1] * [-1, 1] + [2 * centre[0], 0.0]
    first, last = (np.arctan2(*(point - centre)[::-1]) for point in (way_in[-1], way_out[0]))
    sweep = (last - first) % (2 * np.pi)
    angles = first + np.linspace(0.0, sweep, max(2, round(radius_m * sweep / 0.5)))
    ring = centre + radius_m * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return resample(joined([way_in, ring, way_out]), 1.0)


def _entry(centre: Floats, radius_m: float, entry_radius_m: float, start: Floats) -> Floats:
    """(V, 2) from a pose to the ring: straight on, then an arc to the right that touches the ring."""
    ahead, left = _unit(start[2]), _unit(start[2] + np.pi / 2)
    to_centre = centre - start[:2]
    beside = float(to_centre @ left)  # the centre lies left of the line
    pivot_ahead = float(to_centre @ ahead) - np.sqrt((radius_m + entry_radius_m) ** 2 - (beside + entry_radius_m) ** 2)
    pivot = start[:2] + pivot_ahead * ahead - entry_radius_m * left
    touch = pivot + (centre - pivot) * entry_radius_m / (radius_m + entry_radius_m)
    turn_by = np.arctan2((touch - pivot) @ ahead, (touch - pivot) @ left)
    angles = np.linspace(0.0, turn_by, 24)[:, None]
    arc = pivot + entry_radius_m * (np.cos(angles) * left + np.sin(angles) * ahead)
    return np.concatenate([start[None, :2], arc])


def smooth_step(share: Floats) -> Floats:
    """Quintic from 0 at 0 to 1 at 1: no step in heading or curvature at either end."""
    return np.asarray(share**3 * (10 - 15 * share + 6 * share**2))


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


def locate(xy: Floats, points: Floats) -> Floats:
    """(N,) arc lengths on a polyline (V, 2) next to points (N, 2)."""
    return np.asarray(shapely.line_locate_point(shapely.LineString(xy), shapely.points(points)), np.float64)


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
