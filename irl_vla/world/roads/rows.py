"""Collects the rows of a map file: lanes and connectors along arms, and what junctions are made of."""

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
from irl_vla.geometry import Floats
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import KERB_MARGIN_M, STEP_M, Arm, Layout

#: Room for ids of one layout; all its rows draw from one counter.
IDS_PER_LAYOUT: Final = 2000
_FIRST_CUT, _CUT_EVERY, _LAST_SECTION = 42, 58, 20  # vertices of the reference line
_UNCUT_RAD: Final = 0.04  # heading change between vertices from which on an arm is not cut
#: Vertex spacing of short connectors.
_LINK_STEP_M: Final = 0.5
_DASHED, _SOLID, _UNKNOWN = 0, 2, 3

_Pair = tuple[LaneRow, LaneRow]
_Part = tuple[int, int, Floats]  # lane or connector id, block id, baseline (V, 2)


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

    @property
    def line(self) -> Floats:
        """(V, 2) baseline over the whole chain, in the map's frame."""
        return polyline.joined(list(self.lines))

    @property
    def starts_m(self) -> tuple[float, ...]:
        """Arc length at which each lane or connector begins."""
        ends = np.cumsum([0.0, *(polyline.lengths(line)[-1] for line in self.lines)])
        return tuple(float(end) for end in ends[:-1])


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
            road_segments=tuple(AreaRow(self.new_id(), group.polygon) for group in self.groups),
        )

    def add_areas(self, **layers: Sequence[shapely.Polygon]) -> None:
        """Adds plain polygons to area layers."""
        for name, polygons in layers.items():
            self.areas[name] = [AreaRow(self.new_id(), polygon) for polygon in polygons]

    def add_chains(self, arm_index: int, inward: bool) -> tuple[Chain, ...]:
        """Adds one direction of an arm: lane groups, and the short pass-through connectors between them.

        Returns:
            One chain a lane, from the left. An acceleration lane is built here too, but belongs to no chain yet.
        """
        arm = self.layout.arms[arm_index]
        count = arm.lanes_in if inward else arm.lanes_out
        if count == 0:
            return ()
        cuts = section_cuts(arm)
        firsts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(arm.line) - 1]
        poses = [arm.line[first : end + 1] for first, end in zip(firsts, ends, strict=True)]
        extra = [int(inward and end * STEP_M <= arm.auxiliary_m) for end in ends]
        gaps = [arm.line[cut : cut + 2] for cut in cuts]
        if inward:
            poses, gaps = [_reversed(piece) for piece in poses[::-1]], [_reversed(gap) for gap in gaps[::-1]]
            extra = extra[::-1]
        groups = [self._add_group(arm, piece, count + more) for piece, more in zip(poses, extra, strict=True)]
        parts: list[list[_Part]] = [[] for _ in range(count)]
        outer = -(arm.edge_m(inward=inward) + KERB_MARGIN_M)
        for place, group in enumerate(groups):
            lanes = self.lanes_of(group)[:count]
            for part, row in zip(parts, lanes, strict=True):
                part.append((row.id, group, row.baseline))
            if place < len(gaps):
                following = groups[place + 1]
                area = _band(gaps[place], 0.0, outer).buffer(0.1, join_style="mitre")
                pairs = list(zip(lanes, self.lanes_of(following)[:count], strict=True))
                links = self._add_links((group, following), area, "pass_through", pairs)
                for part, link in zip(parts, links, strict=True):
                    part.append(link)
        return tuple(Chain(*(tuple(items) for items in zip(*part, strict=True))) for part in parts)

    def join_ramp(self, ramp: Chain, main: Chain) -> Chain:
        """Links a ramp to the acceleration lane, which lies beside the last lane of the main road's chains.

        Returns:
            The ramp's chain, prolonged by the acceleration lane.
        """
        before, after = self.lane(ramp.ids[-1]), self.lanes_of(main.block_ids[-1])[-1]
        line = np.stack([before.baseline[-1], after.baseline[0]])
        reach = lane_width(before, -1) / 2 + KERB_MARGIN_M
        area = shapely.LineString(line).buffer(reach, cap_style="flat").buffer(0.1, join_style="mitre")
        link = self._add_links((before.group_id, after.group_id), area, "merge", [(before, after)])[0]
        added = [link, (after.id, after.group_id, after.baseline)]
        return Chain(
            (*ramp.ids, *(part[0] for part in added)),
            (*ramp.block_ids, *(part[1] for part in added)),
            (*ramp.lines, *(part[2] for part in added)),
        )

    def lane(self, lane_id: int) -> LaneRow:
        """The lane of an id."""
        return next(row for row in self.lanes if row.id == lane_id)

    def lanes_of(self, group_id: int) -> list[LaneRow]:
        """Lanes of a group, from the left."""
        return [row for row in self.lanes if row.group_id == group_id]

    def new_id(self) -> int:
        """A fresh id, for a row that others name before it is whole."""
        self._issued += 1
        return self.layout.number * IDS_PER_LAYOUT + self._issued

    def add_connector(
        self,
        ends: tuple[LaneRow, LaneRow],
        line: Floats,
        *,
        block: int,
        crossing: int,
        limit_mps: float | None,
        stops: tuple[int, ...],
    ) -> int:
        """Adds a lane connector along ``line`` (V, 2), as wide as the lanes it joins, with boundaries of its own."""
        before, after = ends
        poses = np.column_stack([line, polyline.headings(line)])
        widths = [lane_width(before, -1), lane_width(after, 0)]
        half = np.interp(np.arange(len(line)), [0, len(line) - 1], widths)[:, None] / 2
        normal = polyline.offset(poses, 1.0) - line
        left, right = line + half * normal, line - half * normal
        sides = [self._add_boundary(side, _UNKNOWN) for side in (left, right)]
        row = ConnectorRow(
            id=self.new_id(),
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

    def add_block_connector(
        self, block: int, ends: tuple[int, int], crossing: int, polygons: Sequence[shapely.Polygon]
    ) -> None:
        """Adds the roadblock connector ``block`` between two groups, as the outline of its connectors."""
        source = next(group for group in self.groups if group.id == ends[0])
        self.group_connectors.append(
            GroupConnectorRow(
                id=block,
                from_group_id=ends[0],
                to_group_id=ends[1],
                polygon=outline(polygons, 0.05),
                left_boundary_id=source.left_boundary_id,
                right_boundary_id=source.right_boundary_id,
                intersection_id=crossing,
            )
        )

    def add_stop_line(self, arm_index: int, kind: str, lane_ids: tuple[int, ...]) -> int:
        """Adds the stop line of an arm across its lanes towards the junction."""
        arm = self.layout.arms[arm_index]
        poses = _reversed(arm.line[:2])
        poses[0, :2] = (poses[0, :2] + poses[1, :2]) / 2
        area = _band(poses, -arm.median_m / 2, -arm.edge_m(inward=True))
        self.stop_lines.append(StopRow(self.new_id(), area, STOP_KINDS.index(kind), lane_ids))
        return self.stop_lines[-1].id

    def _add_boundary(self, line: Floats, kind: int) -> int:
        self.boundaries.append(BoundaryRow(self.new_id(), line, kind))
        return self.boundaries[-1].id

    def _add_group(self, arm: Arm, poses: Floats, lanes: int) -> int:
        """Adds a lane group and its lanes along reference poses in driving direction (lanes lie to the right)."""
        edges = [arm.median_m / 2 + k * arm.lane_width_m for k in range(lanes + 1)]
        lines = [polyline.offset(poses, -edge) for edge in edges]
        kinds = [_SOLID, *[_DASHED] * (lanes - 1), _SOLID]
        sides = [self._add_boundary(line, kind) for line, kind in zip(lines, kinds, strict=True)]
        area = _band(poses, 0.0, -(edges[-1] + KERB_MARGIN_M))  # painted median included
        group = GroupRow(self.new_id(), area, sides[0], sides[-1])
        self.groups.append(group)
        for k in range(lanes):
            self.lanes.append(
                LaneRow(
                    id=self.new_id(),
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

    def _add_links(
        self, ends: tuple[int, int], area: shapely.Polygon, kind: str, pairs: Sequence[_Pair]
    ) -> list[_Part]:
        """Short connectors between lanes of two groups, in an intersection of their own.

        Returns:
            (connector id, block id, line) of each pair.
        """
        crossing, block = self.new_id(), self.new_id()
        self.intersections.append(AreaRow(crossing, area, INTERSECTION_KINDS.index(kind)))
        parts = []
        for before, after in pairs:
            # more than two vertices: the official reactive traffic drops the last one and needs two
            line = polyline.resample(np.stack([before.baseline[-1], after.baseline[0]]), _LINK_STEP_M)
            limit = before.speed_limit_mps
            connector = self.add_connector(
                (before, after), line, block=block, crossing=crossing, limit_mps=limit, stops=()
            )
            parts.append((connector, block, line))
        self.add_block_connector(block, ends, crossing, [area])
        return parts


def section_cuts(arm: Arm) -> list[int]:
    """Reference-line vertices at which an arm is cut into lane groups; the step after each is a connector.

    An acceleration lane makes a group of its own. Sharp bends are not cut.
    """
    first = round(arm.auxiliary_m / STEP_M)
    cuts = [first] if first else []
    bent = np.abs(np.diff(arm.line[:, 2])) > _UNCUT_RAD
    clear = np.flatnonzero(~np.convolve(bent, np.ones(5), mode="same").astype(bool))
    wanted = _FIRST_CUT if not first else first + _CUT_EVERY
    while wanted < len(arm.line) - _LAST_SECTION:
        cut = int(clear[np.argmin(np.abs(clear - wanted))])
        if cuts and cut - cuts[-1] < _LAST_SECTION:
            break
        cuts.append(cut)
        wanted = cut + _CUT_EVERY
    return cuts


def outline(polygons: Sequence[shapely.Polygon], grow_m: float) -> shapely.Polygon:
    """The largest part of the union of grown polygons, holes filled."""
    merged = shapely.unary_union([polygon.buffer(grow_m, join_style="mitre") for polygon in polygons])
    parts = merged.geoms if isinstance(merged, shapely.MultiPolygon) else (merged,)
    largest = max((part for part in parts if isinstance(part, shapely.Polygon)), key=lambda part: part.area)
    return shapely.Polygon(largest.exterior)


def lane_width(lane: LaneRow, end: int) -> float:
    """Distance between the sides of a lane at its first (0) or last (-1) vertex."""
    ring = np.asarray(lane.polygon.exterior.coords)
    half = (len(ring) - 1) // 2
    left, right = ring[:half], ring[half : 2 * half][::-1]
    return float(np.linalg.norm(left[end] - right[end]))


def _band(poses: Floats, left_m: float, right_m: float) -> shapely.Polygon:
    """Strip between two offsets of reference poses, both counted to the left (so the right one is negative)."""
    return shapely.Polygon(np.concatenate([polyline.offset(poses, left_m), polyline.offset(poses, right_m)[::-1]]))


def _reversed(poses: Floats) -> Floats:
    flipped = poses[::-1].copy()
    flipped[:, 2] += np.pi
    return flipped
