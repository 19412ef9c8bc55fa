"""Brake lamps are lit above 0.7 m/s2 of slowing down, read off accelerations or off two frames."""

import numpy as np

from irl_vla.scene import Boxes, Frame
from irl_vla.world.brake_lamps import braking_tokens, is_braking
from tests.unit.world.sensor_scenes import frame_of


def moving(speeds: dict[str, float]) -> Frame:
    """A frame with vehicles that drive ahead; speeds in m/s by track token."""
    velocity = np.array([[speed, 0.0, 0.0] for speed in speeds.values()]).reshape(-1, 3)
    boxes = Boxes(np.zeros((len(speeds), 7)), ("vehicle",) * len(speeds), velocity, tuple(speeds))
    bare = frame_of()
    return Frame(bare.token, 0, bare.ego, boxes, (), (), {}, None)


def test_by_acceleration() -> None:
    assert is_braking(np.array([-0.71, -0.69, 0.0, 2.0])).tolist() == [True, False, False, False]


def test_by_the_speeds_of_two_frames() -> None:
    """0.7 m/s2 over half a second are 0.35 m/s."""
    before = moving({"brakes": 8.0, "keeps": 8.0, "speeds_up": 8.0, "leaves": 8.0})
    now = moving({"brakes": 7.6, "keeps": 7.7, "speeds_up": 9.0, "appears": 1.0})
    assert braking_tokens(before, now) == {"brakes"}


def test_the_first_frame_tells_nothing() -> None:
    assert braking_tokens(None, moving({"a": 3.0})) == frozenset()


def test_reversing_traffic_brakes_too() -> None:
    """Speeds count, not signs of velocities."""
    assert braking_tokens(moving({"a": -5.0}), moving({"a": -4.0})) == {"a"}
