"""What stands and lies along the roads: crosswalks, pavements, parking strips, pickup bays and work sites."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import KERB_MARGIN_M, PARKING_WIDTH_M, STEP_M, Arm, LaneClosure, Layout

Bools = NDArray[np.bool_]

SIDEWALK_WIDTH_M: Final = 2.5
#: Length, width and height of what stands on and beside the road, by annotated name.
THING_SIZES_M: Final = {
    "traffic_cone": (0.4, 0.4, 0.8),
    "barrier": (1.8, 0.5, 1.0),
    "czone_sign": (0.6, 0.6, 1.6),
    "generic_object": (0.9, 0.9, 1.1),
}
#: A junction's crosswalk lies between these distances inside of the stop line.
_CROSS_FROM_M: Final = 0.8
_CROSS_TO_M: Final = 4.0
_PARKING_CURVATURE: Final = 1 / 200
_SLOT_M: Final = 6.6
_PARKING_FROM_M: Final = 38.0
_PARKING_CLEAR_M: Final = 14.0  # free of parked cars on both sides of a crosswalk
_TO_ROAD_M: Final = 0.35  # cars park so much nearer to the road than the middle of the strip
_BAY_END_M: Final = 5.0  # a bay widens over this length
_CONE_EVERY_M: Final = 4.0
_SITE_CONE_EVERY_M: Final = 8.0
_SIGNS_AHEAD_M: Final = (55.0, 12.0)  # before the taper

#: Annotated name, pose (3,) of the centre, and length, width and height of a thing.
Thing = tuple[str, Floats, tuple[float, float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Crosswalk:
    """Where pedestrians cross: from ``ends[0]`` to ``ends[1]`` (2, 2), kerb to kerb."""

    ends: Floats
    arm: int
    is_midblock: bool


@dataclass(frozen=True, slots=True, eq=False)
class Bay:
    """A pickup bay beside the outermost lane away from the junction.

    Attributes:
        lane: that lane, counted from the left.
        slots: (N, 3) poses of the centres of cars that stop in the bay.
        double_parked: (M, 3) poses of the centres of cars that stop beside the bay, in the lane's outer part.
    """

    arm: int
    lane: int
    slots: Floats
    double_parked: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A work site that closes one of the lanes away from the junction.

    Attributes:
        lane: the closed lane, counted from the left.
        taper_m: where cones begin to lead out of the lane, along its chain ``Network.outbound[arm][lane]``; a change of
            lane must be over there.
        things: cones, barriers and signs.
    """

    arm: int
    lane: int
    taper_m: float
    things: tuple[Thing, ...]


def crosswalks_of(layout: Layout) -> tuple[Crosswalk, ...]:
    """Crosswalks at the junction and mid-block."""
    middle = (_CROSS_FROM_M + _CROSS_TO_M) / 2
    walks = []
    for index, arm in enumerate(layout.arms):
        reach = arm.half_width_m + KERB_MARGIN_M
        if layout.is_crossing:
            place = arm.line[0] - np.array([np.cos(arm.line[0, 2]), np.sin(arm.line[0, 2]), 0.0]) * middle
            walks.append(Crosswalk(_across(place, reach), index, is_midblock=False))
        if arm.crosswalk_m is not None:
            place = arm.line[round(arm.crosswalk_m / STEP_M)]
            walks.append(Crosswalk(_across(place, reach), index, is_midblock=True))
    return tuple(walks)


def crosswalk_area(walk: Crosswalk) -> shapely.Polygon:
    """What of the road a crosswalk covers."""
    return shapely.Polygon(shapely.LineString(walk.ends).buffer((_CROSS_TO_M - _CROSS_FROM_M) / 2, cap_style="flat"))


def sidewalk_lines(arm: Arm) -> list[Floats]:
    """(V, 2) centrelines of the pavements on both sides, pointing away from the junction; none beside fast roads."""
    if arm.is_fast or min(arm.lanes_in, arm.lanes_out) == 0:
        return []
    beside = (arm.parking[0], arm.parking[1] or arm.bay_m is not None)
    lines = []
    for (side, inward), occupied in zip(_SIDES, beside, strict=True):
        room = arm.edge_m(inward=inward) + KERB_MARGIN_M + (PARKING_WIDTH_M if occupied else 0.0)
        lines.append(polyline.offset(arm.line[2:], side * (room + SIDEWALK_WIDTH_M / 2 + 0.2)))
    return lines


def parking_areas(arm: Arm) -> list[shapely.Polygon]:
    """Parking strips beside the road."""
    return [
        _strip(arm.line[first : last + 1], side, arm.edge_m(inward=inward) + KERB_MARGIN_M)
        for (side, inward), parked in zip(_SIDES, arm.parking, strict=True)
        if parked
        for first, last in _parking_ranges(arm)
    ]


def bay_areas(arm: Arm) -> list[shapely.Polygon]:
    """The pickup bay of an arm, if it has one: a strip whose ends are cut off at an angle."""
    if arm.bay_m is None:
        return []
    first, last = (round(place / STEP_M) for place in arm.bay_m)
    inner = arm.edge_m(inward=False) + KERB_MARGIN_M
    cut = round(_BAY_END_M / STEP_M)
    outer = polyline.offset(arm.line[first + cut : last + 1 - cut], -(inner + PARKING_WIDTH_M))
    return [shapely.Polygon(np.concatenate([polyline.offset(arm.line[first : last + 1], -(inner - 0.1)), outer[::-1]]))]


