"""The lane network of a layout: map rows, and what traffic needs to know about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import shapely

from irl_vla.dataset.maps.content import MapContent
from irl_vla.geometry import Floats
from irl_vla.world.roads import furniture, polyline
from irl_vla.world.roads.furniture import SIDEWALK_WIDTH_M, Bay, Crosswalk, Site
from irl_vla.world.roads.junction import MIRRORED_TURNS, Movement, add_junction
from irl_vla.world.roads.layout import Layout
from irl_vla.world.roads.mirror import mirrored_content, mirrored_layout, mirrored_points
from irl_vla.world.roads.rows import Chain, RowCollector

_MEETING_M: Final = 2.6  # between baselines on which vehicles would touch: two half widths and some air


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A built layout.

    Attributes:
        content: rows of the map file.
        inbound, outbound: per arm, per lane from the left: the chain of lanes and connectors in driving direction. The
            only chain of a ramp ends with the acceleration lane, which lies beside the main road's outermost lane.
        movements: ways through the junction.
        conflicts: (N, N, 2) arc lengths on movement i between which it meets movement j; NaN where they never
            meet or leave the same lane.
        parking_slots: (N, 3) poses of parked cars' centres; ``parking_arms`` (N,) their arm.
        sidewalks: (V, 2) centrelines, one on each side of each street, pointing away from the junction.
        bays: pickup bays.
        sites: work sites that close a lane.
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
    bays: tuple[Bay, ...]
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class LaneChange:
    """A change of lane on the arm before the junction, or on the one behind it.

    Attributes:
        lane: the other lane of the change, counted from the left: before the junction the one that the drive comes
            from, behind it the one that it goes to.
        begin_m: before the junction from the beginning of the drive, behind it from the end of the movement.
        length_m: how long the change takes along the road.
        arm: of ``lane``, if it is not the movement's: a ramp, to change from its acceleration lane to the main road.
    """

    lane: int
    begin_m: float
    length_m: float
    arm: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A drive through a network: in on one arm, over a movement, out on another.

    Attributes:
        line: (V, 2) baseline over all its lanes, smooth where lanes are changed.
        lane_ids: lanes and connectors in driving order, one a block: that in which the drive leaves the block.
        lane_starts_m: where each begins on ``line``.
        block_ids: the same for roadblocks and roadblock connectors, as strings.
        limits_mps: (len(lane_ids),) speed limits.
        movement: index into ``Network.movements``; ``movement_place`` its index into ``lane_ids``.
    """

    line: Floats
    lane_ids: tuple[int, ...]
    lane_starts_m: Floats
    block_ids: tuple[str, ...]
    limits_mps: Floats
    movement: int
    movement_place: int

    @property
    def junction_m(self) -> tuple[float, float]:
        """Arc lengths at which the movement begins and ends."""
        return float(self.lane_starts_m[self.movement_place]), float(self.lane_starts_m[self.movement_place + 1])


def build_network(layout: Layout) -> Network:
    """Builds all rows of a layout and the lookups of traffic."""
    if layout.keeps_left:  # built as right-hand traffic, then reflected
        return mirrored_network(build_network(mirrored_layout(layout)))
    rows = RowCollector(layout)
    inbound = tuple(rows.add_chains(index, inward=True) for index in range(len(layout.arms)))
    outbound = tuple(rows.add_chains(index, inward=False) for index in range(len(layout.arms)))
    if layout.control == "merge":
        main, other, (ramp,) = inbound
        inbound = (main, other, (rows.join_ramp(ramp, main[-1]),))
    movements = add_junction(rows, inbound, outbound)
    crosswalks = furniture.crosswalks_of(layout)
    slots, slot_arms = furniture.parking_slots(layout)
    sidewalks = tuple(line for arm in layout.arms for line in furniture.sidewalk_lines(arm))
    rows.add_areas(
        crosswalks=[furniture.crosswalk_area(walk) for walk in crosswalks],
        walkways=[shapely.LineString(line).buffer(SIDEWALK_WIDTH_M / 2, cap_style="flat") for line in sidewalks],
        carparks=[area for arm in layout.arms for area in (*furniture.parking_areas(arm), *furniture.bay_areas(arm))],
    )
    arms = list(enumerate(layout.arms))
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
        bays=tuple(
            furniture.bay_of(arm, arm.bay_m, k, outbound[k][-1].line) for k, arm in arms if arm.bay_m is not None
        ),
        sites=tuple(
            furniture.site_of(arm, arm.closure, k, outbound[k][arm.closure.lane].line)
            for k, arm in arms
            if arm.closure is not None
        ),
    )


