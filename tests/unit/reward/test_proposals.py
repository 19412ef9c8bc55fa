from dataclasses import replace

import numpy as np
import pytest

from irl_vla.errors import CheckpointError
from irl_vla.reward import proposals
from irl_vla.reward.config import ProposalConfig
from irl_vla.reward.proposals import SOURCES, RowFacts

CONFIG = ProposalConfig()


def straight(speed_mps, acceleration_mps2=0.0, curvature_per_m=0.0):
    return proposals.constant_manoeuvre(
        np.float64(speed_mps), np.float64(acceleration_mps2), np.float64(curvature_per_m)
    )


def facts(rows, speed_mps=8.0, has_plan=True, has_human=True):
    return RowFacts(
        np.asarray(rows),
        np.full(len(rows), speed_mps),
        np.repeat(straight(speed_mps)[None], len(rows), 0),
        np.full(len(rows), has_plan),
        np.full(len(rows), has_human),
    )


VOCABULARY = np.stack([straight(speed, a) for speed in np.linspace(0, 15, 16) for a in (-1.0, 0.0, 1.0)])


def chain_sampler(rows, chains, generators):
    noise = np.stack([generator.normal(size=(chains, 4, 8, 3)) for generator in generators])
    return straight(8.0) + noise * np.array([3.0, 2.0, 1.0, 0.0])[:, None, None]


def kind(result, name):
    return result.plans[result.source == SOURCES.index(name)].astype(float)


def test_constant_manoeuvre_on_a_quarter_circle():
    # 10 m/s on a circle of radius 20 m: after 2 s, 20 m of arc = 1 rad.
    plan = straight(10.0, 0.0, 1 / 20)
    np.testing.assert_allclose(plan[3], [20 * np.sin(1), 20 * (1 - np.cos(1)), 1.0])


def test_constant_manoeuvre_stops_and_never_reverses():
    plan = straight(4.0, -4.0)  # stops after 1 s and 2 m
    np.testing.assert_allclose(plan[:, 0], [1.5, 2, 2, 2, 2, 2, 2, 2])


def test_follow_path_repeats_the_plan_and_extends_it_straight():
    plan = straight(5.0, 0.0, 0.02)
    driven = np.cumsum(np.hypot(*np.diff(np.vstack([np.zeros(2), plan[:, :2]]), axis=0).T))
    np.testing.assert_allclose(proposals.follow_path(plan, driven), plan, atol=1e-9)
    beyond = proposals.follow_path(plan, driven + 10.0)[-1]
    np.testing.assert_allclose(beyond[:2], plan[-1, :2] + 10 * np.array([np.cos(plan[-1, 2]), np.sin(plan[-1, 2])]))


def test_follow_path_of_a_standing_plan_goes_straight_on():
    moved = proposals.follow_path(np.zeros((8, 3)), np.arange(1.0, 9.0))
    np.testing.assert_allclose(moved[:, 0], np.arange(1.0, 9.0))
    np.testing.assert_allclose(moved[:, 1:], 0.0)


def test_drift_ends_at_the_offset_and_leaves_standing_plans_alone():
    np.testing.assert_allclose(proposals.drift_sideways(straight(8.0), np.float64(3.0))[-1, 1], 3.0)
    np.testing.assert_allclose(proposals.drift_sideways(np.zeros((8, 3)), np.float64(3.0)), 0.0)


def test_reverse_last_goes_back_by_the_given_distance():
    plan = proposals.reverse_last(straight(8.0), np.float64(2.0))
    assert plan[-1, 0] == pytest.approx(plan[-2, 0] - 2.0)
    np.testing.assert_array_equal(plan[:-1], straight(8.0)[:-1])


def test_every_source_has_its_configured_number():
    result = proposals.propose(facts([3, 7]), VOCABULARY, chain_sampler, CONFIG, seed=1)
    assert result.plans.shape == (2, CONFIG.count, 8, 3)
    for name in SOURCES:
        assert len(kind(result, name)) == (0 if name == "recovery" else 2 * getattr(CONFIG, name)), name


def test_default_count_is_sixty_four():
    assert CONFIG.count == 64


def test_without_policy_and_human_the_vocabulary_fills_the_places():
    result = proposals.propose(facts([3], has_plan=False, has_human=False), VOCABULARY, None, CONFIG, seed=1)
    expected = CONFIG.human + CONFIG.vocabulary + CONFIG.policy + CONFIG.denoising
    assert len(kind(result, "vocabulary")) == expected
    assert len(kind(result, "human")) == len(kind(result, "policy")) == 0


