"""Builds a layout's junction: its movements, stop lines and polygon, and who goes first."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import shapely

from irl_vla.dataset.maps.content import INTERSECTION_KINDS, AreaRow
from irl_vla.geometry import Floats, wrap_angle
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import KERB_MARGIN_M, RING_MARGIN_M, Arm, Control, Layout
from irl_vla.world.roads.rows import Chain, RowCollector, outline

Turn = Literal["left", "straight", "right"]
#: What a driver meets before a movement: lights, a stop sign, a give-way sign, or nothing.
Sign = Literal["signal", "stop", "yield", "none"]

#: What turns become in a mirror.
MIRRORED_TURNS: Final[dict[Turn, Turn]] = {"left": "right", "straight": "straight", "right": "left"}
_TURN_RAD: Final = 0.6
_KINDS: Final[dict[Control, str]] = {
    "signal": "traffic_light",
    "yield": "stop_sign",
    "stop": "stop_sign",
    "all_stop": "stop_sign",
    "roundabout": "default",
    "merge": "merge",
    "zipper": "merge",
    "free": "pass_through",
}
_STOP_LINES: Final[dict[Sign, str]] = {"signal": "traffic_light", "stop": "stop_sign", "yield": "yield"}


@dataclass(frozen=True, slots=True, eq=False)
class Movement:
    """A lane connector through the junction.

    Attributes:
        turn: by the angle between the arms; also in a roundabout.
        from_lane, to_lane: counted from the left; of a ramp, 0 is its acceleration lane.
        sign: what its drivers meet at the stop line, or at the end of the acceleration lane.
        rank: the right of way between movements that meet: higher goes first, among equals who comes first. Vehicles
            that are in the junction go first in any case, which is what rules roundabouts. Lights come before ranks.
    """

    id: int
    block_id: int
    line: Floats
    turn: Turn
    from_arm: int
    from_lane: int
    to_arm: int
    to_lane: int
    sign: Sign
    rank: float


def add_junction(
    rows: RowCollector, inbound: tuple[tuple[Chain, ...], ...], outbound: tuple[tuple[Chain, ...], ...]
) -> tuple[Movement, ...]:
    """Adds the junction's connectors, its polygon and its stop lines, for traffic that keeps to the right."""
    layout, crossing = rows.layout, rows.new_id()
    stops = _add_stop_lines(rows, inbound)
    movements: list[Movement] = []
    blocks: dict[tuple[int, int], int] = {}
    for a, b in [(a, b) for a in range(len(layout.arms)) for b in range(len(layout.arms)) if a != b]:
        for i, j in _lane_pairs(layout, a, b):
            before, after = rows.lane(inbound[a][i].ids[-1]), rows.lane(outbound[b][j].ids[0])
            ends = before.group_id, after.group_id
            if ends not in blocks:
                blocks[ends] = rows.new_id()
            line = _line(layout, _end_pose(before.baseline), _start_pose(after.baseline))
            connector = rows.add_connector(
                (before, after),
                line,
                block=blocks[ends],
                crossing=crossing,
                limit_mps=layout.arms[a].speed_limit_mps,
                stops=stops[a] if layout.has_signal else (),
            )
            turn = _turn(layout, a, b)
            movements.append(
                Movement(connector, blocks[ends], line, turn, a, i, b, j, _sign(layout, a), _rank(layout, a, turn))
            )
    polygons = {row.id: row.polygon for row in rows.connectors}
    for ends, block in blocks.items():
        rows.add_block_connector(
            block, ends, crossing, [polygons[move.id] for move in movements if move.block_id == block]
        )
    area = _area(layout, [polygons[move.id] for move in movements])
    rows.intersections.append(AreaRow(crossing, area, INTERSECTION_KINDS.index(_KINDS[layout.control])))
    return tuple(movements)


def _add_stop_lines(rows: RowCollector, inbound: tuple[tuple[Chain, ...], ...]) -> list[tuple[int, ...]]:
    stops: list[tuple[int, ...]] = []
    for arm, chains in enumerate(inbound):
        sign = _sign(rows.layout, arm)
        lanes = tuple(chain.ids[-1] for chain in chains)
        needed = sign != "none" and rows.layout.is_crossing  # acceleration lanes end without a line
        stops.append((rows.add_stop_line(arm, _STOP_LINES[sign], lanes),) if needed else ())
    return stops


