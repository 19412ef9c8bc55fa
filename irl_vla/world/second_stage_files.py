"""Follow-up scenes as files: NAVSIM's second-stage scenes, their split file and the table of their attributes."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.log_writer import LogMeta, camera_dict, sweep_path, write_log
from irl_vla.dataset.nuplan_records import DetectionsTracks, detections_of, lights_of, write_records
from irl_vla.dataset.splits import StagePair, write_split
from irl_vla.geometry import compose, rotate
from irl_vla.ledger.files import content_hash, write_text
from irl_vla.scene import CAMERA_NAMES, FUTURE_FRAMES, HISTORY_FRAMES, Frame
from irl_vla.world.follow_up import Deviation, FollowUp
from irl_vla.world.rig import Rig, rig_cameras

#: Folder below the data set's root, and name of the split file.
SECOND_STAGE: Final = "navhard_two_stage"
#: Frames of a pair that its scenes see: the history of the previous scene and the current frame of the other.
SEEN_FRAMES: Final = HISTORY_FRAMES + 1


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What the follow-ups of a group follow.

    Attributes:
        frames: all frames of the log.
        left_at: index of the current frame of the later first-stage scene.
    """

    meta: LogMeta
    frames: Sequence[Frame]
    left_at: int


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two second-stage scenes half a second apart.

    Attributes:
        frames: ``SEEN_FRAMES`` frames, the last two the current ones of the previous and of the now scene, then 4 s of
            future.
        reached: deviations of the now and of the previous scene from the log.
    """

    frames: tuple[Frame, ...]
    reached: tuple[Deviation, Deviation]

    @property
    def now(self) -> str:
        """Token of the later scene."""
        return self.frames[SEEN_FRAMES - 1].token

    @property
    def previous(self) -> str:
        """Token of the earlier scene."""
        return self.frames[SEEN_FRAMES - 2].token


def make_pair(
    follow_up: FollowUp, frames: Sequence[Frame], log_name: str, number: int, *, rig: Rig | None, has_lidar: bool
) -> Pair:
    """The frames of a follow-up under tokens of their own.

    Args:
        frames: all frames of the follow-up, with tokens of the log.
        number: of the follow-up in its group.
        rig: cameras of the frames that are seen.
    """
    kept = []
    first = follow_up.now - SEEN_FRAMES + 1
    for index, frame in enumerate(frames[first : follow_up.now + FUTURE_FRAMES + 1]):
        token = _token([frame.token, follow_up.left_at, number])
        seen = index < SEEN_FRAMES
        kept.append(
            replace(
                frame,
                token=token,
                cameras=rig_cameras(rig, log_name, token) if rig is not None and seen else {},
                lidar_path=sweep_path(log_name, token) if has_lidar and seen else None,
            )
        )
    return Pair(tuple(kept), follow_up.reached)


def write_pair(folder: Path, pair: Pair, origin: Origin) -> None:
    """Writes both scene pickles and the log-style file of a pair into ``navhard_two_stage``."""
    write_log(folder / "openscene_meta_datas" / f"{pair.now}.pkl", pair.frames[:SEEN_FRAMES], origin.meta)
    for earlier, token in ((0, pair.now), (1, pair.previous)):
        path = folder / "synthetic_scene_pickles" / f"{token}.pkl"
        write_records(path, _scene_dict(pair, origin, earlier))


def write_group_record(path: Path, origin: Origin, pairs: Sequence[Pair]) -> None:
    """Writes what the split file and the table say of a group; by convention last, so that it marks a whole group."""
    rows = [
        {
            "token": token,
            "previous": bool(earlier),
            "log_name": origin.meta.log_name,
            "map_name": origin.meta.map_name,
            **_originals(origin, earlier),
            **asdict(pair.reached[earlier]),
        }
        for pair in pairs
        for earlier, token in enumerate((pair.now, pair.previous))
    ]
    record = {
        "log_name": origin.meta.log_name,
        "now": origin.frames[origin.left_at].token,
        "previous": origin.frames[origin.left_at - 1].token,
        "second": [(pair.now, pair.previous) for pair in pairs],
        "scenes": rows,
    }
    write_text(path, json.dumps(record, indent=1))


def write_second_stage_index(root: Path, records: Sequence[Path], data_split: str) -> None:
    """Writes the split file and ``synthetic_scenes_attributes.csv`` from the records of all groups."""
    groups = [json.loads(path.read_text(encoding="utf-8")) for path in records]
    stage_pairs = [
        StagePair(group["now"], group["previous"], tuple((now, previous) for now, previous in group["second"]))
        for group in groups
    ]
    rule = SceneFilter(
        num_history_frames=HISTORY_FRAMES,
        num_future_frames=FUTURE_FRAMES,
        frame_interval=1,
        log_names=tuple(sorted({group["log_name"] for group in groups})),
        tokens=tuple(token for pair in stage_pairs for token in (pair.now, pair.previous)),
        include_synthetic_scenes=True,
    )
    write_split(root, SECOND_STAGE, data_split, rule, stage_pairs)
    rows = [row for group in groups for row in group["scenes"]]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(root / SECOND_STAGE / "synthetic_scenes_attributes.csv", table.getvalue())


def _scene_dict(pair: Pair, origin: Origin, earlier: int) -> dict[str, Any]:
    """A scene as the official loader expects it; ``earlier`` is 1 for the previous scene, else 0."""
    current = SEEN_FRAMES - 1 - earlier
    token = pair.frames[current].token
    future = pair.frames[current + 1 : current + 1 + FUTURE_FRAMES]
    return {
        "scene_metadata": {
            "log_name": origin.meta.log_name,
            "scene_token": token,
            "map_name": origin.meta.map_name,
            "initial_token": token,
            "num_history_frames": HISTORY_FRAMES,
            "num_future_frames": 0,
            **_originals(origin, earlier),
        },
        "frames": [_frame_dict(frame) for frame in pair.frames[current + 1 - HISTORY_FRAMES : current + 1]],
        "extended_traffic_light_data": [lights_of(frame.traffic_lights, frame.timestamp_us) for frame in future],
        "extended_detections_tracks": [_detections(frame) for frame in future],
    }


def _originals(origin: Origin, earlier: int) -> dict[str, str]:
    """The first-stage scene by its last frame, which is of the follow-up's time, and by its current one."""
    first = origin.left_at - earlier
    return {
        "corresponding_original_scene": origin.frames[first + FUTURE_FRAMES].token,
        "corresponding_original_initial_token": origin.frames[first].token,
    }


