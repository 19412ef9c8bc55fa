"""Reads NAVSIM log pickles: lists of 2 Hz frame dicts, validated and converted frame by frame on demand."""

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.log_writer import LogMeta, write_log
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.errors import LogFormatError
from irl_vla.geometry import Floats
from irl_vla.scene import CAMERA_NAMES, CITIES, OBJECT_NAMES, Boxes, Camera, EgoStatus, Frame

__all__ = ["Log", "LogMeta", "read_log", "write_log"]

#: Keys of a frame that are read; a file may have more.
FRAME_KEYS: Final = (
    "token",
    "timestamp",
    "log_name",
    "map_location",
    "roadblock_ids",
    "traffic_lights",
    "driving_command",
    "ego2global_translation",
    "ego2global_rotation",
    "ego_dynamic_state",
    "lidar_path",
    "cams",
)
ANNOTATION_KEYS: Final = ("gt_boxes", "gt_names", "gt_velocity_3d", "instance_tokens", "track_tokens")
_KNOWN_NAMES: Final = frozenset((*OBJECT_NAMES, "ego"))
_CITY_ALIASES: Final = {"las_vegas": "us-nv-las-vegas-strip"}
#: Faster is a broken file, not a car; far below what float32 can hold.
_FASTEST: Final = 1e6
_NO_OBJECTS: Final = Boxes(boxes=np.zeros((0, 7)), names=(), velocity_mps=np.zeros((0, 3)), track_tokens=())


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """One log in memory; a frame is validated and converted when it is first asked for, and then kept.

    Attributes:
        raw: the frames as the file holds them.
        converted: the frames asked for so far, by index.
        annotated: False for private test logs, which have no annotations.
    """

    path: Path
    raw: tuple[Mapping[str, Any], ...]
    converted: dict[int, Frame]
    annotated: bool

    def __len__(self) -> int:
        return len(self.raw)

    def token(self, index: int) -> str:
        """Token of a frame, which is the token of the scene whose current frame it is."""
        return RawFrame(self.path, index, self.raw[index]).text("token")

    def map_name(self, index: int) -> str:
        """City of a frame."""
        return parse_city(RawFrame(self.path, index, self.raw[index]))

    def has_route(self, index: int) -> bool:
        """True if the frame's route names at least one roadblock."""
        return len(RawFrame(self.path, index, self.raw[index]).sequence("roadblock_ids")) > 0

    def image_paths(self, index: int) -> dict[str, str]:
        """File of each camera of a frame, relative to the sensor folder; a camera without an entry is left out."""
        entries = RawFrame(self.path, index, self.raw[index]).inner("cams")
        found = {str(name): entries.inner(name) for name in entries.values}
        return {name: entry.text("data_path") for name, entry in found.items() if entry.values}

    def sweep_path(self, index: int) -> str | None:
        """File of the LiDAR sweep of a frame, None if the log has none."""
        raw = RawFrame(self.path, index, self.raw[index])
        return None if raw.get("lidar_path") is None else raw.text("lidar_path")

    def frame(self, index: int) -> Frame:
        """The frame at an index (0 .. len - 1).

        Raises:
            LogFormatError: naming file, frame and key of whatever does not fit.
        """
        if index not in self.converted:
            self.converted[index] = _frame(RawFrame(self.path, index, self.raw[index]), self.annotated)
        return self.converted[index]


def read_log(path: Path, annotated: bool = True) -> Log:
    """Reads a log file; frames stay unconverted until asked for.

    Args:
        annotated: False accepts frames without ``anns`` (private test logs).

    Raises:
        LogFormatError: if the file is missing, cut off, refers to foreign classes, is no list of dicts, is not in time
            order or repeats a token.
    """
    frames = read_pickle(path)
    if not isinstance(frames, list) or not frames:
        raise LogFormatError(f"{path}: expected a non-empty list of frames, found {describe(frames)}; fetch it again")
    seen: set[str] = set()
    previous_us = -1
    for index, item in enumerate(frames):
        if not isinstance(item, dict):
            raise LogFormatError(f"{path}: frame {index}: expected a dict, found {describe(item)}; fetch the log again")
        frame = RawFrame(path, index, item)
        token, time_us = frame.text("token"), frame.integer("timestamp")
        if token in seen:
            frame.fail("token", "a token used once in the log", describe(token))
        if time_us <= previous_us:
            frame.fail("timestamp", f"a time after {previous_us} us", str(time_us))
        seen.add(token)
        previous_us = time_us
    return Log(path=path, raw=tuple(frames), converted={}, annotated=annotated)


def _frame(raw: RawFrame, annotated: bool) -> Frame:
    for key in FRAME_KEYS:
        raw.get(key)
    lidar_path = raw.values["lidar_path"]
    return Frame(
        token=raw.text("token"),
        timestamp_us=raw.integer("timestamp"),
        ego=parse_ego(raw),
        objects=parse_boxes(raw.inner("anns")) if annotated or "anns" in raw.values else _NO_OBJECTS,
        traffic_lights=parse_traffic_lights(raw),
        roadblock_ids=raw.texts("roadblock_ids"),
        cameras=parse_cameras(raw.inner("cams")),
        lidar_path=None if lidar_path is None else raw.text("lidar_path"),
    )


