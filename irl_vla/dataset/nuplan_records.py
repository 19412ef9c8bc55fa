"""Light stand-ins for the nuPlan objects in second-stage scene files, to read and write these without nuPlan.

A file's objects arrive here through the restricted unpickler under the names of ``SECOND_STAGE_NAMES``, and leave with
the same names and the same state, so the official environment loads them as its own classes. State that a stand-in does
not know is left behind; state that it needs and a file lacks makes the file unreadable, by name.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any, Final, NoReturn

import numpy as np

from irl_vla.dataset.safe_pickle import NUMPY_NAMES, AllowedNames, write_pickle
from irl_vla.geometry import Floats
from irl_vla.scene import OBJECT_NAMES

#: Names of agents, which move; the others are static objects.
_AGENT_NAMES: Final = ("vehicle", "pedestrian", "bicycle", "ego")


def _take_state(record: Any, state: Any) -> None:
    """``__setstate__`` of all stand-ins.

    It also keeps a file from writing to the stand-in class itself: there it is called without a record, and fails.
    """
    parts = state if isinstance(state, tuple) else (state,)  # (dictionary, slots) where the original class has slots
    found: dict[str, Any] = {}
    for part in parts:
        if part is not None and not isinstance(part, dict):
            raise pickle.UnpicklingError(f"{type(record).__name__}: expected its state as a dict, found {type(part)}")
        found |= part or {}
    for item in fields(record):
        key = _key(record, item.name)
        if key in found:
            value = found[key]
        elif item.default is not MISSING:
            value = item.default
        elif item.default_factory is not MISSING:
            value = item.default_factory()
        else:
            raise pickle.UnpicklingError(f"{type(record).__name__}.{key}: expected the key, found none")
        object.__setattr__(record, item.name, value)


def _give_state(record: Any) -> Any:
    """``__getstate__`` of all stand-ins: the state of the original class, under its names."""
    state = {_key(record, item.name): getattr(record, item.name) for item in fields(record)}
    return (None, state) if isinstance(record, _SLOTTED) else state


def _key(record: Any, name: str) -> str:
    return f"_{name}" if name in _PRIVATE.get(type(record).__name__, ()) else name


def _refuse_state(member: Enum, state: Any) -> NoReturn:
    raise pickle.UnpicklingError(f"{type(member).__name__}: expected no state of {member.name}, found {state!r}")


class TrackedObjectType(Enum):
    """Official type values; names are those of ``OBJECT_NAMES`` in capitals."""

    VEHICLE = 0
    PEDESTRIAN = 1
    BICYCLE = 2
    TRAFFIC_CONE = 3
    BARRIER = 4
    CZONE_SIGN = 5
    GENERIC_OBJECT = 6
    EGO = 7

    __setstate__ = _refuse_state

    def __reduce_ex__(self, protocol: object) -> tuple[type["TrackedObjectType"], tuple[int]]:
        return TrackedObjectType, (self.value,)


class TrafficLightStatusType(IntEnum):
    """State of a traffic light."""

    GREEN = 0
    YELLOW = 1
    RED = 2
    UNKNOWN = 3

    __setstate__ = _refuse_state

    def __reduce_ex__(self, protocol: object) -> tuple[type["TrafficLightStatusType"], tuple[int]]:
        return TrafficLightStatusType, (self.value,)


@dataclass(frozen=True, eq=False)
class TimePoint:
    """A moment, microseconds."""

    time_us: int
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class StateSE2:
    """A pose in the global frame."""

    x: float
    y: float
    heading: float
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class StateVector2D:
    """A vector; ``array`` holds the same two numbers."""

    x: float
    y: float
    array: Any = None
    __getstate__, __setstate__ = _give_state, _take_state

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", np.array([self.x, self.y], np.float64))


@dataclass(frozen=True, eq=False)
class OrientedBox:
    """A box around its centre."""

    center: StateSE2
    length: float
    width: float
    height: float = 0.0
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class SceneObjectMetadata:
    """Identity of an object in one frame (``token``) and over frames (``track_token``)."""

    timestamp_us: int
    token: str
    track_id: int | None = None
    track_token: str | None = None
    category_name: str | None = None
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class Agent:
    """An object that moves; ``velocity`` is in the global frame."""

    tracked_object_type: TrackedObjectType
    box: OrientedBox
    metadata: SceneObjectMetadata
    velocity: StateVector2D
    angular_velocity: float | None = None
    initial_time_stamp: TimePoint | None = None
    predictions: Any = field(default_factory=list)
    past_trajectory: Any = None
    instance_token: str | None = None
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class StaticObject:
    """An object that stands."""

    tracked_object_type: TrackedObjectType
    box: OrientedBox
    metadata: SceneObjectMetadata
    velocity: StateVector2D = field(default_factory=lambda: StateVector2D(0.0, 0.0))
    predictions: Any = None
    past_trajectory: Any = None
    instance_token: str | None = None
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class TrackedObjects:
    """The objects of one frame, by type value (stable)."""

    tracked_objects: list[Agent | StaticObject]
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class DetectionsTracks:
    """The objects of one frame, as the devkit's observations wrap them."""

    tracked_objects: TrackedObjects
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class TrafficLightStatusData:
    """State of the light of one lane connector."""

    status: TrafficLightStatusType
    lane_connector_id: int
    timestamp: int
    __getstate__, __setstate__ = _give_state, _take_state


