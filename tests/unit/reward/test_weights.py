import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irl_vla.config import validated
from irl_vla.epdms.scorer import final_score
from irl_vla.errors import ConfigError
from irl_vla.reward.weights import RewardWeights, reward

GOOD = [1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 0.0, 1.0, np.nan]  # nc dac ddc tlc ep ttc lk hc ec


def test_all_ones_without_extended_comfort_is_the_weighted_mean_over_fourteen():
    assert reward(GOOD, RewardWeights()) == pytest.approx((5 * 0.5 + 5 + 0 + 2) / 14)


def test_all_ones_with_extended_comfort_is_the_weighted_mean_over_sixteen():
    assert reward([*GOOD[:8], 1.0], RewardWeights()) == pytest.approx((5 * 0.5 + 5 + 0 + 2 + 2) / 16)


def test_a_half_gate_halves_and_a_failed_gate_zeroes():
    assert reward([0.5, *GOOD[1:]], RewardWeights()) == pytest.approx(0.5 * 9.5 / 14)
    assert reward([0.0, *GOOD[1:]], RewardWeights()) == 0.0


def test_safety_below_one_softens_the_gates():
    weights = RewardWeights(safety=0.5)
    mean = (5 * 0.5 + 2.5 + 2) / 11.5
    assert reward([0.0, *GOOD[1:]], weights) == pytest.approx(0.5 * mean)


def test_safety_zero_ignores_gates_and_time_to_collision():
    weights = RewardWeights(safety=0.0)
    crash = [0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 1.0, np.nan]
    assert reward(crash, weights) == pytest.approx((5 * 0.5 + 2) / 9)


def test_safety_above_one_makes_a_failed_gate_a_penalty():
    weights = RewardWeights(safety=3.0)
    assert reward([0.0, *GOOD[1:]], weights) == pytest.approx(-2.0)
    assert reward([0.5, *GOOD[1:]], weights) == pytest.approx(0.5 * (2.5 + 15 + 2) / 24 - 1.0)


def test_comfort_and_efficiency_scale_their_own_terms_only():
    assert reward(GOOD, RewardWeights(comfort=0.0)) == pytest.approx(7.5 / 10)
    assert reward(GOOD, RewardWeights(efficiency=2.0)) == pytest.approx((5 + 5 + 2) / 19)


def test_no_weight_at_all_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        validated(RewardWeights, {"safety": 0, "comfort": 0, "efficiency": 0}, "test")


@given(
    st.lists(st.floats(0, 1), min_size=8, max_size=8),
    st.floats(0, 1) | st.just(float("nan")),
    st.floats(0, 1.0),
)
def test_the_two_branches_meet_and_the_reward_grows_with_every_gate(values, ec, safety):
    subscores = np.array([*values, ec])
    below, above = reward(subscores, RewardWeights()), reward(subscores, RewardWeights(safety=1.0 + 1e-9))
    assert below == pytest.approx(above, abs=1e-6)
    better = subscores.copy()
    better[:4] = 1.0
    assert reward(better, RewardWeights(safety=safety)) >= reward(subscores, RewardWeights(safety=safety)) - 1e-12


def test_all_ones_equal_the_final_score_of_the_scorer():
    generator = np.random.default_rng(0)
    subscores = generator.choice([0.0, 0.5, 1.0], size=(500, 9))
    subscores[:, 4] = generator.uniform(size=500)
    subscores[::3, 8] = np.nan
    np.testing.assert_allclose(reward(subscores, RewardWeights()), final_score(subscores), rtol=0, atol=1e-15)
