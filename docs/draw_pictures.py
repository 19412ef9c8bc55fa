"""Draws docs/pictures: ``python docs/draw_pictures.py [--seed 0] [KIND ...]``, one picture a scenario kind.

A small world with a front camera is generated, and of each kind the moment is shown in which its event is best seen:
the camera image, and from above two seconds before, then, and two seconds after.
"""

import argparse
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.sensors import load_image
from irl_vla.report.pictures import draw_birds_eye
from irl_vla.scene import PLAN_INTERVAL_S, Scene
from irl_vla.world.config import SplitSizeConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate
from irl_vla.world.scenarios import KINDS

FOLDER: Final = Path(__file__).parent / "pictures"
CAMERA: Final = "CAM_F0"
_APART: Final = 4  # frames between the views from above
#: Kinds that are about what stands or moves right before the ego, and the names of those objects.
_ABOUT: Final = {
    "construction": ("traffic_cone", "barrier", "czone_sign"),
    "cyclist": ("bicycle",),
    "double_parked": ("vehicle",),
    "green_light": ("vehicle",),
    "jaywalker": ("pedestrian",),
    "occlusion": ("pedestrian",),
    "parked": ("vehicle",),
    "pedestrian": ("pedestrian",),
}
_AHEAD_M: Final = (5.0, 22.0)
_ASIDE_M: Final = 4.5
_TURNS: Final = ("turn_left", "turn_right", "crossing", "curve")
_INCHES: Final = (11.6, 3.1)
_DPI: Final = 84


def telling(scenes: Iterable[Scene]) -> dict[str, tuple[Scene, Scene, Scene]]:
    """Of each kind the scene that shows it best, with those two seconds before and after it."""
    found: dict[str, tuple[float, tuple[Scene, Scene, Scene]]] = {}
    logs: dict[str, list[Scene]] = {}
    for scene in scenes:
        logs.setdefault(scene.log_name, []).append(scene)
    for drive in logs.values():
        for index in range(_APART, len(drive) - _APART):
            worth = eventfulness(drive[index])
            if worth > found.get(drive[index].kind, (-1.0,))[0]:
                found[drive[index].kind] = worth, (drive[index - _APART], drive[index], drive[index + _APART])
    return {kind: best for kind, (_, best) in found.items()}


def eventfulness(scene: Scene) -> float:
    """How well a scene shows its kind: what it is about is near, the human turns, or changes speed."""
    plan, speed = scene.human_plan(), float(np.hypot(*scene.current.ego.velocity_mps))
    if scene.kind in _TURNS:
        return float(abs(plan[-1, 2])) * min(speed, 4.0)
    undisturbed = speed * PLAN_INTERVAL_S * len(plan)
    slowing = max(undisturbed - float(np.hypot(*np.diff(plan[:, :2], axis=0, prepend=0.0).T).sum()), 0.0)
    if scene.kind not in _ABOUT:
        return slowing
    objects = scene.current.objects
    named = np.isin(objects.names, _ABOUT[scene.kind])
    ahead, aside = objects.boxes[named, 0], np.abs(objects.boxes[named, 1])
    near = (ahead > _AHEAD_M[0]) & (ahead < _AHEAD_M[1]) & (aside < _ASIDE_M)
    return float(near.sum()) + min(slowing, 10.0) / 10.0 + 0.5 * float(bool(near.any()))


def picture(scenes: tuple[Scene, Scene, Scene], dataset: Dataset) -> Figure:
    """The camera image of the middle scene and all three from above, with the human plan."""
    now = scenes[1]
    map_view = load_map(dataset, now.map_name)
    figure = Figure(figsize=_INCHES, layout="constrained")
    panels = figure.subplots(1, 4, width_ratios=(2.1, 1, 1, 1))
    panels[0].imshow(load_image(dataset, now.data_split, now.current.cameras[CAMERA]))
    panels[0].set(xticks=[], yticks=[])
    panels[0].set_title(f"{now.kind}: front camera", fontsize=9)
    for axes, scene, seconds in zip(panels[1:], scenes, (-2, 0, 2), strict=True):
        title = f"{seconds:+d} s" if seconds else "now"
        draw_birds_eye(axes, scene, map_view, {"human": (scene.human_plan(), 1.0)}, title)
        axes.get_legend().remove()
    return figure


def main() -> None:
    """Generates, chooses, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="all without one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="generates here, or takes what is there")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"expected kinds out of {', '.join(KINDS)}, found {', '.join(sorted(unknown))}")
    few = SplitSizeConfig(logs=2, layouts=2)
    sensors = WorldSensorConfig(cameras=(CAMERA,), image_height_px=270, image_width_px=480, lidar=None)
    size = SplitSizeConfig(logs=69, layouts=24)
    config = WorldConfig(train=few, val=few, test=size, frames_per_log=28, sensors=sensors)
    with tempfile.TemporaryDirectory() as temporary:
        root = options.data or Path(temporary) / "data"
        generate(config, root, options.seed)
        dataset = open_dataset(DataConfig(root=root))
        chosen = telling(iter_scenes(dataset, "test"))
        FOLDER.mkdir(exist_ok=True)
        for kind in options.kinds or KINDS:
            drawn = io.BytesIO()
            picture(chosen[kind], dataset).savefig(drawn, format="png", dpi=_DPI)
            Image.open(drawn).convert("RGB").save(FOLDER / f"{kind}.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
