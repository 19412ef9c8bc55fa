from dataclasses import replace

import numpy as np
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.progress import normalise_progress
from irl_vla.epdms.scorer import final_score, score_in_context, score_plans, scoring_context, with_traffic
from irl_vla.errors import SceneError
from irl_vla.scene import SUBSCORES

from .straight_road import plan, rectangle, scene, tracks

CONFIG = ScorerConfig()
ONES = np.ones(9)


def values(**changes: float) -> np.ndarray:
    row = ONES.copy()
    for name, value in changes.items():
        row[SUBSCORES.index(name)] = value
    return row


def test_final_score_by_hand() -> None:
    assert final_score(ONES) == 1.0
    assert final_score(values(ep=0.5)) == pytest.approx(13.5 / 16)
    assert final_score(values(ec=0.0)) == pytest.approx(14 / 16)
    assert final_score(values(ec=np.nan)) == 1.0
    assert final_score(values(ec=np.nan, ttc=0.0)) == pytest.approx(9 / 14)
    assert final_score(values(nc=0.5, ddc=0.5, lk=0.0)) == pytest.approx(0.25 * 14 / 16)
    assert final_score(values(tlc=0.0)) == 0.0
    assert np.isnan(final_score(values(ep=np.nan)))
    np.testing.assert_allclose(final_score(np.stack([[ONES, values(hc=0.0)]] * 3)), [[1.0, 0.875]] * 3)


def test_progress_is_compared_with_the_better_of_reference_and_itself() -> None:
    ep = normalise_progress(np.array([10.0, 20.0, 30.0]), np.array([1.0, 1.0, 0.0]), 20.0)
    np.testing.assert_allclose(ep, [0.5, 1.0, 1.0])  # own failures do not reduce the numerator, only cap it
    np.testing.assert_allclose(normalise_progress(np.array([0.0, 4.0]), np.ones(2), 5.0), [1.0, 1.0])


def test_driving_like_the_reference_scores_one() -> None:
    scored = score_plans(scene(), plan(10.0)[None], CONFIG)
    np.testing.assert_allclose(scored.raw[0, :8], 1.0)
    assert np.isnan(scored.raw[0, 8])
    assert scored.score[0] == pytest.approx(1.0)
    assert scored.progress_m[0] == pytest.approx(40.0, abs=0.1)
    assert (scored.collision_step[0], scored.ttc_step[0]) == (-1, -1)
    assert scored.human is None


def test_half_the_progress_costs_half_of_ep() -> None:
    scored = score_plans(scene(speed_mps=5.0, reference_mps=10.0), plan(5.0)[None], CONFIG)
    reference = score_plans(scene(speed_mps=5.0, reference_mps=10.0), plan(10.0)[None], CONFIG)
    assert scored.raw[0, 4] == pytest.approx(scored.progress_m[0] / reference.progress_m[0], abs=1e-3)
    assert scored.score[0] == pytest.approx((9 + 5 * scored.raw[0, 4]) / 14)


@pytest.fixture
def red_scene():
    """The light is red at the nose: every plan fails it, the human's too."""
    return scene(speed_mps=5.0, red=(rectangle(3.0, -2.0, 9.0, 2.0),), human=plan(5.0))


def test_the_human_filter_forgives_what_the_human_does(red_scene) -> None:  # type: ignore[no-untyped-def]
    tlc = SUBSCORES.index("tlc")
    corrected = score_plans(red_scene, plan(5.0)[None], CONFIG)
    assert (corrected.raw[0, tlc], corrected.filtered[0, tlc]) == (0.0, 1.0)
    assert corrected.score[0] == pytest.approx(final_score(corrected.filtered)[0])
    assert corrected.score[0] > 0.9
    before = score_plans(red_scene, plan(5.0)[None], ScorerConfig(filter_convention="before"))
    assert before.filtered[0, tlc] == 1.0
    assert before.score[0] == 0.0
    off = score_plans(red_scene, plan(5.0)[None], ScorerConfig(human_filter=False))
    assert off.filtered[0, tlc] == 0.0
    assert off.score[0] == 0.0


def test_half_values_of_the_human_do_not_forgive() -> None:
    cone = tracks(("traffic_cone", 20.0, 0.0, 0.0, 0))
    scored = score_plans(scene(objects=cone, human=plan(10.0)), plan(10.0)[None], CONFIG)
    assert scored.human is not None
    assert scored.human[0] == 0.5
    assert scored.filtered[0, 0] == 0.5


def test_context_with_given_traffic_replaces_replay() -> None:
    blocked = tracks(("vehicle", 20.0, 0.0, 0.0, 0))
    context = scoring_context(scene())
    assert score_in_context(context, plan(10.0)[None], CONFIG).raw[0, 0] == 1.0
    given = score_in_context(with_traffic(context, blocked), plan(10.0)[None], CONFIG)
    assert given.raw[0, 0] == 0.0
    logged = score_plans(scene(objects=blocked), plan(10.0)[None], CONFIG)
    np.testing.assert_array_equal(given.raw, logged.raw)


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.zeros((1, 7, 3)), np.full((2, 8, 3), np.nan)])
def test_unfit_plans_are_named(bad: np.ndarray) -> None:
    with pytest.raises(SceneError, match="straight"):
        score_plans(scene(), bad, CONFIG)


def test_no_plans() -> None:
    scored = score_plans(scene(), np.zeros((0, 8, 3)), CONFIG)
    assert scored.raw.shape == (0, 9)
    assert scored.score.shape == (0,)


def test_the_scene_is_not_written_to(red_scene) -> None:  # type: ignore[no-untyped-def]
    before = replace(red_scene, ego_state=red_scene.ego_state.copy(), centerline=red_scene.centerline.copy())
    score_plans(red_scene, plan(5.0)[None], CONFIG)
    np.testing.assert_array_equal(red_scene.ego_state, before.ego_state)
    np.testing.assert_array_equal(red_scene.centerline, before.centerline)
