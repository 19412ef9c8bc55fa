"""Second-stage files by hand: scenes on the example's road, four seconds behind first-stage scenes."""

from pathlib import Path

import numpy as np

from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.nuplan_records import detections_of, lights_of, write_records
from irl_vla.dataset.splits import StagePair, write_split
from irl_vla.ledger.files import content_hash
from irl_vla.scene import CAMERA_NAMES

from .example import CITY, LOG, ORIGIN, frame, write_example

SPLIT = "two_stage"
#: First stage: the scenes of frames 3 (previous) and 4 (now); the second stage starts 8 frames later.
NOW, PREVIOUS, LATER = 4, 3, 8
COUNT = 16


def synthetic_token(log, name):
    return content_hash([log, name]) + "0"


def scene_dict(log=LOG, *, start=NOW, name="a", aside_m=0.0, speed=10.0, future=8, sensors=False):
    """A scene 4 s behind the frame ``start`` of the log, whose ego drives ``aside_m`` to the left of the logged one."""
    frames = []
    for index in range(start + LATER - 3, start + LATER + 1):
        logged = frame(index, log=log, speed=speed)
        is_current = index == start + LATER
        token = synthetic_token(log, name) if is_current else f"{content_hash([log, name, index])}1"
        boxes = logged.objects.boxes - np.array([0, aside_m, 0, 0, 0, 0, 0])
        camera = logged.cameras["CAM_F0"]
        frames.append(
            {
                "token": token,
                "timestamp": logged.timestamp_us,
                "roadblock_ids": list(logged.roadblock_ids),
                "traffic_lights": list(logged.traffic_lights),
                "annotations": {
                    "boxes": boxes,
                    "names": np.array(logged.objects.names),
                    "velocity_3d": logged.objects.velocity_mps,
                    "instance_tokens": ["i"],
                    "track_tokens": list(logged.objects.track_tokens),
                },
                "ego_status": {
                    "ego_pose": logged.ego.pose_global + np.array([0.0, aside_m, 0.0]),
                    "ego_velocity": logged.ego.velocity_mps.astype(np.float32),
                    "ego_acceleration": logged.ego.acceleration_mps2.astype(np.float32),
                    "driving_command": np.eye(4, dtype=np.int64)[logged.ego.command],
                    "in_global_frame": True,
                },
                "lidar_path": None,
                "camera_dict": {name.lower(): {} for name in CAMERA_NAMES}
                | {
                    "cam_f0": {
                        "data_path": f"{log}/CAM_F0/{token}.jpg",
                        "sensor2lidar_rotation": camera.rotation,
                        "sensor2lidar_translation": camera.translation_m,
                        "cam_intrinsic": camera.intrinsic,
                        "distortion": camera.distortion,
                    }
                    if sensors
                    else {}
                },
            }
        )
    last_us = frames[-1]["timestamp"]
    return {
        "scene_metadata": {
            "log_name": log,
            "scene_token": synthetic_token(log, name),
            "map_name": CITY,
            "initial_token": synthetic_token(log, name),
            "num_history_frames": 4,
            "num_future_frames": 0,
            "corresponding_original_scene": frame(start + LATER, log=log).token,
            "corresponding_original_initial_token": frame(start, log=log).token,
        },
        "frames": frames,
        "extended_detections_tracks": [_detections(step, last_us) for step in range(1, future + 1)],
        "extended_traffic_light_data": [
            lights_of(((31, step <= 2),), last_us + 500_000 * step) for step in range(1, future + 1)
        ],
    }


def _detections(step, last_us):
    """The standing car of the example, and one that drives west along the left lane."""
    boxes = np.array(
        [
            [ORIGIN[0] + 30.0, ORIGIN[1] + 2.0, 0.0, 4.5, 1.9, 1.6, 0.1],
            [ORIGIN[0] + 90.0 - 2.5 * step, ORIGIN[1] + 2.0, 0.0, 4.5, 1.9, 1.6, np.pi],
        ]
    )
    velocity = np.array([[0.0, 0.0], [-5.0, 0.0]])
    tokens = ("00000000000000aa", "00000000000000bb")
    return detections_of(boxes, ("vehicle", "vehicle"), velocity, tokens, last_us + 500_000 * step)


def stage_pair(log, starts=("a", "b")):
    """The pair of a log: every start has a scene of now and one of the half second before."""
    second = tuple((synthetic_token(log, f"{name}-now"), synthetic_token(log, f"{name}-before")) for name in starts)
    return StagePair(frame(NOW, log=log).token, frame(PREVIOUS, log=log).token, second)


def write_two_stage(root: Path, logs=(LOG,), asides=(0.0, 0.4), speed=10.0):
    """The example data set with the split "two_stage": one pair of first-stage scenes a log."""
    dataset = write_example(root, logs=logs, count=COUNT, sensors=False)
    names = "abcdefgh"[: len(asides)]
    for log in logs:
        for name, aside_m in zip(names, asides, strict=True):
            for start, part in ((NOW, "now"), (PREVIOUS, "before")):
                values = scene_dict(log, start=start, name=f"{name}-{part}", aside_m=aside_m, speed=speed)
                write_scene(dataset, values)
    pairs = [stage_pair(log, tuple(names)) for log in logs]
    first = tuple(token for pair in pairs for token in (pair.now, pair.previous))
    rule = SceneFilter(num_future_frames=8, frame_interval=1, tokens=first)
    write_split(root, SPLIT, "mini", rule, pairs)
    return dataset


def write_scene(dataset, values, name=None):
    path = dataset.second_stage_folder(SPLIT) / f"{name or values['scene_metadata']['scene_token']}.pkl"
    write_records(path, values)
    return path


def put(value, *keys):
    """A change of a scene's values: one more, or another one, at the end of a way of keys."""

    def change(values):
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


def drop(*keys):
    """A change of a scene's values: without what is at the end of a way of keys."""

    def change(values):
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return change


def in_tracks(change):
    def damage(values):
        items = values["extended_detections_tracks"][2].tracked_objects.tracked_objects
        items[1] = change(items[1])

    return damage
