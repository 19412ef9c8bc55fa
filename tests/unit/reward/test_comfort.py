import numpy as np

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import score_plans
from irl_vla.reward.comfort import history_comforts, pair_comforts, scene_rollouts
from irl_vla.scene import SUBSCORES

from .roads import FRAME_US, START_US, history, scene, straight

TIMES = np.array([START_US])


def plans_at(speed_mps):
    return np.stack([straight(speed_mps, a, k) for a in (-6.0, -2.0, 0.0, 1.0, 3.0) for k in (0.0, 0.02, 0.15)])


def test_history_comfort_is_that_of_the_scorer():
    for speed_mps in (2.0, 8.0, 14.0):
        plans = plans_at(speed_mps)
        scored = score_plans(scene("a", speed_mps), plans, ScorerConfig(human_filter=False))
        computed = history_comforts(
            history(speed_mps)[None], scene_rollouts(history(speed_mps)[None], plans[None], TIMES)
        )[0]
        np.testing.assert_array_equal(computed, scored.raw[:, SUBSCORES.index("hc")])
        assert 0.0 < computed.mean() < 1.0


def test_extended_comfort_of_a_plan_that_goes_on_and_of_one_that_brakes():
    now_plans = np.stack([straight(8.0), straight(8.0, -4.0)])[None]
    previous_plans = np.stack([straight(8.0), straight(8.0)])[None]
    now = (history(8.0)[None], now_plans, TIMES + FRAME_US)
    found = pair_comforts(now, (history(8.0)[None], previous_plans, TIMES))
    np.testing.assert_array_equal(found, [[1.0, 0.0]])


def test_frames_too_far_apart_have_no_extended_comfort():
    plans = np.stack([straight(8.0)])[None]
    for gap_us in (0, 2 * FRAME_US, -FRAME_US):
        now = (history(8.0)[None], plans, TIMES + gap_us)
        assert np.isnan(pair_comforts(now, (history(8.0)[None], plans, TIMES))).all()
