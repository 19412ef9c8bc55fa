import numpy as np
import pytest

from irl_vla.driving.bicycle import bicycle_step, steering_for

ORIGIN = np.zeros(3)


def test_straight_ahead_with_constant_acceleration():
    pose, speed = bicycle_step(ORIGIN, 10.0, 2.0, 0.0, 0.5)
    np.testing.assert_allclose(pose, [5.25, 0, 0])
    assert float(speed) == 11.0


def test_a_quarter_circle_ends_beside_its_centre():
    radius = 20.0
    pose, _ = bicycle_step(ORIGIN, np.pi * radius / 2, 0.0, steering_for(1 / radius), 1.0)
    np.testing.assert_allclose(pose, [radius, radius, np.pi / 2], rtol=1e-12)


def test_small_steps_and_one_large_one_agree():
    pose, speed = ORIGIN, np.array(8.0)
    for _ in range(100):
        pose, speed = bicycle_step(pose, speed, 0.5, 0.1, 0.01)
    whole, final = bicycle_step(ORIGIN, 8.0, 0.5, 0.1, 1.0)
    np.testing.assert_allclose(pose, whole, atol=1e-9)
    assert float(speed) == pytest.approx(float(final))


def test_braking_ends_at_standstill():
    pose, speed = bicycle_step(ORIGIN, 2.0, -4.0, 0.0, 1.0)
    assert float(speed) == 0.0
    assert pose[0] == pytest.approx(0.5)  # v^2 / 2a
    resting, _ = bicycle_step(pose, 0.0, -4.0, 0.3, 1.0)
    np.testing.assert_array_equal(resting, pose)


def test_vehicles_are_independent_and_turn_with_their_frame():
    generator = np.random.default_rng(0)
    poses, speeds, steering = generator.normal(size=(5, 3)), generator.uniform(0, 9, 5), generator.normal(size=5) / 5
    together, final = bicycle_step(poses, speeds, 1.0, steering, 0.1)
    for i in range(5):
        alone, speed = bicycle_step(poses[i], speeds[i], 1.0, steering[i], 0.1)
        np.testing.assert_allclose(together[i], alone)
        assert final[i] == speed


def test_steering_is_limited():
    hard, _ = bicycle_step(ORIGIN, 1.0, 0.0, 3.0, 0.1)
    limit, _ = bicycle_step(ORIGIN, 1.0, 0.0, np.pi / 3, 0.1)
    np.testing.assert_array_equal(hard, limit)
    assert float(steering_for(-1e6)) == pytest.approx(-np.pi / 3)
