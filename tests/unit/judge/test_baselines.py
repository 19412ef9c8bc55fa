"""Planners without learning, by values that can be worked out on a straight road."""

from dataclasses import replace

import numpy as np
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import score_plans
from irl_vla.errors import SceneError
from irl_vla.judge import baselines
from tests.unit.epdms.straight_road import plan, scene, tracks

T = baselines.PLAN_TIMES_S


def test_plan_times_are_half_seconds_up_to_four() -> None:
    np.testing.assert_array_equal(T, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])


def test_constant_velocity_goes_straight_on_at_the_speed_of_the_ego() -> None:
    np.testing.assert_allclose(baselines.constant_velocity(scene(8.0)), plan(8.0))
    slipping = scene(3.0)
    slipping.ego_state[4] = 4.0  # speed is that of both components: 5 m/s
    np.testing.assert_allclose(baselines.constant_velocity(slipping), plan(5.0))


def test_constant_acceleration_is_the_parabola() -> None:
    found = baselines.constant_acceleration(scene(10.0), 2.0)
    np.testing.assert_allclose(found[:, 0], 10 * T + T**2)
    np.testing.assert_array_equal(found[:, 1:], 0.0)


def test_who_brakes_stops_and_stays() -> None:
    found = baselines.constant_acceleration(scene(10.0), -5.0)
    np.testing.assert_allclose(found[:, 0], [4.375, 7.5, 9.375, 10, 10, 10, 10, 10])
    np.testing.assert_array_equal(baselines.constant_acceleration(scene(0.0), -1.0), np.zeros((8, 3)))


def test_human_is_the_logged_plan() -> None:
    logged = plan(7.0)
    assert baselines.human(scene(human=logged)) is logged
    with pytest.raises(SceneError, match="straight: has no human plan"):
        baselines.human(scene(human=None))


def test_reference_is_told_in_the_ego_frame() -> None:
    np.testing.assert_allclose(baselines.reference(scene(reference_mps=8.0)), plan(8.0), atol=1e-12)
    north = scene(reference_mps=8.0)
    north.ego_state[:3] = [100.0, -50.0, np.pi / 2]
    poses = np.zeros_like(north.reference_poses)
    poses[:] = [100.0, -50.0, np.pi / 2]
    poses[:, 1] += 0.8 * np.arange(len(poses))
    np.testing.assert_allclose(baselines.reference(replace(north, reference_poses=poses)), plan(8.0), atol=1e-9)


def test_best_acceleration_on_a_free_road_keeps_up_with_the_reference() -> None:
    """At 10 m/s beside a reference of 10 m/s, every slower plan loses progress and no faster one gains any."""
    best, means = baselines.best_constant_acceleration([scene(10.0, reference_mps=10.0)], ScorerConfig())
    assert best == 0.0
    at = dict(zip(baselines.ACCELERATIONS_MPS2, means, strict=True))
    assert at[0.0] == pytest.approx(1.0)
    slower = [at[a] for a in baselines.ACCELERATIONS_MPS2 if a < 0]
    assert slower == sorted(slower)
    assert slower[-1] < 1.0
    expected = score_plans(scene(10.0), baselines.constant_acceleration(scene(10.0), -6.0)[None], ScorerConfig()).score
    assert at[-6.0] == pytest.approx(expected[0])


def test_best_acceleration_before_a_parked_car_brakes() -> None:
    """Its tail is 23 m ahead, our nose 4.05 m: 10 m/s need at least 2.64 m/s^2, and whoever does not brake hits it."""
    blocked = scene(10.0, objects=tracks(("vehicle", 25.0, 0.0, 0.0, 0)), reference_mps=4.0)
    best, means = baselines.best_constant_acceleration([blocked], ScorerConfig())
    at = dict(zip(baselines.ACCELERATIONS_MPS2, means, strict=True))
    assert best <= -3.0
    assert all(at[a] == 0.0 for a in baselines.ACCELERATIONS_MPS2 if a >= -2.0)


def test_scores_are_means_over_scenes() -> None:
    free, blocked = scene(10.0), scene(10.0, objects=tracks(("vehicle", 25.0, 0.0, 0.0, 0)))
    alone = [baselines.best_constant_acceleration([item], ScorerConfig())[1] for item in (free, blocked)]
    _, both = baselines.best_constant_acceleration([free, blocked], ScorerConfig())
    np.testing.assert_allclose(both, np.mean(alone, axis=0))
