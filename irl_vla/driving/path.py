"""Paths along lanes: poses by arc length, projection, parallel paths."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely

from irl_vla.geometry import Floats, wrap_angle

_START_M: Final = 1e-5  # the evaluator's paths begin this far behind their first vertex


@dataclass(frozen=True, slots=True, eq=False)
class LanePath:
    """A polyline with a heading at every vertex, global frame.

    Attributes:
        points: (V, 2); repeated vertices are legal (lanes share their joints).
        headings: (V,) unwrapped.
        progress_m: (V,) arc length from the first vertex.
        line: the same polyline.
    """

    points: Floats
    headings: Floats
    progress_m: Floats
    line: shapely.LineString

    @property
    def length_m(self) -> float:
        """Arc length from end to end."""
        return float(self.progress_m[-1])

    def project(self, points: Floats) -> Floats:
        """Arc length (...) of the nearest point of the path to each of ``points`` (..., 2)."""
        arcs: Floats = np.asarray(shapely.line_locate_point(self.line, shapely.points(points)), np.float64)
        return arcs

    def poses_at(self, distances_m: Floats) -> Floats:
        """Poses (..., 3) at arc lengths (...), which are clipped to the path.

        Position and heading are linear between vertices; a distance equal to a vertex's belongs to the segment before.
        """
        distances = np.clip(distances_m, _START_M, self.length_m)
        high = np.clip(np.searchsorted(self.progress_m, distances, side="left"), 1, len(self.progress_m) - 1)
        low = high - 1
        knots = np.concatenate([self.points, self.headings[:, None]], axis=1)
        step = (self.progress_m[high] - self.progress_m[low])[..., None]
        poses: Floats = (knots[high] - knots[low]) / step * (distances - self.progress_m[low])[..., None] + knots[low]
        poses[..., 2] = wrap_angle(poses[..., 2])
        return poses

    def parallel(self, offset_m: float) -> "LanePath":
        """The path moved sideways, left if positive, vertex by vertex; it may fold over in tight curves."""
        normals = self.headings + np.pi / 2
        points = self.points + offset_m * np.stack([np.cos(normals), np.sin(normals)], axis=-1)
        return lane_path(points, self.headings)


def lane_path(points: Floats, headings: Floats) -> LanePath:
    """A path through ``points`` (V, 2) with ``headings`` (V,), V >= 2."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    return LanePath(
        points=points,
        headings=np.unwrap(headings),
        progress_m=np.concatenate([[0.0], np.cumsum(steps)]),
        line=shapely.LineString(points),
    )


def vertex_headings(points: Floats) -> Floats:
    """Headings (V,) of the segments that leave the vertices (V, 2) of a polyline; the last repeats its predecessor."""
    steps = np.diff(points, axis=0)
    headings = np.arctan2(steps[:, 1], steps[:, 0])
    return np.concatenate([headings, headings[-1:]])


def nearest_vertex(points: Floats, pose: Floats) -> tuple[float, float]:
    """Compares a pose (3,) with the nearest vertex of a polyline (V, 2).

    Returns:
        Distance in metres, and the absolute difference of headings in radians.
    """
    distances = np.hypot(points[:, 0] - pose[0], points[:, 1] - pose[1])
    index = int(distances.argmin())
    start = min(index, len(points) - 2)
    step = points[start + 1] - points[start]
    return float(distances[index]), abs(float(wrap_angle(np.arctan2(step[1], step[0]) - pose[2])))


def corridor(path: LanePath, start_m: float, stop_m: float, half_width_m: float) -> shapely.Polygon:
    """The strip that a vehicle sweeps on part of a path, with square ends.

    Built on the vertices within the part where there are two or more (its exact ends are then left out, as in the
    evaluator), else on the exact part.
    """
    start_m, stop_m = np.clip([start_m, stop_m], 0.0, path.length_m)
    inside = (path.progress_m >= start_m) & (path.progress_m <= stop_m)
    if inside.sum() >= 2:
        line = shapely.LineString(path.points[inside])
    else:
        line = shapely.LineString(path.poses_at(np.array([start_m, stop_m]))[:, :2])
    return shapely.buffer(line, half_width_m, quad_segs=16, cap_style="square", join_style="round")
