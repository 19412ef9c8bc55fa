"""Planar predicates compiled with Numba: points, polygons, boxes and polylines.

The predicates follow GEOS, on which the official evaluator stands: a point on a boundary is outside, shapes that touch
do intersect, and the side of a line is decided in extended precision where float64 cannot.

Kernels of other modules inline these. Numba's on-disk cache looks only at the file of the outermost kernel, so after an
edit here remove ``__pycache__`` beside the callers.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from irl_vla.epdms.records import Polygons
from irl_vla.geometry import PACIFICA, Floats

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
EGO_HALF_LENGTH_M: Final = PACIFICA.length / 2
EGO_HALF_WIDTH_M: Final = PACIFICA.width / 2

_REAR_TO_CENTRE_M: Final = PACIFICA.rear_axle_to_centre
_Function = TypeVar("_Function", bound=Callable[..., Any])

_FILTER_BOUND: Final = 1e-15  # relative error below which float64 decides the side of a line, as in GEOS
_SPLITTER: Final = 134217729.0  # 2**27 + 1, Dekker's constant


def compiled(function: _Function) -> _Function:
    """Compiles at the first call, keeps the machine code on disk and releases the interpreter lock while running."""
    return cast(_Function, numba.njit(cache=True, nogil=True)(function))


def bounding_boxes(polygons: Polygons) -> Floats:
    """(N, 4) axis-aligned bounds of polygons: x min, y min, x max, y max."""
    if len(polygons) == 0:
        return np.zeros((0, 4))
    starts = polygons.offsets[:-1]
    low = np.minimum.reduceat(polygons.vertices, starts, axis=0)
    high = np.maximum.reduceat(polygons.vertices, starts, axis=0)
    return np.concatenate([low, high], axis=1)


@compiled
def _two_product(a: float, b: float) -> tuple[float, float]:
    product = a * b
    t = _SPLITTER * a
    a_high = t - (t - a)
    a_low = a - a_high
    t = _SPLITTER * b
    b_high = t - (t - b)
    b_low = b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


@compiled
def side(a: Floats, b: Floats, px: float, py: float) -> int:
    """1 if (px, py) lies left of the line a -> b, -1 if right of it, 0 if on it; a and b are (2,)."""
    ax, ay, bx, by = a[0], a[1], b[0], b[1]
    left = (ax - px) * (by - py)
    right = (ay - py) * (bx - px)
    determinant = left - right
    if abs(determinant) <= _FILTER_BOUND * (abs(left) + abs(right)):
        left, left_error = _two_product(ax - px, by - py)
        right, right_error = _two_product(ay - py, bx - px)
        determinant = (left - right) + (left_error - right_error)
    if determinant > 0.0:
        return 1
    return -1 if determinant < 0.0 else 0


@compiled
def points_inside(points: Floats, vertices: Floats, start: int, stop: int) -> int:
    """Which points are strictly inside a polygon.

    Args:
        points: (n, 2), n < 60, close together: edges above, below or left of all of them are skipped at once.
        vertices: (V, 2), of which ``vertices[start:stop]`` is the polygon's closed ring (any orientation, any shape).

    Returns:
        Bit mask, bit i for point i.
    """
    left, right, low, high = np.inf, -np.inf, np.inf, -np.inf
    for k in range(len(points)):
        left, right = min(left, points[k, 0]), max(right, points[k, 0])
        low, high = min(low, points[k, 1]), max(high, points[k, 1])
    inside, on_edge, everyone = 0, 0, (1 << len(points)) - 1
    for i in range(start, stop - 1):
        ay, by = vertices[i, 1], vertices[i + 1, 1]
        if (ay < low and by < low) or (ay > high and by > high):
            continue
        ax, bx = vertices[i, 0], vertices[i + 1, 0]
        if ax < left and bx < left:
            continue  # all rays to the right start beyond the edge
        if min(ax, bx) > right and min(ay, by) < low and max(ay, by) > high:
            inside ^= everyone  # all rays cross the edge
            continue
        for k in range(len(points)):
            x, y = points[k, 0], points[k, 1]
            if (ay > y) != (by > y):
                if ax < x and bx < x:
                    continue  # the ray to the right starts beyond the edge
                orientation = side(vertices[i], vertices[i + 1], x, y)
                if orientation == 0:
                    on_edge |= 1 << k
                elif (orientation > 0) == (by > ay):
                    inside ^= 1 << k
            elif by == y and (bx == x or (ay == y and (ax < x) != (bx < x))):
                on_edge |= 1 << k
    return inside & ~on_edge


@compiled
def segments_intersect(a: Floats, b: Floats, c: Floats, d: Floats) -> bool:
    """Whether the closed segments a-b and c-d, points as (2,), have a point in common."""
    if max(a[0], b[0]) < min(c[0], d[0]) or max(c[0], d[0]) < min(a[0], b[0]):
        return False
    if max(a[1], b[1]) < min(c[1], d[1]) or max(c[1], d[1]) < min(a[1], b[1]):
        return False
    if side(a, b, c[0], c[1]) * side(a, b, d[0], d[1]) > 0:
        return False
    return side(c, d, a[0], a[1]) * side(c, d, b[0], b[1]) <= 0


@compiled
def squared_distance(point: Floats, a: Floats, b: Floats) -> float:
    """Square of the distance from a point to the segment a-b, all (2,)."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    px, py = point[0] - a[0], point[1] - a[1]
    squared = dx * dx + dy * dy
    fraction = min(max((px * dx + py * dy) / squared, 0.0), 1.0) if squared > 0.0 else 0.0
    return float((px - fraction * dx) ** 2 + (py - fraction * dy) ** 2)


