"""The environment: one denoising step is one step, one chain an episode, its plan is paid at the end.

Chains run side by side in a Gymnasium vector environment: S scenes x G chains x M members (a frame and, if pairs are
asked for, its predecessor right after it). The observation never holds scene tokens; the module gathers them from the
memory-mapped bank by row.
"""

from collections.abc import Mapping
from typing import Any, Final, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.rl.chains import Earnings, Scenes, chain_noise, draw_scenes, earn
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
    """All chains of one iteration, in lockstep; every episode lasts exactly K steps.

    Args:
        task: what the chains run on.
        stream: number of this environment among ``streams`` parallel ones; each draws its own iterations.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's attribute)

    def __init__(self, task: ChainTask, stream: int = 0, streams: int = 1) -> None:
        super().__init__()
        self.task, self.stream, self._streams = task, stream, streams
        self.num_envs = task.chain_count
        self.single_observation_space = observation_space(task)
        self.single_action_space = action_space(task)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seed, self._round, self._k = task.seed, -1, 0
        self._scenes: Scenes
        self._x: NDArray[np.float32]

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts the next iteration's chains; a seed starts over from iteration 0 with that seed."""
        del options
        if seed is not None:
            self._seed, self._round = seed, -1
        self._round += 1
        task = self.task
        self._scenes = draw_scenes(task.bank, self._seed, self.iteration, task.scenes, task.pair)
        self._x = chain_noise(self._seed, self.iteration, np.arange(self.num_envs), task.steps, task.size)[:, 0]
        self._k = task.steps
        return self._observe(), {}

    @property
    def iteration(self) -> int:
        """Number under which scenes and noise are drawn; parallel environments never share one."""
        return self._round * self._streams + self.stream

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
        rewards = self._pay() if self._k == 0 else np.zeros(self.num_envs)
        return self._observe(), rewards, done, nothing, {}

    def _observe(self) -> Observations:
        count = self.num_envs
        chains = np.stack([np.full(count, self.iteration), np.arange(count)], axis=1)
        return {
            "row": chain_rows(self._scenes, self.task.chains)[:, None].astype(np.int32),
            "x": self._x,
            "k": np.full((count, 1), self._k, np.int32),
            "chain": chains.astype(np.int32),
        }

    def _pay(self) -> Floats:
        return by_chain(pay(self.task, self._scenes, self._x).reward)


class DenoisingEnv(gym.Env[Observations, NDArray[np.float32]]):
    """One chain alone, for tools that want a plain environment; the first chain of the vector environment."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, task: ChainTask) -> None:
        self.observation_space, self.action_space = observation_space(task), action_space(task)
        self._chains = DenoisingVectorEnv(task.alone())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts the next chain; a seed starts over."""
        super().reset(seed=seed)
        observations, infos = self._chains.reset(seed=seed, options=options)
        return _first(observations), infos

    def step(self, action: NDArray[np.float32]) -> tuple[Observations, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes x_{k-1}; pays after the last step."""
        observations, rewards, done, _, infos = self._chains.step(action[None])
        return _first(observations), float(rewards[0]), bool(done[0]), False, infos


def pay(task: ChainTask, scenes: Scenes, x: NDArray[np.float32]) -> Earnings:
    """Decodes the final x_0 of all chains, (S * G * M, size) in chain order, and pays their plans."""
    count, members = scenes.rows.shape
    plans = task.decode(x).reshape(count, -1, members, 8, 3).swapaxes(1, 2)
    return earn(task.bank, task.backend, scenes, plans, task.weights)


def chain_rows(scenes: Scenes, chains: int) -> NDArray[np.int64]:
    """(S * G * M,) bank row of every chain: members side by side, then chains of a scene, then scenes."""
    return np.repeat(scenes.rows[:, None, :], chains, axis=1).reshape(-1)


def by_chain(values: Floats) -> Floats:
    """(S, M, G) values in the chain order of :func:`chain_rows`."""
    return values.swapaxes(1, 2).reshape(-1)


def _first(observations: Observations) -> Observations:
    return {name: value[0] for name, value in observations.items()}
