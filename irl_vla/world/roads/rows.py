"""Turns arms and junctions into the rows of a map file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import shapely

from irl_vla.dataset.maps.content import (
    INTERSECTION_KINDS,
    STOP_KINDS,
    AreaRow,
    BoundaryRow,
    ConnectorRow,
    GroupConnectorRow,
    GroupRow,
    LaneRow,
    MapContent,
    StopRow,
)
from irl_vla.geometry import Floats, wrap_angle
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import KERB_MARGIN_M, Arm, Layout

#: Room for ids of one layout; all its rows draw from one counter.
IDS_PER_LAYOUT: Final = 2000
#: A junction's crosswalk lies between these distances inside of the stop line.
CROSS_FROM_M: Final = 0.8
CROSS_TO_M: Final = 4.0
#: Reference-line vertices at which an arm is cut into lane groups; the step after each is a connector.
_CUTS: Final = (42, 100)
#: Vertex spacing of short connectors.
_LINK_STEP_M: Final = 0.5
_DASHED, _SOLID, _UNKNOWN = 0, 2, 3
_TURN_RAD: Final = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Lanes of one arm and direction, in driving order, with the connectors between them.

    Attributes:
        ids, block_ids: lane, connector, lane, ... and their roadblocks and roadblock connectors.
        lines: (V, 2) baselines.
    """

    ids: tuple[int, ...]
    block_ids: tuple[int, ...]
    lines: tuple[Floats, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Movement:
    """A lane connector through the junction; ``turn`` is "left", "straight" or "right"."""

    id: int
    block_id: int
    line: Floats
    turn: str
    from_arm: int
    from_lane: int
    to_arm: int
    to_lane: int


@dataclass(slots=True)
class RowCollector:
    """Collects the rows of one layout under fresh ids."""

    layout: Layout
    lanes: list[LaneRow] = field(default_factory=list)
    connectors: list[ConnectorRow] = field(default_factory=list)
    groups: list[GroupRow] = field(default_factory=list)
    group_connectors: list[GroupConnectorRow] = field(default_factory=list)
    boundaries: list[BoundaryRow] = field(default_factory=list)
    intersections: list[AreaRow] = field(default_factory=list)
    stop_lines: list[StopRow] = field(default_factory=list)
    areas: dict[str, list[AreaRow]] = field(default_factory=dict)
    _issued: int = 0

    def content(self) -> MapContent:
        """All rows so far."""
        return MapContent(
            lanes=tuple(self.lanes),
            connectors=tuple(self.connectors),
            groups=tuple(self.groups),
            group_connectors=tuple(self.group_connectors),
            boundaries=tuple(self.boundaries),
            intersections=tuple(self.intersections),
            stop_lines=tuple(self.stop_lines),
            crosswalks=tuple(self.areas.get("crosswalks", ())),
            walkways=tuple(self.areas.get("walkways", ())),
            carparks=tuple(self.areas.get("carparks", ())),
            road_segments=tuple(AreaRow(self._new_id(), group.polygon) for group in self.groups),
        )

    def add_areas(self, **layers: Sequence[shapely.Polygon]) -> None:
        """Adds plain polygons to area layers."""
        for name, polygons in layers.items():
            self.areas[name] = [AreaRow(self._new_id(), polygon) for polygon in polygons]

    def add_chains(self, arm_index: int, inward: bool) -> tuple[Chain, ...]:
        """Adds one direction of an arm: lane groups, and the short pass-through connectors between them.

        Returns:
            One chain a lane, from the left.
        """
        arm = self.layout.arms[arm_index]
        last = len(arm.line) - 1
        pieces = [(0, _CUTS[0]), (_CUTS[0] + 1, _CUTS[1]), (_CUTS[1] + 1, last)]
        poses = [arm.line[first : end + 1] for first, end in pieces]
        gaps = [arm.line[cut : cut + 2] for cut in _CUTS]
        if inward:
            poses, gaps = [_reversed(piece) for piece in poses[::-1]], [_reversed(piece) for piece in gaps[::-1]]
        groups = [self._add_group(arm, piece) for piece in poses]
        lane_rows = {group: [row for row in self.lanes if row.group_id == group] for group in groups}
        parts: list[list[tuple[int, int, Floats]]] = [[] for _ in range(arm.lanes)]
        for place, group in enumerate(groups):
            for lane, row in enumerate(lane_rows[group]):
                parts[lane].append((row.id, group, row.baseline))
            if place < len(gaps):
                following = groups[place + 1]
                area = _band(gaps[place], 0.0, _outer(arm)).buffer(0.1, join_style="mitre")
                crossing = self._add_intersection(area, "pass_through")
                block = self._add_block_connector(group, following, crossing, area)
                for lane, (before, after) in enumerate(zip(lane_rows[group], lane_rows[following], strict=True)):
                    # more than two vertices: the official reactive traffic drops the last one and needs two
                    line = polyline.resample(np.stack([before.baseline[-1], after.baseline[0]]), _LINK_STEP_M)
                    connector = self._add_connector(
                        (before, after), line, block=block, crossing=crossing, limit_mps=arm.speed_limit_mps, stops=()
                    )
                    parts[lane].append((connector, block, line))
        return tuple(Chain(*(tuple(items) for items in zip(*part, strict=True))) for part in parts)

    def add_junction(
        self, inbound: tuple[tuple[Chain, ...], ...], outbound: tuple[tuple[Chain, ...], ...]
    ) -> tuple[Movement, ...]:
        """Adds the junction's connectors, its polygon and its stop lines."""
        arms, lane_rows = self.layout.arms, {row.id: row for row in self.lanes}
        kind = "traffic_light" if self.layout.has_signal else "stop_sign" if self.layout.is_junction else "pass_through"
        crossing = self._add_intersection(_junction_polygon(arms), kind)
        stops = [self._add_stop_line(index, [chain.ids[-1] for chain in inbound[index]]) for index in range(len(arms))]
        movements: list[Movement] = []
        for a, b in [(a, b) for a in range(len(arms)) for b in range(len(arms)) if a != b]:
            angle = float(wrap_angle(arms[b].line[0, 2] - arms[a].line[0, 2] - np.pi))
            turn = "left" if angle > _TURN_RAD else "right" if angle < -_TURN_RAD else "straight"
            pairs = _lane_pairs(turn, arms[a].lanes, arms[b].lanes)
            from_group = lane_rows[inbound[a][0].ids[-1]].group_id
            to_group = lane_rows[outbound[b][0].ids[0]].group_id
            first_connector = len(self.connectors)
            block = self._add_block_connector(from_group, to_group, crossing, None)
            for i, j in pairs:
                before, after = lane_rows[inbound[a][i].ids[-1]], lane_rows[outbound[b][j].ids[0]]
                start = np.array([*before.baseline[-1], arms[a].line[0, 2] + np.pi])
                end = np.array([*after.baseline[0], arms[b].line[0, 2]])
                line = polyline.turn(start, end)
                limit = arms[a].speed_limit_mps
                connector = self._add_connector(
                    (before, after), line, block=block, crossing=crossing, limit_mps=limit, stops=stops[a]
                )
                movements.append(Movement(connector, block, line, turn, a, i, b, j))
            self._cover_block(block, [row.polygon for row in self.connectors[first_connector:]])
        self._cover_intersection(crossing, [self._polygon_of(move.id) for move in movements])
        return tuple(movements)

    def _new_id(self) -> int:
        self._issued += 1
        return self.layout.number * IDS_PER_LAYOUT + self._issued

    def _add_boundary(self, line: Floats, kind: int) -> int:
        self.boundaries.append(BoundaryRow(self._new_id(), line, kind))
        return self.boundaries[-1].id

    def _add_group(self, arm: Arm, poses: Floats) -> int:
        """Adds a lane group and its lanes along reference poses in driving direction (lanes lie to the right)."""
        edges = [arm.median_m / 2 + k * arm.lane_width_m for k in range(arm.lanes + 1)]
        lines = [polyline.offset(poses, -edge) for edge in edges]
        kinds = [_SOLID, *[_DASHED] * (arm.lanes - 1), _SOLID]
        sides = [self._add_boundary(line, kind) for line, kind in zip(lines, kinds, strict=True)]
        area = _band(poses, 0.0, _outer(arm))  # painted median included
        group = GroupRow(self._new_id(), area, sides[0], sides[-1])
        self.groups.append(group)
        for k in range(arm.lanes):
            self.lanes.append(
                LaneRow(
                    id=self._new_id(),
                    group_id=group.id,
                    index=k,
                    polygon=shapely.Polygon(np.concatenate([lines[k], lines[k + 1][::-1]])),
                    baseline=polyline.offset(poses, -(edges[k] + edges[k + 1]) / 2),
                    left_boundary_id=sides[k],
                    right_boundary_id=sides[k + 1],
                    speed_limit_mps=arm.speed_limit_mps,
                )
            )
        return group.id

    def _add_connector(
        self,
        ends: tuple[LaneRow, LaneRow],
        line: Floats,
        *,
        block: int,
        crossing: int,
        limit_mps: float,
        stops: tuple[int, ...],
    ) -> int:
        before, after = ends
        heading = polyline.headings(line)
        poses = np.column_stack([line, heading])
        widths = [_width(before, -1), _width(after, 0)]
        half = np.interp(np.arange(len(line)), [0, len(line) - 1], widths)[:, None] / 2
        normal = polyline.offset(poses, 1.0) - line
        left, right = line + half * normal, line - half * normal
        sides = [self._add_boundary(side, _UNKNOWN) for side in (left, right)]
        row = ConnectorRow(
            id=self._new_id(),
            from_lane_id=before.id,
            to_lane_id=after.id,
            group_connector_id=block,
            polygon=shapely.Polygon(np.concatenate([left, right[::-1]])),
            baseline=line,
            left_boundary_id=sides[0],
            right_boundary_id=sides[1],
            intersection_id=crossing,
            speed_limit_mps=limit_mps,
            stop_line_ids=stops,
        )
        self.connectors.append(row)
        return row.id

    def _add_block_connector(
        self, from_group: int, to_group: int, crossing: int, polygon: shapely.Polygon | None
    ) -> int:
        sides = {group.id: (group.left_boundary_id, group.right_boundary_id) for group in self.groups}
        row = GroupConnectorRow(
            id=self._new_id(),
            from_group_id=from_group,
            to_group_id=to_group,
            polygon=polygon or shapely.Polygon(),
            left_boundary_id=sides[from_group][0],
            right_boundary_id=sides[from_group][1],
            intersection_id=crossing,
        )
        self.group_connectors.append(row)
        return row.id

    def _cover_block(self, block: int, polygons: list[shapely.Polygon]) -> None:
        """Replaces a block connector's polygon by the outline of its connectors."""
        for index, row in enumerate(self.group_connectors):
            if row.id == block:
                self.group_connectors[index] = GroupConnectorRow(
                    row.id,
                    row.from_group_id,
                    row.to_group_id,
                    _outline(polygons, 0.05),
                    row.left_boundary_id,
                    row.right_boundary_id,
                    row.intersection_id,
                )

    def _add_intersection(self, polygon: shapely.Polygon, kind: str) -> int:
        self.intersections.append(AreaRow(self._new_id(), polygon, INTERSECTION_KINDS.index(kind)))
        return self.intersections[-1].id

    def _cover_intersection(self, crossing: int, polygons: list[shapely.Polygon]) -> None:
        for index, row in enumerate(self.intersections):
            if row.id == crossing:
                covered = [row.polygon, *(polygon.buffer(0.3) for polygon in polygons)]
                self.intersections[index] = AreaRow(row.id, _outline(covered, 0.1), row.kind)

    def _polygon_of(self, connector: int) -> shapely.Polygon:
        return next(row.polygon for row in self.connectors if row.id == connector)

    def _add_stop_line(self, arm_index: int, lane_ids: list[int]) -> tuple[int, ...]:
        """Adds an arm's stop line: its id for a signal, nothing to refer to otherwise."""
        arm = self.layout.arms[arm_index]
        if not self.layout.is_junction or (not self.layout.has_signal and arm.axis == 0):
            return ()
        kind = "traffic_light" if self.layout.has_signal else "yield"
        poses = _reversed(arm.line[:2])
        poses[0, :2] = (poses[0, :2] + poses[1, :2]) / 2
        area = _band(poses, -arm.median_m / 2, -arm.half_width_m)
        self.stop_lines.append(StopRow(self._new_id(), area, STOP_KINDS.index(kind), tuple(lane_ids)))
        return (self.stop_lines[-1].id,) if self.layout.has_signal else ()


def _lane_pairs(turn: str, lanes_in: int, lanes_out: int) -> list[tuple[int, int]]:
    """Which lane leads to which: turns from the outermost lanes, straight on from all."""
    if turn == "left":
        return [(0, 0)]
    if turn == "right":
        return [(lanes_in - 1, lanes_out - 1)]
    return [(k, k) for k in range(min(lanes_in, lanes_out))]


def _junction_polygon(arms: tuple[Arm, ...]) -> shapely.Polygon:
    """The area between the arms, bounded by their ends and by curves that round the corners."""
    ring = []
    for arm, following in zip(arms, (*arms[1:], arms[0]), strict=True):
        left = polyline.offset(arm.line[:1], -_outer(arm))[0]
        right = polyline.offset(following.line[:1], _outer(following))[0]
        start = np.array([*left, arm.line[0, 2] + np.pi])
        end = np.array([*right, following.line[0, 2]])
        ring.append(polyline.turn(start, end))
    return shapely.Polygon(np.concatenate(ring))


def _band(poses: Floats, left_m: float, right_m: float) -> shapely.Polygon:
    """Strip between two offsets of reference poses, both counted to the left (so the right one is negative)."""
    return shapely.Polygon(np.concatenate([polyline.offset(poses, left_m), polyline.offset(poses, right_m)[::-1]]))


def _outer(arm: Arm) -> float:
    """Offset (negative: to the right) of the outer edge of the paved road."""
    return -(arm.half_width_m + KERB_MARGIN_M)


def _outline(polygons: Sequence[shapely.Polygon], grow_m: float) -> shapely.Polygon:
    merged = shapely.unary_union([polygon.buffer(grow_m, join_style="mitre") for polygon in polygons])
    parts = merged.geoms if isinstance(merged, shapely.MultiPolygon) else (merged,)
    largest = max((part for part in parts if isinstance(part, shapely.Polygon)), key=lambda part: part.area)
    return shapely.Polygon(largest.exterior)


def _width(lane: LaneRow, end: int) -> float:
    ring = np.asarray(lane.polygon.exterior.coords)
    half = (len(ring) - 1) // 2
    left, right = ring[:half], ring[half : 2 * half][::-1]
    return float(np.linalg.norm(left[end] - right[end]))


def _reversed(poses: Floats) -> Floats:
    flipped = poses[::-1].copy()
    flipped[:, 2] += np.pi
    return flipped
