"""Painted frames and LiDAR sweeps a second: ``python benchmarks/rendering.py [--data ROOT --split SPLIT]``.

Three cameras of 480 x 270 pixels and one default sweep a frame, on one core, along whole drives. Baseline: the same
painter without its map cache, that is, with every map drawn anew for every frame. Times are CPU seconds of this
process, medians over the frames, so that other load on the machine does not count. Without ``--data`` a small world
is generated first.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.scene import Frame, MapView
from irl_vla.world.cameras import paint_cameras
from irl_vla.world.config import SplitSizeConfig, WorldConfig
from irl_vla.world.generate import generate
from irl_vla.world.lidar import cast_lidar
from irl_vla.world.rig import default_rig
from irl_vla.world.sensor_config import LidarConfig

CAMERAS = ("CAM_L0", "CAM_F0", "CAM_R0")


def drives(root: Path, split: str, count: int) -> list[tuple[Frame, MapView]]:
    """Up to ``count`` frames, in the order of their drives, each once."""
    dataset = open_dataset(DataConfig(root=root))
    frames: dict[str, tuple[Frame, MapView]] = {}
    for scene in iter_scenes(dataset, split):
        map_view = load_map(dataset, scene.map_name)
        for frame in scene.frames:
            frames.setdefault(frame.token, (frame, map_view))
        if len(frames) >= count:
            break
    return list(frames.values())[:count]


def cpu_ms(work: Callable[[Frame, MapView], object], frames: list[tuple[Frame, MapView]]) -> list[float]:
    """CPU milliseconds of each frame."""
    spent = []
    for frame, map_view in frames:
        start = time.process_time()
        work(frame, map_view)
        spent.append(1e3 * (time.process_time() - start))
    return spent


def report(name: str, work: Callable[[Frame, MapView], object], frames: list[tuple[Frame, MapView]]) -> None:
    # A copy of the view is another map to the cache; the spatial index is shared, so that only drawing is compared.
    uncached = cpu_ms(lambda frame, map_view: work(frame, replace(map_view)), frames)
    first = cpu_ms(work, frames)
    warm = cpu_ms(work, frames)
    median, bare = float(np.median(warm)), float(np.median(uncached))
    print(
        f"{name:<28} {median:6.1f} ms a frame ({1e3 / median:5.0f}/s), first pass over the drive "
        f"{np.mean(first):6.1f} ms on average, without map cache {bare:6.1f} ms: {bare / median:4.1f} x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set in NAVSIM's layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--frames", type=int, default=40)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data
        if root is None:
            root, tiny = Path(folder), SplitSizeConfig(logs=2, layouts=2)
            generate(WorldConfig(train=tiny, val=tiny, test=tiny, frames_per_log=20, sensors=None), root, seed=0)
        frames = drives(root, arguments.split, arguments.frames)
    objects = float(np.mean([len(frame.objects) for frame, _ in frames]))
    print(f"{len(frames)} frames, {objects:.0f} objects a frame")
    rig, lidar = default_rig(CAMERAS, 480, 270), LidarConfig()
    report("three cameras, 480 x 270", lambda frame, view: paint_cameras(frame, view, rig), frames)
    report(
        f"sweep, {lidar.rings} x {lidar.azimuths} rays",
        lambda frame, view: cast_lidar(frame, view, lidar, np.random.default_rng(0)),
        frames,
    )


if __name__ == "__main__":
    main()