def _lane_pairs(layout: Layout, a: int, b: int) -> list[tuple[int, int]]:
    """Which lane of arm ``a`` leads to which of arm ``b``: turns from the outermost lanes, straight on from all."""
    lanes_in, lanes_out = layout.arms[a].lanes_in, layout.arms[b].lanes_out
    if lanes_in == 0 or lanes_out == 0 or (layout.control == "merge" and (a, b) == (2, 0)):
        return []
    if layout.control == "merge" and a == 2:
        return [(0, lanes_out - 1)]
    turn = _turn(layout, a, b)
    if turn == "left":
        return [(0, 0)]
    if turn == "right":
        return [(lanes_in - 1, lanes_out - 1)]
    if layout.control == "zipper":
        return [(k, min(k, lanes_out - 1)) for k in range(lanes_in)]
    return [(k, k) for k in range(min(lanes_in, lanes_out))]


def _turn(layout: Layout, a: int, b: int) -> Turn:
    if not layout.is_crossing:
        return "straight"
    angle = float(wrap_angle(layout.arms[b].line[0, 2] - layout.arms[a].line[0, 2] - np.pi))
    return "left" if angle > _TURN_RAD else "right" if angle < -_TURN_RAD else "straight"


def _sign(layout: Layout, arm: int) -> Sign:
    minor = layout.arms[arm].axis == 1
    if layout.control == "signal":
        return "signal"
    if layout.control == "all_stop" or (layout.control == "stop" and minor):
        return "stop"
    if layout.control == "roundabout" or (layout.control in ("yield", "merge") and minor):
        return "yield"
    return "none"


def _rank(layout: Layout, arm: int, turn: Turn) -> float:
    """Straight on before the near turn before the turn across oncoming traffic; the major road before the minor one."""
    if layout.control in ("all_stop", "roundabout", "zipper", "free"):
        return 0.0
    rank = {"straight": 2.0, "right": 1.5, "left": 1.0}[turn]
    return rank + (2.0 if not layout.has_signal and layout.arms[arm].axis == 0 else 0.0)


def _line(layout: Layout, start: Floats, end: Floats) -> Floats:
    if layout.ring is None:
        return polyline.turn(start, end)
    return polyline.around(layout.centre, layout.ring.radius_m, layout.ring.entry_radius_m, start, end)


def _area(layout: Layout, connectors: list[shapely.Polygon]) -> shapely.Polygon:
    """The area between the arms and of all connectors, without the island of a roundabout."""
    arms = layout.arms[:2] if layout.control == "merge" else layout.arms
    if layout.ring is None:
        return outline([_between(arms), *(polygon.buffer(0.3) for polygon in connectors)], 0.1)
    disc = shapely.Point(layout.centre).buffer(layout.ring.radius_m + arms[0].lane_width_m / 2 + RING_MARGIN_M)
    throats = [_throat(layout, arm) for arm in arms]
    area = outline([disc, *throats, *(polygon.buffer(RING_MARGIN_M) for polygon in connectors)], 0.1)
    island = shapely.Point(layout.centre).buffer(layout.ring.island_m)
    return shapely.Polygon(area.exterior, [island.exterior.coords[::-1]])


def _between(arms: tuple[Arm, ...]) -> shapely.Polygon:
    """The area between the arms, bounded by their ends and by curves that round the corners."""
    ring = []
    for arm, following in zip(arms, (*arms[1:], arms[0]), strict=True):
        reach = arm.edge_m(inward=True) + arm.lane_width_m * (arm.auxiliary_m > 0) + KERB_MARGIN_M
        left = polyline.offset(arm.line[:1], reach)[0]
        right = polyline.offset(following.line[:1], -(following.edge_m(inward=False) + KERB_MARGIN_M))[0]
        start = np.array([*left, arm.line[0, 2] + np.pi])
        end = np.array([*right, following.line[0, 2]])
        ring.append(polyline.turn(start, end))
    return shapely.Polygon(np.concatenate(ring))


def _throat(layout: Layout, arm: Arm) -> shapely.Polygon:
    """Strip from the end of an arm to the ring, kerb to kerb."""
    axis = shapely.LineString([arm.line[0, :2], layout.centre])
    return shapely.Polygon(axis.buffer(arm.half_width_m + KERB_MARGIN_M, cap_style="flat").exterior)


def _end_pose(line: Floats) -> Floats:
    step = line[-1] - line[-2]
    return np.array([*line[-1], np.arctan2(step[1], step[0])])


def _start_pose(line: Floats) -> Floats:
    step = line[1] - line[0]
    return np.array([*line[0], np.arctan2(step[1], step[0])])
