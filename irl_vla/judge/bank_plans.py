"""Plans of a trained policy for the scenes of its token bank."""

from collections.abc import Sequence

import numpy as np
import torch

from irl_vla.geometry import Floats
from irl_vla.judge.one_stage import FrameId, frames_in
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import ORIGINAL, TokenBank


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
    plans: dict[str, Floats] = {}
    originals = np.flatnonzero(bank.view == ORIGINAL)
    with torch.inference_mode():
        for start in range(0, len(originals), rows_per_batch):
            rows = originals[start : start + rows_per_batch]
            keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(rows)))
            for row, plan in zip(rows, chain.plans(keys)[:, 0].numpy(), strict=True):
                plans[str(bank.token[row])] = plan.astype(np.float64)
    return plans
