"""Second-stage ("synthetic") scenes: one pickle a scene, read as a :class:`Scene`.

Such a scene starts where the first stage may have led, and nobody drove it: it has no human future. What the others do
after its last frame stands in the file as nuPlan objects in the global frame, and becomes the scene's future frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, Final, NoReturn

import numpy as np

from irl_vla.dataset.layout import Dataset, below
from irl_vla.dataset.log import (
    parse_boxes,
    parse_cameras,
    parse_city,
    parse_command,
    parse_motion,
    parse_traffic_lights,
)
from irl_vla.dataset.nuplan_records import (
    SECOND_STAGE_NAMES,
    Agent,
    DetectionsTracks,
    OrientedBox,
    SceneObjectMetadata,
    StateSE2,
    StateVector2D,
    StaticObject,
    TrackedObjects,
    TrackedObjectType,
    TrafficLightStatusData,
    TrafficLightStatuses,
    TrafficLightStatusType,
    object_name,
)
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.errors import LogFormatError, SceneError
from irl_vla.geometry import Floats
from irl_vla.scene import COMMAND_NAMES, PLAN_INTERVAL_S, Boxes, EgoStatus, Frame, Scene

#: Length of the tokens of second-stage scenes; it is what the official evaluator tells them by.
TOKEN_LENGTH: Final = 17
#: Keys of what the others do, one item every half second after the last frame.
TRACKS_KEY: Final = "extended_detections_tracks"
LIGHTS_KEY: Final = "extended_traffic_light_data"
#: Of the dict ``annotations``, in the order of those of logs.
ANNOTATION_KEYS: Final = ("boxes", "names", "velocity_3d", "instance_tokens", "track_tokens")
_FUTURE_STEP_US: Final = round(PLAN_INTERVAL_S * 1e6)
#: Global coordinates are of the order of 1e6.
_LARGEST: Final = 1e12
#: Boxes of future frames are kept as the file has them, in the global frame: the frame's ego "stands" at its origin.
_AT_GLOBAL_ORIGIN: Final = EgoStatus(np.zeros(3), np.zeros(2), np.zeros(2), COMMAND_NAMES.index("unknown"))


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where in a file a nuPlan object stands, for errors."""

    path: Path
    where: str

    def fail(self, expected: str, found: str) -> NoReturn:
        raise LogFormatError(
            f"{self.path}: {self.where}: expected {expected}, found {found}; fetch or generate the scene again"
        )

    def at(self, key: str) -> "_Place":
        return _Place(self.path, f"{self.where}{key}")

    def number(self, value: Any) -> float:
        is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not is_number or not -_LARGEST < value < _LARGEST:  # also false for NaN
            self.fail("a finite number", describe(value))
        return float(value)

    def text(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            self.fail("a non-empty string", describe(value))
        return value


def scene_path(dataset: Dataset, split: str, token: str) -> Path:
    """The file of a second-stage scene: named by its token, as released, or else found by what the files say.

    Raises:
        LogFormatError: if the folder is missing, or one of the files that had to be read is broken.
        SceneError: if no file has the token.
    """
    folder = dataset.second_stage_folder(split)
    path = below(folder, f"{token}.pkl", "token")
    if path.is_file():
        return path
    if not folder.is_dir():
        raise LogFormatError(
            f"{folder}: expected the second-stage scenes of split {split!r}, found no folder; fetch it"
        )
    found = _paths_by_token(folder, folder.stat().st_mtime_ns).get(token)
    if found is None:
        raise SceneError(f"{token}: expected a second-stage scene in {folder}, found none; fetch the split again")
    return found


def read_second_stage(path: Path, split: str, group: str | None = None) -> Scene:
    """Reads one second-stage scene.

    Its future frames hold the other road users alone: their boxes, velocities and lights in the **global** frame, and
    an ego pose at the global origin that is nobody's. They serve the score; the scene has no human plan.

    Args:
        path: of the pickle.
        split: the two-stage split, below whose folder the sensors lie.
        group: unit of independence; None takes the log.

    Raises:
        LogFormatError: naming file, frame and key of whatever does not fit.
    """
    return parse_second_stage(path, scene_values(path), split, group)


def scene_values(path: Path) -> dict[str, Any]:
    """The dict of one second-stage scene as the file holds it.

    Raises:
        LogFormatError: if the file is missing, cut off, no dict, or refers to any other class than such files do.
    """
    values = read_pickle(path, SECOND_STAGE_NAMES)
    if not isinstance(values, dict):
        raise LogFormatError(
            f"{path}: expected a dict of one second-stage scene, found {describe(values)}; fetch it again"
        )
    return values


def parse_second_stage(path: Path, values: Mapping[str, Any], split: str, group: str | None = None) -> Scene:
    """The scene of a file's values; see :func:`read_second_stage`.

    Args:
        path: named in errors only.
    """
    metadata = RawFrame(path, 0, values).inner("scene_metadata")
    frames = RawFrame(path, 0, values).sequence("frames")
    num_history = metadata.integer("num_history_frames")
    if not 0 < num_history <= len(frames):
        metadata.fail("num_history_frames", f"1 to {len(frames)}, the number of frames", str(num_history))
    stored = [_stored_frame(RawFrame(path, index, item)) for index, item in enumerate(_dicts(path, frames))]
    token = stored[num_history - 1].token
    if len(token) != TOKEN_LENGTH or token != metadata.text("initial_token"):
        metadata.fail("initial_token", f"the current frame's {token!r} of {TOKEN_LENGTH} characters", "another")
    log_name = metadata.text("log_name")
    return Scene(
        token=token,
        log_name=log_name,
        map_name=parse_city(metadata, "map_name"),
        group=group or log_name,
        kind="",
        data_split=split,
        frames=(*stored, *_future_frames(path, values, stored[-1])),
        num_history=num_history,
    )


@lru_cache(maxsize=4)
def _paths_by_token(folder: Path, modified_ns: int) -> dict[str, Path]:
    """Reads every file of a folder once, for those that are not named by their token."""
    del modified_ns  # only part of the cache's key
    found = {}
    for path in sorted(folder.glob("*.pkl")):
        found[RawFrame(path, 0, scene_values(path)).inner("scene_metadata").text("initial_token")] = path
    return found


def _dicts(path: Path, items: Any) -> list[dict[str, Any]]:
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise LogFormatError(f"{path}: frame {index}: expected a dict, found {describe(item)}; fetch it again")
    return list(items)


def parse_ego_status(raw: RawFrame) -> EgoStatus:
    """Pose, motion and command of a frame's ego; raises a LogFormatError like all of these."""
    ego = raw.inner("ego_status")
    return EgoStatus(
        pose_global=ego.floats("ego_pose", (3,)),
        velocity_mps=parse_motion(ego, "ego_velocity", 2),
        acceleration_mps2=parse_motion(ego, "ego_acceleration", 2),
        command=parse_command(ego),
    )


def sweep_of(raw: RawFrame) -> str | None:
    """Path of a frame's sweep, None without one; files have a path or a text."""
    lidar_path = raw.get("lidar_path")
    return str(lidar_path) if isinstance(lidar_path, (str, PurePath)) and str(lidar_path) else None


def cameras_as_in_logs(raw: RawFrame) -> RawFrame:
    """The dict ``camera_dict`` of a frame as logs have it: cameras under upper-case names, their files as text."""
    found: dict[Any, Any] = {}
    for name, entry in raw.inner("camera_dict").values.items():
        is_path = isinstance(entry, dict) and isinstance(entry.get("data_path"), PurePath)
        known = entry | {"data_path": str(entry["data_path"])} if is_path else entry
        found[name.upper() if isinstance(name, str) else name] = known
    return RawFrame(raw.path, raw.index, found, f"{raw.prefix}camera_dict.")


def _stored_frame(raw: RawFrame) -> Frame:
    return Frame(
        token=raw.text("token"),
        timestamp_us=raw.integer("timestamp"),
        ego=parse_ego_status(raw),
        objects=parse_boxes(raw.inner("annotations"), ANNOTATION_KEYS),
        traffic_lights=parse_traffic_lights(raw),
        roadblock_ids=raw.texts("roadblock_ids"),
        cameras=parse_cameras(cameras_as_in_logs(raw)),
        lidar_path=sweep_of(raw),
    )


def _future_frames(path: Path, values: Mapping[str, Any], last: Frame) -> list[Frame]:
    """One frame every half second after the last stored one."""
    whole = RawFrame(path, 0, values)
    tracks = [] if values.get(TRACKS_KEY) is None else whole.sequence(TRACKS_KEY)
    lights = [] if values.get(LIGHTS_KEY) is None else whole.sequence(LIGHTS_KEY)
    return [
        Frame(
            token=f"{last.token}+{index + 1}",
            timestamp_us=last.timestamp_us + (index + 1) * _FUTURE_STEP_US,
            ego=_AT_GLOBAL_ORIGIN,
            objects=parse_detections(path, index, detections),
            # The evaluator knows no light where the list has ended.
            traffic_lights=parse_statuses(path, index, lights[index]) if index < len(lights) else (),
            roadblock_ids=last.roadblock_ids,
            cameras={},
            lidar_path=None,
        )
        for index, detections in enumerate(tracks)
    ]


def parse_detections(path: Path, index: int, detections: Any) -> Boxes:
    """An item of the list ``TRACKS_KEY``: objects in the global frame.

    Raises:
        LogFormatError: naming the item and whatever of it does not fit.
    """
    place = _Place(path, f"{TRACKS_KEY}[{index}]")
    if not isinstance(detections, DetectionsTracks) or not isinstance(detections.tracked_objects, TrackedObjects):
        place.fail("DetectionsTracks of TrackedObjects", describe(detections))
    items = detections.tracked_objects.tracked_objects
    if not isinstance(items, (list, tuple)):
        place.fail("a list of objects", describe(items))
    boxes, velocity = np.zeros((len(items), 7)), np.zeros((len(items), 3))
    names, tokens = [], []
    for row, item in enumerate(items):
        at = place.at(f".tracked_objects[{row}]")
        if not isinstance(item, (Agent, StaticObject)):
            at.fail("an Agent or a StaticObject", describe(item))
        if not isinstance(item.tracked_object_type, TrackedObjectType):
            at.fail("a TrackedObjectType", describe(item.tracked_object_type))
        if not isinstance(item.metadata, SceneObjectMetadata):
            at.fail("SceneObjectMetadata", describe(item.metadata))
        boxes[row] = _box(at.at("._box"), item.box)
        if isinstance(item, Agent):
            velocity[row, :2] = _velocity(at.at("._velocity"), item.velocity)
        names.append(object_name(item.tracked_object_type))
        tokens.append(at.at("._metadata.track_token").text(item.metadata.track_token))
    return Boxes(boxes=boxes, names=tuple(names), velocity_mps=velocity, track_tokens=tuple(tokens))


def _box(place: _Place, box: Any) -> Floats:
    """(7,) x, y, z, length, width, height, heading; nuPlan's boxes have no z."""
    if not isinstance(box, OrientedBox) or not isinstance(box.center, StateSE2):
        place.fail("an OrientedBox with a StateSE2 as centre", describe(box))
    values = (box.center.x, box.center.y, 0.0, box.length, box.width, box.height, box.center.heading)
    return np.array([place.number(value) for value in values])


def _velocity(place: _Place, velocity: Any) -> tuple[float, float]:
    if not isinstance(velocity, StateVector2D):
        place.fail("a StateVector2D", describe(velocity))
    return place.number(velocity.x), place.number(velocity.y)


def parse_statuses(path: Path, index: int, statuses: Any) -> tuple[tuple[int, bool], ...]:
    """An item of the list ``LIGHTS_KEY``: pairs of lane connector id and is-red.

    Raises:
        LogFormatError: naming the item and whatever of it does not fit.
    """
    place = _Place(path, f"{LIGHTS_KEY}[{index}]")
    if not isinstance(statuses, TrafficLightStatuses) or not isinstance(statuses.traffic_lights, (list, tuple)):
        place.fail("TrafficLightStatuses", describe(statuses))
    lights = []
    for row, item in enumerate(statuses.traffic_lights):
        at = place.at(f".traffic_lights[{row}]")
        if not isinstance(item, TrafficLightStatusData) or not isinstance(item.status, TrafficLightStatusType):
            at.fail("TrafficLightStatusData", describe(item))
        try:
            lights.append((int(item.lane_connector_id), item.status is TrafficLightStatusType.RED))
        except (TypeError, ValueError, OverflowError):
            at.at(".lane_connector_id").fail("a whole number", describe(item.lane_connector_id))
    return tuple(lights)
