"""Turns right-hand traffic into left-hand traffic: everything reflected in a line through the layout's centre.

The line runs along the map's x axis. A reflection makes left right: boundaries and turns change their names, lanes are
counted from the other end, and rings run the other way round. Reflecting twice gives back the original.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import shapely

from irl_vla.dataset.maps.content import GroupConnectorRow, GroupRow, LaneRow, MapContent
from irl_vla.geometry import Floats
from irl_vla.world.roads.layout import Arm, LaneClosure, Layout

_Block = TypeVar("_Block", GroupRow, GroupConnectorRow)


def mirrored_layout(layout: Layout) -> Layout:
    """The layout for traffic that keeps to the other side."""
    return replace(layout, arms=tuple(_mirrored_arm(arm, layout.centre) for arm in layout.arms))


def mirrored_points(points: Floats, centre: Floats) -> Floats:
    """Points (..., 2) or poses (..., 3) reflected in the line along x through ``centre`` (2,)."""
    mirrored = points.copy()
    mirrored[..., 1] = 2 * centre[1] - points[..., 1]
    if points.shape[-1] == 3:
        mirrored[..., 2] = -points[..., 2]
    return mirrored


def mirrored_content(content: MapContent, centre: Floats) -> MapContent:
    """All rows of a map reflected; ids stay, the roles of left and right change."""
    sizes: dict[int, int] = {}
    for lane in content.lanes:
        sizes[lane.group_id] = max(sizes.get(lane.group_id, 0), lane.index + 1)
    areas = {
        name: tuple(replace(row, polygon=_polygon(row.polygon, centre)) for row in getattr(content, name))
        for name in ("intersections", "stop_lines", "crosswalks", "walkways", "carparks", "road_segments")
    }
    return replace(
        content,
        lanes=tuple(_mirrored_lane(row, sizes[row.group_id], centre) for row in content.lanes),
        connectors=tuple(
            replace(
                row,
                polygon=_polygon(row.polygon, centre),
                baseline=mirrored_points(row.baseline, centre),
                left_boundary_id=row.right_boundary_id,
                right_boundary_id=row.left_boundary_id,
            )
            for row in content.connectors
        ),
        groups=tuple(_mirrored_block(row, centre) for row in content.groups),
        group_connectors=tuple(_mirrored_block(row, centre) for row in content.group_connectors),
        boundaries=tuple(replace(row, line=mirrored_points(row.line, centre)) for row in content.boundaries),
        **areas,
    )


def _mirrored_arm(arm: Arm, centre: Floats) -> Arm:
    closure: LaneClosure | None = arm.closure
    if closure is not None:
        closure = replace(closure, lane=arm.lanes_out - 1 - closure.lane)
    return replace(arm, line=mirrored_points(arm.line, centre), closure=closure, keeps_left=not arm.keeps_left)


def _mirrored_lane(row: LaneRow, lanes: int, centre: Floats) -> LaneRow:
    return replace(
        row,
        index=lanes - 1 - row.index,
        polygon=_polygon(row.polygon, centre),
        baseline=mirrored_points(row.baseline, centre),
        left_boundary_id=row.right_boundary_id,
        right_boundary_id=row.left_boundary_id,
    )


def _mirrored_block(row: _Block, centre: Floats) -> _Block:
    return replace(
        row,
        polygon=_polygon(row.polygon, centre),
        left_boundary_id=row.right_boundary_id,
        right_boundary_id=row.left_boundary_id,
    )


def _polygon(polygon: shapely.Polygon, centre: Floats) -> shapely.Polygon:
    """Reflected, with the ring walked backwards, so that its orientation stays."""
    mirrored = shapely.transform(polygon, lambda xy: mirrored_points(np.asarray(xy), centre))
    return shapely.Polygon(mirrored.exterior.coords[::-1], [ring.coords[::-1] for ring in mirrored.interiors])
