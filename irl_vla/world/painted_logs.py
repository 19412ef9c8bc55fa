"""Paints the sensors of logs that lack them, from their frames and map alone.

Into a new data set: the logs are written again with the entries of our rig filled in, what the logs have is linked, and
maps and split files are linked, too. In place: only files that the logs name and that are not there are painted, with
the calibration that the logs give; no log is changed. What exists is never painted again, so both can be interrupted.
"""

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.layout import Dataset, below
from irl_vla.dataset.log import read_log
from irl_vla.dataset.log_writer import camera_dict, sweep_path
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.safe_pickle import write_pickle
from irl_vla.dataset.scenes import UNANNOTATED_PREFIX
from irl_vla.dataset.sensors import has_image, has_sweep, write_image, write_sweep
from irl_vla.dataset.splits import LAYOUTS_NAME
from irl_vla.errors import CheckpointError, ConfigError, LogFormatError
from irl_vla.ledger.files import content_hash, write_text
from irl_vla.scene import CAMERA_NAMES, Camera, Frame
from irl_vla.world.brake_lamps import braking_tokens
from irl_vla.world.cameras import paint_cameras
from irl_vla.world.config import WorldSensorConfig
from irl_vla.world.lidar import cast_lidar
from irl_vla.world.rig import Mount, Rig, default_rig, rig_cameras

#: Says what an output folder is painted from and how.
RECORD_NAME: Final = "render.json"
#: Height over width of the official images; logs do not store the size of their images.
_ASPECT: Final = 9 / 16


@dataclass(frozen=True, slots=True)
class Painted:
    """What was painted for one log, or a pair of its follow-up scenes: frames that got something, images and sweeps."""

    log_name: str
    frames: int = 0
    images: int = 0
    sweeps: int = 0

    def and_frame(self, images: int, sweeps: int) -> "Painted":
        """With one more frame, for which so much was painted."""
        return Painted(self.log_name, self.frames + (images + sweeps > 0), self.images + images, self.sweeps + sweeps)


@dataclass(frozen=True, slots=True)
class PaintJob:
    """How a folder of logs is painted, or the second stage of a split.

    Attributes:
        data_split: the folder, or the split.
        target: root of the new data set; None paints in place.
        sensors: which cameras and LiDAR, and their sizes; in place the logs say which cameras and how large.
        seed: of the LiDAR's noise.
        is_second_stage: whether ``data_split`` is a split with second-stage scenes.
    """

    source: Dataset
    data_split: str
    target: Path | None
    sensors: WorldSensorConfig
    seed: int
    is_second_stage: bool = False

    @property
    def blobs(self) -> Path:
        """Folder that painted files are relative to."""
        place = f"{self.data_split}/sensor_blobs" if self.is_second_stage else f"sensor_blobs/{self.data_split}"
        return below(self.target or self.source.root, place, "data_split")

    @property
    def scene_folder(self) -> Path:
        """Where the second-stage scenes that go with the painted files lie, or will."""
        root = self.target or self.source.root
        return below(root, f"{self.data_split}/synthetic_scene_pickles", "data_split")

    def log_path(self, name: str) -> Path:
        """Where the log that goes with the painted files lies, or will."""
        return below((self.target or self.source.root) / "navsim_logs", f"{self.data_split}/{name}.pkl", "log")


def begin_output(source: Dataset, target: Path, sensors: WorldSensorConfig, seed: int) -> None:
    """Makes or checks the new data set's folder: its record, maps, split files and layouts.

    Raises:
        ConfigError: if the folder lies in the source, or is filled with something else.
        CheckpointError: if it was begun with other settings or from other data.
    """
    root, origin = target.resolve(), source.root.resolve()
    if root == origin or origin in root.parents or root in origin.parents:
        raise ConfigError(
            f"{target}: expected a folder apart from {source.root}, found them nested; choose another one"
        )
    values = {"source": str(origin), "sensors": sensors.model_dump(mode="json"), "seed": seed}
    record = target / RECORD_NAME
    if record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        if found != values:
            raise CheckpointError(f"{record}: expected {values}, found {found}; choose another output folder")
    elif target.is_dir() and any(target.iterdir()):
        raise ConfigError(f"{target}: expected a new or empty folder, found other files; choose another output folder")
    link(source.maps_root, target / "maps")
    if source.splits_root.is_dir():
        link(source.splits_root, target / "train_test_split")
    if (source.root / LAYOUTS_NAME).is_file():
        link(source.root / LAYOUTS_NAME, target / LAYOUTS_NAME)
    write_text(record, json.dumps(values, indent=1))


def paint_log(job: PaintJob, name: str) -> Painted:
    """Paints what a log lacks; with a target also writes the log there, last.

    Raises:
        LogFormatError: if the log breaks the format, or cannot be painted in place.
    """
    painted = Painted(name)
    if job.target is not None and job.log_path(name).is_file():
        return painted
    annotated = not job.data_split.startswith(UNANNOTATED_PREFIX)
    log = read_log(job.source.log_folder(job.data_split) / f"{name}.pkl", annotated)
    if job.target is None:
        check_named_files(log.path, [log.frame(index) for index in range(len(log))])
    rows: list[dict[str, Any]] = []
    for index, raw in enumerate(log.raw):
        before = log.frame(index - 1) if index else None
        frame = log.frame(index)
        wanted = equipped(job, frame, name)
        painted = painted.and_frame(*paint_frame(job, log.map_name(index), before, frame, wanted))
        cameras = {key: camera_dict(wanted.cameras[key]) if key in wanted.cameras else {} for key in CAMERA_NAMES}
        rows.append({**raw, "cams": cameras, "lidar_path": wanted.lidar_path})
    if job.target is not None:
        write_pickle(job.log_path(name), rows)
    return painted


