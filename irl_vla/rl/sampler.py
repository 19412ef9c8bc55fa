"""The fast path: an env runner that samples whole chains.

One batched forward pass a denoising step for all chains, scene keys once a chain, one call of the reward backend, no
per-step Python and no episode objects. It gives the chains, log-probabilities and rewards that the vector environment
gives under RLlib's stock runner, because scenes and noise are drawn from the same numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from irl_vla.rl.chains import PLAN_SHAPE, Earnings, Scenes, chain_noise, draw_scenes, earn
from irl_vla.rl.module import ChainModule, scene_keys_of
from irl_vla.rl.task import ChainTask, TaskSpec, open_task


@dataclass(frozen=True, eq=False)
class ChainBatch:
    """One draw of chains.

    Attributes:
        scenes: (S, M) bank rows.
        x: (S, M, G, K + 1, D) states x_K .. x_0.
        mean: (S, M, G, K, D) means of the steps into x_{K-1} .. x_0.
        earnings: rewards (S, M, G) and their sub-scores.
    """

    scenes: Scenes
    x: NDArray[np.float32]
    mean: NDArray[np.float32]
    earnings: Earnings


class ChainEnvRunner(SingleAgentEnvRunner):
    """Samples whole chains for the training step; the environment only carries the spaces."""

    def sample_chains(self, iteration: int) -> ChainBatch:
        """Samples this runner's share of an iteration."""
        torch.set_num_threads(1)
        spec: TaskSpec = self.config.env_config["spec"]
        streams = max(1, self.config.num_env_runners)
        stream = max(0, self.worker_index - 1)
        task = open_task(spec, streams)
        return sample_chains(task, self.module, iteration * streams + stream)


def sample_chains(task: ChainTask, module: ChainModule, iteration: int) -> ChainBatch:
    """Samples all chains of one iteration and pays them.

    Args:
        iteration: names scenes and noise, as ``DenoisingVectorEnv.iteration`` does.
    """
    scenes = draw_scenes(task.bank, task.seed, iteration, task.scenes, task.pair)
    count, members = scenes.rows.shape
    noise = chain_noise(task.seed, iteration, np.arange(task.chain_count), task.steps, task.size)
    grouped = noise.reshape(count, task.chains, members, task.steps + 1, task.size).swapaxes(1, 2)
    with torch.inference_mode():
        keys = scene_keys_of(module, torch.from_numpy(scenes.rows.reshape(-1)))
        chains = module.chain.sample(keys, torch.from_numpy(np.ascontiguousarray(grouped)).flatten(0, 1))
    x = chains.x.numpy().reshape(count, members, task.chains, task.steps + 1, task.size)
    mean = chains.mean.numpy().reshape(count, members, task.chains, task.steps, task.size)
    plans = task.decode(x[..., -1, :].reshape(-1, task.size)).reshape(count, members, task.chains, *PLAN_SHAPE)
    return ChainBatch(scenes, x, mean, earn(task.bank, task.backend, scenes, plans, task.weights))


def join_batches(batches: list[ChainBatch]) -> ChainBatch:
    """One batch out of those of several runners."""

    def joined(*arrays: Any) -> Any:
        return np.concatenate(arrays)

    return ChainBatch(
        Scenes(*map(joined, *(batch.scenes for batch in batches))),
        joined(*(batch.x for batch in batches)),
        joined(*(batch.mean for batch in batches)),
        Earnings(*map(joined, *(batch.earnings for batch in batches))),
    )
