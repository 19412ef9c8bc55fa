import math

import pytest
import torch

from irl_vla.reward.config import HeadWeights
from irl_vla.reward.loss import (
    HEADS,
    LEARNED,
    LOGITS,
    class_weights,
    expected_subscores,
    irl_loss,
    learned_reward,
    subscore_losses,
    total_loss,
    within_scene_loss,
)

ONES = torch.ones(8, 3)


def labels(**values):
    return torch.tensor([[values.get(name, 1.0) for name in LEARNED]])


def test_heads_cover_the_logits_once():
    covered = sorted(index for head in HEADS.values() for index in range(LOGITS)[head])
    assert covered == list(range(LOGITS))


def test_untrained_losses_are_those_of_a_coin_and_a_three_sided_die():
    losses = subscore_losses(torch.zeros(1, LOGITS), labels(), ONES)
    for name in LEARNED:
        assert losses[name].item() == pytest.approx(math.log(3 if name in ("nc", "ddc") else 2))


def test_one_softmax_only():
    # Logits (0, 0, log 2): probabilities (1, 1, 2) / 4, expectation 0.5 / 4 + 2 / 4. A second softmax gives less.
    logits = torch.zeros(1, LOGITS)
    logits[0, 2] = math.log(2)
    assert expected_subscores(logits)[0, LEARNED.index("nc")].item() == pytest.approx(0.625)
    assert subscore_losses(logits, labels(nc=0.5), ONES)["nc"].item() == pytest.approx(math.log(4))


def test_confident_logits_are_confident_expectations():
    wrong = torch.full((1, LOGITS), -20.0)
    wrong[0, [HEADS["nc"].start, HEADS["ddc"].start]] = 20.0
    assert expected_subscores(wrong).max() < 1e-6
    right = torch.full((1, LOGITS), 20.0)
    right[0, [0, 1, 4, 5]] = -20.0  # NC and DDC: only the last class
    assert expected_subscores(right).min() > 1 - 1e-6


def test_progress_loss_is_least_at_the_share_itself():
    shares = torch.linspace(0.05, 0.95, 19)
    logits = torch.zeros(19, LOGITS)
    logits[:, HEADS["ep"]] = torch.logit(shares)[:, None]
    losses = [subscore_losses(logits[i : i + 1], labels(ep=0.3), ONES)["ep"].item() for i in range(19)]
    assert shares[losses.index(min(losses))].item() == pytest.approx(0.3)


def test_missing_labels_cost_nothing_and_pass_no_gradient():
    logits = torch.zeros(2, LOGITS, requires_grad=True)
    target = torch.cat([labels(nc=0.0), labels(nc=float("nan"))])
    losses = subscore_losses(logits, target, ONES)
    losses["nc"].backward()
    assert losses["nc"].item() == pytest.approx(math.log(3))
    assert logits.grad[1].abs().sum() == 0.0
    empty = subscore_losses(logits, torch.full((2, 8), float("nan")), ONES)
    assert all(value.item() == 0.0 for value in empty.values())


def test_class_weights_balance_fully_at_one_and_not_at_zero():
    column = torch.tensor([0.0] + [1.0] * 9)
    subscores = column[:, None].expand(-1, 8)
    assert torch.equal(class_weights(subscores, 0.0), ONES)
    nc = class_weights(subscores, 1.0)[0]
    assert nc[0].item() == pytest.approx(5.0)
    assert nc[2].item() == pytest.approx(5 / 9)
    assert nc[1].item() == 1.0
    assert torch.equal(class_weights(subscores, 1.0)[LEARNED.index("ep")], torch.ones(3))


def test_total_is_the_weighted_mean_of_the_heads():
    losses = {name: torch.tensor(float(index)) for index, name in enumerate(LEARNED)}
    only = HeadWeights(**dict.fromkeys(LEARNED, 0.0)).with_overrides({"ttc": 4.0, "hc": 4.0})
    assert total_loss(losses, only).item() == pytest.approx((LEARNED.index("ttc") + LEARNED.index("hc")) / 2)


def certain(*rewards):
    """Logits (1, P, 12) of plans that only differ in progress, all else being sure: reward (9 + 5 ep) / 14."""
    logits = torch.full((1, len(rewards), LOGITS), 30.0)
    for head in ("nc", "ddc"):
        logits[..., HEADS[head]] = torch.tensor([-30.0, -30.0, 30.0])
    logits[..., HEADS["ep"]] = torch.logit(torch.tensor(rewards))[None, :, None]
    return logits


def progress(*shares):
    values = torch.ones(1, len(shares), len(LEARNED))
    values[..., LEARNED.index("ep")] = torch.tensor(shares)
    return values


def test_the_learned_reward_is_the_epdms_without_extended_comfort():
    assert learned_reward(progress(0.5)).item() == pytest.approx((5 * 0.5 + 5 + 2 + 2) / 14)
    gated = progress(1.0)
    gated[..., LEARNED.index("dac")] = 0.0
    assert learned_reward(gated).item() == 0.0


def test_within_a_scene_only_differences_between_own_plans_count():
    own = torch.tensor([[True, True, False]])
    right = within_scene_loss(certain(0.2, 0.4, 0.9), progress(0.2, 0.4, 0.1), own)
    shifted = within_scene_loss(certain(0.5, 0.7, 0.1), progress(0.2, 0.4, 0.9), own)
    assert right.item() == pytest.approx(0.0, abs=1e-9)
    assert shifted.item() == pytest.approx(0.0, abs=1e-6), "the scene's level is not asked for"
    swapped = within_scene_loss(certain(0.4, 0.2, 0.1), progress(0.2, 0.4, 0.1), own)
    assert swapped.item() == pytest.approx((0.2 * 5 / 14) ** 2, rel=1e-4)
    assert within_scene_loss(certain(0.4, 0.2), progress(0.2, 0.4), torch.zeros(1, 2, dtype=torch.bool)).item() == 0


def test_inverse_reinforcement_learning_prefers_what_the_human_did():
    human = torch.tensor([[True, False]])
    equal = irl_loss(certain(0.5, 0.5), human, temperature=0.1)
    assert equal.item() == pytest.approx(math.log(2))
    gap = 0.4 * 5 / 14
    better = irl_loss(certain(0.9, 0.5), human, temperature=0.1)
    assert better.item() == pytest.approx(math.log(1 + math.exp(-gap / 0.1)), rel=1e-4)
    assert irl_loss(certain(0.5, 0.9), human, temperature=0.1) > equal
    assert irl_loss(certain(0.5, 0.9), torch.zeros(1, 2, dtype=torch.bool), temperature=0.1).item() == 0
