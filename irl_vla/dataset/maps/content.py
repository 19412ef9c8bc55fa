"""What a map file holds, row by row: the input of the map writer.

All geometry is in the city's projected frame (metres), ids are positive integers (the gpkg FIDs). Lanes and lane
connectors share one id space, and so do lane groups and lane-group connectors.
"""

from dataclasses import dataclass
from typing import Final

import shapely

from irl_vla.geometry import Floats

#: Projected frame of each city, by EPSG code.
CITY_EPSG: Final = {
    "sg-one-north": 32648,
    "us-ma-boston": 32619,
    "us-nv-las-vegas-strip": 32611,
    "us-pa-pittsburgh-hazelwood": 32617,
}
#: Folder of each city's file in the release nuplan-maps-v1.0.
CITY_VERSION: Final = {
    "sg-one-north": "9.17.1964",
    "us-ma-boston": "9.12.1817",
    "us-nv-las-vegas-strip": "9.15.1915",
    "us-pa-pittsburgh-hazelwood": "9.17.1937",
}
BOUNDARY_KINDS: Final = ("dashed", "unused", "solid", "unknown")
INTERSECTION_KINDS: Final = ("default", "traffic_light", "stop_sign", "branch", "merge", "pass_through")
STOP_KINDS: Final = ("pedestrian", "stop_sign", "traffic_light", "turn_stop", "yield", "unknown")


@dataclass(frozen=True, slots=True, eq=False)
class BoundaryRow:
    """A lane or group boundary; ``line`` (V, 2), ``kind`` an index into ``BOUNDARY_KINDS``."""

    id: int
    line: Floats
    kind: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LaneRow:
    """A lane.

    Attributes:
        group_id: its lane group.
        index: position in the group, left to right, consecutive.
        polygon, baseline: outline, and (V, 2) centreline in driving direction.
        left_boundary_id, right_boundary_id: ids of ``BoundaryRow``; neighbours may share one.
        speed_limit_mps: None writes a null.
        kind: 0 car lane, 1 bicycle lane.
    """

    id: int
    group_id: int
    index: int
    polygon: shapely.Polygon
    baseline: Floats
    left_boundary_id: int
    right_boundary_id: int
    speed_limit_mps: float | None = None
    kind: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ConnectorRow:
    """A lane connector: the only way from one lane to the next.

    Attributes:
        from_lane_id, to_lane_id: the lanes it joins (columns ``exit_lane_fid`` and ``entry_lane_fid``).
        group_connector_id: its lane-group connector.
        intersection_id: None outside of intersections.
        stop_line_ids: ids of its traffic-light ``StopRow``.
    """

    id: int
    from_lane_id: int
    to_lane_id: int
    group_connector_id: int
    polygon: shapely.Polygon
    baseline: Floats
    left_boundary_id: int
    right_boundary_id: int
    intersection_id: int | None = None
    speed_limit_mps: float | None = None
    stop_line_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class GroupRow:
    """A lane group ("roadblock")."""

    id: int
    polygon: shapely.Polygon
    left_boundary_id: int
    right_boundary_id: int


@dataclass(frozen=True, slots=True, eq=False)
class GroupConnectorRow:
    """A lane-group connector ("roadblock connector")."""

    id: int
    from_group_id: int
    to_group_id: int
    polygon: shapely.Polygon
    left_boundary_id: int
    right_boundary_id: int
    intersection_id: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AreaRow:
    """Any other polygon; ``kind`` is the type column of its layer, if it has one."""

    id: int
    polygon: shapely.Polygon
    kind: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class StopRow:
    """A stop line as a polygon; ``kind`` an index into ``STOP_KINDS``, ``lane_ids`` the lanes it stops."""

    id: int
    polygon: shapely.Polygon
    kind: int
    lane_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class MapContent:
    """All rows of one city's map, each layer in file order."""

    lanes: tuple[LaneRow, ...]
    connectors: tuple[ConnectorRow, ...]
    groups: tuple[GroupRow, ...]
    group_connectors: tuple[GroupConnectorRow, ...]
    boundaries: tuple[BoundaryRow, ...]
    intersections: tuple[AreaRow, ...] = ()
    stop_lines: tuple[StopRow, ...] = ()
    crosswalks: tuple[AreaRow, ...] = ()
    walkways: tuple[AreaRow, ...] = ()
    carparks: tuple[AreaRow, ...] = ()
    generic_drivable: tuple[AreaRow, ...] = ()
    road_segments: tuple[AreaRow, ...] = ()
