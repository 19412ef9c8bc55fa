"""Denoising chains of a policy over token-bank rows, decoded to plans: proposals that PPO will visit."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PLAN_SIZE
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.reward.proposals import ChainSampler


def load_chain_sampler(policy: Location | Path, bank: TokenBank, rows_per_batch: int) -> ChainSampler:
    """The chains of a policy checkpoint.

    Raises:
        CheckpointError: if the policy's perception is not that of the bank.
    """
    return chain_sampler(load_chain(policy, perception_hash=bank.perception_hash), bank, rows_per_batch)


def chain_sampler(chain: DenoisingChain, bank: TokenBank, rows_per_batch: int) -> ChainSampler:
    """Samples chains with training noise, ``rows_per_batch`` rows in a forward pass.

    Chains of a row are a function of its generator (up to rounding, which the size of a batch may change).
    """

    def sample(rows: NDArray[np.int64], chains: int, generators: list[np.random.Generator]) -> Floats:
        shape = (chains, chain.steps + 1, PLAN_SIZE)
        noise = np.stack([generator.standard_normal(shape, np.float32) for generator in generators])
        parts = []
        with torch.inference_mode():
            for start in range(0, len(rows), rows_per_batch):
                part = slice(start, start + rows_per_batch)
                keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(rows[part])))
                codes = chain.sample(keys, torch.from_numpy(noise[part])).x
                parts.append(chain.codec.decode(codes).numpy())
        return np.concatenate(parts).astype(np.float64)

    return sample
