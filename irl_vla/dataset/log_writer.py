"""Writes NAVSIM log pickles that the official loader reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.safe_pickle import write_pickle
from irl_vla.geometry import Floats
from irl_vla.ledger.files import content_hash
from irl_vla.scene import CAMERA_NAMES, Boxes, Camera, Frame

#: nuPlan cuts logs into scenes of 20 s, which are 40 frames.
SCENE_FRAMES: Final = 40


@dataclass(frozen=True, slots=True)
class LogMeta:
    """What a log file says beside its frames.

    Attributes:
        log_name: file name without ``.pkl``; officially ``YYYY.MM.DD.hh.mm.ss_veh-NN_<start>_<end>``.
        map_name: one of ``CITIES``.
        altitude_m: height of the ground, which maps and scores ignore.
    """

    log_name: str
    map_name: str
    vehicle_name: str = "veh-00"
    altitude_m: float = 0.0


def write_log(path: Path, frames: Sequence[Frame], meta: LogMeta) -> None:
    """Writes frames as the official list of dicts, atomically.

    A frame without a sweep still says where it would lie, because the official loader stops at a path that is None.
    The file holds builtins and arrays only, in pickle protocol 4 with the names of numpy 1, so the official environment
    (Python 3.9, numpy 1.23) reads it. The ego heading is stored as a rotation about z, boxes as they are.
    """
    neighbours: list[str | None] = [None, *(frame.token for frame in frames), None]
    write_pickle(
        path,
        [
            _frame_dict(frame, meta, index) | {"sample_prev": neighbours[index], "sample_next": neighbours[index + 2]}
            for index, frame in enumerate(frames)
        ],
    )


def sweep_path(log_name: str, token: str) -> str:
    """Where a frame's sweep belongs, relative to the split's sensor folder."""
    return f"{log_name}/MergedPointCloud/{token}.pcd"


def _frame_dict(frame: Frame, meta: LogMeta, index: int) -> dict[str, Any]:
    x, y, heading = (float(value) for value in frame.ego.pose_global)
    translation = np.array([x, y, meta.altitude_m])
    rotation = np.array([np.cos(heading / 2), 0.0, 0.0, np.sin(heading / 2)])
    velocity, acceleration = frame.ego.velocity_mps, frame.ego.acceleration_mps2
    ego2global = _transform(heading, translation)
    scene = index // SCENE_FRAMES
    return {
        "token": frame.token,
        "frame_idx": index % SCENE_FRAMES,
        "timestamp": int(frame.timestamp_us),
        "log_name": meta.log_name,
        "log_token": content_hash(["log", meta.log_name]),
        "scene_name": f"log-{scene + 1:04d}-{meta.log_name}",
        "scene_token": content_hash(["scene", meta.log_name, scene]),
        "map_location": meta.map_name,
        "roadblock_ids": [str(block) for block in frame.roadblock_ids],
        "vehicle_name": meta.vehicle_name,
        "can_bus": np.concatenate(
            [translation, rotation, acceleration, np.zeros(1), velocity, np.zeros(1), np.zeros(3), np.zeros(2)]
        ),
        "lidar_path": frame.lidar_path or sweep_path(meta.log_name, frame.token),
        "lidar2ego_translation": np.zeros(3),
        "lidar2ego_rotation": [1.0, 0.0, 0.0, 0.0],
        "ego2global_translation": translation,
        "ego2global_rotation": rotation,
        "ego_dynamic_state": [float(value) for value in (*velocity, *acceleration)],
        "traffic_lights": [(int(connector), bool(is_red)) for connector, is_red in frame.traffic_lights],
        "driving_command": np.eye(4, dtype=np.int64)[frame.ego.command].copy(),
        "cams": {name: camera_dict(frame.cameras[name]) if name in frame.cameras else {} for name in CAMERA_NAMES},
        "ego2global": ego2global,
        "lidar2ego": np.eye(4),
        "lidar2global": ego2global.copy(),
        "anns": _annotations(frame.objects, frame.token),
    }


def camera_dict(camera: Camera) -> dict[str, Any]:
    """A camera as all files describe it."""
    return {
        "data_path": camera.path,
        "sensor2lidar_rotation": _plain(camera.rotation),
        "sensor2lidar_translation": _plain(camera.translation_m),
        "cam_intrinsic": _plain(camera.intrinsic),
        "distortion": _plain(camera.distortion),
    }


def _annotations(objects: Boxes, frame_token: str) -> dict[str, Any]:
    return {
        "gt_boxes": _plain(objects.boxes).reshape(-1, 7),
        "gt_names": np.array(objects.names, dtype=np.str_),
        "gt_velocity_3d": _plain(objects.velocity_mps).reshape(-1, 3),
        "instance_tokens": [content_hash([frame_token, token]) for token in objects.track_tokens],
        "track_tokens": [str(token) for token in objects.track_tokens],
    }


def _transform(heading: float, translation: Floats) -> Floats:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]]
    matrix[:3, 3] = translation
    return matrix


def _plain(array: Floats) -> Floats:
    return np.ascontiguousarray(array, dtype=np.float64)