def mirrored_network(network: Network) -> Network:
    """The network for traffic that keeps to the other side; see :mod:`irl_vla.world.roads.mirror`."""
    layout, centre = network.layout, network.layout.centre

    def flip(points: Floats) -> Floats:
        return mirrored_points(points, centre)

    def flip_chains(chains: tuple[tuple[Chain, ...], ...]) -> tuple[tuple[Chain, ...], ...]:
        return tuple(
            tuple(replace(chain, lines=tuple(flip(line) for line in chain.lines)) for chain in arm[::-1])
            for arm in chains
        )

    return replace(
        network,
        layout=mirrored_layout(layout),
        content=mirrored_content(network.content, centre),
        inbound=flip_chains(network.inbound),
        outbound=flip_chains(network.outbound),
        movements=tuple(
            replace(
                move,
                line=flip(move.line),
                turn=MIRRORED_TURNS[move.turn],
                from_lane=len(network.inbound[move.from_arm]) - 1 - move.from_lane,
                to_lane=len(network.outbound[move.to_arm]) - 1 - move.to_lane,
            )
            for move in network.movements
        ),
        crosswalks=tuple(replace(walk, ends=flip(walk.ends)) for walk in network.crosswalks),
        parking_slots=flip(network.parking_slots),
        sidewalks=tuple(flip(line) for line in network.sidewalks),
        bays=tuple(
            replace(
                bay,
                lane=len(network.outbound[bay.arm]) - 1 - bay.lane,
                slots=flip(bay.slots),
                double_parked=flip(bay.double_parked),
            )
            for bay in network.bays
        ),
        sites=tuple(
            replace(
                site,
                lane=len(network.outbound[site.arm]) - 1 - site.lane,
                open_lane=len(network.outbound[site.arm]) - 1 - site.open_lane,
                things=tuple((name, flip(pose), size) for name, pose, size in site.things),
            )
            for site in network.sites
        ),
    )


def kerb_lane(network: Network, arm: int, *, inward: bool) -> int:
    """The outermost lane of a direction of an arm, counted from the left."""
    return 0 if network.layout.keeps_left else len((network.inbound if inward else network.outbound)[arm]) - 1


def neighbours(network: Network, arm: int, lane: int, *, inward: bool) -> tuple[int, ...]:
    """The lanes beside a lane, of the same arm and direction; the chains of both have the same blocks."""
    count = len((network.inbound if inward else network.outbound)[arm])
    return tuple(other for other in (lane - 1, lane + 1) if 0 <= other < count)