def test_without_a_human_the_way_back_is_proposed_and_disturbed_under_its_own_name():
    """A shifted view: the plan to imitate turns by 0.4 rad, the vocabulary is straight."""
    way_back = straight(8.0, 0.0, 0.0125)
    view = replace(facts([3], has_human=False), plans=way_back[None])
    result = proposals.propose(view, VOCABULARY, chain_sampler, CONFIG, seed=1)
    assert len(kind(result, "human")) == 0
    np.testing.assert_allclose(kind(result, "recovery"), way_back[None], rtol=1e-6)
    assert len(kind(result, "vocabulary")) == CONFIG.vocabulary
    for name in ("hard_brake", "reversed", "speeding"):
        # all on the circle of 80 m: y = R (1 - cos a), x = R sin a, so (R - y)^2 + x^2 = R^2
        driven = kind(result, name)[:, :7]
        inside = np.hypot(driven[..., 0], 80.0 - driven[..., 1])[driven[..., 0] < way_back[-1, 0]]
        np.testing.assert_allclose(inside, 80.0, atol=0.1, err_msg=name)
    # the same draws as with a human: only the name differs
    logged = proposals.propose(replace(view, has_human=np.ones(1, bool)), VOCABULARY, chain_sampler, CONFIG, seed=1)
    np.testing.assert_array_equal(result.plans, logged.plans)


def test_proposals_of_a_row_do_not_depend_on_the_other_rows():
    together = proposals.propose(facts([3, 7, 9]), VOCABULARY, chain_sampler, CONFIG, seed=1)
    alone = proposals.propose(facts([7]), VOCABULARY, chain_sampler, CONFIG, seed=1)
    np.testing.assert_array_equal(together.plans[1], alone.plans[0])
    other_seed = proposals.propose(facts([7]), VOCABULARY, chain_sampler, CONFIG, seed=2)
    assert not np.array_equal(alone.plans, other_seed.plans)


def test_sources_are_what_they_say():
    result = proposals.propose(facts([5]), VOCABULARY, chain_sampler, CONFIG, seed=4)
    human = straight(8.0)
    np.testing.assert_allclose(kind(result, "human")[0], human, rtol=1e-6)
    np.testing.assert_allclose(kind(result, "policy"), np.repeat(human[None], 12, 0), rtol=1e-6)
    assert (np.abs(kind(result, "denoising") - human).max((1, 2)) > 0.5).all()
    assert (np.abs(kind(result, "off_road")[:, -1, 1]) >= 2.0 - 1e-6).all()
    reverse = kind(result, "reversed")
    assert (reverse[:, -1, 0] < reverse[:, -2, 0]).all()
    brake = kind(result, "hard_brake")
    assert (brake[:, -1, 0] <= 8.0**2 / (2 * 3.0) + 1e-6).all()  # v^2 / 2a at the weakest braking
    assert (kind(result, "speeding")[:, -1, 0] >= 1.2 * human[-1, 0] - 1e-5).all()
    assert (np.abs(np.diff(kind(result, "jittery")[..., 1])).max(1) > 0.01).all()


def test_speeding_at_a_standstill_starts_to_drive():
    standing = RowFacts(np.array([0]), np.zeros(1), np.zeros((1, 8, 3)), np.ones(1, bool), np.ones(1, bool))
    result = proposals.propose(standing, VOCABULARY, None, CONFIG, seed=0)
    assert (kind(result, "speeding")[:, -1, 0] > 5.0).all()
    assert np.isfinite(result.plans).all()


def test_vocabulary_draw_prefers_the_current_speed():
    few = ProposalConfig(vocabulary=4, policy=0, denoising=0)
    slow = proposals.propose(facts(range(50), speed_mps=1.0), VOCABULARY, None, few, seed=0)
    fast = proposals.propose(facts(range(50), speed_mps=14.0), VOCABULARY, None, few, seed=0)
    assert kind(slow, "vocabulary")[:, -1, 0].mean() + 15.0 < kind(fast, "vocabulary")[:, -1, 0].mean()


def test_vocabulary_holds_one_plan_of_each_cluster():
    centres = [straight(2.0), straight(8.0, 0, 0.05), straight(14.0)]
    generator = np.random.default_rng(0)
    plans = np.concatenate([centre + 0.01 * generator.normal(size=(40, 8, 3)) for centre in centres])
    found = proposals.fit_vocabulary(plans, 3, np.random.default_rng(1))
    assert len(found) == 3
    for centre in centres:
        assert np.abs(found - centre).max((1, 2)).min() < 0.1
    rows = {plan.tobytes() for plan in plans}
    assert all(plan.tobytes() in rows for plan in found), "vocabulary plans are real plans"


def test_vocabulary_is_no_larger_than_the_distinct_plans():
    plans = np.repeat(straight(3.0)[None], 10, 0)
    assert len(proposals.fit_vocabulary(plans, 4, np.random.default_rng(0))) == 1


def test_vocabulary_follows_from_the_passed_generator():
    generator = np.random.default_rng(0)
    plans = straight(8.0) + generator.normal(size=(200, 8, 3))
    first, same, other = (proposals.fit_vocabulary(plans, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_vocabulary_without_humans_is_refused():
    with pytest.raises(CheckpointError, match="no human plan"):
        proposals.fit_vocabulary(np.zeros((0, 8, 3)), 4, np.random.default_rng(0))
