"""The pair rule of extended comfort: one bound, and everything that pairs frames follows it."""

import numpy as np
import pytest

from irl_vla.dataset.checks.order import GAP_S
from irl_vla.epdms.comfort import extended_comfort_rms
from irl_vla.epdms.config import ScorerConfig
from irl_vla.judge.one_stage import FrameId, score_log
from irl_vla.policy.token_bank import BankRows, link_frames
from irl_vla.reward.comfort import pair_comforts
from irl_vla.scene import SUBSCORES, are_pair

from .reward.roads import START_US, history, scene, straight


def bank_rows(times_us: list[int]) -> BankRows:
    count = len(times_us)
    names = np.array([f"{time}" for time in times_us])
    same, flags = np.full(count, "log"), np.ones(count, bool)
    return BankRows(
        token=names,
        scene_token=names,
        view=np.full(count, "original"),
        log_name=same,
        group=same,
        kind=same,
        timestamp_us=np.array(times_us),
        ego_history=np.zeros((count, 4, 7), np.float32),
        command=np.zeros(count, np.int64),
        plan=np.zeros((count, 8, 3), np.float32),
        has_plan=flags,
        has_human=flags,
    )


@pytest.mark.parametrize(
    ("gap_us", "pair"),
    [(1, True), (300_000, True), (500_000, True), (550_000, True), (550_001, False), (1_000_000, False)],
)
@pytest.mark.parametrize("braking_mps2", [0.0, 6.0])
def test_score_and_reward_pair_the_same_frames_and_say_the_same(gap_us: int, pair: bool, braking_mps2: float) -> None:
    plans = {"earlier": straight(8.0), "later": straight(8.0, -braking_mps2)}
    times = {"earlier": START_US, "later": START_US + gap_us}
    store = {token: scene(token, 8.0, time_us=times[token]) for token in times}
    scored = score_log(store, [FrameId(token, "log", "g", "") for token in times], plans, ScorerConfig())
    later, earlier = (
        (history(8.0)[None], plans[token][None, None], np.array([times[token]])) for token in ("later", "earlier")
    )
    expected = [[float(braking_mps2 == 0.0)]] if pair else [[np.nan]]
    np.testing.assert_array_equal(pair_comforts(later, earlier), expected)
    np.testing.assert_array_equal(scored.subscores[1:, SUBSCORES.index("ec")], expected[0])
    assert link_frames(bank_rows(list(times.values()))).tolist() == ([-1, 0] if pair else [-1, -1])
    assert bool(are_pair(gap_us)) == pair
    assert (gap_us / 1e6 <= GAP_S) == pair, "what the data check calls a gap"
    if not pair:
        with pytest.raises(ValueError, match="interval of rollouts"):
            extended_comfort_rms(scored.plans, scored.plans, gap_us * 1e-6)


@pytest.mark.parametrize("gap_us", [0, -500_000])
def test_a_frame_is_no_pair_with_itself_or_with_a_later_one(gap_us: int) -> None:
    assert not are_pair(gap_us)


def test_the_rule_holds_element_by_element() -> None:
    assert are_pair(np.array([[0, 550_000], [550_001, 1]])).tolist() == [[False, True], [False, True]]
