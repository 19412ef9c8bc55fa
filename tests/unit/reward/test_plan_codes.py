import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import score_plans
from irl_vla.reward.plan_codes import decode_plans, encode_plans, rounded

from .roads import scene, straight

CODES = arrays(np.int16, (3, 8, 3), elements=st.integers(-(2**15) + 1, 2**15 - 1))


def test_known_numbers():
    plan = np.zeros((1, 8, 3))
    plan[0, 0] = [1.0009, -0.0031, 0.12344]
    plan[0, 1:] = [1.0009, 2.0, -3.0]
    codes = encode_plans(plan)
    np.testing.assert_array_equal(codes[0, :3], [[500, -2, 1234], [0, 1002, -30000], [0, 0, -30000]])
    np.testing.assert_allclose(decode_plans(codes)[0, 1], [1.0, 2.0, -3.0], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (2, 8, 3), elements=st.floats(-30.0, 30.0)))
def test_a_plan_moves_by_a_millimetre_at_most_and_turns_by_less_than_a_tenth_of_one(plans):
    found = rounded(plans)
    assert found.dtype == np.float32
    assert np.abs(found[..., :2] - plans[..., :2]).max() < 1.01e-3
    turned = (found[..., 2] - plans[..., 2] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(turned).max() < 0.6e-4
    np.testing.assert_array_equal(rounded(found), found)


@settings(max_examples=50, deadline=None)
@given(CODES)
def test_codes_come_back(codes):
    codes[..., 2] = codes[..., 2].astype(int) % 62832 - 31416  # as headings are wrapped
    np.testing.assert_array_equal(encode_plans(decode_plans(codes)), codes)


def test_both_ends_of_half_a_turn_are_one_heading():
    plan = np.zeros((2, 8, 3))
    plan[..., 2] = np.array([[np.pi], [-np.pi]]) + np.array([[-1e-7], [1e-7]])
    codes = encode_plans(plan)
    assert len(np.unique(codes[..., 2])) == 1
    np.testing.assert_array_equal(encode_plans(decode_plans(codes)), codes)


def test_what_nobody_can_drive_is_cut():
    plan = np.zeros((1, 8, 3))
    plan[0, :, 0] = 100.0 * np.arange(1, 9)
    np.testing.assert_allclose(rounded(plan)[0, :, 0], 65.534 * np.arange(1, 9), rtol=1e-6)


def test_wrapping_a_heading_does_not_change_a_score():
    plan = straight(8.0, 0.5, 0.02)
    turned = plan + np.array([0.0, 0.0, 2 * np.pi])
    scored = score_plans(scene("0", 8.0), np.stack([plan, turned]), ScorerConfig())
    np.testing.assert_array_equal(scored.raw[0], scored.raw[1])
    assert scored.progress_m[0] == pytest.approx(scored.progress_m[1], abs=1e-6)
