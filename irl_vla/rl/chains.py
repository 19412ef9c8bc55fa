"""What a denoising chain is made of: the scene it plans in, its noise, and the reward of its plan.

The chain is the episode: its steps k = K .. 1 turn noise x_K into the plan x_0, and only the plan has a reward.
Everything random is a pure function of (seed, iteration, chain, step), so that the step-by-step environment and
the sampler of whole chains produce the same chains, in any order and on any number of workers.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.comfort import pair_comforts
from irl_vla.reward.weights import reward
from irl_vla.rl.task import ChainTask
from irl_vla.scene import FUTURE_FRAMES, SUBSCORES

Rows = NDArray[np.int64]
PLAN_SHAPE: Final = (FUTURE_FRAMES, 3)
_EC: Final = SUBSCORES.index("ec")
_ROW_STREAM, _NOISE_STREAM, _ORDER_STREAM = 1, 2, 3


class Scenes(NamedTuple):
    """The bank rows of one iteration.

    Attributes:
        rows: (S, M) M = 2 is a frame and its predecessor 0.5 s before, M = 1 a frame alone.
        paired: (S,) True where the second member really is the predecessor; where a frame has none, both members
            are the frame itself and extended comfort is left out.
    """

    rows: Rows
    paired: NDArray[np.bool_]


class PlanRewards(NamedTuple):
    """Rewards of plans.

    Attributes:
        reward: (S, M, G) training reward.
        subscores: (S, M, G, 9) it came from; EC is NaN without a pair.
    """

    reward: Floats
    subscores: Floats


def draw_scenes(bank: TokenBank, seed: int, iteration: int, scenes: int, pair: bool) -> Scenes:
    """Draws the scenes of an iteration, uniformly over bank rows and without repeats while rows last."""
    rng = np.random.default_rng([_ROW_STREAM, seed, iteration])
    rows = rng.choice(len(bank), size=scenes, replace=scenes > len(bank)).astype(np.int64)
    if not pair:
        return Scenes(rows[:, None], np.zeros(scenes, bool))
    previous = bank.previous_row[rows]
    paired = previous >= 0
    return Scenes(np.stack([rows, np.where(paired, previous, rows)], axis=1), paired)


def draw_part(task: ChainTask, seed: int, iteration: int, part: int) -> tuple[Scenes, Rows]:
    """One of an iteration's equal parts: its slice of the scenes, and the numbers of its chains.

    A chain's number counts members first, then chains of a scene, then scenes, over all parts; scenes and noise are
    therefore the same in any number of parts.
    """
    scenes = draw_scenes(task.bank, seed, iteration, task.scenes, task.pair)
    share = task.scenes // task.parts
    here = slice(part * share, (part + 1) * share)
    chains = part * task.chain_count + np.arange(task.chain_count)
    return Scenes(scenes.rows[here], scenes.paired[here]), chains


def learning_order(seed: int, iteration: int, rows: int) -> Rows:
    """(rows,) the random order in which an iteration's scene rows are learned from, cut into equal minibatches."""
    return np.random.default_rng([_ORDER_STREAM, seed, iteration]).permutation(rows)


def chain_noise(seed: int, iteration: int, chains: Rows, steps: int, size: int) -> NDArray[np.float32]:
    """Noise of chains: (B, K + 1, size); entry 0 is the start x_K, entry j the noise of step k = K + 1 - j."""
    noise = np.empty((len(chains), steps + 1, size), np.float32)
    for index, chain in enumerate(chains):
        rng = np.random.default_rng([_NOISE_STREAM, seed, iteration, int(chain)])
        noise[index] = rng.standard_normal((steps + 1, size), np.float32)
    return noise


def reward_chains(task: ChainTask, scenes: Scenes, codes: NDArray[np.float32]) -> PlanRewards:
    """Rewards of the plans x_0 of chains (S, M, G, size), whitened; see :func:`reward_plans`."""
    return reward_plans(task, scenes, task.plans(codes))


def reward_plans(task: ChainTask, scenes: Scenes, plans: Floats) -> PlanRewards:
    """Rewards of plans; EC follows from the rollouts of both members of a pair and enters both rewards.

    Args:
        plans: (S, M, G, 8, 3) in the ego frame of each row.

    Raises:
        SceneError: if the backend cannot score a row (no labels for it).
    """
    bank, (count, members, chains) = task.bank, plans.shape[:3]
    flat = scenes.rows.reshape(-1)
    scored = task.backend.score(flat, plans.reshape(count * members, chains, *PLAN_SHAPE))
    unscored = ~np.asarray(scored.valid).all(axis=1)
    if unscored.any():
        raise SceneError(
            f"{bank.token[flat[unscored][0]]}: the reward backend cannot score this row ({unscored.sum()} of "
            f"{len(flat)}); label every row, or choose finetune.backend.kind=rwm"
        )
    values = np.array(scored.values, np.float64).reshape(count, members, chains, len(SUBSCORES))
    values[..., _EC] = np.nan
    if scenes.paired.any():
        now, previous = (
            (bank.ego_history[rows], plans[scenes.paired, member], bank.timestamp_us[rows])
            for member, rows in enumerate(scenes.rows[scenes.paired].T)
        )
        values[scenes.paired, :, :, _EC] = pair_comforts(now, previous)[:, None]
    return PlanRewards(reward(values, task.weights), values)
