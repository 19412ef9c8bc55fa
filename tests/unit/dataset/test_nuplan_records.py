import io
import os
import pickle
import sys
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import PosixPath, PurePosixPath
from types import ModuleType

import numpy as np
import pytest

from irl_vla.dataset.nuplan_records import (
    NUPLAN_NAMES,
    SECOND_STAGE_NAMES,
    Agent,
    StateVector2D,
    TrackedObjectType,
    TrafficLightStatusType,
    detections_of,
    lights_of,
    object_name,
    write_records,
)
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.errors import LogFormatError

BOXES = np.array([[10.0, 2.0, 0.5, 1.0, 2.0, 3.0, 0.1], [331000.5, 4.7e6, 0.5, 4.0, 2.0, 1.5, -3.0]])
STATE = "nuplan.common.actor_state.state_representation"


def detections():
    return detections_of(BOXES, ("barrier", "vehicle"), np.array([[9.0, 9.0], [3.0, -1.0]]), ("b", "a"), 7_000_000)


def test_records_come_back_as_they_were(tmp_path):
    write_records(tmp_path / "x.pkl", {"tracks": [detections()], "lights": [lights_of([(12, True), (13, False)], 5)]})
    found = read_pickle(tmp_path / "x.pkl", SECOND_STAGE_NAMES)
    car, barrier = found["tracks"][0].tracked_objects.tracked_objects  # sorted by type
    assert (object_name(car.tracked_object_type), object_name(barrier.tracked_object_type)) == ("vehicle", "barrier")
    assert (car.box.center.x, car.box.center.y, car.box.center.heading) == (331000.5, 4.7e6, -3.0)
    assert (car.box.length, car.box.width, car.box.height) == (4.0, 2.0, 1.5)
    assert (car.velocity.x, car.velocity.y, car.metadata.track_token) == (3.0, -1.0, "a")
    assert (barrier.velocity.x, barrier.velocity.y) == (0.0, 0.0)
    red, green = found["lights"][0].traffic_lights
    assert (red.lane_connector_id, red.status, green.status) == (12, TrafficLightStatusType.RED, 0)


def official_modules():
    """Classes with the state that nuPlan's own have, under nuPlan's names: slots, dictionaries, enumerations."""

    @dataclass
    class TimePoint:
        time_us: int
        __slots__ = ("time_us",)

    @dataclass
    class Point2D:
        x: float
        y: float
        __slots__ = "x", "y"

    @dataclass
    class StateSE2(Point2D):
        heading: float
        __slots__ = ("heading",)

    class StateVector2D:
        __slots__ = "_array", "_x", "_y"

    class Plain:
        def __init__(self, **state):
            self.__dict__ = state

    class TrackedObjectType(Enum):
        VEHICLE = 0, "vehicle"
        BARRIER = 4, "barrier"

        def __new__(cls, value, name):
            member = object.__new__(cls)
            member._value_ = value
            member.fullname = name
            return member

        def __reduce_ex__(self, protocol):  # Python 3.9's, by value
            return self.__class__, (self._value_,)

    class TrafficLightStatusType(IntEnum):
        RED = 2
        GREEN = 0

        def __reduce_ex__(self, protocol):
            return self.__class__, (self._value_,)

    special = {
        kind.__name__: kind for kind in (TimePoint, StateSE2, StateVector2D, TrackedObjectType, TrafficLightStatusType)
    }
    modules: dict[str, ModuleType] = {}
    for module, name in NUPLAN_NAMES:
        kind = special.get(name) or type(name, (Plain,), {})
        kind.__module__, kind.__qualname__ = module, name
        setattr(modules.setdefault(module, ModuleType(module)), name, kind)
    return modules


@pytest.fixture
def official(monkeypatch):
    modules = official_modules()
    for name, module in modules.items():
        for depth in range(1, name.count(".") + 1):
            monkeypatch.setitem(sys.modules, ".".join(name.split(".")[:depth]), ModuleType("package"))
        monkeypatch.setitem(sys.modules, name, module)
    return modules


