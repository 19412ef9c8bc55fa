"""Hand-made frames and maps for the sensor tests."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely

from irl_vla.geometry import Floats
from irl_vla.scene import Area, Boxes, EgoStatus, Frame, Lane, MapView


def frame_of(
    *objects: tuple[str, Sequence[float]],
    pose: Sequence[float] = (0.0, 0.0, 0.0),
    lights: Sequence[tuple[int, bool]] = (),
    token: str = "0123456789abcdef",
) -> Frame:
    """A frame with (name, x y z length width height heading) objects, whose track tokens are "0", "1", ..."""
    return Frame(
        token=token,
        timestamp_us=0,
        ego=EgoStatus(np.array(pose, np.float64), np.zeros(2), np.zeros(2), 1),
        objects=Boxes(
            np.array([box for _, box in objects], np.float64).reshape(-1, 7),
            tuple(name for name, _ in objects),
            np.zeros((len(objects), 3)),
            tuple(str(index) for index in range(len(objects))),
        ),
        traffic_lights=tuple(lights),
        roadblock_ids=(),
        cameras={},
        lidar_path=None,
    )


def straight_lane(
    lane_id: str,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    width_m: float = 3.5,
    connector: bool = False,
    incoming: tuple[str, ...] = (),
    bounds: bool = True,
) -> Lane:
    """A straight lane with its boundaries."""
    line: Floats = np.linspace(start, end, 9)
    along = (line[-1] - line[0]) / np.linalg.norm(line[-1] - line[0])
    left = np.array([-along[1], along[0]]) * width_m / 2
    return Lane(
        id=lane_id,
        roadblock_id="block",
        is_connector=connector,
        baseline=line,
        polygon=shapely.Polygon(np.vstack([line + left, (line - left)[::-1]])),
        speed_limit_mps=None,
        outgoing=(),
        incoming=incoming,
        left_boundary=line + left if bounds else None,
        right_boundary=line - left if bounds else None,
    )


def map_of(*lanes: Lane, areas: dict[str, list[shapely.Polygon]] | None = None) -> MapView:
    """A map of lanes, connectors and area layers."""
    return MapView(
        name="hand",
        lanes={lane.id: lane for lane in lanes if not lane.is_connector},
        lane_connectors={lane.id: lane for lane in lanes if lane.is_connector},
        roadblocks={},
        roadblock_connectors={},
        areas={
            layer: {str(index): Area(str(index), polygon) for index, polygon in enumerate(polygons)}
            for layer, polygons in (areas or {}).items()
        },
    )


def moved(map_view: MapView, pose: Floats) -> MapView:
    """The same map in another place: every point turned and shifted by a pose."""
    turn = np.array([[np.cos(pose[2]), -np.sin(pose[2])], [np.sin(pose[2]), np.cos(pose[2])]])

    def points(line: Floats | None) -> Floats | None:
        return None if line is None else line @ turn.T + pose[:2]

    def lane(item: Lane) -> Lane:
        return replace(
            item,
            baseline=item.baseline @ turn.T + pose[:2],
            polygon=polygon(item.polygon),
            left_boundary=points(item.left_boundary),
            right_boundary=points(item.right_boundary),
        )

    def polygon(item: shapely.Polygon) -> shapely.Polygon:
        return shapely.transform(item, lambda xy: xy @ turn.T + pose[:2])

    return MapView(
        name=map_view.name,
        lanes={key: lane(item) for key, item in map_view.lanes.items()},
        lane_connectors={key: lane(item) for key, item in map_view.lane_connectors.items()},
        roadblocks={},
        roadblock_connectors={},
        areas={
            layer: {key: replace(item, polygon=polygon(item.polygon)) for key, item in items.items()}
            for layer, items in map_view.areas.items()
        },
    )
