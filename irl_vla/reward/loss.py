"""Loss of the reward world model: one cross-entropy a head, masked where a label is missing.

NC and DDC take the values 0, 0.5 and 1 and are classified; DAC, TLC, TTC, LK and HC are 0 or 1; EP is a share. EP
uses the binary cross-entropy with the share itself as target: like a squared error it is least at the mean, and its
gradient does not vanish where the sigmoid saturates. Logits go in: nothing here or before applies a softmax.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from irl_vla.reward.config import HeadWeights
from irl_vla.reward.weights import COMFORT_WEIGHT, EP_WEIGHT, TTC_WEIGHT

#: The sub-scores that are learned, in the order of ``SUBSCORES`` (EC needs two frames and is computed).
LEARNED: Final = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")
#: Values of the classes of NC and DDC.
CLASS_VALUES: Final = (0.0, 0.5, 1.0)
#: Where each head's logits lie in the last axis of the model's output.
HEADS: Final = {
    "nc": slice(0, 3),
    "dac": slice(3, 4),
    "ddc": slice(4, 7),
    "tlc": slice(7, 8),
    "ep": slice(8, 9),
    "ttc": slice(9, 10),
    "lk": slice(10, 11),
    "hc": slice(11, 12),
}
LOGITS: Final = 12


def class_weights(subscores: Tensor, balance: float) -> Tensor:
    """Weights of the classes of every head against imbalance: n^-balance, with mean 1 over the labels.

    Args:
        subscores: (N, 8) labels in the order of ``LEARNED``; NaN where missing.
        balance: 0 gives ones, so that the heads stay calibrated; 1 gives all classes the same say.

    Returns:
        (8, 3) weights of the values 0, 0.5 and 1; ones for EP, and for classes that do not occur.
    """
    weights = torch.ones(len(LEARNED), len(CLASS_VALUES), dtype=torch.float64)
    for index, name in enumerate(LEARNED):
        if name == "ep":
            continue
        labels = subscores[:, index]
        counts = torch.stack([(labels == value).sum() for value in CLASS_VALUES]).double()
        present = counts > 0
        if present.any():
            raw = torch.where(present, counts.clamp(min=1.0).pow(-balance), torch.zeros_like(counts))
            weights[index] = torch.where(present, raw * counts.sum() / (raw * counts).sum(), torch.ones_like(counts))
    return weights.float()


def subscore_losses(logits: Tensor, subscores: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Mean loss of every head over the labels that are there.

    Args:
        logits: (..., 12) of the model.
        subscores: (..., 8) labels in the order of ``LEARNED``; NaN masks a label.
        weights: (8, 3) of :func:`class_weights`.

    Returns:
        A scalar for each name of ``LEARNED``; 0 for a head without any label.
    """
    losses = {}
    for index, name in enumerate(LEARNED):
        label = subscores[..., index]
        present = torch.isfinite(label)
        target = torch.where(present, label, torch.zeros_like(label))
        level = (2.0 * target).round().long()
        head = logits[..., HEADS[name]]
        if head.shape[-1] == len(CLASS_VALUES):
            each = functional.cross_entropy(head.flatten(0, -2), level.flatten(), reduction="none").view_as(target)
        else:
            each = functional.binary_cross_entropy_with_logits(head[..., 0], target, reduction="none")
        if name != "ep":
            each = each * weights[index][level]
        losses[name] = torch.where(present, each, torch.zeros_like(each)).sum() / present.sum().clamp(min=1)
    return losses


def total_loss(losses: dict[str, Tensor], heads: HeadWeights) -> Tensor:
    """Weighted mean of the heads' losses."""
    weights = {name: float(getattr(heads, name)) for name in LEARNED}
    total = torch.stack([weights[name] * losses[name] for name in LEARNED]).sum()
    return total / max(sum(weights.values()), 1e-12)


def within_scene_loss(logits: Tensor, subscores: Tensor, own: Tensor) -> Tensor:
    """Squared error of the reward of a policy's own plans, less their mean in the scene; 0 without such plans.

    Args:
        logits: (..., B, P, 12).
        subscores: (B, P, 8) labels; plans with a missing one are left out.
        own: (B, P) bool, plans that count.
    """
    true = learned_reward(subscores)
    counted = (own & torch.isfinite(true)).to(logits.dtype)
    error = learned_reward(expected_subscores(logits)) - torch.nan_to_num(true)
    mean = (error * counted).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True).clamp_min(1)
    members = error[..., 0, 0].numel()
    return ((error - mean) * counted).square().sum() / (members * counted.sum()).clamp_min(1)


def irl_loss(logits: Tensor, human: Tensor, temperature: float) -> Tensor:
    """Maximum-entropy IRL: minus the log-chance of the human's plan among the proposals of its scene; 0 without one.

    Chances grow with exp(reward / temperature) (Ziebart et al. 2008), so the reward is fitted to choices of people and
    not to the score alone.

    Args:
        logits: (..., B, P, 12).
        human: (B, P) bool, at most one of a scene.
    """
    chances = (learned_reward(expected_subscores(logits)) / temperature).log_softmax(-1)
    chosen = human.to(logits.dtype)
    members = chances[..., 0, 0].numel()
    return -(chances * chosen).sum() / (members * chosen.sum()).clamp_min(1)


def learned_reward(subscores: Tensor) -> Tensor:
    """EPDMS without EC (...) of sub-scores (..., 8) in the order of ``LEARNED``: ``weights.reward``, all weights 1."""
    nc, dac, ddc, tlc, ep, ttc, lk, hc = subscores.unbind(-1)
    mean = (EP_WEIGHT * ep + TTC_WEIGHT * ttc + COMFORT_WEIGHT * (lk + hc)) / (
        EP_WEIGHT + TTC_WEIGHT + 2 * COMFORT_WEIGHT
    )
    return nc * dac * ddc * tlc * mean


def expected_subscores(logits: Tensor) -> Tensor:
    """Expected sub-scores (..., 8) in [0, 1], in the order of ``LEARNED``, from (..., 12) logits."""
    values = logits.new_tensor(CLASS_VALUES)
    parts = []
    for name in LEARNED:
        head = logits[..., HEADS[name]]
        parts.append(head.softmax(-1) @ values if head.shape[-1] == len(CLASS_VALUES) else head[..., 0].sigmoid())
    return torch.stack(parts, dim=-1)
