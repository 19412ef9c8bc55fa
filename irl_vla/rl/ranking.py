"""Choosing among a policy's own plans, for every row of a token bank: what the ranked method imitates.

A row's candidates are the policy's deterministic plan and N sampled ones. Noise, and chance where it chooses, are
functions of (seed, round, row), so that it makes no difference how the rows are cut.
"""

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.ledger.arrays import SUFFIX, RowLayout, ShardedRows, unfit_shards, write_rows
from irl_vla.ledger.progress import progress
from irl_vla.ledger.shards import clear_unfinished, shard_path
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PLAN_SIZE
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import perception_hash
from irl_vla.reward.candidates import chosen_in_time
from irl_vla.rl.chains import PLAN_SHAPE, Rows, Scenes, chain_noise, reward_plans
from irl_vla.rl.task import TaskSpec, open_task

_CHANCE_STREAM: Final = 5
_PLACE: Final = "targets-"
_LAYOUT: Final[RowLayout] = {"plan": (PLAN_SHAPE, np.float32), "choice": ((), np.int64), "gain": ((), np.float64)}


class Targets(NamedTuple):
    """The chosen plans of R rows.

    Attributes:
        plan: (R, 8, 3) float32, ego frame.
        choice: (R,) which candidate it is; 0 is the deterministic one.
        gain: (R,) its reward minus that of the deterministic one, both without EC; NaN where chance chose.
    """

    plan: NDArray[np.float32]
    choice: NDArray[np.int64]
    gain: Floats


def ranked_targets(spec: TaskSpec, bank: TokenBank, chain: DenoisingChain, number: int, folder: Location) -> Targets:
    """Chooses a plan for every row of the bank, or for what an interrupted call has left.

    Args:
        chain: the policy that plans.
        number: of the round.
        folder: where parts are kept, in a folder that is named by the policy; those of other policies are removed.

    Raises:
        SceneError: if the reward backend cannot score a row.
    """
    weights = perception_hash(chain)  # a hash of any module's weights
    place, size = folder / f"{_PLACE}{weights}-{number}", spec.config.ranked.rows_per_part
    _remove_others(folder, place.name)
    starts = part_starts(bank, size)
    parts = {f"{start:09d}": end - start for start, end in pairwise([*starts, len(bank)])}
    clear_unfinished(place)
    unfit = unfit_shards(place, parts, _LAYOUT, weights, "run `irl-vla finetune`")
    with progress(f"{folder.name}: plans chosen", "rows", len(bank)) as shown:
        shown.start_from(len(bank) - sum(parts[name] for name in unfit))
        for name in unfit:
            rows = int(name) + np.arange(parts[name])
            found = choose(spec, bank, rows, candidate_plans(spec, bank, chain, rows, number), number)
            with shard_path(place, name, SUFFIX).writing() as path:
                write_rows(path, _LAYOUT, [found._asdict()], weights)
            shown.advance(len(rows))
    stored = ShardedRows.open(place, parts, _LAYOUT, weights, "run `irl-vla finetune`")
    return Targets(*(stored.column(name) for name in _LAYOUT))


def candidate_plans(spec: TaskSpec, bank: TokenBank, chain: DenoisingChain, rows: Rows, number: int) -> Floats:
    """(B, N + 1, 8, 3) the deterministic plan of each row (B,), then N sampled ones."""
    count = spec.config.ranked.samples
    chains = (rows[:, None] * count + np.arange(count)).reshape(-1)
    noise = chain_noise(spec.seed, number, chains, chain.steps, PLAN_SIZE)
    with torch.inference_mode():
        keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(rows)))
        plans = chain.candidates(keys, torch.from_numpy(noise.reshape(len(rows), count, *noise.shape[1:])))
    return plans.numpy().astype(np.float64)


def choose(spec: TaskSpec, bank: TokenBank, rows: Rows, plans: Floats, number: int) -> Targets:
    """The best candidate of each row by the configured reward, or any by chance.

    With ``pair_frames`` a row is chosen with the extended comfort that its candidates have with the plan chosen for its
    predecessor, see :func:`irl_vla.reward.candidates.chosen_in_time`; else without extended comfort.

    Args:
        rows: (B,) of whole logs.
        plans: (B, N + 1, 8, 3), the deterministic one first.
    """
    config = spec.config
    if config.ranked.choice == "random":
        choice = np.array([_drawn(spec.seed, number, row, plans.shape[1]) for row in rows.tolist()])
        gain = np.full(len(rows), np.nan)
    else:
        alone = Scenes(rows[:, None], np.zeros(len(rows), np.bool_))
        found = reward_plans(open_task(spec), alone, plans[:, None])
        rewards, subscores, preference = found.reward[:, 0], found.subscores[:, 0], config.ranked.preference
        choice = (
            chosen_in_time(bank, rows, plans, subscores, config.weights, preference=preference)
            if config.pair_frames
            else preferred(rewards, preference)
        )
        gain = rewards[np.arange(len(rows)), choice] - rewards[:, 0]
    return Targets(plans[np.arange(len(rows)), choice].astype(np.float32), choice, gain)


def part_starts(bank: TokenBank, size: int) -> list[int]:
    """First rows of parts of whole logs, each of at least ``size`` rows but the last."""
    begins = np.flatnonzero(bank.log_name[1:] != bank.log_name[:-1]) + 1
    starts = [0]
    for row in begins.tolist():
        if row - starts[-1] >= size:
            starts.append(row)
    return starts


def preferred(rewards: Floats, preference: float) -> NDArray[np.int64]:
    """(B,) the best of candidates (B, P), of which the first gets ``preference`` on top and stays at ties."""
    choice: NDArray[np.int64] = (rewards + preference * (np.arange(rewards.shape[1]) == 0)).argmax(axis=1)
    return choice


def _drawn(seed: int, number: int, row: int, candidates: int) -> int:
    return int(np.random.default_rng([_CHANCE_STREAM, seed, number, row]).integers(candidates))


def _remove_others(folder: Location, name: str) -> None:
    for old in folder.children():
        if old.startswith(_PLACE) and old != name:
            (folder / old).delete()
