"""What the reward world model sees of scenes and plans: one way to it, for fitting and for rewards."""

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.policy.sight import Sight
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.comfort import scene_rollouts
from irl_vla.reward.config import RewardModelConfig
from irl_vla.reward.model import Views
from irl_vla.reward.relations import relate


def bank_rollouts(bank: TokenBank, rows: NDArray[np.int64], plans: Floats) -> Floats:
    """Rollouts (B, P, 41, 11) of plans (B, P, 8, 3) of bank rows (B,), in the ego frame of each."""
    return scene_rollouts(bank.ego_history[rows].astype(np.float64), plans, bank.timestamp_us[rows])


def look(config: RewardModelConfig, bank: TokenBank, rows: NDArray[np.int64], plans: Floats, rollouts: Floats) -> Views:
    """Views of plans (B, P, 8, 3) and their rollouts (B, P, 41, 11) in bank rows (B,), as a model wants them.

    Raises:
        CheckpointError: if the model reads relations and the bank holds tokens alone.
    """
    return Views(
        plans=torch.from_numpy(np.asarray(plans, np.float32)),
        history=torch.from_numpy(bank.ego_history[rows]),
        tokens=torch.from_numpy(bank.tokens(rows)) if config.tokens else None,
        relations=relations_of(bank.sight(rows), rollouts) if config.relations else None,
    )


def relations_of(sight: Sight, rollouts: Floats) -> torch.Tensor:
    """(B, P, 21, 16) of rollouts (B, P, 41, 11)."""
    return torch.from_numpy(relate(sight, rollouts))