def make_route(
    network: Network, movement: int, *, before: Sequence[LaneChange] = (), behind: Sequence[LaneChange] = ()
) -> Route:
    """The drive that uses a movement, from the beginning of one arm to the end of another.

    Args:
        before: changes of lane that lead to the movement's lane, in driving order.
        behind: changes of lane that lead away from the movement's lane, in driving order.

    Raises:
        ValueError: if a change begins before the last one is over, or lies outside of the stretch where the lanes run
            beside each other.
    """
    move = network.movements[movement]
    into = _Drive.along(network.inbound[move.from_arm][move.from_lane])
    if before:
        first = before[0]
        into = _Drive.along(network.inbound[move.from_arm if first.arm is None else first.arm][first.lane])
        targets = [(move.from_arm if item.arm is None else item.arm, item.lane) for item in before[1:]]
        for change, (arm, lane) in zip(before, [*targets, (move.from_arm, move.from_lane)], strict=True):
            into = into.changed(network.inbound[arm][lane], change)
    out = _Drive.along(network.outbound[move.to_arm][move.to_lane])
    for change in behind:
        out = out.changed(network.outbound[move.to_arm][change.lane], change)
    arms, speed = network.layout.arms, {row.id: row.speed_limit_mps for row in network.content.lanes}
    speed |= {row.id: row.speed_limit_mps for row in network.content.connectors}
    lane_ids = (*into.ids, move.id, *out.ids)
    lengths = [polyline.lengths(line)[-1] for line in (into.line, move.line)]
    return Route(
        line=polyline.joined([into.line, move.line, out.line]),
        lane_ids=lane_ids,
        lane_starts_m=np.array([*into.starts_m, lengths[0], *(start + sum(lengths) for start in out.starts_m)]),
        block_ids=tuple(str(block) for block in (*into.block_ids, move.block_id, *out.block_ids)),
        limits_mps=np.array([speed[lane] or arms[move.from_arm].speed_limit_mps for lane in lane_ids]),
        movement=movement,
        movement_place=len(into.ids),
    )


def red_flags(network: Network, red_axes: Mapping[int, bool]) -> tuple[tuple[int, bool], ...]:
    """(connector id, is red) of every movement of a signalised junction; empty without signals."""
    if not network.layout.has_signal:
        return ()
    arms = network.layout.arms
    return tuple((move.id, red_axes[arms[move.from_arm].axis]) for move in network.movements)


@dataclass(frozen=True, slots=True, eq=False)
class _Drive:
    """Part of a route on one arm: a line, and the lanes and blocks along it with the places where they begin."""

    line: Floats
    ids: tuple[int, ...]
    block_ids: tuple[int, ...]
    starts_m: tuple[float, ...]
    clear_m: float = 0.0

    @staticmethod
    def along(chain: Chain) -> "_Drive":
        sizes = np.cumsum([0.0, *(polyline.lengths(line)[-1] for line in chain.lines)])
        return _Drive(chain.line, chain.ids, chain.block_ids, tuple(float(size) for size in sizes[:-1]))

    def changed(self, chain: Chain, change: LaneChange) -> "_Drive":
        """The drive with a change to a chain beside it; the blocks are left in the new lane from the middle on."""
        middle = change.begin_m + change.length_m / 2
        place = int(np.searchsorted(self.starts_m, middle, side="right")) - 1
        block = self.block_ids[place]
        if change.begin_m < self.clear_m or block not in chain.block_ids:
            raise ValueError(
                f"lane change from {change.begin_m:.0f} m over {change.length_m:.0f} m: expected it behind "
                f"{self.clear_m:.0f} m, where both lanes lie in one roadblock; found block {block} there"
            )
        line = polyline.change_lane(self.line, chain.line, change.begin_m, change.length_m)
        goal = chain.block_ids.index(block)
        heads = np.array([piece[0] for piece in chain.lines[goal + 1 :]]).reshape(-1, 2)
        return _Drive(
            line,
            (*self.ids[:place], *chain.ids[goal:]),
            (*self.block_ids[:place], *chain.block_ids[goal:]),
            (*self.starts_m[: place + 1], *(float(start) for start in polyline.locate(line, heads))),
            change.begin_m + change.length_m,
        )


def _conflicts(movements: tuple[Movement, ...]) -> Floats:
    """Arc lengths between which vehicles on two movements would touch."""
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
            near = np.flatnonzero(gaps < _MEETING_M)
            if len(near):
                along = polyline.lengths(lines[i])
                zones[i, j] = along[near[0]], along[near[-1]]
    return zones
