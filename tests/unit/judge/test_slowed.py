"""Slowed plans, by values that can be worked out on straight roads and a circle."""

import numpy as np

from irl_vla.judge.slowed import FRONTIER, STRENGTHS, slowed, slowed_plans
from irl_vla.reward.proposals import constant_manoeuvre
from tests.unit.epdms.straight_road import plan


def test_the_way_shrinks_more_and_more_along_the_path() -> None:
    """8 m/s drives 4 m a pose; at a strength of 0.2 the way to pose k is 4 k (1 - 0.2 k / 8)."""
    found = slowed(plan(8.0), 0.2)
    steps = np.arange(1, 9)
    np.testing.assert_allclose(found[:, 0], 4 * steps * (1 - 0.025 * steps))
    np.testing.assert_array_equal(found[:, 1:], 0.0)


def test_a_bend_stays_the_same_bend() -> None:
    """On a circle of 50 m, the poses of the slowed plan are on it, to the sagitta of a 4 m chord (4 cm)."""
    found = slowed(constant_manoeuvre(np.array(8.0), np.array(0.0), np.array(1 / 50)), 0.3)
    np.testing.assert_allclose(np.hypot(found[:, 0], found[:, 1] - 50.0), 50.0, atol=0.041)
    np.testing.assert_allclose(found[:, 2], np.arctan2(found[:, 0], 50.0 - found[:, 1]), atol=1e-3)
    np.testing.assert_allclose(found[-1, 2] * 50, 0.7 * 32, rtol=1e-3)


def test_who_stands_stays() -> None:
    standing = np.zeros((8, 3))
    standing[:, 0] = 0.05 * np.arange(1, 9)
    assert slowed(standing, 0.3) is standing


def test_the_frontier_is_imitation_and_every_strength() -> None:
    assert tuple(STRENGTHS.values()) == (0.05, 0.1, 0.15, 0.2, 0.3)
    assert FRONTIER == ("imitation", "slowed_05", "slowed_10", "slowed_15", "slowed_20", "slowed_30")
    found = dict(slowed_plans({"a": plan(8.0)}))
    assert [found[name]["a"][-1, 0] for name in FRONTIER[1:]] == [32 * (1 - value) for value in STRENGTHS.values()]