def _frame_dict(frame: Frame) -> dict[str, Any]:
    ego, objects = frame.ego, frame.objects
    return {
        "token": frame.token,
        "timestamp": int(frame.timestamp_us),
        "roadblock_ids": [str(block) for block in frame.roadblock_ids],
        "traffic_lights": [(int(connector), bool(is_red)) for connector, is_red in frame.traffic_lights],
        "annotations": {
            "boxes": np.ascontiguousarray(objects.boxes, np.float64),
            "names": np.array(objects.names, dtype=np.str_),
            "velocity_3d": np.ascontiguousarray(objects.velocity_mps, np.float64),
            "instance_tokens": list(_instance_tokens(frame)),
            "track_tokens": [str(token) for token in objects.track_tokens],
        },
        "ego_status": {
            "ego_pose": np.array(ego.pose_global, np.float64),
            "ego_velocity": np.array(ego.velocity_mps, np.float32),
            "ego_acceleration": np.array(ego.acceleration_mps2, np.float32),
            "driving_command": np.eye(4, dtype=np.int64)[ego.command].copy(),
            "in_global_frame": True,
        },
        "lidar_path": frame.lidar_path,
        "camera_dict": {
            name.lower(): camera_dict(frame.cameras[name]) if name in frame.cameras else {} for name in CAMERA_NAMES
        },
    }


def _detections(frame: Frame) -> DetectionsTracks:
    objects, pose = frame.objects, frame.ego.pose_global
    boxes = objects.boxes.copy()
    boxes[:, [0, 1, 6]] = compose(pose, objects.boxes[:, [0, 1, 6]])
    return detections_of(
        boxes,
        objects.names,
        rotate(objects.velocity_mps[:, :2], pose[2]),
        objects.track_tokens,
        frame.timestamp_us,
        instance_tokens=list(_instance_tokens(frame)),
    )


def _instance_tokens(frame: Frame) -> Iterator[str]:
    return (content_hash([frame.token, token]) for token in frame.objects.track_tokens)


def _token(value: Sequence[object]) -> str:
    """17 hex digits, by which a synthetic frame is known."""
    return content_hash(["follow-up", *value]) + content_hash(["follow-up, 17th", *value])[0]
