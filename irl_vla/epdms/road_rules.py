"""What the map says about rollouts: ego areas, drivable area, driving direction, lane keeping."""

from typing import Final, NamedTuple

import numpy as np

from irl_vla.epdms.polygons import (
    Bools,
    Ints,
    bounding_boxes,
    compiled,
    fill_ego_box,
    points_inside,
    segment_within,
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
_REACH_M: Final = PACIFICA.length  # no point of the ego is farther from its rear axle
_WRONG_WAY_STEPS: Final = 10  # the evaluator's 1 s window; it sums both ends, hence 11 displacements
_WRONG_WAY_MINOR_M: Final = 2.0
_WRONG_WAY_MAJOR_M: Final = 6.0
_LANE_OFFSET_M: Final = 0.5
_LANE_OFFSET_STEPS: Final = 20
#: Bits of the rows of an ego box.
_CORNERS: Final = 0b001111
_CENTRE: Final = 0b010000
_REAR_AXLE: Final = 0b100000


class RoadGeometry(NamedTuple):
    """The drivable map and the centreline of a scene, ready for the kernels; global frame.

    Attributes:
        vertices, offsets: as in ``records.Polygons``, N polygons.
        bounds: (N, 4) axis-aligned bounds of the polygons.
        layer, on_route: (N,) as in ``PreparedScene``.
        centerline: (V, 2).
    """

    vertices: Floats
    offsets: Ints
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
        vertices=np.ascontiguousarray(polygons.vertices, np.float64).reshape(-1, 2),
        offsets=np.ascontiguousarray(polygons.offsets, np.int64),
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
    _score_rules(rollouts, roads, areas, ddc, lk)
    dac: Floats = np.where(areas[:, :, NON_DRIVABLE].any(axis=1), 0.0, 1.0)
    return RoadScores(areas, dac, ddc, lk)


@compiled
def _polygons_near(states: Floats, bounds: Floats, near: Ints) -> int:
    """Writes the polygons whose bounds come within a vehicle length of a rollout (41, 11); returns their number."""
    x_low, x_high = states[:, 0].min() - _REACH_M, states[:, 0].max() + _REACH_M
    y_low, y_high = states[:, 1].min() - _REACH_M, states[:, 1].max() + _REACH_M
    count = 0
    for i in range(len(bounds)):
        if bounds[i, 0] <= x_high and bounds[i, 2] >= x_low and bounds[i, 1] <= y_high and bounds[i, 3] >= y_low:
            near[count] = i
            count += 1
    return count


@compiled
def _classify_state(box: Floats, near: Ints, roads: RoadGeometry, flags: Bools) -> None:
    """Sets the area flags (5,) of one ego box (6, 2), given the polygons that may matter."""
    x_low, y_low, x_high, y_high = box[0, 0], box[0, 1], box[0, 0], box[0, 1]
    for k in range(1, 4):
        x_low, x_high = min(x_low, box[k, 0]), max(x_high, box[k, 0])
        y_low, y_high = min(y_low, box[k, 1]), max(y_high, box[k, 1])
    drivable, lanes, lane_holds_all, on_course = 0, 0, False, False
    for i in near:
        if x_high < roads.bounds[i, 0] or x_low > roads.bounds[i, 2]:
            continue
        if y_high < roads.bounds[i, 1] or y_low > roads.bounds[i, 3]:
            continue
        mask = points_inside(box, roads.vertices, roads.offsets[i], roads.offsets[i + 1])
        if roads.layer[i] in (_LANE, _LANE_CONNECTOR):
            lanes += (mask & _CORNERS) != 0
            lane_holds_all |= (mask & _CORNERS) == _CORNERS
            on_course |= roads.on_route[i] and (mask & _CENTRE) != 0
            continue
        drivable |= mask
        if roads.layer[i] == _INTERSECTION:
            flags[CENTRE_IN_INTERSECTION] |= (mask & _CENTRE) != 0
            flags[REAR_AXLE_IN_INTERSECTION] |= (mask & _REAR_AXLE) != 0
    flags[MULTIPLE_LANES] = lanes > 1 and not lane_holds_all
    flags[NON_DRIVABLE] = (drivable & _CORNERS) != _CORNERS
    flags[ONCOMING] = not on_course


@compiled
def _wrong_way_distance(boxes: Floats, areas: Bools, travelled: Floats) -> float:
    """Longest distance driven against the direction of the route within a window; ``travelled`` (41,) is scratch."""
    worst = 0.0
    for k in range(ROLLOUT_STEPS):
        travelled[k] = 0.0
        if k > 0 and areas[k, ONCOMING] and not areas[k, CENTRE_IN_INTERSECTION]:
            travelled[k] = np.hypot(boxes[k, 4, 0] - boxes[k - 1, 4, 0], boxes[k, 4, 1] - boxes[k - 1, 4, 1])
        worst = max(worst, travelled[max(0, k - _WRONG_WAY_STEPS) : k + 1].sum())
    return worst


@compiled
def _keeps_lane(boxes: Floats, areas: Bools, centerline: Floats) -> bool:
    """False after 20 states beside the centreline; states in intersections neither count nor reset the count."""
    count, segment = 0, 0
    for k in range(ROLLOUT_STEPS):
        if areas[k, CENTRE_IN_INTERSECTION]:
            continue
        segment = segment_within(centerline, boxes[k, 4, 0], boxes[k, 4, 1], _LANE_OFFSET_M, segment)
        count = count + 1 if segment < 0 else 0
        if count >= _LANE_OFFSET_STEPS:
            return False
    return True


@compiled
def _score_rules(rollouts: Floats, roads: RoadGeometry, areas: Bools, ddc: Floats, lk: Floats) -> None:
    near, boxes = np.empty(len(roads.bounds), np.int64), np.empty((ROLLOUT_STEPS, 6, 2))
    travelled = np.empty(ROLLOUT_STEPS)
    for p in range(len(rollouts)):
        count = _polygons_near(rollouts[p], roads.bounds, near)
        for k in range(ROLLOUT_STEPS):
            fill_ego_box(rollouts[p, k], boxes[k])
            _classify_state(boxes[k], near[:count], roads, areas[p, k])
        distance = _wrong_way_distance(boxes, areas[p], travelled)
        ddc[p] = 1.0 if distance < _WRONG_WAY_MINOR_M else (0.5 if distance < _WRONG_WAY_MAJOR_M else 0.0)
        lk[p] = 1.0 if _keeps_lane(boxes, areas[p], roads.centerline) else 0.0
