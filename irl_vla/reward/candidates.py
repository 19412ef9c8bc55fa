"""Best of N: the learned reward chooses among a policy's deterministic plan and N sampled ones, when it drives.

All frames are sampled with the same noise, and where the plan that was chosen half a second before is known, extended
comfort with it counts: what is best for one frame alone would tremble from frame to frame.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irl_vla.geometry import Floats
from irl_vla.policy.batch import collate
from irl_vla.policy.codec import PLAN_SIZE
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.encoder import sight_columns
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.sight import read_sight, sight_layout
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import Policy
from irl_vla.reward.comfort import history_comforts, pair_comforts, scene_rollouts
from irl_vla.reward.config import CandidateConfig, RewardWeights
from irl_vla.reward.loss import LEARNED
from irl_vla.reward.model import RewardWorldModel, Views, predict_subscores
from irl_vla.reward.views import relations_of
from irl_vla.reward.weights import reward
from irl_vla.scene import SUBSCORES, Observation

_HC, _EC = SUBSCORES.index("hc"), SUBSCORES.index("ec")


def candidate_noise(chain: DenoisingChain, config: CandidateConfig) -> Tensor:
    """(1, N, K + 1, 24) standard normal: the noise of every frame."""
    shape = (1, config.samples, chain.steps + 1, PLAN_SIZE)
    return torch.from_numpy(np.random.default_rng(config.seed).standard_normal(shape, np.float32))


def chosen_in_time(
    bank: TokenBank,
    rows: NDArray[np.int64],
    plans: Floats,
    subscores: Floats,
    weights: RewardWeights,
    *,
    preference: float = 0.0,
) -> NDArray[np.int64]:
    """Which plan the reward likes best in each row, frame after frame.

    A row whose predecessor is among the rows is chosen with the extended comfort that each plan has with the plan
    chosen there; the first of equals is taken.

    Args:
        rows: (B,) of the bank, in any order.
        plans: (B, P, 8, 3).
        subscores: (B, P, 9) their sub-scores; EC is not looked at.
        preference: reward that the first plan gets on top.

    Returns:
        (B,) numbers of plans.
    """
    histories = bank.ego_history[rows].astype(np.float64)
    place = {int(row): index for index, row in enumerate(rows)}
    chosen = np.zeros(len(rows), np.int64)
    for index in np.argsort(bank.timestamp_us[rows], kind="stable"):
        values = subscores[index].copy()
        values[:, _EC] = np.nan
        before = place.get(int(bank.previous_row[rows[index]]))
        if before is not None:
            now, previous = (
                (histories[[at]], seen[None], bank.timestamp_us[rows[[at]]])
                for at, seen in ((index, plans[index]), (before, plans[before, chosen[[before]]]))
            )
            values[:, _EC] = pair_comforts(now, previous)[0]
        rewards = reward(values, weights)
        rewards[0] += preference
        chosen[index] = rewards.argmax()
    return chosen


def best_plan(
    policy: Policy, models: tuple[RewardWorldModel, ...], config: CandidateConfig, observation: Observation
) -> Floats:
    """(8, 3) the best plan for a moment alone, of which no predecessor is known, computed where the weights are.

    Raises:
        ConfigError, SceneError: if the observation is not what the policy was built for, naming its token.
    """
    chain, device = policy.chain, next(policy.parameters()).device
    batch = collate([observation], policy.encoder.config).to(device)
    with torch.inference_mode():
        perception = policy.encoder.perceive(batch)
        tokens = pack_tokens(perception.tokens)
        plans = chain.candidates(chain.planner.scene_keys(tokens), candidate_noise(chain, config).to(device))
        sight = read_sight(sight_columns(policy.encoder, perception), sight_layout(policy.encoder.config))
        found: Floats = plans.cpu().numpy().astype(np.float64)
        history = observation.history[None].astype(np.float64)
        rollouts = scene_rollouts(history, found, np.zeros(1, np.int64))
        views = Views(plans, batch.history, tokens, relations_of(sight, rollouts).to(device))
        learned = predict_subscores(models, views)[0].cpu().numpy()
    values = np.full((found.shape[1], len(SUBSCORES)), np.nan)
    values[:, : len(LEARNED)] = learned
    values[:, _HC] = history_comforts(history, rollouts)[0]
    best: Floats = found[0, reward(values, config.weights).argmax()]
    return best