def parking_slots(layout: Layout) -> Floats:
    """(N, 3) poses of parked cars' centres."""
    poses = [np.zeros((0, 3))]
    for arm in layout.arms:
        for (side, inward), parked in zip(_SIDES, arm.parking, strict=True):
            for first, last in _parking_ranges(arm) if parked else ():
                places = np.arange(first + 2, last - 1, _SLOT_M / STEP_M).astype(int)
                places = places[_straight(arm)[places]]
                at = arm.line[places]
                beside = arm.edge_m(inward=inward) + KERB_MARGIN_M + PARKING_WIDTH_M / 2 - _TO_ROAD_M
                poses.append(
                    np.column_stack([polyline.offset(at, side * beside), at[:, 2] + (np.pi if inward else 0.0)])
                )
    return np.concatenate(poses)


def bay_of(arm: Arm, bay_m: tuple[float, float], index: int) -> Bay:
    """The bay of an arm, which is number ``index``, between two distances along its reference line."""
    edge = arm.edge_m(inward=False)
    spaced = np.arange(bay_m[0] + _BAY_END_M + 3.0, bay_m[1] - _BAY_END_M - 2.0, _SLOT_M + 0.6)
    slots = _poses_at(arm, spaced, -(edge + KERB_MARGIN_M + PARKING_WIDTH_M / 2 - _TO_ROAD_M))
    double = _poses_at(arm, spaced + _SLOT_M / 2, -(edge - 1.0))
    return Bay(index, arm.lanes_out - 1, slots, double)


def site_of(arm: Arm, closure: LaneClosure, index: int, chain: Floats) -> Site:
    """The work site of an arm.

    Args:
        index: of the arm.
        chain: (V, 2) baseline of the closed lane, in the map's frame.
    """
    start = _poses_at(arm, np.array([closure.begin_m - closure.taper_m]), 0.0)[:, :2]
    taper = float(polyline.locate(chain, start)[0])
    return Site(index, closure.lane, taper, _site_things(arm, closure))


def _site_things(arm: Arm, closure: LaneClosure) -> tuple[Thing, ...]:
    """Cones slant from the lane's far side to the line that divides it from the open lane, and follow that line."""
    inner = arm.median_m / 2 + closure.lane * arm.lane_width_m
    is_inner = closure.lane == 0
    far, divider = (inner, inner + arm.lane_width_m) if is_inner else (inner + arm.lane_width_m, inner)
    keep = 0.3 if is_inner else -0.3  # stands inside of the closed lane
    edge = divider - keep
    start = closure.begin_m - closure.taper_m
    slant = np.arange(start, closure.begin_m, _CONE_EVERY_M)
    back = np.arange(closure.end_m, closure.end_m + 12.0, _CONE_EVERY_M)
    cones = [
        *zip(slant, np.interp(slant, [start, closure.begin_m], [far, edge]), strict=True),
        *((along, edge) for along in np.arange(closure.begin_m, closure.end_m - 1.0, _SITE_CONE_EVERY_M)),
        *zip(back, np.interp(back, [closure.end_m, closure.end_m + 12.0], [edge, far]), strict=True),
    ]
    across = np.linspace(min(far, edge) + 0.6, max(far, edge) - 0.6, 2)
    barriers = [(closure.begin_m + row, beside) for row in (4.0, 20.0) for beside in across]
    kerb = arm.edge_m(inward=False) + KERB_MARGIN_M + 0.6
    signs = [(start - ahead, kerb) for ahead in _SIGNS_AHEAD_M] + [(closure.begin_m + 1.0, (far + edge) / 2)]
    things: list[Thing] = []
    for name, places, turn in (
        ("traffic_cone", cones, 0.0),
        ("barrier", barriers, np.pi / 2),
        ("czone_sign", signs, 0.0),
    ):
        for along, beside in places:
            pose = _poses_at(arm, np.array([along]), -beside)[0] + np.array([0.0, 0.0, turn])
            things.append((name, pose, THING_SIZES_M[name]))
    return tuple(things)


#: Sides of an arm's line for traffic that keeps to the right: (1 left, -1 right), lanes towards the junction or away.
_SIDES: Final = ((1.0, True), (-1.0, False))


def _across(place: Floats, reach_m: float) -> Floats:
    return np.concatenate([polyline.offset(place[None], side * reach_m) for side in (-1.0, 1.0)])


def _strip(poses: Floats, side: float, inner_m: float) -> shapely.Polygon:
    """A parking strip along reference poses (V, 3), from a distance on one side outwards."""
    rings = [polyline.offset(poses, side * (inner_m - 0.1)), polyline.offset(poses, side * (inner_m + PARKING_WIDTH_M))]
    return shapely.Polygon(np.concatenate([rings[0], rings[1][::-1]]))


def _parking_ranges(arm: Arm) -> list[tuple[int, int]]:
    """Vertex ranges of the reference line along which cars may park."""
    last = len(arm.line) - 10
    first = round(_PARKING_FROM_M / STEP_M)
    if arm.crosswalk_m is None:
        return [(first, last)]
    clear = [round((arm.crosswalk_m + side * _PARKING_CLEAR_M) / STEP_M) for side in (-1, 1)]
    return [(first, clear[0]), (clear[1], last)]


def _straight(arm: Arm) -> Bools:
    """(V,) True where the reference line is straight for a while: nobody parks in bends, where nobody sees them."""
    bends = np.abs(np.diff(arm.line[:, 2], prepend=arm.line[0, 2])) / STEP_M > _PARKING_CURVATURE
    return ~np.convolve(bends, np.ones(13), mode="same").astype(bool)


def _poses_at(arm: Arm, along_m: Floats, left_m: float) -> Floats:
    """(N, 3) poses beside the reference line at distances from the junction, heading away from it."""
    stations = np.arange(len(arm.line)) * STEP_M
    poses = np.column_stack([np.interp(along_m, stations, arm.line[:, axis]) for axis in range(3)])
    return np.column_stack([polyline.offset(poses, left_m), poses[:, 2]])