@dataclass(frozen=True, eq=False)
class TrafficLightStatuses:
    """The lights of one frame."""

    traffic_lights: list[TrafficLightStatusData]
    __getstate__, __setstate__ = _give_state, _take_state


#: Attributes that the originals keep with a leading underscore.
_PRIVATE: Final[Mapping[str, frozenset[str]]] = {
    "StateVector2D": frozenset({"x", "y", "array"}),
    "OrientedBox": frozenset({"center", "length", "width", "height"}),
    "Agent": frozenset(item.name for item in fields(Agent)) - {"instance_token"},
    "StaticObject": frozenset({"tracked_object_type", "box", "metadata"}),
}
#: Classes whose originals have slots and no dictionary; their state is written as such.
_SLOTTED: Final = (TimePoint, StateSE2, StateVector2D)


def _path(*parts: str) -> PurePosixPath:
    return PurePosixPath(*parts)


_ACTORS: Final = "nuplan.common.actor_state"
_MAPS: Final = "nuplan.common.maps.maps_datatypes"
#: The nuPlan classes by official name.
NUPLAN_NAMES: Final[AllowedNames] = {
    ("nuplan.planning.simulation.observation.observation_type", "DetectionsTracks"): DetectionsTracks,
    (f"{_ACTORS}.tracked_objects", "TrackedObjects"): TrackedObjects,
    (f"{_ACTORS}.tracked_objects_types", "TrackedObjectType"): TrackedObjectType,
    (f"{_ACTORS}.agent", "Agent"): Agent,
    (f"{_ACTORS}.static_object", "StaticObject"): StaticObject,
    (f"{_ACTORS}.scene_object", "SceneObjectMetadata"): SceneObjectMetadata,
    (f"{_ACTORS}.oriented_box", "OrientedBox"): OrientedBox,
    (f"{_ACTORS}.state_representation", "StateSE2"): StateSE2,
    (f"{_ACTORS}.state_representation", "StateVector2D"): StateVector2D,
    (f"{_ACTORS}.state_representation", "TimePoint"): TimePoint,
    (_MAPS, "TrafficLightStatuses"): TrafficLightStatuses,
    (_MAPS, "TrafficLightStatusData"): TrafficLightStatusData,
    (_MAPS, "TrafficLightStatusType"): TrafficLightStatusType,
}
#: Everything that a second-stage scene file refers to (paths: LiDAR files; Python 3.13 names the module otherwise).
SECOND_STAGE_NAMES: Final[AllowedNames] = {
    **NUMPY_NAMES,
    **NUPLAN_NAMES,
    ("pathlib", "PosixPath"): _path,
    ("pathlib._local", "PosixPath"): _path,
}


def detections_of(
    boxes_global: Floats,
    names: Sequence[str],
    velocity_global_mps: Floats,
    track_tokens: Sequence[str],
    timestamp_us: int,
    *,
    instance_tokens: Sequence[str] | None = None,
) -> DetectionsTracks:
    """The objects of one frame as nuPlan keeps them.

    Args:
        boxes_global: (N, 7) x, y, z, length, width, height, heading of the box centre, global frame.
        names: N names out of ``OBJECT_NAMES``, or "ego".
        velocity_global_mps: (N, 2) or (N, 3), global frame; static objects get none.
        track_tokens: N tokens, stable per object.
        instance_tokens: N tokens of the object in this frame; None repeats the track tokens.
    """
    objects: list[Agent | StaticObject] = []
    rows = zip(boxes_global, names, velocity_global_mps, track_tokens, instance_tokens or track_tokens, strict=True)
    for box, name, velocity, track, instance in rows:
        x, y, _, length, width, height, heading = (float(value) for value in box)
        kind = TrackedObjectType[name.upper()]
        outline = OrientedBox(StateSE2(x, y, heading), length, width, height)
        metadata = SceneObjectMetadata(int(timestamp_us), str(instance), None, str(track))
        if name in _AGENT_NAMES:
            motion = StateVector2D(float(velocity[0]), float(velocity[1]))
            objects.append(Agent(kind, outline, metadata, motion, initial_time_stamp=TimePoint(int(timestamp_us))))
        else:
            objects.append(StaticObject(kind, outline, metadata))
    return DetectionsTracks(TrackedObjects(sorted(objects, key=lambda item: item.tracked_object_type.value)))


def lights_of(traffic_lights: Sequence[tuple[int, bool]], timestamp_us: int) -> TrafficLightStatuses:
    """The (lane connector id, is red) pairs of a frame as nuPlan keeps them; what is not red is green."""
    status: Mapping[bool, TrafficLightStatusType] = {
        True: TrafficLightStatusType.RED,
        False: TrafficLightStatusType.GREEN,
    }
    return TrafficLightStatuses(
        [TrafficLightStatusData(status[bool(red)], int(lane), int(timestamp_us)) for lane, red in traffic_lights]
    )


def object_name(kind: TrackedObjectType) -> str:
    """Name of a type: one of ``OBJECT_NAMES``, or "ego"."""
    return "ego" if kind is TrackedObjectType.EGO else OBJECT_NAMES[kind.value]


def write_records(path: Path, value: Any) -> None:
    """Writes builtins, arrays and the records of this module for the official environment, atomically.

    Paths inside the value must be strings: newer Pythons name their path classes as older ones cannot read.
    """
    write_pickle(path, value, NUPLAN_NAMES)
