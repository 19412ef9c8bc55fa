"""The loss by which a planner imitates plans: in pretraining, and in the control of fine-tuning."""

from typing import NamedTuple

import torch
from torch import Tensor

from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.planner import SceneKeys


class PlannerLoss(NamedTuple):
    """Parts of the loss, each a mean over scenes and draws.

    Attributes:
        diffusion: squared error of the predicted clean plan, in whitened units.
        displacement_m: its mean displacement from the plan to imitate.
    """

    diffusion: Tensor
    displacement_m: Tensor


def planner_loss(chain: DenoisingChain, keys: SceneKeys, plans: Tensor, step: Tensor, noise: Tensor) -> PlannerLoss:
    """Compares the clean plans that are predicted from noised ones with those to imitate.

    Args:
        keys: of the B scenes.
        plans: (B, 8, 3) to imitate, in the ego frame.
        step: (B, P) noise level of each draw, 1..K.
        noise: (B, P, 24) standard normal.
    """
    clip = chain.config.clip  # the chain cannot reach further
    clean = chain.codec.encode(plans).clamp(-clip, clip)[:, None].expand_as(noise)
    predicted = chain.planner.predict(chain.noised(clean, step, noise), step, keys)
    gap = chain.codec.decode(predicted)[..., :2] - plans[:, None, :, :2]
    return PlannerLoss((predicted - clean).square().mean(), torch.linalg.vector_norm(gap, dim=-1).mean())
