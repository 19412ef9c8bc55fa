"""Writes a generated data set in NAVSIM's layout, one log at a time, resumable."""

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track

from irl_vla.artifact import MANIFEST_NAME, Manifest, read_manifest, write_text
from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.log_writer import LogMeta, write_log
from irl_vla.dataset.maps.content import CITY_EPSG, MapContent
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.maps.writer import map_path, write_index, write_map
from irl_vla.dataset.sensors import write_image, write_sweep
from irl_vla.dataset.splits import LogLayout, write_layouts, write_split
from irl_vla.errors import CheckpointError
from irl_vla.scene import CITIES, FUTURE_FRAMES, HISTORY_FRAMES
from irl_vla.world.cameras import paint_cameras
from irl_vla.world.config import WorldConfig, WorldSensorConfig
from irl_vla.world.drive import drive
from irl_vla.world.frames import LogStamp, braking_tokens, make_frames
from irl_vla.world.lidar import cast_lidar
from irl_vla.world.plan import SPLITS, LogPlan, layout_plans, log_generator, log_plans, network_of
from irl_vla.world.rig import Rig, default_rig

MANIFEST_KIND: Final = "world"
SCHEMA: Final = 1
#: Written first: what the unfinished folder is going to be.
BEGUN_NAME: Final = "generation.json"
_REMEDY: Final = "generate into another folder, or remove this one"

_log = logging.getLogger(__name__)


def generate(config: WorldConfig, root: Path, seed: int) -> None:
    """Writes maps, split files, ``layouts.json``, then every missing log, then the manifest.

    A log file is written after its sensor files and atomically, so a log that exists is whole and is not made again.
    Every log depends on configuration, seed, layout and its index alone, neither on order nor on the number of workers.

    Raises:
        ConfigError: if the layouts of a split cannot show every scenario kind.
        CheckpointError: if ``root`` holds data of another configuration or seed.
    """
    manifest = _manifest(config, seed)
    if _is_finished(root, manifest):
        _log.info("%s: already generated", root)
        return
    plans = log_plans(config, seed)
    write_text(root / BEGUN_NAME, json.dumps({"fingerprint": manifest.fingerprint, "seed": seed}))
    _write_maps(config, root, seed)
    _write_splits(config, root, plans)
    missing = [plan for plan in plans if not _log_path(config, root, plan).is_file()]
    _log.info("%s: %d of %d logs to generate", root, len(missing), len(plans))
    make = partial(generate_log, config, root, seed)
    shown = track(
        _done(make, missing, config.workers),
        description="generate",
        total=len(missing),
        disable=not Console().is_terminal,
    )
    for name in shown:
        _log.debug("wrote %s", name)
    manifest.write(root)


def generate_log(config: WorldConfig, root: Path, seed: int, plan: LogPlan) -> str:
    """Simulates and writes one log with its sensor files; returns its name."""
    generator = log_generator(plan, seed)
    scenario, moments = drive(network_of(plan.layout, seed), plan.kind, config.frames_per_log, generator)
    name = plan.log_name(config.frames_per_log)
    stamp = LogStamp(name, int(plan.start.timestamp()) * 1_000_000, seed)
    sensors = config.sensors
    rig = _rig(sensors)
    has_lidar = sensors is not None and sensors.lidar is not None
    frames = make_frames(scenario, moments, stamp, range_m=config.object_range_m, rig=rig, has_lidar=has_lidar)
    if sensors is not None:
        map_view = load_map(open_dataset(DataConfig(root=root)), plan.layout.city)
        folder = root / "sensor_blobs" / plan.layout.split
        for frame, moment in zip(frames, moments, strict=True):
            if rig is not None:
                images = paint_cameras(frame, map_view, rig, braking_tokens(moment, stamp))
                for camera, image in images.items():
                    write_image(folder / frame.cameras[camera].path, image, sensors.jpeg_quality)
            if sensors.lidar is not None and frame.lidar_path is not None:
                write_sweep(folder / frame.lidar_path, cast_lidar(frame, map_view, sensors.lidar, generator))
    vehicle = f"veh-{plan.layout.number % 100:02d}"
    write_log(_log_path(config, root, plan), frames, LogMeta(name, plan.layout.city, vehicle))
    return name


def _done(make: "partial[str]", plans: Sequence[LogPlan], workers: int) -> Iterator[str]:
    """Names of logs as they are finished."""
    if workers == 1:
        yield from map(make, plans)
        return
    # spawned, not forked: map and image libraries keep threads that do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(make, plan) for plan in plans]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _rig(sensors: WorldSensorConfig | None) -> Rig | None:
    if sensors is None or not sensors.cameras:
        return None
    return default_rig(sensors.cameras, sensors.image_width_px, sensors.image_height_px)


def _write_maps(config: WorldConfig, root: Path, seed: int) -> None:
    """All four cities, also those without a layout: the official reader opens every one."""
    layouts = [plan for plans in layout_plans(config).values() for plan in plans]
    for city in CITIES:
        path = map_path(root / "maps", city)
        if not path.is_file():
            contents = [network_of(plan, seed).content for plan in layouts if plan.city == city]
            write_map(path, _merged(contents), CITY_EPSG[city])
    write_index(root / "maps")


def _merged(contents: Iterable[MapContent]) -> MapContent:
    rows: dict[str, Any] = {field.name: () for field in dataclasses.fields(MapContent)}
    for content in contents:
        for name in rows:
            rows[name] += getattr(content, name)
    return MapContent(**rows)


def _write_splits(config: WorldConfig, root: Path, plans: Sequence[LogPlan]) -> None:
    window = SceneFilter(num_history_frames=HISTORY_FRAMES, num_future_frames=FUTURE_FRAMES, frame_interval=1)
    for split in SPLITS:
        (root / "navsim_logs" / split).mkdir(parents=True, exist_ok=True)
        write_split(root, split, split, window)
    layouts = {plan.log_name(config.frames_per_log): LogLayout(plan.layout.name, plan.kind) for plan in plans}
    write_layouts(root, layouts)


def _log_path(config: WorldConfig, root: Path, plan: LogPlan) -> Path:
    return root / "navsim_logs" / plan.layout.split / f"{plan.log_name(config.frames_per_log)}.pkl"


def _manifest(config: WorldConfig, seed: int) -> Manifest:
    values = config.model_dump(mode="json", exclude={"workers"})
    sizes = {split: values[split] for split in SPLITS}
    return Manifest(MANIFEST_KIND, SCHEMA, values, seed, inputs={}, extra={"splits": sizes})


def _is_finished(root: Path, manifest: Manifest) -> bool:
    """True if the very same data set is there and whole.

    Raises:
        CheckpointError: if another one is there, whole or not.
    """
    if (root / MANIFEST_NAME).is_file():
        found = read_manifest(root, MANIFEST_KIND, SCHEMA, _REMEDY)
        if found.fingerprint != manifest.fingerprint:
            raise CheckpointError(
                f"{root}: expected the data set {manifest.fingerprint} of this configuration and seed {manifest.seed}, "
                f"found {found.fingerprint} of seed {found.seed}; {_REMEDY}"
            )
        return True
    begun = root / BEGUN_NAME
    if not begun.is_file() and root.is_dir() and any(root.iterdir()):
        raise CheckpointError(
            f"{root}: expected an empty or new folder, found data that was not generated here; choose "
            "another data.root, or set generate: null to read what is there"
        )
    if begun.is_file() and json.loads(begun.read_text()).get("fingerprint") != manifest.fingerprint:
        raise CheckpointError(
            f"{begun}: expected {manifest.fingerprint}, found an unfinished other data set; {_REMEDY}"
        )
    return False
