"""The fast path: an env runner that samples whole chains.

One batched forward pass a denoising step for all chains, scene keys once a chain, one call of the reward backend, no
per-step Python and no episode objects. It gives the chains, log-probabilities and rewards that the vector environment
gives under RLlib's stock runner, because scenes and noise are drawn from the same numbers.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from irl_vla.rl.chains import PlanRewards, Scenes, chain_noise, draw_part, reward_chains
from irl_vla.rl.module import ChainModule, scene_keys_of
from irl_vla.rl.task import ChainTask, open_task
from irl_vla.train.loop import threads

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ChainBatch:
    """One draw of chains.

    Attributes:
        scenes: (S, M) bank rows.
        x: (S, M, G, K + 1, D) states x_K .. x_0.
        mean: (S, M, G, K, D) means of the steps into x_{K-1} .. x_0.
        rewards: (S, M, G) rewards and their sub-scores.
    """

    scenes: Scenes
    x: NDArray[np.float32]
    mean: NDArray[np.float32]
    rewards: PlanRewards


class ChainEnvRunner(SingleAgentEnvRunner):
    """Samples whole chains for the training step; the environment only carries the spaces."""

    def sample_chains(self, iteration: int) -> ChainBatch:
        """Samples this runner's part of an iteration."""
        with threads(1):
            task = open_task(self.config.env_config["spec"])
            return sample_chains(task, self.module, iteration, runner_part(self.worker_index))


def runner_part(worker_index: int) -> int:
    """The part of an iteration that a runner samples; RLlib numbers the driver's own 0, the remote ones from 1."""
    return max(0, worker_index - 1)


def sample_chains(task: ChainTask, module: ChainModule, iteration: int, part: int = 0) -> ChainBatch:
    """Samples all chains of one part of an iteration, with their rewards.

    Args:
        iteration: names scenes and noise.
    """
    scenes, numbers = draw_part(task, task.seed, iteration, part)
    count, members = scenes.rows.shape
    noise = chain_noise(task.seed, iteration, numbers, task.steps, task.size)
    grouped = noise.reshape(count, task.chains, members, task.steps + 1, task.size).swapaxes(1, 2)
    with torch.inference_mode():
        keys = scene_keys_of(module, torch.from_numpy(scenes.rows.reshape(-1)))
        chains = module.chain.sample(keys, torch.from_numpy(np.ascontiguousarray(grouped)).flatten(0, 1))
    x = chains.x.numpy().reshape(count, members, task.chains, task.steps + 1, task.size)
    mean = chains.mean.numpy().reshape(count, members, task.chains, task.steps, task.size)
    return ChainBatch(scenes, x, mean, reward_chains(task, scenes, x[..., -1, :]))


def join_parts(batches: Mapping[int, ChainBatch], parts: int, iteration: int) -> ChainBatch:
    """One batch out of the parts of an iteration, in order; a part that is missing is named in a warning.

    Args:
        batches: number of a part to its chains, at least one.
    """
    batch = _joined([batches[part] for part in sorted(batches)])
    if len(batches) < parts:
        lost = ", ".join(str(part + 1) for part in range(parts) if part not in batches)
        log.warning(
            "finetune: iteration %d has chains of %d scenes only, because env runner %s of %d is lost",
            iteration + 1,
            len(batch.scenes.rows),
            lost,
            parts,
        )
    return batch


def _joined(batches: list[ChainBatch]) -> ChainBatch:
    def joined(*arrays: Any) -> Any:
        return np.concatenate(arrays)

    return ChainBatch(
        Scenes(*map(joined, *(batch.scenes for batch in batches))),
        joined(*(batch.x for batch in batches)),
        joined(*(batch.mean for batch in batches)),
        PlanRewards(*map(joined, *(batch.rewards for batch in batches))),
    )
