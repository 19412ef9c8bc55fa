"""The environment: one denoising step is one step, one chain an episode, the reward of its plan comes at the end.

Chains run side by side in a Gymnasium vector environment: S scenes x G chains x M members (a frame and, if pairs are
asked for, its predecessor right after it). The observation never holds scene tokens; the module gathers them from the
memory-mapped bank by row.
"""

from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.rl.chains import Rows, Scenes, chain_noise, draw_part, reward_chains
from irl_vla.rl.task import ChainTask

ENV_ID: Final = "irl_vla_denoising"
Observations = dict[str, NDArray[Any]]


def observation_space(task: ChainTask) -> gym.spaces.Dict:
    """One chain's observation.

    ``row`` is the bank row, ``x`` the noisy plan x_k in whitened units, ``k`` the step to take next (K .. 1; 0 after
    the last), ``chain`` the (iteration, chain) pair that names its noise.
    """
    most = np.iinfo(np.int32).max
    return gym.spaces.Dict(
        {
            "row": gym.spaces.Box(0, len(task.bank) - 1, (1,), np.int32),
            "x": gym.spaces.Box(-np.inf, np.inf, (task.size,), np.float32),
            "k": gym.spaces.Box(0, task.steps, (1,), np.int32),
            "chain": gym.spaces.Box(0, most, (2,), np.int32),
        }
    )


def action_space(task: ChainTask) -> gym.spaces.Box:
    """The next, less noisy plan x_{k-1}, whitened."""
    return gym.spaces.Box(-np.inf, np.inf, (task.size,), np.float32)


class DenoisingVectorEnv(VectorEnv[Observations, NDArray[np.float32], NDArray[Any]]):
    """All chains of one part of an iteration, in lockstep; every episode lasts exactly K steps.

    Args:
        task: what the chains run on.
        part: which of the task's parts.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's attribute)

    def __init__(self, task: ChainTask, part: int = 0) -> None:
        super().__init__()
        self.task, self.part = task, part
        self.num_envs = task.chain_count
        self.single_observation_space = observation_space(task)
        self.single_action_space = action_space(task)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seed, self._iteration, self._k = task.seed, -1, 0
        self._scenes: Scenes
        self._chains: Rows
        self._x: NDArray[np.float32]

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts the next iteration's chains; a seed starts over from iteration 0 with that seed."""
        del options
        if seed is not None:
            self._seed, self._iteration = seed, -1
        self._iteration += 1
        task = self.task
        self._scenes, self._chains = draw_part(task, self._seed, self._iteration, self.part)
        self._x = chain_noise(self._seed, self._iteration, self._chains, task.steps, task.size)[:, 0]
        self._k = task.steps
        return self._observe(), {}

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Observations, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Takes x_{k-1} of every chain; the step after the last one ignores its actions and starts new chains."""
        nothing = np.zeros(self.num_envs, bool)
        if self._k == 0:
            observations, infos = self.reset()
            return observations, np.zeros(self.num_envs), nothing, nothing, infos
        self._x = np.asarray(actions, np.float32)
        self._k -= 1
        done = np.full(self.num_envs, self._k == 0)
        rewards = self._rewards() if self._k == 0 else np.zeros(self.num_envs)
        return self._observe(), rewards, done, nothing, {}

    def _observe(self) -> Observations:
        count = self.num_envs
        chains = np.stack([np.full(count, self._iteration), self._chains], axis=1)
        return {
            "row": chain_rows(self._scenes, self.task.chains)[:, None].astype(np.int32),
            "x": self._x,
            "k": np.full((count, 1), self._k, np.int32),
            "chain": chains.astype(np.int32),
        }

    def _rewards(self) -> Floats:
        codes = self._x.reshape(len(self._scenes.rows), self.task.chains, -1, self.task.size).swapaxes(1, 2)
        return by_chain(reward_chains(self.task, self._scenes, codes).reward)


def chain_rows(scenes: Scenes, chains: int) -> NDArray[np.int64]:
    """(S * G * M,) bank row of every chain: members side by side, then chains of a scene, then scenes."""
    return np.repeat(scenes.rows[:, None, :], chains, axis=1).reshape(-1)


def by_chain(values: Floats) -> Floats:
    """(S, M, G) values in the chain order of :func:`chain_rows`."""
    return values.swapaxes(1, 2).reshape(-1)
