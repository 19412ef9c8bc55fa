"""What the map says about rollouts: ego areas, drivable area, driving direction, lane keeping."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from irl_vla.epdms.polygons import (
    Bools,
    Ints,
    bounding_boxes,
    compiled,
    contains_point,
    fill_corners,
    nearest_on_polyline,
)
from irl_vla.epdms.records import POLYGON_LAYERS, ROLLOUT_STEPS, Polygons
from irl_vla.geometry import PACIFICA, Floats

MULTIPLE_LANES: Final = 0
NON_DRIVABLE: Final = 1
ONCOMING: Final = 2
CENTRE_IN_INTERSECTION: Final = 3
REAR_AXLE_IN_INTERSECTION: Final = 4
#: Flags of a state, in the order of the last axis of ``RoadScores.areas``.
AREA_NAMES: Final = (
    "multiple_lanes",
    "non_drivable",
    "oncoming",
    "centre_in_intersection",
    "rear_axle_in_intersection",
)

_INTERSECTION: Final = POLYGON_LAYERS.index("INTERSECTION")
_LANE: Final = POLYGON_LAYERS.index("LANE")
_LANE_CONNECTOR: Final = POLYGON_LAYERS.index("LANE_CONNECTOR")
_HALF_LENGTH_M: Final = PACIFICA.length / 2
_HALF_WIDTH_M: Final = PACIFICA.width / 2
_REAR_TO_CENTRE_M: Final = PACIFICA.rear_axle_to_centre
_WRONG_WAY_STEPS: Final = 10  # the evaluator's 1 s window; it sums both ends, hence 11 displacements
_WRONG_WAY_MINOR_M: Final = 2.0
_WRONG_WAY_MAJOR_M: Final = 6.0
_LANE_OFFSET_M: Final = 0.5
_LANE_OFFSET_STEPS: Final = 20
_ALL_CORNERS: Final = 0b1111


@dataclass(frozen=True, slots=True, eq=False)
class RoadGeometry:
    """The drivable map and the centreline of a scene, ready for the kernels.

    Attributes:
        polygons: drivable map, global frame.
        bounds: (N, 4) axis-aligned bounds of the polygons.
        layer, on_route: (N,) as in ``PreparedScene``.
        centerline: (V, 2) global.
    """

    polygons: Polygons
    bounds: Floats
    layer: Ints
    on_route: Bools
    centerline: Floats


class RoadScores(NamedTuple):
    """Sub-scores that depend on the map alone.

    Attributes:
        areas: (P, 41, 5) bool flags in the order of ``AREA_NAMES``.
        dac, ddc, lk: (P,).
    """

    areas: Bools
    dac: Floats
    ddc: Floats
    lk: Floats


def road_geometry(polygons: Polygons, layer: Ints, on_route: Bools, centerline: Floats) -> RoadGeometry:
    """Precomputes what does not depend on the ego.

    Args:
        polygons: N polygons of the drivable map.
        layer: (N,) index into ``POLYGON_LAYERS``.
        on_route: (N,) True for lanes and connectors of the route.
        centerline: (V, 2) polyline, V >= 2.
    """
    return RoadGeometry(
        polygons=Polygons(
            np.ascontiguousarray(polygons.vertices, np.float64).reshape(-1, 2),
            np.ascontiguousarray(polygons.offsets, np.int64),
        ),
        bounds=bounding_boxes(polygons),
        layer=np.ascontiguousarray(layer, np.int64),
        on_route=np.ascontiguousarray(on_route, np.bool_),
        centerline=np.ascontiguousarray(centerline, np.float64),
    )


def score_road_rules(rollouts: Floats, roads: RoadGeometry) -> RoadScores:
    """Scores rollouts (P, 41, 11) against the map (specification of EPDMS, ego areas, DAC, DDC, LK)."""
    count = len(rollouts)
    areas = np.zeros((count, ROLLOUT_STEPS, len(AREA_NAMES)), np.bool_)
    ddc, lk = np.empty(count), np.empty(count)
    _score_rules(
        rollouts,
        roads.polygons.vertices,
        roads.polygons.offsets,
        roads.bounds,
        roads.layer,
        roads.on_route,
        roads.centerline,
        areas,
        ddc,
        lk,
    )
    dac = 1.0 - areas[:, :, NON_DRIVABLE].any(axis=1)
    return RoadScores(areas, dac, ddc, lk)


@compiled
def _near(bounds: Floats, x: float, y: float, margin: float) -> bool:
    return bounds[0] - margin <= x <= bounds[2] + margin and bounds[1] - margin <= y <= bounds[3] + margin


@compiled
def _polygons_near(states: Floats, bounds: Floats, near: Ints) -> int:
    """Writes the polygons whose bounds come within a vehicle length of a rollout (41, 11); returns their number."""
    x_low, x_high = states[:, 0].min() - 2 * _HALF_LENGTH_M, states[:, 0].max() + 2 * _HALF_LENGTH_M
    y_low, y_high = states[:, 1].min() - 2 * _HALF_LENGTH_M, states[:, 1].max() + 2 * _HALF_LENGTH_M
    count = 0
    for i in range(len(bounds)):
        if bounds[i, 0] <= x_high and bounds[i, 2] >= x_low and bounds[i, 1] <= y_high and bounds[i, 3] >= y_low:
            near[count] = i
            count += 1
    return count


@compiled
def _corners_inside(corners: Floats, skip: int, bounds: Floats, vertices: Floats, start: int, stop: int) -> int:
    """Bit mask of the corners (4, 2) strictly inside a polygon; those in the mask ``skip`` are not looked at."""
    mask = 0
    for i in range(4):
        if skip & (1 << i):
            continue
        x, y = corners[i, 0], corners[i, 1]
        if _near(bounds, x, y, 0.0) and contains_point(vertices, start, stop, x, y):
            mask |= 1 << i
    return mask


@compiled
def _classify_state(
    state: Floats,
    near: Ints,
    vertices: Floats,
    offsets: Ints,
    bounds: Floats,
    layer: Ints,
    on_route: Bools,
    corners: Floats,
    flags: Bools,
) -> None:
    """Sets the area flags (5,) of one state (11,); ``corners`` (4, 2) is scratch."""
    rear_x, rear_y = state[0], state[1]
    x = rear_x + _REAR_TO_CENTRE_M * np.cos(state[2])
    y = rear_y + _REAR_TO_CENTRE_M * np.sin(state[2])
    fill_corners(x, y, state[2], _HALF_LENGTH_M, _HALF_WIDTH_M, corners)
    drivable, lanes, lane_holds_all, on_course = 0, 0, False, False
    for i in near:
        if not _near(bounds[i], x, y, 2 * _HALF_LENGTH_M):
            continue
        start, stop = offsets[i], offsets[i + 1]
        if layer[i] in (_LANE, _LANE_CONNECTOR):
            mask = _corners_inside(corners, 0, bounds[i], vertices, start, stop)
            lanes += mask != 0
            lane_holds_all |= mask == _ALL_CORNERS
            if on_route[i] and not on_course and _near(bounds[i], x, y, 0.0):
                on_course = contains_point(vertices, start, stop, x, y)
            continue
        drivable |= _corners_inside(corners, drivable, bounds[i], vertices, start, stop)
        if layer[i] == _INTERSECTION:
            flags[CENTRE_IN_INTERSECTION] |= contains_point(vertices, start, stop, x, y)
            flags[REAR_AXLE_IN_INTERSECTION] |= contains_point(vertices, start, stop, rear_x, rear_y)
    flags[MULTIPLE_LANES] = lanes > 1 and not lane_holds_all
    flags[NON_DRIVABLE] = drivable != _ALL_CORNERS
    flags[ONCOMING] = not on_course


@compiled
def _wrong_way_distance(centres: Floats, areas: Bools, travelled: Floats) -> float:
    """Longest distance driven against the direction of the route within a window; ``travelled`` (41,) is scratch."""
    worst, window = 0.0, 0.0
    for k in range(ROLLOUT_STEPS):
        travelled[k] = 0.0
        if k > 0 and areas[k, ONCOMING] and not areas[k, CENTRE_IN_INTERSECTION]:
            travelled[k] = np.hypot(centres[k, 0] - centres[k - 1, 0], centres[k, 1] - centres[k - 1, 1])
        window = travelled[max(0, k - _WRONG_WAY_STEPS) : k + 1].sum()
        worst = max(worst, window)
    return worst


@compiled
def _keeps_lane(centres: Floats, areas: Bools, centerline: Floats) -> bool:
    """False after 20 states beside the centreline; states in intersections neither count nor reset the count."""
    count = 0
    for k in range(ROLLOUT_STEPS):
        if areas[k, CENTRE_IN_INTERSECTION]:
            continue
        distance, _ = nearest_on_polyline(centerline, centres[k, 0], centres[k, 1])
        count = count + 1 if distance > _LANE_OFFSET_M else 0
        if count >= _LANE_OFFSET_STEPS:
            return False
    return True


@compiled
def _score_rules(
    rollouts: Floats,
    vertices: Floats,
    offsets: Ints,
    bounds: Floats,
    layer: Ints,
    on_route: Bools,
    centerline: Floats,
    areas: Bools,
    ddc: Floats,
    lk: Floats,
) -> None:
    near, corners = np.empty(len(bounds), np.int64), np.empty((4, 2))
    centres, travelled = np.empty((ROLLOUT_STEPS, 2)), np.empty(ROLLOUT_STEPS)
    for p in range(len(rollouts)):
        count = _polygons_near(rollouts[p], bounds, near)
        for k in range(ROLLOUT_STEPS):
            state = rollouts[p, k]
            _classify_state(state, near[:count], vertices, offsets, bounds, layer, on_route, corners, areas[p, k])
            centres[k, 0] = state[0] + _REAR_TO_CENTRE_M * np.cos(state[2])
            centres[k, 1] = state[1] + _REAR_TO_CENTRE_M * np.sin(state[2])
        distance = _wrong_way_distance(centres, areas[p], travelled)
        ddc[p] = 1.0 if distance < _WRONG_WAY_MINOR_M else (0.5 if distance < _WRONG_WAY_MAJOR_M else 0.0)
        lk[p] = 1.0 if _keeps_lane(centres, areas[p], centerline) else 0.0
