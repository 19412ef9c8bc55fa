"""Paint on the road: lane lines, crosswalk stripes and stop lines, as geometry in the map frame.

The map records give boundaries without a type, so it is read off the surroundings: between lanes of one direction
a line is dashed white, between opposite directions solid yellow, and at the road's edge solid white.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely

from irl_vla.geometry import Floats
from irl_vla.scene import Lane, MapView
from irl_vla.world.roads import polyline

_DASH_M: Final = 3.0
_GAP_M: Final = 5.0
_PROBES_M: Final = (0.7, 1.6)  # the second reaches over the gap of a double line
_ALONGSIDE: Final = 0.8  # cosine from which two lanes count as side by side
_STRIPE_M: Final = 0.5
_STOP_LINE_DEPTH_M: Final = 0.5
_YIELD_BLOCK_M: Final = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class Marking:
    """Lines of one colour; ``strokes`` are (V, 2) polylines in the map frame, one a dash."""

    strokes: tuple[Floats, ...]
    yellow: bool


def lane_markings(map_view: MapView, lane: Lane) -> tuple[Marking, ...]:
    """The lines that a lane contributes: both edges, and the dashes on its left side."""
    markings = []
    for boundary, side in ((lane.left_boundary, 1.0), (lane.right_boundary, -1.0)):
        if boundary is None or len(boundary) < 2:
            continue
        neighbour = _heading_beyond(map_view, lane, boundary, side)
        if neighbour is not None and abs(neighbour) < _ALONGSIDE:
            continue  # lanes that cross: the middle of a junction bears no lines
        if neighbour is None:
            markings.append(Marking((boundary,), yellow=False))
        elif neighbour < 0:
            markings.append(Marking((boundary,), yellow=True))
        elif side > 0:  # the lane on the left leaves its right side to this one
            markings.append(Marking(dashes(boundary), yellow=False))
    return tuple(markings)


def dashes(line: Floats) -> tuple[Floats, ...]:
    """Cuts a polyline (V, 2) into (2, 2) dashes that start at its first vertex."""
    along = polyline.lengths(line[:, :2])
    starts = np.arange(0.0, along[-1], _DASH_M + _GAP_M)
    ends = np.minimum(starts + _DASH_M, along[-1])
    stations = np.stack([starts, ends], axis=1)
    points = np.stack([np.interp(stations, along, line[:, axis]) for axis in (0, 1)], axis=-1)
    return tuple(points)


def crosswalk_stripes(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """Stripes across the walking direction, which is the long axis of the crosswalk."""
    start, along, across, length, depth = _axes(polygon)
    stripes = []
    for station in np.arange(_STRIPE_M / 2, length, 2 * _STRIPE_M):
        corner = start + along * station
        end = corner + along * min(_STRIPE_M, length - station)
        stripes.append(shapely.Polygon([corner, end, end + across * depth, corner + across * depth]))
    clipped = [shapely.intersection(stripe, polygon) for stripe in stripes]
    return [part for stripe in clipped for part in shapely.get_parts(stripe) if isinstance(part, shapely.Polygon)]


def stop_strip(polygon: shapely.Polygon) -> shapely.Polygon:
    """The painted line of a stop polygon: the strip along its middle, as real stop polygons are metres deep."""
    start, along, across, length, depth = _axes(polygon)
    thickness = min(depth, _STOP_LINE_DEPTH_M)
    corner = start + across * (depth - thickness) / 2
    end = corner + along * length
    return shapely.Polygon([corner, end, end + across * thickness, corner + across * thickness])


def yield_blocks(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """The painted line of a give-way polygon: blocks along the strip of a stop line."""
    start, along, across, length, depth = _axes(stop_strip(polygon))
    stations = np.arange(0.0, length - _YIELD_BLOCK_M / 2, 2 * _YIELD_BLOCK_M)
    corners = [(start + along * station, start + along * min(station + _YIELD_BLOCK_M, length)) for station in stations]
    return [shapely.Polygon([corner, end, end + across * depth, corner + across * depth]) for corner, end in corners]


def _axes(polygon: shapely.Polygon) -> tuple[Floats, Floats, Floats, float, float]:
    """A corner, the unit long and short axes and the extents along them of the smallest enclosing rectangle."""
    corners = shapely.get_coordinates(shapely.minimum_rotated_rectangle(polygon))[:4]
    first, second = corners[1] - corners[0], corners[3] - corners[0]
    if np.linalg.norm(first) < np.linalg.norm(second):
        first, second = second, first
    length, depth = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    return corners[0], first / max(length, 1e-9), second / max(depth, 1e-9), length, depth


def _heading_beyond(map_view: MapView, lane: Lane, boundary: Floats, side: float) -> float | None:
    """Cosine between this lane's direction and that of the most crosswise lane beyond a boundary; None if none."""
    line = shapely.LineString(boundary)
    middle = np.asarray(line.interpolate(0.5, normalized=True).coords)[0]
    direction = _direction_at(lane.baseline, middle)
    left = np.array([-direction[1], direction[0]])
    ids, tree = map_view.tree("LANE")
    for distance in _PROBES_M:
        probe = middle + distance * side * left
        found = [ids[index] for index in sorted(tree.query(shapely.Point(probe), predicate="intersects"))]
        cosines = [
            float(direction @ _direction_at(map_view.lanes[other].baseline, probe))
            for other in found
            if other != lane.id
        ]
        if cosines:
            return min(cosines, key=abs)
    return None


def _direction_at(line: Floats, point: Floats) -> Floats:
    """Unit direction of a polyline's segment next to a point."""
    middles = (line[1:, :2] + line[:-1, :2]) / 2
    nearest = int(np.argmin(np.linalg.norm(middles - point, axis=1)))
    step = line[nearest + 1, :2] - line[nearest, :2]
    return np.asarray(step / max(float(np.linalg.norm(step)), 1e-9))