def test_official_classes_load_what_is_written(tmp_path, official):
    write_records(tmp_path / "x.pkl", [detections(), lights_of([(12, True)], 5)])
    tracks, lights = pickle.loads((tmp_path / "x.pkl").read_bytes())
    for value, name in ((tracks, "DetectionsTracks"), (tracks.tracked_objects, "TrackedObjects")):
        assert type(value).__module__.startswith("nuplan.")
        assert type(value).__name__ == name
    car, barrier = tracks.tracked_objects.tracked_objects
    assert set(vars(car)) == {
        *("_metadata", "_box", "_tracked_object_type", "instance_token", "_velocity", "_angular_velocity"),
        *("_initial_time_stamp", "_predictions", "_past_trajectory"),
    }
    assert set(vars(barrier)) == {
        *("_metadata", "_box", "_tracked_object_type", "instance_token", "velocity", "predictions", "past_trajectory"),
    }
    assert car._tracked_object_type.fullname == "vehicle"
    assert (car._box._center.heading, car._velocity._x, car._initial_time_stamp.time_us) == (-3.0, 3.0, 7_000_000)
    np.testing.assert_array_equal(car._velocity._array, [3.0, -1.0])
    assert lights.traffic_lights[0].status.name == "RED"


def test_what_official_classes_write_is_read(tmp_path, official):
    (state, agents, box, scene, types, tracked, tracks) = (
        official[STATE],
        *(official[f"nuplan.common.actor_state.{name}"] for name in ("agent", "oriented_box", "scene_object")),
        *(official[f"nuplan.common.actor_state.{name}"] for name in ("tracked_objects_types", "tracked_objects")),
        official["nuplan.planning.simulation.observation.observation_type"],
    )
    velocity = state.StateVector2D()
    velocity._x, velocity._y, velocity._array = np.float64(3.0), 4.0, np.array([3.0, 4.0])
    car = agents.Agent(
        _tracked_object_type=types.TrackedObjectType.VEHICLE,
        _box=box.OrientedBox(_center=state.StateSE2(1.0, 2.0, 0.5), _length=4, _width=2, _height=1, cached="unknown"),
        _metadata=scene.SceneObjectMetadata(timestamp_us=1, token="t", track_id=None, track_token="tr"),
        _velocity=velocity,
        _later_version=1,
    )
    objects = tracked.TrackedObjects(tracked_objects=[car], _ranges_per_type={types.TrackedObjectType.VEHICLE: (0, 1)})
    value = {"tracks": [tracks.DetectionsTracks(tracked_objects=objects)], "lidar_path": PosixPath("a/b.pcd")}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=5))
    found = read_pickle(tmp_path / "x.pkl", SECOND_STAGE_NAMES)
    (agent,) = found["tracks"][0].tracked_objects.tracked_objects
    assert isinstance(agent, Agent)
    assert agent.tracked_object_type is TrackedObjectType.VEHICLE
    assert (agent.box.center.heading, agent.velocity.x, agent.metadata.track_token) == (0.5, 3.0, "tr")
    assert (agent.angular_velocity, agent.predictions) == (None, [])  # absent in the file
    assert found["lidar_path"] == PurePosixPath("a/b.pcd")


def test_missing_state_is_named(tmp_path, official):
    (tmp_path / "x.pkl").write_bytes(
        pickle.dumps(official["nuplan.common.actor_state.oriented_box"].OrientedBox(_length=1.0, _width=1.0))
    )
    with pytest.raises(LogFormatError, match=r"x\.pkl: .*OrientedBox\._center: expected the key, found none"):
        read_pickle(tmp_path / "x.pkl", SECOND_STAGE_NAMES)


@pytest.mark.parametrize("value", [os.system, eval, np.random.default_rng(0)])
def test_foreign_names_are_refused(tmp_path, value):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([value]))
    with pytest.raises(LogFormatError, match=r"x\.pkl: .*refers to .*, which such files never need"):
        read_pickle(tmp_path / "x.pkl", SECOND_STAGE_NAMES)


@pytest.mark.parametrize("name", sorted({name for _, name in NUPLAN_NAMES}))
def test_a_file_cannot_change_the_stand_ins(tmp_path, name):
    module = next(module for module, item in NUPLAN_NAMES if item == name)
    stream = io.BytesIO()
    pickler = pickle._Pickler(stream, protocol=4)
    stream.write(pickle.PROTO + b"\x04")
    pickler.framer = pickle._Framer(stream.write)
    pickler.save(module)
    pickler.save(name)
    stream.write(pickle.STACK_GLOBAL)
    pickler.save((None, {"planted": 1}))
    stream.write(pickle.BUILD + pickle.STOP)
    (tmp_path / "x.pkl").write_bytes(stream.getvalue())
    with pytest.raises(LogFormatError):
        read_pickle(tmp_path / "x.pkl", SECOND_STAGE_NAMES)
    assert not hasattr(NUPLAN_NAMES[module, name], "planted")


def test_records_travel_between_processes():
    copy = pickle.loads(pickle.dumps(StateVector2D(1.0, 2.0)))
    assert (copy.x, copy.y) == (1.0, 2.0)