def equipped(job: PaintJob, frame: Frame, log_name: str) -> Frame:
    """The frame with what it has linked into the target, and entries of our rig for what it has not.

    Cameras that are neither there nor asked for lose their entry: it would name a file that is missing. In place frames
    stay as they are.
    """
    if job.target is None:
        return frame
    sensors = job.sensors
    rig = _rig(sensors.cameras, sensors.image_width_px, sensors.image_height_px)
    stored = {key: item for key, item in frame.cameras.items() if has_image(job.source, job.data_split, item)}
    for camera in stored.values():
        _link_sensor(job, camera.path)
    lidar_path = sweep_path(log_name, frame.token)
    if frame.lidar_path is not None and has_sweep(job.source, job.data_split, frame.lidar_path):
        lidar_path = frame.lidar_path
        _link_sensor(job, lidar_path)
    return replace(frame, cameras=rig_cameras(rig, log_name, frame.token) | stored, lidar_path=lidar_path)


def paint_frame(job: PaintJob, city: str, before: Frame | None, frame: Frame, wanted: Frame) -> tuple[int, int]:
    """Paints the files that ``wanted`` names and that are not there; numbers of images and sweeps.

    Args:
        before: the frame half a second earlier, None for the first one; it tells who brakes.
    """
    lost = {key: item for key, item in wanted.cameras.items() if not below(job.blobs, item.path, "data_path").exists()}
    lidar = job.sensors.lidar if wanted.lidar_path is not None else None
    path = below(job.blobs, wanted.lidar_path or "none", "lidar_path")
    if not lost and (lidar is None or path.exists()):
        return 0, 0
    map_view = load_map(job.source, city)
    if lost:
        rig = Rig({key: _mount(job, key, camera) for key, camera in lost.items()})
        for key, image in paint_cameras(frame, map_view, rig, braking_tokens(before, frame)).items():
            write_image(job.blobs / lost[key].path, image, job.sensors.jpeg_quality)
    if lidar is None or path.exists():
        return len(lost), 0
    generator = np.random.default_rng([job.seed, zlib.crc32(frame.token.encode())])
    write_sweep(path, cast_lidar(frame, map_view, lidar, generator))
    return len(lost), 1


def _mount(job: PaintJob, name: str, camera: Camera) -> Mount:
    sensors = job.sensors
    if job.target is not None:
        return _rig(sensors.cameras, sensors.image_width_px, sensors.image_height_px).mounts[name]
    values = (camera.rotation, camera.translation_m, camera.intrinsic)
    return _logged_mount(*(np.ascontiguousarray(value).tobytes() for value in values))


@lru_cache(maxsize=64)
def _logged_mount(rotation: bytes, translation: bytes, intrinsic: bytes) -> Mount:
    """One mount a calibration: the painter keeps what depends on it by the mount's identity."""
    matrix = np.frombuffer(intrinsic).reshape(3, 3)
    width = max(round(2 * matrix[0, 2]), 1)
    position = np.frombuffer(translation)
    return Mount(np.frombuffer(rotation).reshape(3, 3), position, matrix, width, max(round(width * _ASPECT), 1))


@lru_cache(maxsize=4)
def _rig(names: tuple[str, ...], width_px: int, height_px: int) -> Rig:
    return default_rig(names, width_px, height_px)


def check_named_files(source: Path, frames: Sequence[Frame]) -> None:
    """In place, each frame must name files of its own, taken by cameras that the painter can imitate.

    Raises:
        LogFormatError: naming the first sensor for which that does not hold.
    """
    remedy = "paint into a new data set: --output FOLDER"
    paths: list[str] = []
    for index, frame in enumerate(frames):
        for name, camera in frame.cameras.items():
            if camera.distortion.any():
                raise LogFormatError(
                    f"{source}: frame {index}: cams.{name}.distortion: expected zeros, since painted images have no "
                    f"lens distortion, found {camera.distortion.tolist()}; {remedy}"
                )
            paths.append(camera.path)
        paths += [] if frame.lidar_path is None else [frame.lidar_path]
    if not paths or len(set(paths)) < len(paths):
        found = "none at all" if not paths else "one that frames share"
        raise LogFormatError(f"{source}: expected paths of sensor files in the frames, found {found}; {remedy}")


def _link_sensor(job: PaintJob, relative: str) -> None:
    link(below(job.source.sensor_folder(job.data_split), relative, "sensor"), job.blobs / relative)


def link(source: Path, target: Path) -> None:
    """Makes a symbolic link unless it is there; whole or absent."""
    if target.is_symlink():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{content_hash(str(os.getpid()))}"
    temporary.symlink_to(source.resolve())
    temporary.replace(target)
