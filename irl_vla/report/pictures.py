"""Pictures of scenes, plans and curves. Plans are coloured by their true score: red 0, green 1."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon as Patch
from numpy.typing import NDArray

from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre, relative_to
from irl_vla.judge.slowed import FRONTIER
from irl_vla.ledger.files import atomic_path
from irl_vla.scene import MapView, Observation, Scene

_VIEW_M: Final = 45.0
_SURFACES: Final = (
    ("CARPARK_AREA", "#d9d2c5"),
    ("ROADBLOCK", "#cfd4da"),
    ("INTERSECTION", "#bfc6cd"),
    ("CROSSWALK", "#f2efe3"),
    ("STOP_LINE", "#c98a8a"),
)
_OBJECTS: Final = {"vehicle": "#3b6ea8", "pedestrian": "#c2571a", "bicycle": "#8a5fb0"}
#: Around the frontier, points of EP and EPDMS that still are near it.
_NEAR: Final = 4.0
#: Reliability diagrams in a line.
_ACROSS: Final = 4
_SCORES: Final = mpl.colormaps["RdYlGn"]


def draw_birds_eye(
    axes: Axes, scene: Scene, map_view: MapView, plans: Mapping[str, tuple[Floats, float]], title: str
) -> None:
    """Draws map, objects, ego and plans in the ego frame, driving direction up.

    Args:
        plans: name to ((8, 3) plan in the ego frame, true score in [0, 1]).
    """
    ego = scene.current.ego.pose_global
    for layer, colour in _SURFACES:
        for item_id in map_view.query(layer, ego[0], ego[1], 1.5 * _VIEW_M):
            ring = np.asarray(map_view.layer(layer)[item_id].polygon.exterior.coords)[:, :2]
            _fill(axes, _local(ring, ego), colour)
    for layer in ("LANE", "LANE_CONNECTOR"):
        for lane_id in map_view.query(layer, ego[0], ego[1], 1.5 * _VIEW_M):
            _line(axes, _local(map_view.lane(lane_id).baseline, ego), color="white", linewidth=0.6, zorder=2)
    _draw_red_connectors(axes, scene, map_view, ego)
    objects = scene.current.objects
    for name, box in zip(objects.names, objects.boxes, strict=True):
        _fill(axes, box_corners(box[[0, 1, 6]], box[3], box[4]), _OBJECTS.get(name, "#777777"), zorder=3)
    _fill(axes, box_corners(rear_axle_to_centre(np.zeros(3)), PACIFICA.length, PACIFICA.width), "black", zorder=4)
    for name, (plan, score) in plans.items():
        path = np.concatenate([np.zeros((1, 2)), plan[:, :2]])
        style = "--" if name == "human" else "-"
        _line(axes, path, color=_SCORES(score), linestyle=style, marker=".", zorder=5, label=f"{name} {score:.2f}")
    axes.set(xlim=(-_VIEW_M / 2, _VIEW_M / 2), ylim=(-_VIEW_M / 4, _VIEW_M), xticks=[], yticks=[], aspect="equal")
    axes.legend(loc="lower right", fontsize=7, framealpha=0.9)
    axes.set_title(title, fontsize=8)


def draw_camera(axes: Axes, observation: Observation, camera: str, plans: Mapping[str, tuple[Floats, float]]) -> None:
    """Draws a camera image with the plans projected onto the ground; nothing but the image if none is in view."""
    index = observation.camera_names.index(camera)
    image = observation.images[index]
    axes.imshow(image)
    for name, (plan, score) in plans.items():
        pixels = project_ground(plan, observation.intrinsics[index], observation.camera_to_ego[index])
        inside = ((pixels >= 0) & (pixels < image.shape[1::-1])).all(axis=1)
        if inside.any():
            axes.plot(*pixels[inside].T, color=_SCORES(score), linestyle="--" if name == "human" else "-", marker=".")
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), xticks=[], yticks=[])


def project_ground(plan: Floats, intrinsic: Floats, camera_to_ego: Floats) -> Floats:
    """Pixels (u, v) of plan positions on the ground plane z = 0; NaN behind the camera.

    Args:
        plan: (T, >=2) positions in the ego frame.
        intrinsic: (3, 3).
        camera_to_ego: (4, 4).
    """
    points = np.concatenate([plan[:, :2], np.zeros((len(plan), 1)), np.ones((len(plan), 1))], axis=1)
    in_camera = (np.linalg.inv(camera_to_ego) @ points.T)[:3]
    depth = np.where(in_camera[2] > 0.1, in_camera[2], np.nan)
    pixels: Floats = (intrinsic @ (in_camera / depth))[:2].T
    return pixels


def scene_figure(
    scene: Scene, map_view: MapView, observation: Observation | None, plans: Mapping[str, tuple[Floats, float]]
) -> Figure:
    """One scene: bird's-eye view and, where there are images, the front camera."""
    seen = observation is not None and bool(observation.camera_valid.any())
    figure = Figure(figsize=(10, 4.5) if seen else (5, 4.5), layout="constrained")
    panels = figure.subplots(1, 2 if seen else 1, squeeze=False)[0]
    draw_birds_eye(panels[0], scene, map_view, plans, f"{scene.kind or scene.log_name}  {scene.token}")
    if seen and observation is not None:
        draw_camera(panels[1], observation, observation.camera_names[_front(observation)], plans)
    return figure


