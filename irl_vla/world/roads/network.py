"""The lane network of a layout: map rows, and what traffic needs to know about them."""

from collections.abc import Mapping
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
        parking_slots: (N, 3) poses of parked cars' centres.
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
    sidewalks: tuple[Floats, ...]
    bays: tuple[Bay, ...]
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A drive through a network: in on one arm, over a movement, out on another.

    Attributes:
        line: (V, 2) baseline over all its lanes, in the map's frame.
        lane_ids: lanes and connectors in driving order.
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
        parking_slots=furniture.parking_slots(layout),
        sidewalks=sidewalks,
        bays=tuple(furniture.bay_of(arm, arm.bay_m, k) for k, arm in arms if arm.bay_m is not None),
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
                to_lane=_lane_in_mirror(network, move.to_arm, move.to_lane),
            )
            for move in network.movements
        ),
        crosswalks=tuple(replace(walk, ends=flip(walk.ends)) for walk in network.crosswalks),
        parking_slots=flip(network.parking_slots),
        sidewalks=tuple(flip(line) for line in network.sidewalks),
        bays=tuple(_mirrored_bay(network, bay) for bay in network.bays),
        sites=tuple(_mirrored_site(network, site) for site in network.sites),
    )


def _mirrored_bay(network: Network, bay: Bay) -> Bay:
    centre, lane = network.layout.centre, _lane_in_mirror(network, bay.arm, bay.lane)
    slots, double = (mirrored_points(poses, centre) for poses in (bay.slots, bay.double_parked))
    return replace(bay, lane=lane, slots=slots, double_parked=double)


def _mirrored_site(network: Network, site: Site) -> Site:
    centre, lane = network.layout.centre, _lane_in_mirror(network, site.arm, site.lane)
    things = tuple((name, mirrored_points(pose, centre), size) for name, pose, size in site.things)
    return replace(site, lane=lane, things=things)


def _lane_in_mirror(network: Network, arm: int, lane: int) -> int:
    """A lane away from the junction, counted from the other side."""
    return len(network.outbound[arm]) - 1 - lane


def kerb_lane(network: Network, arm: int, *, inward: bool) -> int:
    """The outermost lane of a direction of an arm, counted from the left."""
    return 0 if network.layout.keeps_left else len((network.inbound if inward else network.outbound)[arm]) - 1


def kerb_side(network: Network) -> float:
    """Side of a lane on which the kerb is: 1 left, -1 right."""
    return 1.0 if network.layout.keeps_left else -1.0


def make_route(network: Network, movement: int) -> Route:
    """The drive that uses a movement, from the beginning of one arm to the end of another."""
    move = network.movements[movement]
    into, out = network.inbound[move.from_arm][move.from_lane], network.outbound[move.to_arm][move.to_lane]
    limits = {row.id: row.speed_limit_mps for row in network.content.lanes}
    limits |= {row.id: row.speed_limit_mps for row in network.content.connectors}
    lane_ids = (*into.ids, move.id, *out.ids)
    lengths = [polyline.lengths(line)[-1] for line in (into.line, move.line)]
    street_limit = network.layout.arms[move.from_arm].speed_limit_mps
    return Route(
        line=polyline.joined([into.line, move.line, out.line]),
        lane_ids=lane_ids,
        lane_starts_m=np.array([*into.starts_m, lengths[0], *(start + sum(lengths) for start in out.starts_m)]),
        block_ids=tuple(str(block) for block in (*into.block_ids, move.block_id, *out.block_ids)),
        limits_mps=np.array([limits[lane] or street_limit for lane in lane_ids]),
        movement=movement,
        movement_place=len(into.ids),
    )


def red_flags(network: Network, red_axes: Mapping[int, bool]) -> tuple[tuple[int, bool], ...]:
    """(connector id, is red) of every movement of a signalised junction; empty without signals."""
    if not network.layout.has_signal:
        return ()
    arms = network.layout.arms
    return tuple((move.id, red_axes[arms[move.from_arm].axis]) for move in network.movements)


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
