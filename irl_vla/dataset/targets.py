"""What perception and the language model learn from a scene: boxes, a map raster, and what the plan to imitate does."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from irl_vla.dataset.config import TargetConfig
from irl_vla.dataset.views import imitated_plan
from irl_vla.geometry import Floats, compose, relative_to
from irl_vla.scene import FUTURE_FRAMES, OBJECT_NAMES, PLAN_INTERVAL_S, MapView, Scene

#: Channels of the map raster. Drivable is the drivable area of the score: roadblocks, intersections and car parks.
RASTER_CLASSES: Final = (
    "drivable",
    "centreline",
    "boundary",
    "crosswalk",
    "walkway",
    "stop_line",
    "red_connector",
)
_AREA_LAYERS: Final = {
    "drivable": ("ROADBLOCK", "INTERSECTION", "CARPARK_AREA"),
    "crosswalk": ("CROSSWALK",),
    "walkway": ("WALKWAY",),
    "stop_line": ("STOP_LINE",),
}
SPEED_ACTIONS: Final = ("keep", "accelerate", "decelerate", "stop")
PATH_ACTIONS: Final = ("straight", "left", "right", "lane change left", "lane change right")
UNKNOWN_ACTION: Final = -1
_SUBPIXEL_BITS: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class BoxTargets:
    """Objects around the ego, in the current ego frame.

    Attributes:
        boxes: (N, 9) x, y, z, length, width, height, heading, vx, vy (absolute velocity).
        classes: (N,) int64 index into ``OBJECT_NAMES``.
        track_tokens: N tokens.
        futures: (N, 8, 3) x, y, heading of the box centre at 0.5 .. 4.0 s, in the current ego frame; 0 where unknown.
        future_known: (N, 8) bool, True where the log has the object at that time.
    """

    boxes: Floats
    classes: NDArray[np.int64]
    track_tokens: tuple[str, ...]
    futures: Floats
    future_known: NDArray[np.bool_]


class MetaAction(NamedTuple):
    """Index into ``SPEED_ACTIONS`` and into ``PATH_ACTIONS``, or -1 where there is no plan to imitate."""

    speed: int
    path: int


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """All targets of a scene; ``raster`` as :func:`map_raster` returns it."""

    boxes: BoxTargets
    raster: NDArray[np.uint8]
    meta_action: MetaAction


def build_targets(scene: Scene, map_view: MapView, config: TargetConfig) -> Targets:
    """All perception and language targets of a scene.

    The meta-action says what the plan to imitate does, as the planner learns it: in a shifted view the way back to the
    logged path. It is -1 where there is no such plan.
    """
    plan = imitated_plan(scene)
    return Targets(
        boxes=box_targets(scene, config),
        raster=map_raster(scene, map_view, config),
        meta_action=MetaAction(UNKNOWN_ACTION, UNKNOWN_ACTION)
        if plan is None
        else meta_action(plan, _speed(scene), config),
    )


def box_targets(scene: Scene, config: TargetConfig) -> BoxTargets:
    """Annotated objects whose centre lies inside the configured region."""
    objects = scene.current.objects
    x, y = objects.boxes[:, 0], objects.boxes[:, 1]
    inside = (x >= config.x_min_m) & (x < config.x_max_m) & (y >= config.y_min_m) & (y < config.y_max_m)
    classes = np.array([OBJECT_NAMES.index(name) if name in OBJECT_NAMES else -1 for name in objects.names], np.int64)
    kept = np.flatnonzero(inside & (classes >= 0))
    track_tokens = tuple(objects.track_tokens[index] for index in kept)
    futures, known = _futures(scene, track_tokens)
    return BoxTargets(
        boxes=np.concatenate([objects.boxes[kept], objects.velocity_mps[kept, :2]], axis=1),
        classes=classes[kept],
        track_tokens=track_tokens,
        futures=futures,
        future_known=known,
    )


def _futures(scene: Scene, track_tokens: tuple[str, ...]) -> tuple[Floats, NDArray[np.bool_]]:
    """Where tracks will be, (N, 8, 3) in the current ego frame, and where the log knows it, (N, 8)."""
    futures = np.zeros((len(track_tokens), FUTURE_FRAMES, 3))
    known = np.zeros(futures.shape[:2], np.bool_)
    here = scene.current.ego.pose_global
    for step, frame in enumerate(scene.future[:FUTURE_FRAMES]):
        place = {token: index for index, token in enumerate(frame.objects.track_tokens)}
        found = [(row, place[token]) for row, token in enumerate(track_tokens) if token in place]
        if found:
            rows, there = map(list, zip(*found, strict=True))
            origin = relative_to(here, frame.ego.pose_global)
            futures[rows, step] = compose(origin, frame.objects.boxes[there][:, [0, 1, 6]])
            known[rows, step] = True
    return futures, known


def map_raster(scene: Scene, map_view: MapView, config: TargetConfig) -> NDArray[np.uint8]:
    """Draws the map around the ego.

    Cell (i, j) of a channel covers x from ``x_min_m + i * cell_m`` and y from ``y_min_m + j * cell_m``: rows run from
    the rear to the front, columns from the right to the left. Classes overlap, so each has its own channel.

    Returns:
        (7, rows, columns) uint8, 1 where a class of ``RASTER_CLASSES`` covers the cell.
    """
    pose = scene.current.ego.pose_global
    reach = float(np.hypot(max(-config.x_min_m, config.x_max_m), max(-config.y_min_m, config.y_max_m)))

    def near(layer: str) -> list[str]:
        return map_view.query(layer, float(pose[0]), float(pose[1]), reach)

    canvas = _Canvas(np.zeros((len(RASTER_CLASSES), *config.grid_shape), np.uint8), pose, config)
    for channel, layers in _AREA_LAYERS.items():
        for layer in layers:
            for area_id in near(layer):
                canvas.fill(channel, map_view.layer(layer)[area_id].polygon)
    lane_ids = [*near("LANE"), *near("LANE_CONNECTOR")]
    red = {str(connector) for connector, is_red in scene.current.traffic_lights if is_red}
    for lane in map(map_view.lane, lane_ids):
        canvas.draw("centreline", lane.baseline)
        if not lane.is_connector:  # boundaries of connectors cross the junction and are painted nowhere
            for boundary in (lane.left_boundary, lane.right_boundary):
                if boundary is not None:
                    canvas.draw("boundary", boundary)
        elif lane.id in red:
            canvas.fill("red_connector", lane.polygon)
    return canvas.channels


def meta_action(plan: Floats, speed_mps: float, config: TargetConfig) -> MetaAction:
    """Says in words what a plan does.

    Speed: "stop" if it ends slower than ``stop_speed_mps``; "accelerate" or "decelerate" if the final speed differs
    from the present one by at least ``speed_change_mps``; else "keep".

    Path: "left" or "right" if the heading changes by at least ``turn_heading_rad``. Otherwise a lane change if the
    final lateral offset exceeds, to its own side, that of a circular arc with the same end heading by at least
    ``lane_change_m`` (so that following a bend is not one); else "straight".

    Args:
        plan: (8, 3) relative to the ego.
        speed_mps: present speed.
    """
    steps = np.hypot(*np.diff(plan[:, :2], axis=0, prepend=np.zeros((1, 2))).T)
    final_speed = float(steps[-1]) / PLAN_INTERVAL_S
    change = final_speed - speed_mps
    if final_speed < config.stop_speed_mps:
        speed = "stop"
    elif abs(change) >= config.speed_change_mps:
        speed = "accelerate" if change > 0 else "decelerate"
    else:
        speed = "keep"
    turn = float(np.unwrap(np.concatenate([[0.0], plan[:, 2]]))[-1])
    # A circular arc of length s that turns by t ends s * t / 2 to the side (small angles).
    beside = float(plan[-1, 1]) - float(steps.sum()) * turn / 2
    if abs(turn) >= config.turn_heading_rad:
        path = "left" if turn > 0 else "right"
    elif abs(beside) >= config.lane_change_m and beside * plan[-1, 1] > 0:
        path = "lane change left" if beside > 0 else "lane change right"
    else:
        path = "straight"
    return MetaAction(SPEED_ACTIONS.index(speed), PATH_ACTIONS.index(path))


@dataclass(frozen=True, slots=True, eq=False)
class _Canvas:
    """Channels to draw on, in the ego frame of ``pose`` (3,)."""

    channels: NDArray[np.uint8]
    pose: Floats
    config: TargetConfig

    def fill(self, channel: str, polygon: shapely.Polygon) -> None:
        rings = [self._cells(shapely.get_coordinates(ring)) for ring in (polygon.exterior, *polygon.interiors)]
        cv2.fillPoly(self._plane(channel), rings, color=1, shift=_SUBPIXEL_BITS)

    def draw(self, channel: str, line: Floats) -> None:
        thickness = max(1, round(self.config.line_width_m / self.config.cell_m))
        cells = self._cells(line)
        cv2.polylines(self._plane(channel), [cells], False, color=1, thickness=thickness, shift=_SUBPIXEL_BITS)

    def _plane(self, channel: str) -> NDArray[np.uint8]:
        plane: NDArray[np.uint8] = self.channels[RASTER_CLASSES.index(channel)]
        return plane

    def _cells(self, points_global: Floats) -> NDArray[np.int32]:
        """Fixed-point (column, row) positions, cell centres at whole numbers, as OpenCV wants them."""
        poses = np.column_stack([points_global, np.zeros(len(points_global))])
        local = relative_to(self.pose, poses)[:, :2]
        cells = (local - [self.config.x_min_m, self.config.y_min_m]) / self.config.cell_m - 0.5
        return np.round(cells[:, ::-1] * 2**_SUBPIXEL_BITS).astype(np.int32)


def _speed(scene: Scene) -> float:
    return float(np.hypot(*scene.current.ego.velocity_mps))
