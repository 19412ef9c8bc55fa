import numpy as np
import pytest

from irl_vla.geometry import PACIFICA, box_corners, compose, rear_axle_to_centre, relative_to
from irl_vla.geometry import wrap_angle as wrap


def test_wrap_angle_is_half_open() -> None:
    np.testing.assert_allclose(wrap(np.array([np.pi, -np.pi, 3 * np.pi / 2, 0.0])), [-np.pi, -np.pi, -np.pi / 2, 0.0])


def test_compose_turns_left_then_drives() -> None:
    ego = np.array([10.0, 5.0, np.pi / 2])
    np.testing.assert_allclose(compose(ego, np.array([2.0, 1.0, 0.1])), [9.0, 7.0, np.pi / 2 + 0.1])


def test_relative_to_inverts_compose() -> None:
    rng = np.random.default_rng(0)
    origin, poses = rng.normal(size=(6, 1, 3)), rng.normal(size=(6, 5, 3))
    np.testing.assert_allclose(relative_to(origin, compose(origin, poses)), poses, atol=1e-12)


def test_rear_axle_to_centre_is_the_pacifica_offset() -> None:
    assert pytest.approx(1.461) == PACIFICA.rear_axle_to_centre
    assert pytest.approx(5.176) == PACIFICA.length
    pose = np.array([0.0, 0.0, np.pi / 2])
    np.testing.assert_allclose(rear_axle_to_centre(pose), [0.0, 1.461, np.pi / 2], atol=1e-12)


def test_box_corners_start_front_left() -> None:
    corners = box_corners(np.array([1.0, 2.0, 0.0]), 4.0, 2.0)
    np.testing.assert_allclose(corners, [[3.0, 3.0], [-1.0, 3.0], [-1.0, 1.0], [3.0, 1.0]])