def curves_figure(history: Sequence[Mapping[str, float]], step: str, names: Sequence[str]) -> Figure:
    """Small line charts of logged quantities over ``step``; quantities that were never logged are left out."""
    present = [name for name in names if any(name in row for row in history)]
    figure = Figure(figsize=(4 * max(len(present), 1), 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, max(len(present), 1), squeeze=False)[0], present, strict=False):
        rows = [row for row in history if name in row]
        axes.plot([row[step] for row in rows], [row[name] for row in rows], marker="." if len(rows) < 30 else None)
        axes.set_title(name, fontsize=8)
        axes.set_xlabel(step, fontsize=8)
    return figure


def tradeoff_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Sweep trials: ego progress against the safety gates, coloured by true EPDMS, labelled with the weights."""
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    points = axes.scatter(
        [row["ep"] for row in rows], [row["nc"] for row in rows], c=[row["epdms"] for row in rows], cmap="viridis", s=60
    )
    for row in rows:
        label = f"{row['safety']:.1f}/{row['comfort']:.1f}/{row['efficiency']:.1f}"
        axes.annotate(label, (row["ep"], row["nc"]), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="EP, ego progress", ylabel="NC, no at-fault collision", title="weights: safety/comfort/efficiency")
    figure.colorbar(points, label="true EPDMS, validation split")
    return figure


def reliability_figure(bins: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> Figure:
    """A reliability diagram a sub-score: true over predicted mean in bins, a line a source; the diagonal is right.

    Args:
        bins: rows of ``quality_bins.csv``. The larger a point, the more plans of its source lie in the bin.
        sources: that are drawn, if they occur.
    """
    names = list(dict.fromkeys(row["subscore"] for row in bins))
    lines = max(-(-len(names) // _ACROSS), 1)
    figure = Figure(figsize=(2.8 * _ACROSS, 3.0 * lines), layout="constrained")
    panels = figure.subplots(lines, _ACROSS, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.axis("off")
    for axes, name in zip(panels, names, strict=False):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        for source in sources:
            rows = [row for row in bins if row["subscore"] == name and row["source"] == source]
            predicted, true = ([row[key] for row in rows] for key in ("mean_predicted", "mean_true"))
            plans = np.array([row["plans"] for row in rows])
            line = axes.plot(predicted, true, linewidth=1, label=source)[0]
            axes.scatter(predicted, true, s=8 + 60 * plans / max(plans.sum(), 1), color=line.get_color())
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_title(name.upper(), fontsize=8)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("true", fontsize=8)
    panels[0].legend(fontsize=7)
    return figure


def frontier_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """EPDMS over EP: imitation and its slowed plans as a line, all other policies as points; right, what is near it.

    A policy above the line drives better than imitation does at its progress.

    Args:
        rows: "policy", "ep" and "epdms" (times 100) of each, those of ``FRONTIER`` among them.
    """
    points = {str(row["policy"]): (float(row["ep"]), float(row["epdms"])) for row in rows}
    line = np.array([points[name] for name in FRONTIER])
    names: dict[tuple[float, float], list[str]] = {}
    for name, point in points.items():
        if name not in FRONTIER[1:]:
            names.setdefault(point, []).append(name)  # a control that kept imitation lies on it
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes in panels:
        axes.plot(*line.T, marker=".", color="#3b6ea8", label="imitation, slowed along its path")
        for point, there in names.items():
            axes.plot(*point, marker="o", color="#3b6ea8" if FRONTIER[0] in there else "#c2571a")
            axes.annotate(", ".join(there), point, fontsize=7, xytext=(4, 4), textcoords="offset points")
        axes.set(xlabel="EP, ego progress", ylabel="EPDMS")
    panels[0].margins(x=0.15)
    low, high = line.min(axis=0) - _NEAR, line.max(axis=0) + _NEAR
    panels[1].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    panels[0].legend(loc="lower left", fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def _front(observation: Observation) -> int:
    names = observation.camera_names
    return names.index("CAM_F0") if "CAM_F0" in names else int(np.argmax(observation.camera_valid))


def _draw_red_connectors(axes: Axes, scene: Scene, map_view: MapView, ego: Floats) -> None:
    for connector, red in scene.current.traffic_lights:
        if red and str(connector) in map_view.lane_connectors:
            path = map_view.lane_connectors[str(connector)].baseline
            _line(axes, _local(path, ego), color="#d62728", linewidth=1.5, zorder=2, alpha=0.6)


def _local(points: Floats, ego: Floats) -> Floats:
    poses = np.concatenate([points, np.zeros((len(points), 1))], axis=1)
    return relative_to(ego, poses)[:, :2]


def _fill(axes: Axes, ring: NDArray[np.float64], colour: str, zorder: int = 1) -> None:
    axes.add_patch(Patch(_upward(ring).tolist(), closed=True, facecolor=colour, edgecolor="none", zorder=zorder))


def _line(axes: Axes, points: NDArray[np.float64], **style: Any) -> None:
    axes.plot(*_upward(points).T, **style)


def _upward(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ego frame (x forward, y left) to picture axes (right, up)."""
    return np.stack([-points[:, 1], points[:, 0]], axis=1)
