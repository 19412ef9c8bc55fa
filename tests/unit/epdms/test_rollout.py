import numpy as np
import pytest

from irl_vla.epdms.rollout import interpolate_plans, interpolate_reference, simulate
from irl_vla.geometry import compose

from .straight_road import TIME_US, plan, states


def test_interpolation_starts_at_the_ego_and_passes_the_plan() -> None:
    ego = np.array([100.0, -50.0, 0.7, *np.zeros(8)])
    generator = np.random.default_rng(0)
    plans = generator.normal(size=(3, 8, 3)).cumsum(axis=1)
    poses = interpolate_plans(TIME_US, ego, plans)
    assert poses.shape == (3, 41, 3)
    np.testing.assert_allclose(poses[:, 0], np.tile(ego[:3], (3, 1)), atol=1e-12)
    # Stamps are integers; the tested ones may miss a knot by a microsecond.
    np.testing.assert_allclose(poses[:, 5::5, :2], compose(ego[:3], plans)[..., :2], atol=1e-4)


def test_headings_are_interpolated_the_short_way_round() -> None:
    relative = np.zeros((1, 8, 3))
    relative[0, :, 2] = -3.0
    relative[0, 0, 2] = 3.0
    headings = interpolate_plans(TIME_US, np.zeros(11), relative)[0, :, 2]
    assert np.abs(headings[5:11]).min() > 2.99  # between 3.0 and -3.0 through pi


def test_reference_is_sampled_at_its_own_knots() -> None:
    reference = np.random.default_rng(1).normal(size=(51, 3)).cumsum(axis=0) * 0.1
    np.testing.assert_allclose(interpolate_reference(TIME_US, reference), reference[:41], atol=1e-4)


def test_exact_tracking_of_straight_constant_speed() -> None:
    rows = states(8.0)
    rollout = simulate(rows[0], rows[None, :, :3])[0]
    np.testing.assert_allclose(rollout[:, :4], rows[:, :4], atol=1e-2)
    np.testing.assert_allclose(rollout[:, 1:3], 0.0, atol=1e-12)


def test_standing_ego_with_standing_plan_does_not_move() -> None:
    rollout = simulate(np.zeros(11), np.zeros((1, 41, 3)))[0]
    np.testing.assert_array_equal(rollout, np.zeros((41, 11)))


def test_first_step_follows_the_closed_form() -> None:
    """From rest with a reference at 10 m/s: a = 10/11 * 10 behind a first-order lag of 0.2 s; position lags a step."""
    reference = states(10.0)[:, :3]
    rollout = simulate(np.zeros(11), reference[None])[0]
    acceleration = 0.1 / 0.3 * 10.0 / 11.0 * 10.0
    # The ridge on accelerations leaves a profile of constant speed untouched up to its own weight.
    assert rollout[1, 5] == pytest.approx(acceleration, rel=1e-3)
    assert rollout[1, 3] == pytest.approx(0.1 * acceleration, rel=1e-3)
    assert rollout[1, 0] == 0.0


def test_velocity_fit_solves_the_regularised_least_squares() -> None:
    """The speed that the tracker aims for, recovered from the first command, against the dense problem of both axes."""
    generator = np.random.default_rng(2)
    heading = 0.05 * generator.normal(size=41).cumsum()
    speed = 8.0 + generator.normal(size=40).cumsum() * 0.3
    poses = np.zeros((41, 3))
    poses[:, 2] = heading
    poses[1:, 0] = np.cumsum(0.1 * speed * np.cos(heading[:40]))
    poses[1:, 1] = np.cumsum(0.1 * speed * np.sin(heading[:40]) + 0.01 * generator.normal(size=40))
    profile = np.hstack([np.ones((40, 1)), 0.1 * np.tri(40, 40, -1)[:, :-1]])
    rows = 0.1 * np.vstack([np.cos(heading[:40])[:, None] * profile, np.sin(heading[:40])[:, None] * profile])
    ridge = np.zeros((38, 40))
    ridge[np.arange(37), np.arange(1, 38)] = 1e-2
    ridge[37, 38:] = [-1e-2, 1e-2]
    target = np.concatenate([np.diff(poses[:, 0]), np.diff(poses[:, 1]), np.zeros(38)])
    fitted = profile @ np.linalg.lstsq(np.vstack([rows, ridge]), target, rcond=None)[0]
    initial = np.zeros(11)
    initial[3] = 8.0
    rollout = simulate(initial, poses[None])[0]
    command = rollout[1, 5] * 3.0  # undo the lag
    assert 8.0 + command * 11.0 / 10.0 == pytest.approx(fitted[10], abs=1e-6)


def test_states_stay_bounded_on_a_hairpin() -> None:
    relative = np.zeros((1, 8, 3))
    relative[0, :, 0] = [5.0, 0.0] * 4
    relative[0, :, 2] = [0.0, np.pi] * 4
    initial = np.zeros(11)
    initial[3] = 5.0
    rollout = simulate(initial, interpolate_plans(TIME_US, initial, relative))[0]
    assert np.isfinite(rollout).all()
    assert np.abs(rollout[:, 7]).max() <= np.pi / 3
    assert ((rollout[:, 2] >= -np.pi) & (rollout[:, 2] < np.pi)).all()


def test_batch_equals_loop_and_no_plans_are_legal() -> None:
    initial = states(10.0)[0]
    plans = np.stack([plan(speed) for speed in (0.0, 3.0, 10.0, 14.0)])
    poses = interpolate_plans(TIME_US, initial, plans)
    together = simulate(initial, poses)
    for index in range(len(plans)):
        np.testing.assert_array_equal(together[index], simulate(initial, poses[index : index + 1])[0])
    assert simulate(initial, poses[:0]).shape == (0, 41, 11)
