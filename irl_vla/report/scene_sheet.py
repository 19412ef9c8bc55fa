"""One picture of one scene: cameras, LiDAR from above, map, agents, route and the human plan."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from numpy.typing import NDArray

from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre, relative_to
from irl_vla.report.pictures import project_ground
from irl_vla.scene import COMMAND_NAMES, Camera, MapView, Scene

Image = NDArray[np.uint8]

#: Extent of the bird's-eye views: ahead, behind and to each side of the ego, metres.
_AHEAD_M: Final = 60.0
_BEHIND_M: Final = 20.0
_ASIDE_M: Final = 35.0
#: Cameras as they look out of the car: rows and columns of the sheet.
_PLACES: Final = (("CAM_L0", "CAM_F0", "CAM_R0"), ("CAM_L1", "CAM_B0", "CAM_R1"), ("CAM_L2", None, "CAM_R2"))
_SURFACES: Final = (
    ("GENERIC_DRIVABLE", "#e6e6e2"),
    ("CARPARK_AREA", "#e0d9c8"),
    ("WALKWAY", "#e8dfd2"),
    ("ROADBLOCK", "#cfd4da"),
    ("ROADBLOCK_CONNECTOR", "#cfd4da"),
    ("INTERSECTION", "#bfc6cd"),
    ("CROSSWALK", "#f6f1dc"),
    ("STOP_LINE", "#d9a3a3"),
)
_ROUTE_COLOUR: Final = "#9cc79c"
_HUMAN_COLOUR: Final = "#1a7f37"
_PAST_COLOUR: Final = "#555555"
_OBJECTS: Final = {
    "vehicle": "#3b6ea8",
    "pedestrian": "#c2571a",
    "bicycle": "#8a5fb0",
    "traffic_cone": "#e0a000",
    "barrier": "#8c6d46",
    "czone_sign": "#e0a000",
    "generic_object": "#777777",
}
_ARROW_S: Final = 1.0
_CAMERA_INCHES: Final = 2.9


def scene_sheet(
    scene: Scene,
    map_view: MapView,
    cameras: Mapping[str, tuple[Image, Camera]],
    sweep: NDArray[np.float32] | None,
) -> Figure:
    """Draws a scene's current frame; a second-stage scene has no human plan, since nobody drove it.

    Args:
        cameras: straightened image and the calibration that goes with it, by camera name; missing ones stay out.
        sweep: (n, >=3) LiDAR points in the current ego frame, None without.
    """
    rows = [row for row in _PLACES if any(name in cameras for name in row)]
    figure = Figure(figsize=(14, 7.4 + _CAMERA_INCHES * len(rows)), layout="constrained")
    parts = figure.subfigures(
        1 + bool(rows), 1, height_ratios=[7.4, _CAMERA_INCHES * len(rows)] if rows else [1], squeeze=False
    )
    above = parts[0, 0].subplots(1, 2)
    _draw_map(above[0], scene, map_view)
    _draw_sweep(above[1], scene, sweep)
    if rows:
        panels = parts[1, 0].subplots(len(rows), 3, squeeze=False)
        for row, names in zip(panels, rows, strict=True):
            for axes, name in zip(row, names, strict=True):
                _draw_camera(axes, scene, name, cameras)
    figure.suptitle(_caption(scene), fontsize=10, family="monospace")
    return figure


def _caption(scene: Scene) -> str:
    ego = scene.current.ego
    red = sum(is_red for _, is_red in scene.current.traffic_lights)
    facts = (
        f"{scene.data_split}/{scene.log_name}  {scene.token}  {'second stage' if scene.is_synthetic else scene.kind}",
        f"{scene.map_name}, {math.hypot(*ego.velocity_mps):.1f} m/s, {ego.acceleration_mps2[0]:+.1f} m/s², command "
        f"{COMMAND_NAMES[ego.command]}, {len(scene.current.objects)} objects, {red} red of "
        f"{len(scene.current.traffic_lights)} lights, route of {len(scene.current.roadblock_ids)} blocks",
    )
    return "\n".join(facts)


def _draw_map(axes: Axes, scene: Scene, map_view: MapView) -> None:
    ego = scene.current.ego.pose_global
    reach = math.hypot(_AHEAD_M, _ASIDE_M)
    route = set(scene.current.roadblock_ids)
    for layer, colour in _SURFACES:
        for item_id in map_view.query(layer, ego[0], ego[1], reach):
            ring = np.asarray(map_view.layer(layer)[item_id].polygon.exterior.coords)[:, :2]
            _fill(axes, _local(ring, ego), facecolor=colour)
            if layer.startswith("ROADBLOCK") and item_id in route:  # over intersections, which are drawn later
                _fill(axes, _local(ring, ego), facecolor=_ROUTE_COLOUR, alpha=0.6, zorder=1.5)
    red = {str(connector) for connector, is_red in scene.current.traffic_lights if is_red}
    green = {str(connector) for connector, is_red in scene.current.traffic_lights if not is_red}
    for layer in ("LANE", "LANE_CONNECTOR"):
        for lane_id in map_view.query(layer, ego[0], ego[1], reach):
            colour = "#d62728" if lane_id in red else "#2ca02c" if lane_id in green else "white"
            width = 1.4 if lane_id in red else 0.8
            _line(axes, _local(map_view.lane(lane_id).baseline, ego), color=colour, linewidth=width, zorder=2)
    _draw_agents(axes, scene, filled=True)
    _draw_motion(axes, scene)
    _frame(axes, f"map, route (green), agents{', human plan' if scene.has_human else ''}")
    seen = [name for name in _OBJECTS if name in scene.current.objects.names]
    handles = [Patch(color=_OBJECTS[name], label=name) for name in seen]
    axes.legend(handles=handles, loc="lower right", fontsize=7, framealpha=0.9)


def _draw_sweep(axes: Axes, scene: Scene, sweep: NDArray[np.float32] | None) -> None:
    axes.set_facecolor("#14161a")
    if sweep is None or not len(sweep):
        axes.text(0.5, 0.5, "no LiDAR sweep", color="white", ha="center", transform=axes.transAxes)
    else:
        right, up = _upward(sweep[:, :2].astype(np.float64)).T
        axes.scatter(right, up, c=np.clip(sweep[:, 2], -0.5, 3.0), s=3.0, cmap="turbo", linewidths=0, zorder=2)
    _draw_agents(axes, scene, filled=False)
    _draw_motion(axes, scene)
    _frame(axes, "LiDAR from above, coloured by height")


def _draw_agents(axes: Axes, scene: Scene, filled: bool) -> None:
    """Boxes with an arrow as long as the way of one second; the ego in black or white."""
    objects = scene.current.objects
    for name, box, velocity in zip(objects.names, objects.boxes, objects.velocity_mps, strict=True):
        corners = box_corners(box[[0, 1, 6]], box[3], box[4])
        colour = _OBJECTS.get(name, "#777777")
        _fill(axes, corners, facecolor=colour if filled else "none", edgecolor=colour, zorder=4)
        if np.hypot(*velocity[:2]) > 0.5:
            _line(axes, np.stack([box[:2], box[:2] + _ARROW_S * velocity[:2]]), color=colour, linewidth=1, zorder=4)
    body = box_corners(rear_axle_to_centre(np.zeros(3)), PACIFICA.length, PACIFICA.width)
    _fill(axes, body, facecolor="black" if filled else "white", zorder=5)


def _draw_motion(axes: Axes, scene: Scene) -> None:
    """Where the ego came from, and where the human drove on to."""
    ego = scene.current.ego.pose_global
    past = relative_to(ego, np.stack([frame.ego.pose_global for frame in scene.history]))[:, :2]
    _line(axes, past, color=_PAST_COLOUR, marker=".", linewidth=1.2, zorder=6)
    if scene.has_human:
        plan = np.concatenate([np.zeros((1, 2)), scene.human_plan()[:, :2]])
        _line(axes, plan, color=_HUMAN_COLOUR, marker=".", linewidth=1.6, zorder=6)


def _draw_camera(axes: Axes, scene: Scene, name: str | None, cameras: Mapping[str, tuple[Image, Camera]]) -> None:
    axes.set(xticks=[], yticks=[])
    if name is None or name not in cameras:
        axes.axis("off")
        return
    image, camera = cameras[name]
    axes.imshow(image)
    if scene.has_human:
        camera_to_ego = np.eye(4)
        camera_to_ego[:3, :3], camera_to_ego[:3, 3] = camera.rotation, camera.translation_m
        pixels = project_ground(scene.human_plan(), camera.intrinsic, camera_to_ego)
        inside = ((pixels >= 0) & (pixels < image.shape[1::-1])).all(axis=1)
        axes.plot(*pixels[inside].T, color=_HUMAN_COLOUR, marker=".", linewidth=1.6)
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    axes.set_title(f"{name}  {image.shape[1]} x {image.shape[0]}", fontsize=7)


def _frame(axes: Axes, title: str) -> None:
    axes.set(xlim=(-_ASIDE_M, _ASIDE_M), ylim=(-_BEHIND_M, _AHEAD_M), aspect="equal")
    axes.tick_params(labelsize=6)
    axes.set_title(f"{title}; metres, driving direction up", fontsize=8)


def _local(points: Floats, ego: Floats) -> Floats:
    """Points (V, 2) of the map in the ego frame."""
    return relative_to(ego, np.concatenate([points, np.zeros((len(points), 1))], axis=1))[:, :2]


def _fill(axes: Axes, ring: Floats, **style: Any) -> None:
    axes.add_patch(Polygon(_upward(ring).tolist(), closed=True, **({"zorder": 1} | style)))


def _line(axes: Axes, points: Floats, **style: Any) -> None:
    axes.plot(*_upward(points).T, **style)


def _upward(points: Floats) -> Floats:
    """Ego frame (x forward, y left) to picture axes (right, up)."""
    return np.stack([-points[:, 1], points[:, 0]], axis=1)