def parse_city(raw: RawFrame, key: str = "map_location") -> str:
    """The city's name in full."""
    name = raw.text(key)
    name = _CITY_ALIASES.get(name, name)
    if name not in CITIES:
        raw.fail(key, f"one of {', '.join(CITIES)}", describe(name))
    return name


def parse_ego(raw: RawFrame) -> EgoStatus:
    """Pose, motion and command of the ego; raises a LogFormatError like all of these."""
    translation = raw.floats("ego2global_translation", (3,))
    rotation = raw.floats("ego2global_rotation", (4,))
    if not 0.5 < np.linalg.norm(rotation) < 2.0:
        raw.fail("ego2global_rotation", "a unit quaternion w, x, y, z", str(rotation.tolist()))
    dynamics = parse_motion(raw, "ego_dynamic_state", 4)
    return EgoStatus(
        pose_global=np.array([translation[0], translation[1], heading_of(rotation)]),
        velocity_mps=dynamics[:2],
        acceleration_mps2=dynamics[2:],
        command=parse_command(raw),
    )


def parse_motion(raw: RawFrame, key: str, length: int) -> Floats:
    """Velocities or accelerations, which the official loader rounds to float32 before anything else sees them."""
    motion = raw.floats(key, (length,))
    if np.abs(motion).max() > _FASTEST:
        raw.fail(key, f"m/s and m/s2 below {_FASTEST:.0f}", str(motion.tolist()))
    return motion.astype(np.float32).astype(np.float64)


def parse_command(raw: RawFrame) -> int:
    """Index of the driving command."""
    command = raw.floats("driving_command", (4,))
    if np.count_nonzero(command) != 1 or command.max() != 1:
        raw.fail("driving_command", "a one-hot of left, straight, right, unknown", str(command.tolist()))
    return int(command.argmax())


def heading_of(rotation: Floats) -> float:
    """Heading of a quaternion (4,) w, x, y, z exactly as the official loader computes it.

    pyquaternion's ``yaw_pitch_roll`` has ``wz - xy`` where the z-y'-x'' yaw of the same rotation has ``wz + xy``; with
    the small roll and pitch of a car the two differ by about 1e-4 rad. Scores are defined by the official one.
    """
    w, x, y, z = (float(value) for value in rotation)
    squares = w * w + x * x + y * y + z * z
    if abs(1.0 - squares) >= 1e-14:
        w, x, y, z = (float(value) for value in np.array([w, x, y, z]) / np.sqrt(squares))
    return float(np.arctan2(2 * (w * z - x * y), 1 - 2 * (y**2 + z**2)))


def parse_boxes(raw: RawFrame, keys: tuple[str, str, str, str, str] = ANNOTATION_KEYS) -> Boxes:
    """Annotated objects out of the dict ``anns``, or of a dict with other keys in the same order."""
    for key in keys:
        raw.get(key)
    boxes, velocity = raw.floats(keys[0], (None, 7)), raw.floats(keys[2], (None, 3))
    names, track_tokens = raw.texts(keys[1]), raw.texts(keys[4])
    columns: tuple[Sized, ...] = (boxes, names, velocity, raw.sequence(keys[3]), track_tokens)
    lengths = {key: len(column) for key, column in zip(keys, columns, strict=True)}
    if len(set(lengths.values())) != 1:
        raw.fail("*", "five annotations of equal length", ", ".join(f"{key} {size}" for key, size in lengths.items()))
    unknown = set(names) - _KNOWN_NAMES
    if unknown:
        raw.fail(keys[1], f"names out of {', '.join(OBJECT_NAMES)}", describe(min(unknown)))
    return Boxes(boxes=boxes, names=names, velocity_mps=velocity, track_tokens=track_tokens)


def parse_traffic_lights(raw: RawFrame) -> tuple[tuple[int, bool], ...]:
    """Pairs of lane connector id and is-red."""
    lights = []
    for item in raw.sequence("traffic_lights"):
        try:
            connector, is_red = item
            lights.append((int(np.int64(connector)), bool(is_red)))
        except (TypeError, ValueError, OverflowError):
            raw.fail("traffic_lights", "pairs of lane connector id and is-red", describe(item))
    return tuple(lights)


def parse_cameras(raw: RawFrame) -> dict[str, Camera]:
    """Cameras by name out of the dict ``cams``; a camera without images has an empty entry, or none."""
    unknown = set(raw.values) - set(CAMERA_NAMES)
    if unknown:
        name = min(unknown, key=describe)
        key = name if isinstance(name, str) else describe(name)
        raw.fail(key, f"cameras out of {', '.join(CAMERA_NAMES)}", "another name")
    cameras = {}
    for name in raw.values:
        entry = raw.inner(name)
        if entry.values:
            cameras[name] = parse_camera(entry)
    return cameras


def parse_camera(entry: RawFrame) -> Camera:
    """Calibration and file of one camera."""
    return Camera(
        path=entry.text("data_path"),
        rotation=entry.floats("sensor2lidar_rotation", (3, 3)),
        translation_m=entry.floats("sensor2lidar_translation", (3,)),
        intrinsic=entry.floats("cam_intrinsic", (3, 3)),
        distortion=entry.floats("distortion", (5,)),
    )
