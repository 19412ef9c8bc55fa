import numpy as np
import pytest

from irl_vla.driving.idm import IdmParameters, idm_acceleration, pdm_acceleration

PARAMS = IdmParameters(target_speed_mps=10.0, min_gap_m=2.0)


def test_a_free_vehicle_at_rest_accelerates_fully_and_stops_doing_so_at_its_target():
    np.testing.assert_allclose(idm_acceleration(np.array([0.0, 10.0]), np.inf, 0.0, PARAMS), [1.5, 0.0])


def test_the_equilibrium_gap_leaves_only_the_free_term():
    # Same speed: desired gap 2 + 1.5 * 5 = 9.5 m.
    assert float(idm_acceleration(5.0, 9.5, 5.0, PARAMS)) == pytest.approx(-1.5 * 0.5**4)


def test_closing_in_brakes_and_a_departing_leader_does_not_count_below_the_minimum_gap():
    assert idm_acceleration(5.0, 20.0, 0.0, PARAMS) < idm_acceleration(5.0, 20.0, 5.0, PARAMS)
    departing = idm_acceleration(5.0, 20.0, 100.0, PARAMS)
    assert float(departing) == pytest.approx(1.5 * (1 - 0.5**4 - 0.1**2))


def test_overlap_stays_finite():
    assert np.isfinite(idm_acceleration(5.0, -3.0, 0.0, PARAMS))


def test_a_queue_comes_to_rest_without_collision():
    leader, position, speed = 100.0, 0.0, 10.0
    for _ in range(600):
        speed = max(0.0, speed + 0.1 * max(-6.0, float(idm_acceleration(speed, leader - position, 0.0, PARAMS))))
        position += 0.1 * speed
    assert speed < 0.05
    assert 0.5 < leader - position < 3.0


@pytest.mark.parametrize(
    ("speed", "gap", "lead", "target", "expected"),
    [
        (0.0, 1.0, 0.0, 10.0, 0.0),  # desired gap = gap = 1 m
        (0.0, 2.0, 0.0, 10.0, 1.5 * (1 - 0.25)),
        (10.0, 1e9, 10.0, 10.0, 0.0),
        (5.0, 0.0, 0.0, 10.0, -3.0),  # gaps count as at least 1 m; the limit holds
        (-1.0, 1.0, 0.0, 10.0, 1.5 * (1 - 0.1**10 - (1 - 1.5 + 1 / (2 * np.sqrt(4.5))) ** 2)),
    ],
)
def test_the_planner_formula_by_hand(speed, gap, lead, target, expected):
    assert pdm_acceleration(speed, gap, lead, target) == pytest.approx(expected, abs=1e-12)
