"""Writes a generated data set in NAVSIM's layout, one log at a time, resumable."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.fingerprint import generator_of
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.log_writer import LogMeta, write_log
from irl_vla.dataset.maps.content import CITY_EPSG, MapContent
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.maps.writer import map_path, write_index, write_map
from irl_vla.dataset.sensors import write_image, write_sweep
from irl_vla.dataset.splits import LogLayout, write_layouts, write_split
from irl_vla.dataset.spread import spread
from irl_vla.errors import CheckpointError
from irl_vla.ledger.artefact import Artefact
from irl_vla.ledger.progress import followed
from irl_vla.scene import CITIES, FUTURE_FRAMES, HISTORY_FRAMES, Frame, MapView
from irl_vla.world.cameras import paint_cameras
from irl_vla.world.config import WorldConfig, WorldSensorConfig
from irl_vla.world.drive import drive, repeatable_drive
from irl_vla.world.follow_up import draw_group, preferred_frames
from irl_vla.world.frames import LogStamp, lit_tokens, make_frames
from irl_vla.world.identity import (
    GENERATOR_VERSION,
    REMEDY,
    is_finished,
    is_other,
    remove_world,
    second_stage_artefact,
    world_artefact,
)
from irl_vla.world.lidar import cast_lidar
from irl_vla.world.plan import (
    FOLLOWED_SPLIT,
    SPLITS,
    GroupPlan,
    LogPlan,
    group_generator,
    group_plans,
    layout_plans,
    log_generator,
    log_plans,
    network_of,
    pair_order,
)
from irl_vla.world.rig import Rig, default_rig
from irl_vla.world.second_stage_files import (
    SECOND_STAGE,
    SEEN_FRAMES,
    Origin,
    make_pair,
    write_group_record,
    write_pair,
    write_second_stage_index,
)

_log = logging.getLogger(__name__)
_Plan = TypeVar("_Plan", LogPlan, GroupPlan)


def generate(config: WorldConfig, root: Path, seed: int, replace: bool = False) -> None:
    """Writes maps, split files, ``layouts.json``, then every missing log; then follow-up scenes.

    A log file is written after its sensor files and atomically, so a log that exists is whole and is not made again.
    Every log depends on configuration, seed, layout and its index alone, neither on order nor on the number of workers.
    The same holds for the groups of follow-up scenes, which have a record of their own: they may be added later.

    Args:
        replace: removes what another configuration, seed or generator version wrote into ``root``.

    Raises:
        ConfigError: if the layouts of a split cannot show every scenario kind.
        CheckpointError: if ``root`` holds data of another configuration, seed or generator version, or data that was
            not generated at all.
    """
    world = world_artefact(config, root, seed)
    if replace and is_other(world):
        remove_world(root)
    if is_finished(world):
        _log.info("%s: already generated", root)
    else:
        _generate_logs(config, root, seed, world)
    if config.two_stage is not None:
        _generate_follow_ups(config, root, seed, world, replace)


def _generate_logs(config: WorldConfig, root: Path, seed: int, world: Artefact) -> None:
    plans = log_plans(config, seed)
    world.begin()
    _write_maps(config, root, seed)
    _write_splits(config, root, plans)
    missing = [plan for plan in plans if not _log_path(config, root, plan).is_file()]
    _log.info("%s: %d of %d logs to generate", root, len(missing), len(plans))
    _make_all(partial(generate_log, config, root, seed), missing, config.workers, "logs")
    world.finish({"splits": {name: getattr(config, name).decisive() for name in SPLITS}})


def _generate_follow_ups(config: WorldConfig, root: Path, seed: int, world: Artefact, replace: bool) -> None:
    """Writes every missing group of follow-up scenes, then what lists them, then marks them as whole.

    Args:
        world: as this version would make it: a drive is simulated again before it is left.
    """
    found = generator_of(root)
    second = second_stage_artefact(config, root / SECOND_STAGE, seed, str(found))
    if replace and is_other(second):
        second.folder.delete()
    if is_finished(second):
        _log.info("%s: already generated", second.folder)
        return
    if found != world.fingerprint:
        raise CheckpointError(
            f"{root}: expected logs of generator version {GENERATOR_VERSION} to add follow-up scenes to, found those "
            f"of another version, whose drives cannot be repeated; {REMEDY}"
        )
    plans = group_plans(config, seed)
    second.begin()
    missing = [plan for plan in plans if not _group_path(config, root, plan).is_file()]
    _log.info("%s: %d of %d groups to generate", second.folder, len(missing), len(plans))
    _make_all(partial(generate_group, config, root, seed), missing, config.workers, "groups of follow-up scenes")
    write_second_stage_index(root, [_group_path(config, root, plan) for plan in plans], FOLLOWED_SPLIT)
    second.finish()


def generate_log(config: WorldConfig, root: Path, seed: int, plan: LogPlan) -> str:
    """Simulates and writes one log with its sensor files; returns its name."""
    generator = log_generator(plan, seed)
    scenario, moments = drive(network_of(plan.layout, seed), plan.kind, config.frames_per_log, generator)
    stamp, rig = _stamp(config, plan, seed), _rig(config.sensors)
    has_lidar = _has_lidar(config.sensors)
    frames = make_frames(scenario, moments, stamp, range_m=config.object_range_m, rig=rig, has_lidar=has_lidar)
    if config.sensors is not None:
        sensors = _SensorFiles(root / "sensor_blobs" / plan.layout.split, config.sensors, rig, _map_of(root, plan))
        sensors.write(frames, [lit_tokens(moment, stamp) for moment in moments], generator)
    write_log(_log_path(config, root, plan), frames, _meta(config, plan))
    return stamp.log_name


def generate_group(config: WorldConfig, root: Path, seed: int, plan: GroupPlan) -> str:
    """Simulates and writes the follow-up scenes of one pair of neighbouring scenes; returns the name of their log.

    Raises:
        ValueError: if the configuration has no second stage.
    """
    if config.two_stage is None:
        raise ValueError("two_stage: expected its settings, found None; set generate.two_stage")
    log, generator = plan.log, group_generator(plan, seed)
    network = network_of(log.layout, seed)
    logged = repeatable_drive(network, log.kind, config.frames_per_log, log_generator(log, seed))
    order = preferred_frames(logged.moments, pair_order(log, seed, config.pairs_per_log))
    map_view, stamp = _map_of(root, log), _stamp(config, log, seed)
    follow_ups = draw_group(logged, order[plan.rank :: plan.of], config.two_stage, map_view, generator)
    bare = partial(make_frames, logged.scenario, stamp=stamp, range_m=config.object_range_m, rig=None, has_lidar=False)
    origin = Origin(_meta(config, log), bare(logged.moments), follow_ups[0].left_at)
    rig, has_lidar = _rig(config.sensors), _has_lidar(config.sensors)
    folder = root / SECOND_STAGE
    pairs = []
    for number, item in enumerate(follow_ups):
        pair = make_pair(item, bare(item.moments), stamp.log_name, number, rig=rig, has_lidar=has_lidar)
        if config.sensors is not None:
            seen = item.moments[item.now - SEEN_FRAMES + 1 : item.now + 1]
            sensors = _SensorFiles(folder / "sensor_blobs", config.sensors, rig, map_view)
            sensors.write(pair.frames[:SEEN_FRAMES], [lit_tokens(moment, stamp) for moment in seen], generator)
        write_pair(folder, pair, origin)
        pairs.append(pair)
    write_group_record(_group_path(config, root, plan), origin, pairs)
    return stamp.log_name


@dataclass(frozen=True, slots=True, eq=False)
class _SensorFiles:
    """Where and how the sensors of frames are painted."""

    folder: Path
    sensors: WorldSensorConfig
    rig: Rig | None
    map_view: MapView

    def write(self, frames: Sequence[Frame], braking: Sequence[frozenset[str]], generator: np.random.Generator) -> None:
        """Paints and casts what the frames name.

        Args:
            braking: track tokens of vehicles with lit brake lamps, a frame.
            generator: of the LiDAR's noise.
        """
        for frame, tokens in zip(frames, braking, strict=True):
            if self.rig is not None:
                images = paint_cameras(frame, self.map_view, self.rig, tokens)
                for camera, image in images.items():
                    write_image(self.folder / frame.cameras[camera].path, image, self.sensors.jpeg_quality)
            if self.sensors.lidar is not None and frame.lidar_path is not None:
                sweep = cast_lidar(frame, self.map_view, self.sensors.lidar, generator)
                write_sweep(self.folder / frame.lidar_path, sweep)


def _make_all(make: Callable[[_Plan], str], plans: Sequence[_Plan], workers: int, unit: str) -> None:
    for name in followed(spread(make, plans, workers), "generate", unit, len(plans)):
        _log.debug("wrote %s", name)


def _stamp(config: WorldConfig, plan: LogPlan, seed: int) -> LogStamp:
    return LogStamp(plan.log_name(config.frames_per_log), int(plan.start.timestamp()) * 1_000_000, seed)


def _meta(config: WorldConfig, plan: LogPlan) -> LogMeta:
    vehicle = f"veh-{plan.layout.number % 100:02d}"
    return LogMeta(plan.log_name(config.frames_per_log), plan.layout.city, vehicle)


def _map_of(root: Path, plan: LogPlan) -> MapView:
    return load_map(open_dataset(DataConfig(root=root)), plan.layout.city)


def _has_lidar(sensors: WorldSensorConfig | None) -> bool:
    return sensors is not None and sensors.lidar is not None


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


def _group_path(config: WorldConfig, root: Path, plan: GroupPlan) -> Path:
    name = f"{plan.log.log_name(config.frames_per_log)}-{plan.rank:02d}.json"
    return root / SECOND_STAGE / "groups" / name
