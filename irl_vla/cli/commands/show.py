"""``irl-vla show``: one picture of one scene."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from irl_vla.dataset.layout import Dataset
    from irl_vla.scene import Camera, Scene

SUMMARY = "draw one scene: cameras, LiDAR, map, agents, route and human plan"
#: Width of the straightened camera images, pixels.
_IMAGE_WIDTH_PX = 640


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("token", help="of the scene, which is that of its current frame (either stage)")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="data set")
    parser.add_argument("--maps", type=Path, metavar="ROOT", help="folder of the maps (default: ROOT/maps)")
    parser.add_argument("--splits", type=Path, metavar="ROOT", help="split files (default: ROOT/train_test_split)")
    parser.add_argument("--split", metavar="NAME", help="of the scene (default: the first that has it)")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="picture to write (default: TOKEN.png)")


def run(options: argparse.Namespace) -> int:
    """Status 0: drawn; 2: bad input."""
    from irl_vla.cli.outcome import exit_status

    return exit_status(lambda: _show(options))


def _show(options: argparse.Namespace) -> None:
    import logging

    from irl_vla.dataset.config import DataConfig
    from irl_vla.dataset.layout import open_dataset
    from irl_vla.dataset.maps.reader import load_map
    from irl_vla.dataset.sensors import has_sweep, load_sweep
    from irl_vla.report.pictures import save
    from irl_vla.report.scene_sheet import scene_sheet

    dataset = open_dataset(DataConfig(root=options.data, maps_root=options.maps, splits_root=options.splits))
    scene = _find(dataset, options.token, options.split)
    path = scene.current.lidar_path
    has_lidar = path is not None and has_sweep(dataset, scene.data_split, path)
    sweep = load_sweep(dataset, scene.data_split, path)[:3].T if path is not None and has_lidar else None
    figure = scene_sheet(scene, load_map(dataset, scene.map_name), _cameras(dataset, scene), sweep)
    written = save(figure, options.output or Path(f"{options.token}.png"))
    logging.getLogger("show").info("%s", written)


def _find(dataset: "Dataset", token: str, split: str | None) -> "Scene":
    """The scene in the split, or in the first split that has it.

    Raises:
        SceneError: if no split has it.
    """
    from irl_vla.dataset.checks.dataset import split_groups
    from irl_vla.dataset.scenes import load_scene
    from irl_vla.errors import SceneError

    if split is not None:
        return load_scene(dataset, split, token)
    names = [item.name for _, found in split_groups(dataset, ()) for item in found]
    for name in names:
        try:
            return load_scene(dataset, name, token)
        except SceneError:
            continue
    raise SceneError(
        f"{token}: expected in one of the splits {', '.join(names)}, found in none; see irl-vla check-data"
    )


def _cameras(dataset: "Dataset", scene: "Scene") -> "dict[str, tuple[NDArray[np.uint8], Camera]]":
    """Straightened images, at most ``_IMAGE_WIDTH_PX`` wide, of the cameras whose files are there."""
    from dataclasses import replace

    import numpy as np

    from irl_vla.dataset.features import pinhole_image
    from irl_vla.dataset.sensors import has_image, load_image

    found = {}
    for name, camera in scene.current.cameras.items():
        if has_image(dataset, scene.data_split, camera):
            image = load_image(dataset, scene.data_split, camera)
            width = min(image.shape[1], _IMAGE_WIDTH_PX)
            straight, intrinsic = pinhole_image(image, camera, round(image.shape[0] * width / image.shape[1]), width)
            found[name] = straight, replace(camera, intrinsic=intrinsic, distortion=np.zeros(5))
    return found
