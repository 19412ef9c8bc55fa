import json
from types import SimpleNamespace

import numpy as np
import pytest

from irl_vla.reward.proposals import SOURCES
from irl_vla.reward.quality import (
    auroc,
    calibration_error,
    mean_rewards,
    pick_quality,
    quality_report,
    subscore_bins,
)
from irl_vla.scene import SubScores


def test_auroc_by_hand():
    predicted = np.array([0.1, 0.4, 0.35, 0.8])
    positive = np.array([False, False, True, True])
    assert auroc(predicted, positive) == pytest.approx(0.75)  # 3 of 4 pairs in order


def test_auroc_counts_ties_half_and_knows_no_answer_for_one_class():
    assert auroc(np.full(4, 0.5), np.array([True, False, True, False])) == pytest.approx(0.5)
    assert np.isnan(auroc(np.ones(3), np.ones(3, bool)))


def test_calibration_error_by_hand():
    predicted = np.array([0.9, 0.9, 0.9, 0.9, 0.1])
    true = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    assert calibration_error(predicted, true) == pytest.approx((4 * 0.15 + 1 * 0.1) / 5)


def test_bins_by_hand():
    predicted = np.array([0.9, 0.96, 1.0, 0.1, 0.19, 0.5])
    true = np.array([1.0, 1.0, 0.0, 0.0, 1.0, np.nan])  # one has no true value
    low, high = subscore_bins("policy", "nc", predicted, true)
    assert (low.source, low.subscore, low.bin, low.plans) == ("policy", "nc", 1, 2)
    assert (low.mean_predicted, low.mean_true) == pytest.approx((0.145, 0.5))
    assert (high.bin, high.plans) == (9, 3)  # 1 belongs to the last bin
    assert (high.mean_predicted, high.mean_true) == pytest.approx((2.86 / 3, 2 / 3))
    error = calibration_error(predicted[:5], true[:5])
    assert error == pytest.approx(sum(b.plans * abs(b.mean_predicted - b.mean_true) for b in (low, high)) / 5)


def test_pick_by_hand():
    predicted = np.array([[0.9, 0.5, 0.1], [0.2, 0.9, 0.3]])
    true = np.array([[1.0, 0.4, 0.1], [0.5, 0.2, 0.8]])
    found = pick_quality("all", predicted, true, np.ones((2, 3), bool))
    assert found.regret == pytest.approx((0.0 + 0.6) / 2)
    assert (found.exact, found.within_5, found.miss_20) == (0.5, 0.5, 0.5)
    assert found.mean_pick == pytest.approx(0.6)
    assert found.mean_best == pytest.approx(0.9)
    assert found.mean_random == pytest.approx(0.5)
    assert found.bias == pytest.approx((1.5 - 1.5 + 1.4 - 1.5) / 6)
    assert found.enrichment == pytest.approx((0.5 - 0.3) / 2)  # a quarter of three plans is one
    ours, theirs = [0.4, 0.0, -0.4, -0.8 / 3, 1.3 / 3, -0.5 / 3], [0.5, -0.1, -0.4, 0.0, -0.3, 0.3]
    assert found.correlation == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
    assert (found.spread_predicted, found.spread_true) == pytest.approx((np.std(ours), np.std(theirs)))


def test_masked_plans_are_neither_picked_nor_best():
    predicted = np.array([[0.9, 0.5, 0.4]])
    true = np.array([[0.0, 0.4, 0.6]])
    found = pick_quality("x", predicted, true, np.array([[False, True, True]]))
    assert found.regret == pytest.approx(0.2)
    assert pick_quality("x", predicted, true, np.array([[True, False, False]])).rows == 0


def perfect(rows=40, seed=0):
    generator = np.random.default_rng(seed)
    true = generator.choice([0.0, 1.0], size=(rows, 6, 9))
    true[..., 4] = generator.uniform(size=(rows, 6))
    true[..., 8] = np.nan
    source = np.tile(np.array([0, 1, 1, 2, 2, 2], np.int8), (rows, 1))
    return true, source


def test_a_perfect_model_has_no_error_anywhere():
    true, source = perfect()
    found = quality_report(true, true, source, groups=4)
    assert {item.source for item in found.subscores} == {"all", *SOURCES[:3]}
    assert all(item.ece == pytest.approx(0.0) and item.mae == 0.0 for item in found.subscores)
    assert all(item.auroc == 1.0 for item in found.subscores if item.subscore != "ep")
    assert all(item.regret == 0.0 for item in found.picks if item.rows)


def test_a_coin_is_found_out():
    true, source = perfect(rows=400)
    coin = np.random.default_rng(1).uniform(size=true.shape)
    found = quality_report(coin, true, source, groups=4)
    everything = {item.subscore: item for item in found.subscores if item.source == "all"}
    assert abs(everything["nc"].auroc - 0.5) < 0.05
    assert found.picks[0].mean_pick < found.picks[0].mean_best - 0.1


def test_report_files_are_plain_json_and_csv(tmp_path):
    true, source = perfect()
    true[..., 0] = 1.0  # no collision at all: AUROC does not exist
    quality_report(true, true, source, groups=4).write(tmp_path)
    values = json.loads((tmp_path / "quality.json").read_text(), parse_constant=pytest.fail)
    assert values["groups"] == 4
    assert values["subscores"][0]["auroc"] is None
    bins = (tmp_path / "quality_bins.csv").read_text().splitlines()
    assert bins[:2] == ["source,subscore,bin,plans,mean_predicted,mean_true", "all,nc,9,240,1.0,1.0"]
    header, first = (tmp_path / "quality_picks.csv").read_text().splitlines()[:2]
    assert header.startswith("source,rows,regret")
    assert first.startswith("all,40,0.0")


class Optimist:
    """Predicts 1 for everything but what the first coordinate of the plan says about progress."""

    def score(self, rows, plans):
        values = np.ones((*plans.shape[:2], 9))
        values[..., 4] = rows[:, None] / 10 + plans[:, :, 0, 0]
        values[..., 8] = np.nan
        return SubScores(values, np.ones(plans.shape[:2], bool))


def test_mean_rewards_compare_the_same_plans_without_extended_comfort():
    bank = SimpleNamespace(token=np.array(["a", "b", "c"]))
    plans = np.zeros((2, 8, 3))
    plans[1, 0, 0] = 0.5
    true = np.ones((2, 9))
    true[0, 0] = 0.0  # a collision: no points at all
    true[:, 8] = [0.0, np.nan]
    given = true.copy()
    found = mean_rewards(Optimist(), bank, ["c", "b"], plans, true)
    # weights without EC: EP 5, TTC 5, LK 2, HC 2; progress 0.2 of row 2, 0.1 + 0.5 of row 1
    assert found.predicted == pytest.approx(((5 * 0.2 + 9) / 14 + (5 * 0.6 + 9) / 14) / 2)
    assert found.true == pytest.approx(0.5)
    np.testing.assert_array_equal(true, given)
