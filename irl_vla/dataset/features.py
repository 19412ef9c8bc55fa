"""Turns a scene into what a policy sees of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from irl_vla.dataset.config import SensorConfig
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.sensors import has_image, has_sweep, load_image, load_sweep
from irl_vla.errors import LogFormatError, SceneError
from irl_vla.geometry import Floats, compose, relative_to
from irl_vla.scene import COMMAND_NAMES, HISTORY_FRAMES, Camera, Frame, MapView, Observation, Scene

QUESTION: Final = "What is your driving decision for the next four seconds?"
#: Rows of a stored sweep that an observation keeps: x, y, z, intensity.
OBSERVED_ROWS: Final = 4


class SensorSource(Protocol):
    """Gives the images and sweeps of a frame, from files or painted."""

    def image(self, scene: Scene, frame: Frame, camera: str) -> tuple[NDArray[np.uint8], Camera] | None:
        """A camera's (h, w, 3) RGB image and the calibration it was taken with, relative to this frame's ego."""

    def sweep(self, scene: Scene, frame: Frame) -> NDArray[np.float32] | None:
        """A LiDAR sweep (6, n) in this frame's ego frame; None where there is none."""


#: Gives the sensors of shifted views of a scene, from the scene as logged and its map.
ViewSensors = Callable[[Scene, MapView], SensorSource]


@dataclass(frozen=True, slots=True)
class StoredSensors:
    """Images and sweeps of the data set's files; a shifted-ego view sees what the real ego recorded."""

    dataset: Dataset

    def image(self, scene: Scene, frame: Frame, camera: str) -> tuple[NDArray[np.uint8], Camera] | None:
        """The stored image, None if the log has none of this camera or the file is not there."""
        calibration = frame.cameras.get(camera)
        if calibration is None or not has_image(self.dataset, scene.data_split, calibration):
            return None
        return load_image(self.dataset, scene.data_split, calibration), calibration

    def sweep(self, scene: Scene, frame: Frame) -> NDArray[np.float32] | None:
        """The stored sweep, None if the log has none or the file is not there."""
        if frame.lidar_path is None or not has_sweep(self.dataset, scene.data_split, frame.lidar_path):
            return None
        sweep = load_sweep(self.dataset, scene.data_split, frame.lidar_path)
        return sweep if frame.sweep_pose is None else _moved(sweep, frame.sweep_pose)


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """What ego and sensors gave over the history, before anything is resized, straightened or moved.

    Attributes:
        images: of the current frame, by camera name: (h, w, 3) RGB as taken and its calibration; absent where missing.
        sweeps: one (R, n) a history frame, oldest first, in that frame's own ego frame, R >= ``OBSERVED_ROWS``; None
            where missing or not configured.
        history: (4, 7) as in :class:`irl_vla.scene.Observation`.
        command: index into ``COMMAND_NAMES``.
    """

    images: Mapping[str, tuple[NDArray[np.uint8], Camera]]
    sweeps: Sequence[NDArray[np.float32] | None]
    history: Floats
    command: int


def build_observation(scene: Scene, sensors: Dataset | SensorSource, config: SensorConfig) -> Observation:
    """Collects images, sweeps, ego history, command and instruction of a scene's current frame.

    Frames behind the current one are never read, so that nothing of the future can leak.

    Args:
        sensors: a data set (its files), or another source of images and sweeps.

    Raises:
        LogFormatError: if a sensor is missing (unless ``config.allow_missing``) or its file is broken.
        SceneError: if the scene has not four history frames.
    """
    if scene.num_history != HISTORY_FRAMES:
        raise SceneError(f"{scene.token}: expected {HISTORY_FRAMES} history frames, found {scene.num_history}")
    source: SensorSource = StoredSensors(sensors) if isinstance(sensors, Dataset) else sensors
    images: dict[str, tuple[NDArray[np.uint8], Camera]] = {}
    for name in config.cameras:
        taken = source.image(scene, scene.current, name)
        if taken is not None:
            images[name] = taken
        elif not config.allow_missing:
            stored = scene.current.cameras.get(name)
            raise _missing(scene, scene.current, name, stored.path if stored else None)
    sweeps = _sweeps(scene, source, config)
    return observe(scene.token, Readings(images, sweeps, ego_history(scene), scene.current.ego.command), config)


def observe(token: str, readings: Readings, config: SensorConfig) -> Observation:
    """Brings readings into the form that policies take; the one way to an observation, whoever read the sensors.

    A camera without an image is blank and not valid, a history frame without a sweep is empty.
    """
    shape = (len(config.cameras), config.image_height_px, config.image_width_px, 3)
    images, valid = np.zeros(shape, np.uint8), np.zeros(shape[0], np.bool_)
    intrinsics, camera_to_ego = np.tile(np.eye(3), (shape[0], 1, 1)), np.tile(np.eye(4), (shape[0], 1, 1))
    for index, name in enumerate(config.cameras):
        if name in readings.images:
            image, camera = readings.images[name]
            images[index], intrinsics[index] = pinhole_image(image, camera, *shape[1:3])
            camera_to_ego[index, :3, :3], camera_to_ego[index, :3, 3] = camera.rotation, camera.translation_m
            valid[index] = True
    return Observation(
        token=token,
        camera_names=tuple(config.cameras),
        images=images,
        camera_valid=valid,
        intrinsics=intrinsics,
        camera_to_ego=camera_to_ego,
        sweeps=_in_current_frame(readings.sweeps, readings.history),
        history=readings.history,
        command=readings.command,
        instruction=instruction_text(readings.history, readings.command),
    )


