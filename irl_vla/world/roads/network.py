"""The lane network of a layout: map rows, and what traffic needs to know about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from irl_vla.dataset.maps.content import MapContent
from irl_vla.geometry import Floats
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import KERB_MARGIN_M, PARKING_WIDTH_M, STEP_M, Arm, Layout
from irl_vla.world.roads.rows import CROSS_FROM_M, CROSS_TO_M, Chain, Movement, RowCollector

Bools = NDArray[np.bool_]

SIDEWALK_WIDTH_M: Final = 2.5
_PARKING_CURVATURE: Final = 1 / 200
_SLOT_M: Final = 6.6
_PARKING_FROM_M: Final = 38.0
_PARKING_CLEAR_M: Final = 14.0  # free of parked cars on both sides of a crosswalk


@dataclass(frozen=True, slots=True, eq=False)
class Crosswalk:
    """Where pedestrians cross: from ``ends[0]`` to ``ends[1]`` (2, 2), kerb to kerb."""

    ends: Floats
    arm: int
    is_midblock: bool


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A built layout.

    Attributes:
        content: rows of the map file.
        inbound, outbound: per arm, per lane from the left: the chain of lanes and connectors in driving direction.
        movements: ways through the junction.
        conflicts: (N, N, 2) arc lengths on movement i between which it meets movement j; NaN where they never
            meet or leave the same lane.
        parking_slots: (N, 3) poses of parked cars' centres; ``parking_arms`` (N,) their arm.
        sidewalks: (V, 2) centrelines, one on each side of each arm, pointing away from the junction.
    """

    layout: Layout
    content: MapContent
    inbound: tuple[tuple[Chain, ...], ...]
    outbound: tuple[tuple[Chain, ...], ...]
    movements: tuple[Movement, ...]
    conflicts: Floats
    crosswalks: tuple[Crosswalk, ...]
    parking_slots: Floats
    parking_arms: Floats
    sidewalks: tuple[Floats, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A drive through a network: in on one arm, over a movement, out on another.

    Attributes:
        line: (V, 2) baseline over all its lanes.
        lane_ids: lanes and connectors in driving order; ``lane_starts_m``: where each begins on ``line``.
        block_ids: the same for roadblocks and roadblock connectors, as strings.
        limits_mps: (len(lane_ids),) speed limits.
        movement: index into ``Network.movements``.
    """

    line: Floats
    lane_ids: tuple[int, ...]
    lane_starts_m: Floats
    block_ids: tuple[str, ...]
    limits_mps: Floats
    movement: int

    @property
    def junction_m(self) -> tuple[float, float]:
        """Arc lengths at which the movement begins and ends."""
        index = _MOVEMENT_PLACE
        return float(self.lane_starts_m[index]), float(self.lane_starts_m[index + 1])


#: Position of the junction's connector in a route: three lanes and two pass-through connectors come before it.
_MOVEMENT_PLACE: Final = 5


def build_network(layout: Layout) -> Network:
    """Builds all rows of a layout and the lookups of traffic."""
    rows = RowCollector(layout)
    inbound = tuple(rows.add_chains(index, inward=True) for index in range(len(layout.arms)))
    outbound = tuple(rows.add_chains(index, inward=False) for index in range(len(layout.arms)))
    movements = rows.add_junction(inbound, outbound)
    crosswalks = _crosswalks(layout)
    slots, slot_arms = _parking(layout)
    sidewalks = tuple(line for arm in layout.arms for line in _sidewalk_lines(arm))
    rows.add_areas(
        crosswalks=[_strip(walk.ends, (CROSS_TO_M - CROSS_FROM_M) / 2) for walk in crosswalks],
        walkways=[shapely.LineString(line).buffer(SIDEWALK_WIDTH_M / 2, cap_style="flat") for line in sidewalks],
        carparks=[polygon for arm in layout.arms for polygon in _parking_areas(arm)],
    )
    return Network(
        layout=layout,
        content=rows.content(),
        inbound=inbound,
        outbound=outbound,
        movements=movements,
        conflicts=_conflicts(movements),
        crosswalks=crosswalks,
        parking_slots=slots,
        parking_arms=slot_arms,
        sidewalks=sidewalks,
    )


def make_route(network: Network, movement: int) -> Route:
    """The only drive that uses a movement: lanes change in the junction only."""
    move = network.movements[movement]
    chain_in, chain_out = network.inbound[move.from_arm][move.from_lane], network.outbound[move.to_arm][move.to_lane]
    pieces = [*chain_in.lines, move.line, *chain_out.lines]
    limit_in = network.layout.arms[move.from_arm].speed_limit_mps
    limit_out = network.layout.arms[move.to_arm].speed_limit_mps
    limits = [limit_in] * (len(chain_in.lines) + 1) + [limit_out] * len(chain_out.lines)
    sizes = np.array([polyline.lengths(piece)[-1] for piece in pieces])
    return Route(
        line=polyline.joined(pieces),
        lane_ids=(*chain_in.ids, move.id, *chain_out.ids),
        lane_starts_m=np.concatenate([[0.0], np.cumsum(sizes)[:-1]]),
        block_ids=tuple(str(block) for block in (*chain_in.block_ids, move.block_id, *chain_out.block_ids)),
        limits_mps=np.array(limits),
        movement=movement,
    )


def red_flags(network: Network, red_axes: Mapping[int, bool]) -> tuple[tuple[int, bool], ...]:
    """(connector id, is red) of every movement of a signalised junction; empty without signals."""
    if not network.layout.has_signal:
        return ()
    arms = network.layout.arms
    return tuple((move.id, red_axes[arms[move.from_arm].axis]) for move in network.movements)


def _crosswalks(layout: Layout) -> tuple[Crosswalk, ...]:
    middle = (CROSS_FROM_M + CROSS_TO_M) / 2
    walks = []
    for index, arm in enumerate(layout.arms):
        reach = arm.half_width_m + KERB_MARGIN_M
        if layout.is_junction:
            place = arm.line[0] - np.array([np.cos(arm.line[0, 2]), np.sin(arm.line[0, 2]), 0.0]) * middle
            walks.append(Crosswalk(_across(place, reach), index, is_midblock=False))
        if arm.crosswalk_m is not None:
            place = arm.line[round(arm.crosswalk_m / STEP_M)]
            walks.append(Crosswalk(_across(place, reach), index, is_midblock=True))
    return tuple(walks)


def _across(place: Floats, reach_m: float) -> Floats:
    return np.concatenate([polyline.offset(place[None], side * reach_m) for side in (-1.0, 1.0)])


def _strip(ends: Floats, half_width_m: float) -> shapely.Polygon:
    return shapely.LineString(ends).buffer(half_width_m, cap_style="flat")


def _parking_ranges(arm: Arm) -> list[tuple[int, int]]:
    """Vertex ranges of the reference line along which cars may park."""
    last = len(arm.line) - 10
    first = round(_PARKING_FROM_M / STEP_M)
    if arm.crosswalk_m is None:
        return [(first, last)]
    clear = [round((arm.crosswalk_m + side * _PARKING_CLEAR_M) / STEP_M) for side in (-1, 1)]
    return [(first, clear[0]), (clear[1], last)]


def _parking_areas(arm: Arm) -> list[shapely.Polygon]:
    inner, outer = arm.half_width_m + KERB_MARGIN_M - 0.1, arm.half_width_m + KERB_MARGIN_M + PARKING_WIDTH_M
    return [
        shapely.Polygon(
            np.concatenate(
                [
                    polyline.offset(arm.line[first : last + 1], side * inner),
                    polyline.offset(arm.line[first : last + 1], side * outer)[::-1],
                ]
            )
        )
        for parked, side in zip(arm.parking, (1.0, -1.0), strict=True)
        if parked
        for first, last in _parking_ranges(arm)
    ]


def _parking(layout: Layout) -> tuple[Floats, Floats]:
    poses, arms = [], []
    for index, arm in enumerate(layout.arms):
        for parked, side in zip(arm.parking, (1.0, -1.0), strict=True):
            ranges = _parking_ranges(arm) if parked else []
            for first, last in ranges:
                places = np.arange(first + 2, last - 1, _SLOT_M / STEP_M).astype(int)
                places = places[_straight(arm)[places]]
                at = arm.line[places]
                xy = polyline.offset(at, side * (arm.half_width_m + KERB_MARGIN_M + PARKING_WIDTH_M / 2 - 0.35))
                poses.append(np.column_stack([xy, at[:, 2] + (np.pi if side > 0 else 0.0)]))
                arms.append(np.full(len(places), index))
    if not poses:
        return np.zeros((0, 3)), np.zeros(0)
    return np.concatenate(poses), np.concatenate(arms)


def _straight(arm: Arm) -> Bools:
    """(V,) True where the reference line is straight for a while: nobody parks in bends, where nobody sees them."""
    bends = np.abs(np.diff(arm.line[:, 2], prepend=arm.line[0, 2])) / STEP_M > _PARKING_CURVATURE
    return ~np.convolve(bends, np.ones(13), mode="same").astype(bool)


def _sidewalk_lines(arm: Arm) -> list[Floats]:
    lines = []
    for parked, side in zip(arm.parking, (1.0, -1.0), strict=True):
        room = arm.half_width_m + KERB_MARGIN_M + (PARKING_WIDTH_M if parked else 0.0) + SIDEWALK_WIDTH_M / 2 + 0.2
        lines.append(polyline.offset(arm.line[2:], side * room))
    return lines


def _conflicts(movements: tuple[Movement, ...]) -> Floats:
    """Arc lengths between which vehicles on two movements would touch."""
    clearance = 2.6  # two half widths and some air
    count = len(movements)
    zones = np.full((count, count, 2), np.nan)
    lines = [polyline.resample(move.line, 0.5) for move in movements]
    for i in range(count):
        for j in range(count):
            same_lane = (movements[i].from_arm, movements[i].from_lane) == (
                movements[j].from_arm,
                movements[j].from_lane,
            )
            if same_lane:
                continue
            gaps = np.linalg.norm(lines[i][:, None] - lines[j][None], axis=2).min(axis=1)
            near = np.flatnonzero(gaps < clearance)
            if len(near):
                along = polyline.lengths(lines[i])
                zones[i, j] = along[near[0]], along[near[-1]]
    return zones
