"""Scene windows read and validated a second on one core: ``python benchmarks/reading.py [--data ROOT --split SPLIT]``.

Every window is a whole ``Scene`` with every field of every frame validated; no sensor is opened. Baselines in the same
run: (1) plain ``pickle.load`` of each log and validation of each window on its own, which converts a frame again for
every window that it is part of (twelve times at most); (2) for maps, parsing the GeoPackage anew in every process.
Times are CPU seconds of this process, the best of ``--repeats`` passes, so that other load on the machine does not
count. Memory is the peak of a fresh process that streams all logs of a data set, against one with several times as many
logs. Without ``--data`` a small world without sensors is generated first, and its speed printed.
"""

import argparse
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.log import Log
from irl_vla.dataset.maps.cache import entry_path, read_entry, write_entry
from irl_vla.dataset.maps.reader import city_path, read_map
from irl_vla.dataset.safe_pickle import write_pickle
from irl_vla.dataset.scenes import iter_scenes, split_logs
from irl_vla.dataset.splits import read_split, write_split
from irl_vla.scene import CITIES, Scene
from irl_vla.world.config import SplitSizeConfig, WorldConfig
from irl_vla.world.generate import generate


def cpu_s(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest pass."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def window_by_window(dataset: Dataset, split: str) -> Iterator[Scene]:
    """The baseline: unrestricted unpickling, and nothing shared between windows."""
    selection = read_split(dataset, split)
    rule = selection.scene_filter
    for name in split_logs(dataset, split):
        path = dataset.log_folder(selection.data_split) / f"{name}.pkl"
        with path.open("rb") as stream:
            frames = tuple(pickle.load(stream))  # noqa: S301 (the baseline is what one would do without the reader)
        for start in range(0, len(frames) - rule.num_frames + 1, rule.step):
            log = Log(path, frames, {}, annotated=True)
            current = start + rule.num_history_frames - 1
            if log.has_route(current):
                members = tuple(log.frame(index) for index in range(start, start + rule.num_frames))
                yield Scene(log.token(current), name, log.map_name(current), name, "", selection.data_split, members)


def count(scenes: Iterator[Scene]) -> int:
    return sum(1 for _ in scenes)


def report_reading(dataset: Dataset, split: str, repeats: int) -> None:
    windows = count(iter_scenes(dataset, split))
    assert windows == count(window_by_window(dataset, split)), "the baseline reads other windows"
    ours = windows / cpu_s(lambda: count(iter_scenes(dataset, split)), repeats)
    base = windows / cpu_s(lambda: count(window_by_window(dataset, split)), repeats)
    print(f"{windows} windows of {len(split_logs(dataset, split))} logs")
    print(f"reading    {ours:7.0f} windows/s, window by window with pickle.load {base:7.0f}: {ours / base:4.1f} x")


def report_maps(dataset: Dataset, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for city in CITIES:
            path = city_path(dataset.maps_root, city)
            view = read_map(path, city)
            entry = entry_path(Path(folder), path)
            write_entry(entry, view)
            parsed = 1e3 * cpu_s(lambda path=path, city=city: read_map(path, city), repeats)  # type: ignore[misc]
            cached = 1e3 * cpu_s(
                lambda path=path, city=city: read_entry(entry_path(Path(folder), path), city),  # type: ignore[misc]
                repeats,
            )
            lanes = len(view.lanes) + len(view.lane_connectors)
            times = f"{cached:6.1f} ms from Arrow, {parsed:6.1f} ms parsed: {parsed / cached:4.1f} x"
            print(f"map        {lanes:5d} lanes: {times}")


def report_memory(dataset: Dataset, split: str, times: int) -> None:
    """Peak memory of fresh processes that stream the logs, once as they are and once repeated under other names."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        logs = root / "navsim_logs" / "many"
        logs.mkdir(parents=True)
        selection = read_split(dataset, split)
        for name in split_logs(dataset, split):
            source = dataset.log_folder(selection.data_split) / f"{name}.pkl"
            shutil.copy(source, logs / f"{name}.pkl")
            with source.open("rb") as stream:
                frames = pickle.load(stream)  # noqa: S301 (written by this script)
            for copy in range(1, times):
                for index, frame in enumerate(frames):
                    frame["token"] = f"{copy:04x}{index:04x}{frame['token'][8:]}"
                write_pickle(logs / f"{name}-{copy}.pkl", frames)
        few = SceneFilter(num_future_frames=8, frame_interval=1, log_names=tuple(split_logs(dataset, split)))
        write_split(root, "few", "many", few)
        write_split(root, "all", "many", SceneFilter(num_future_frames=8, frame_interval=1))
        peaks = {name: peak_mb(root, dataset.maps_root, name) for name in ("few", "all")}
        base = len(split_logs(dataset, split))
    print(
        f"memory     {peaks['all']:.1f} MB peak with {base * times} logs, {peaks['few']:.1f} MB with {base}: "
        f"{peaks['all'] / peaks['few']:.2f} x"
    )


def peak_mb(root: Path, maps_root: Path, split: str) -> float:
    command = [sys.executable, __file__, "--data", str(root), "--maps", str(maps_root), "--split", split, "--peak"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def generated(root: Path) -> Dataset:
    size = SplitSizeConfig(logs=2, layouts=2)
    config = WorldConfig(
        train=SplitSizeConfig(logs=12, layouts=2), val=size, test=size, frames_per_log=33, sensors=None
    )
    start = time.process_time()
    generate(config, root, seed=0)
    spent = time.process_time() - start
    print(f"generation {16 * 33 / spent:7.0f} frames/s without sensors ({16 / spent:.1f} logs/s, maps included)")
    return open_dataset(DataConfig(root=root), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set in NAVSIM's layout")
    parser.add_argument("--maps", type=Path, help="folder of its maps")
    parser.add_argument("--split", default="train")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is None:
            dataset = generated(Path(folder))
        else:
            dataset = open_dataset(DataConfig(root=arguments.data, maps_root=arguments.maps), {})
        if arguments.peak:
            count(iter_scenes(dataset, arguments.split))
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
            return
        report_reading(dataset, arguments.split, arguments.repeats)
        report_maps(dataset, arguments.repeats)
        report_memory(dataset, arguments.split, times=10)


if __name__ == "__main__":
    main()