def ego_history(scene: Scene) -> Floats:
    """(H, 7) x, y, heading, vx, vy, ax, ay, oldest first; poses relative to the current rear axle."""
    statuses = [frame.ego for frame in scene.history]
    poses = relative_to(statuses[-1].pose_global, np.stack([status.pose_global for status in statuses]))
    motion = [np.concatenate([status.velocity_mps, status.acceleration_mps2]) for status in statuses]
    return np.concatenate([poses, np.stack(motion)], axis=-1)


def instruction_text(history: Floats, command: int) -> str:
    """The question to the language model, with the current speed of a history (H, 7) and the command in words."""
    speed_mps = float(np.hypot(*history[-1, 3:5]))
    return f"{QUESTION} The ego vehicle drives at {speed_mps:.1f} m/s. Command: {COMMAND_NAMES[command]}."


def pinhole_image(
    image: NDArray[np.uint8], camera: Camera, height_px: int, width_px: int
) -> tuple[NDArray[np.uint8], Floats]:
    """Resizes an image and removes its lens distortion.

    Distortion acts on normalised coordinates, so the small image can be straightened as well as the large one, at a
    fraction of the cost.

    Returns:
        (height_px, width_px, 3) image and (3, 3) intrinsics for it (pixel centres at whole coordinates).
    """
    rows, columns = image.shape[:2]
    intrinsic = scaled_intrinsic(camera.intrinsic, width_px / columns, height_px / rows)
    if (rows, columns) != (height_px, width_px):
        shrinks = height_px < rows and width_px < columns
        image = cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if camera.distortion.any():
        whole, fraction = _straightening(intrinsic.tobytes(), camera.distortion.tobytes(), height_px, width_px)
        image = cv2.remap(image, whole, fraction, interpolation=cv2.INTER_LINEAR)
    return image, intrinsic


def scaled_intrinsic(intrinsic: Floats, scale_x: float, scale_y: float) -> Floats:
    """Intrinsics (3, 3) after a resize; the half pixel keeps the image's corner, not its first pixel, in place."""
    scaled = np.array(intrinsic, dtype=np.float64)
    scaled[0] *= scale_x
    scaled[1] *= scale_y
    scaled[0, 2] += 0.5 * scale_x - 0.5
    scaled[1, 2] += 0.5 * scale_y - 0.5
    return scaled


@lru_cache(maxsize=64)
def _straightening(
    intrinsic: bytes, distortion: bytes, height_px: int, width_px: int
) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Fixed-point maps of one calibration; cameras of a log share them, so they are computed once."""
    matrix, lens = np.frombuffer(intrinsic).reshape(3, 3), np.frombuffer(distortion)
    whole, fraction = cv2.initUndistortRectifyMap(matrix, lens, None, matrix, (width_px, height_px), cv2.CV_16SC2)
    return whole, fraction


def _sweeps(scene: Scene, source: SensorSource, config: SensorConfig) -> list[NDArray[np.float32] | None]:
    """The configured sweeps, each in its own frame's ego frame."""
    found: list[NDArray[np.float32] | None] = []
    for index, frame in enumerate(scene.history):
        sweep = source.sweep(scene, frame) if index in config.lidar_history else None
        if sweep is None and index in config.lidar_history and not config.allow_missing:
            raise _missing(scene, frame, "LiDAR sweep", frame.lidar_path)
        found.append(sweep)
    return found


def _in_current_frame(sweeps: Sequence[NDArray[np.float32] | None], history: Floats) -> tuple[NDArray[np.float32], ...]:
    """One (n, 4) sweep a history frame in the current ego frame; empty where there is none."""
    moved = []
    for index, sweep in enumerate(sweeps):
        if sweep is None:
            moved.append(np.zeros((0, OBSERVED_ROWS), np.float32))
            continue
        here = sweep if index == len(sweeps) - 1 else _moved(sweep, history[index, :3])
        moved.append(np.ascontiguousarray(here[:OBSERVED_ROWS].T))
    return tuple(moved)


def _moved(sweep: NDArray[np.float32], pose: Floats) -> NDArray[np.float32]:
    """A sweep (R, n) given in the frame at ``pose`` (3,), in the frame in which ``pose`` is given; heights stay."""
    moved = sweep.copy()
    points = np.zeros((sweep.shape[1], 3))
    points[:, :2] = sweep[:2].T
    moved[:2] = compose(pose, points)[:, :2].T
    return moved


def _missing(scene: Scene, frame: Frame, what: str, path: str | None) -> LogFormatError:
    found = f"no file {path}" if path else "no entry in the log"
    return LogFormatError(
        f"{scene.data_split}/{scene.log_name}: frame {frame.token}: {what}: expected a sensor file, found {found}; "
        "fetch the sensor data, leave the sensor out of the configuration or set allow_missing"
    )