@compiled
def in_convex(corners: Floats, x: float, y: float) -> bool:
    """Whether (x, y) is in the closed convex quadrilateral ``corners`` (4, 2), given counter-clockwise."""
    for i in range(4):
        j = (i + 1) % 4
        if side(corners[i], corners[j], x, y) < 0:
            return False
    return True


@compiled
def _separated(first: Floats, second: Floats) -> bool:
    for i in range(4):
        j = (i + 1) % 4
        outside = True
        for k in range(4):
            if side(first[i], first[j], second[k, 0], second[k, 1]) >= 0:
                outside = False
                break
        if outside:
            return True
    return False


@compiled
def boxes_intersect(first: Floats, second: Floats) -> bool:
    """Whether two boxes, corners (4, 2) counter-clockwise, overlap or touch."""
    return not (_separated(first, second) or _separated(second, first))


@compiled
def segment_meets_box(a: Floats, b: Floats, corners: Floats) -> bool:
    """Whether the closed segment a-b meets the box with counter-clockwise ``corners`` (4, 2)."""
    if in_convex(corners, a[0], a[1]) or in_convex(corners, b[0], b[1]):
        return True
    meets = False
    for i in range(4):
        meets = meets or segments_intersect(a, b, corners[i], corners[(i + 1) % 4])
    return meets


@compiled
def box_meets_polygon(corners: Floats, vertices: Floats, start: int, stop: int) -> bool:
    """Whether the box with counter-clockwise ``corners`` (4, 2) and the ring ``vertices[start:stop]`` meet."""
    if points_inside(corners[:1], vertices, start, stop):
        return True
    meets = False
    for i in range(start, stop - 1):
        meets = meets or segment_meets_box(vertices[i], vertices[i + 1], corners)
    return meets


@compiled
def segment_within(line: Floats, x: float, y: float, limit: float, hint: int) -> int:
    """Index of a segment of a polyline (N, 2) no farther than ``limit`` from (x, y), -1 without one.

    ``hint`` is tried first; a moving point mostly stays near the same segment.
    """
    count = len(line) - 1
    for k in range(-1, count):
        i = max(min(hint, count - 1), 0) if k < 0 else k
        dx, dy = line[i + 1, 0] - line[i, 0], line[i + 1, 1] - line[i, 1]
        px, py = x - line[i, 0], y - line[i, 1]
        if px < min(dx, 0.0) - limit or px > max(dx, 0.0) + limit:
            continue
        if py < min(dy, 0.0) - limit or py > max(dy, 0.0) + limit:
            continue
        squared = dx * dx + dy * dy
        fraction = 0.0
        if squared > 0.0:
            fraction = min(max((px * dx + py * dy) / squared, 0.0), 1.0)
        ex, ey = px - fraction * dx, py - fraction * dy
        if np.sqrt(ex * ex + ey * ey) <= limit:
            return i
    return -1


@compiled
def project_on_polyline(line: Floats, x: float, y: float) -> float:
    """Projects a point on a polyline.

    Args:
        line: (N, 2) vertices; repeated vertices are legal.
        x, y: the point.

    Returns:
        Arc length of the (first) nearest point, from 0 to the line's length.
    """
    best, best_arc, arc = np.inf, 0.0, 0.0
    for i in range(len(line) - 1):
        dx, dy = line[i + 1, 0] - line[i, 0], line[i + 1, 1] - line[i, 1]
        px, py = x - line[i, 0], y - line[i, 1]
        squared = dx * dx + dy * dy
        fraction = 0.0
        if squared > 0.0:
            fraction = min(max((px * dx + py * dy) / squared, 0.0), 1.0)
        length = np.sqrt(squared)
        ex, ey = px - fraction * dx, py - fraction * dy
        distance = ex * ex + ey * ey
        if distance < best:
            best, best_arc = distance, arc + fraction * length
        arc += length
    return best_arc


@compiled
def fill_ego_box(state: Floats, box: Floats) -> None:
    """Writes the ego's box at a state (11,) to ``box`` (6, 2).

    Rows: front-left, rear-left, rear-right, front-right (counter-clockwise), centre, rear axle.
    """
    cos, sin = np.cos(state[2]), np.sin(state[2])
    x, y = state[0] + _REAR_TO_CENTRE_M * cos, state[1] + _REAR_TO_CENTRE_M * sin
    for i in range(4):
        along = EGO_HALF_LENGTH_M if i in (0, 3) else -EGO_HALF_LENGTH_M
        across = EGO_HALF_WIDTH_M if i < 2 else -EGO_HALF_WIDTH_M
        box[i, 0] = x + along * cos - across * sin
        box[i, 1] = y + along * sin + across * cos
    box[4, 0], box[4, 1] = x, y
    box[5, 0], box[5, 1] = state[0], state[1]
