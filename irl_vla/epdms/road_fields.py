"""What the score reads from a map, as fields over a grid around the ego: perception learns them, geometry reads them.

A field is smooth where a raster of a thin line is not: half a cell beside a centreline is half a cell of error, and no
miss. Distances are signed, positive inside an area (or left of the centreline), and cut at ``REACH_M``.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from irl_vla.epdms.polygons import Bools, Ints
from irl_vla.epdms.records import POLYGON_LAYERS, Polygons
from irl_vla.geometry import PACIFICA, Floats, relative_to

REACH_M: Final = 4.0
#: Bounds of the field "progress": arc length along the centreline beyond the projection of the ego's centre.
PROGRESS_M: Final = (-20.0, 60.0)
_DRIVABLE: Final = tuple(POLYGON_LAYERS.index(name) for name in ("ROADBLOCK", "INTERSECTION", "CARPARK_AREA"))
_INTERSECTION: Final = POLYGON_LAYERS.index("INTERSECTION")
_FINE_CELLS: Final = 4  # along one cell, in which areas are drawn before distances are measured
_MARGIN_CELLS: Final = 6
_SUBPIXEL_BITS: Final = 4
_LINE_STEP_M: Final = 0.25


class FieldGrid(NamedTuple):
    """Cells in the ego frame; rows run along x (rear to front), columns along y (right to left)."""

    x_min_m: float
    y_min_m: float
    cell_m: float
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, eq=False)
class JudgedRoads:
    """What the map parts of the score are computed from, global frame.

    Attributes:
        pose: (3,) rear axle of the ego.
        polygons, layer, on_route, centerline: as in ``PreparedScene``.
        red: polygons of the connectors of the route that are red now.
    """

    pose: Floats
    polygons: Polygons
    layer: Ints
    on_route: Bools
    centerline: Floats
    red: Polygons


def road_fields(roads: JudgedRoads, grid: FieldGrid) -> NDArray[np.float32]:
    """Fields at the centres of the cells.

    Returns:
        (6, rows, columns) metres, in the order of ``ROAD_FIELDS``: signed distances to the border of the drivable area,
        of the lanes of the route, of intersections; lateral offset from the centreline; arc length along it from the
        ego's centre on; signed distance to the border of red connectors. Where there is none of an area, ``-REACH_M``.
    """
    rings = _local_rings(roads.pose, roads.polygons)
    areas = (
        [ring for ring, layer in zip(rings, roads.layer, strict=True) if layer in _DRIVABLE],
        [ring for ring, named in zip(rings, roads.on_route, strict=True) if named],
        [ring for ring, layer in zip(rings, roads.layer, strict=True) if layer == _INTERSECTION],
        _local_rings(roads.pose, roads.red),
    )
    drivable, on_route, intersection, red = (_signed_distance(area, grid) for area in areas)
    offset, progress = _along(_local(roads.pose, roads.centerline), grid)
    return np.stack([drivable, on_route, intersection, offset, progress, red]).astype(np.float32)


def _local_rings(pose: Floats, polygons: Polygons) -> list[Floats]:
    return np.split(_local(pose, polygons.vertices), polygons.offsets[1:-1]) if len(polygons) else []


def _local(pose: Floats, points: Floats) -> Floats:
    """Points (V, 2) in the frame of a pose."""
    local: Floats = relative_to(pose, np.column_stack([points, np.zeros(len(points))]))[:, :2]
    return local


def _signed_distance(area: list[Floats], grid: FieldGrid) -> Floats:
    """(rows, columns) distance of cell centres to the border of a union of rings, positive inside."""
    fine_m, shape = grid.cell_m / _FINE_CELLS, (grid.rows + 2 * _MARGIN_CELLS, grid.columns + 2 * _MARGIN_CELLS)
    image = np.zeros((shape[0] * _FINE_CELLS, shape[1] * _FINE_CELLS), np.uint8)
    origin = np.array([grid.x_min_m, grid.y_min_m]) - _MARGIN_CELLS * grid.cell_m
    for ring in area:
        cells = (ring - origin) / fine_m - 0.5
        cv2.fillPoly(image, [np.round(cells[:, ::-1] * 2**_SUBPIXEL_BITS).astype(np.int32)], 1, shift=_SUBPIXEL_BITS)
    if not image.any():
        return np.full((grid.rows, grid.columns), -REACH_M)
    # Distances run from cell centre to cell centre. OpenCV also paints cells whose centre lies up to half a cell
    # outside: on average the border passes through the outermost centres that are painted.
    inside = cv2.distanceTransform(image, cv2.DIST_L2, cv2.DIST_MASK_5)
    outside = cv2.distanceTransform(1 - image, cv2.DIST_L2, cv2.DIST_MASK_5)
    signed = np.where(image > 0, inside - 1.0, -outside) * fine_m
    return _at_centres(np.clip(signed, -REACH_M, REACH_M), grid)


def _at_centres(fine: Floats, grid: FieldGrid) -> Floats:
    """Means of the four fine cells that meet at the centre of each cell, the margin left out."""
    first = _MARGIN_CELLS * _FINE_CELLS + _FINE_CELLS // 2 - 1
    rows = first + _FINE_CELLS * np.arange(grid.rows)
    columns = first + _FINE_CELLS * np.arange(grid.columns)
    corners = [fine[np.ix_(rows + down, columns + across)] for down in (0, 1) for across in (0, 1)]
    centres: Floats = np.mean(corners, axis=0)
    return centres


def _along(line: Floats, grid: FieldGrid) -> tuple[Floats, Floats]:
    """Lateral offset from a polyline (V, 2), left positive, and arc length along it, (rows, columns) each."""
    x = grid.x_min_m + grid.cell_m * (np.arange(grid.rows) + 0.5)
    y = grid.y_min_m + grid.cell_m * (np.arange(grid.columns) + 0.5)
    cells = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    ego = np.array([[PACIFICA.rear_axle_to_centre, 0.0]])
    offset, arc = _projected(line, np.concatenate([ego, cells]))
    low, high = PROGRESS_M
    shape = (grid.rows, grid.columns)
    return np.clip(offset[1:], -REACH_M, REACH_M).reshape(shape), np.clip(arc[1:] - arc[0], low, high).reshape(shape)


def _projected(line: Floats, points: Floats) -> tuple[Floats, Floats]:
    """Signed distance (N,) of points to a polyline and the arc length of their feet, which end with the line."""
    knots = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    arc = np.linspace(0.0, knots[-1], max(int(np.ceil(knots[-1] / _LINE_STEP_M)), 1) + 1)
    dense = np.column_stack([np.interp(arc, knots, line[:, 0]), np.interp(arc, knots, line[:, 1])])
    step = np.diff(dense, axis=0)
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)
    direction = step / length[:, None]
    nearest = cKDTree(0.5 * (dense[:-1] + dense[1:])).query(points)[1]
    gap = points - dense[nearest]
    ahead = np.clip((gap * direction[nearest]).sum(-1), 0.0, length[nearest])
    across = direction[nearest, 0] * gap[:, 1] - direction[nearest, 1] * gap[:, 0]
    foot = dense[nearest] + ahead[:, None] * direction[nearest]
    distance = np.hypot(*(points - foot).T)
    return np.where(across < 0.0, -distance, distance), arc[nearest] + ahead
