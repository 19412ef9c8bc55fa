"""Plans of a trained policy for the scenes of its token bank."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irl_vla.geometry import Floats
from irl_vla.judge.one_stage import FrameId, frames_in
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.planner import SceneKeys
from irl_vla.policy.token_bank import ORIGINAL, TokenBank
from irl_vla.reward.backends import RewardBackend
from irl_vla.reward.candidates import candidate_noise, chosen_in_time
from irl_vla.reward.config import CandidateConfig


def frames_of_bank(bank: TokenBank) -> list[FrameId]:
    """The original views of a token bank."""
    columns = (bank.token, bank.log_name, bank.group, bank.kind)
    return [FrameId(*(str(column[row]) for column in columns)) for row in np.flatnonzero(bank.view == ORIGINAL)]


def perceived_frames(bank: TokenBank, frames: Sequence[FrameId], split: str) -> list[FrameId]:
    """The frames that a bank holds; the others, whose sensors are not whole, are counted and named in a warning.

    Raises:
        SceneError: if it holds none of them.
    """
    return frames_in(bank.token.tolist(), frames, f"{split}: in the token bank {bank.place}")


def bank_plans(chain: DenoisingChain, bank: TokenBank, rows_per_batch: int = 128) -> dict[str, Floats]:
    """Deterministic plans for the original views of a bank, by token."""
    rows = np.flatnonzero(bank.view == ORIGINAL)
    return _by_token(bank, rows, _planned(chain.plans, chain, bank, rows, rows_per_batch)[:, 0])


def best_of_plans(
    chain: DenoisingChain, bank: TokenBank, backend: RewardBackend, config: CandidateConfig, rows_per_batch: int = 128
) -> dict[str, Floats]:
    """Best of N for the original views of a bank, by token; see :mod:`irl_vla.reward.candidates`.

    Args:
        backend: the learned reward on this bank.
    """
    rows = np.flatnonzero(bank.view == ORIGINAL)
    noise = candidate_noise(chain, config)

    def candidates(keys: SceneKeys) -> Tensor:
        return chain.candidates(keys, noise.expand(keys.meta.shape[2], -1, -1, -1))

    plans = _planned(candidates, chain, bank, rows, rows_per_batch)
    chosen = chosen_in_time(bank, rows, plans, backend.score(rows, plans).values, config.weights)
    return _by_token(bank, rows, plans[np.arange(len(rows)), chosen])


def _planned(
    plan: Callable[[SceneKeys], Tensor], chain: DenoisingChain, bank: TokenBank, rows: NDArray[np.int64], batch: int
) -> Floats:
    """(B, P, 8, 3) plans of rows (B,), ``batch`` rows in a forward pass."""
    with torch.inference_mode():
        parts = [
            plan(chain.planner.scene_keys(torch.from_numpy(bank.tokens(rows[start : start + batch])))).numpy()
            for start in range(0, len(rows), batch)
        ]
    return np.concatenate(parts).astype(np.float64)


def _by_token(bank: TokenBank, rows: NDArray[np.int64], plans: Floats) -> dict[str, Floats]:
    return {str(bank.token[row]): plan for row, plan in zip(rows, plans, strict=True)}
