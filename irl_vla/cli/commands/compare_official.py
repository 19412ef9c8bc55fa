"""``irl-vla compare-official``: does this installation score like the official evaluator?"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irl_vla.judge.official.observation import Comparison
    from irl_vla.scene import MapView, Scene

SUMMARY = "compute again what the official evaluator recorded, from golden files or from logs and maps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "folder",
        type=Path,
        help="golden results or inputs (as in tests/golden), or drives: navsim_logs, maps and official_*.parquet",
    )
    parser.add_argument("--scenes", type=int, metavar="N", help="only the first N scenes of every log of the drives")
    parser.add_argument("--data-split", default="mini", metavar="NAME", help="logs of the drives (default: mini)")


def run(options: argparse.Namespace) -> int:
    """Status 0: everything agrees; 1: something differs; 2: the folder is unfit."""
    from irl_vla.cli.outcome import exit_status

    return exit_status(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    from rich.console import Console

    from irl_vla.judge.official.compare import compare_folder, print_comparisons

    folder: Path = options.folder
    drives = (folder / "navsim_logs").is_dir()
    comparisons = _compare_drives(options) if drives else compare_folder(folder)
    return 1 if print_comparisons(comparisons, Console()) else 0


def _compare_drives(options: argparse.Namespace) -> "list[Comparison]":
    from irl_vla.judge.official.drives import check_drives
    from irl_vla.judge.official.observation import compared

    return compared(check_drives(options.folder, drive_scenes(options.folder, options.data_split, options.scenes)))


def drive_scenes(root: Path, data_split: str, limit: int | None = None) -> "Iterator[tuple[Scene, MapView]]":
    """All windows of four history and eight future frames of the logs below ``root``, with their maps.

    Args:
        root: with ``navsim_logs`` and ``maps``.
        data_split: folder of the logs.
        limit: scenes of each log; None takes all.
    """
    from tempfile import TemporaryDirectory

    from irl_vla.dataset.config import DataConfig, SceneFilter
    from irl_vla.dataset.layout import open_dataset
    from irl_vla.dataset.maps.reader import load_map
    from irl_vla.dataset.scenes import iter_scenes
    from irl_vla.dataset.splits import write_split
    from irl_vla.scene import FUTURE_FRAMES

    with TemporaryDirectory() as folder:
        write_split(Path(folder), "all", data_split, SceneFilter(num_future_frames=FUTURE_FRAMES, frame_interval=1))
        dataset = open_dataset(DataConfig(root=root, splits_root=Path(folder) / "train_test_split"), {})
        taken: dict[str, int] = {}
        for scene in iter_scenes(dataset, "all"):
            taken[scene.log_name] = taken.get(scene.log_name, 0) + 1
            if limit is None or taken[scene.log_name] <= limit:
                yield scene, load_map(dataset, scene.map_name)
