"""The true score of a policy on a split's token bank: what fine-tuning and the sweep are watched and ranked by.

Beside it stands what the reward model thinks of the same plans: where that rises and the true score does not, the
policy is exploiting the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.judge.one_stage import SplitScores, bank_plans, frames_of_bank, score_here
from irl_vla.ledger.storage import Location
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.backends import RewardBackend, make_backend
from irl_vla.reward.config import BackendConfig
from irl_vla.reward.weights import RewardWeights, reward


@dataclass(frozen=True)
class ValidationSpec:
    """Token bank, prepared scenes and reward checkpoint with which a policy is validated."""

    bank: Path
    prepared: Path | Location
    reward: Path
    scorer: ScorerConfig


def open_validator(spec: ValidationSpec) -> Callable[[DenoisingChain], dict[str, float]]:
    """Returns a function from a policy to its mean true sub-scores and "epdms" (deterministic inference).

    "predicted" is the reward model's mean for the same plans and "gap" its excess over the truth, both without EC.
    """
    bank, store = TokenBank.open(spec.bank), PreparedStore.open(spec.prepared)
    model = make_backend(BackendConfig(kind="rwm"), spec.bank, model=spec.reward)
    frames = [frame for frame in frames_of_bank(bank) if frame.token in store]

    def validate(chain: DenoisingChain) -> dict[str, float]:
        scores = score_here(store, frames, bank_plans(chain, bank), spec.scorer)
        predicted, true = opinions(bank, model, scores)
        return scores.means() | {"predicted": predicted, "gap": predicted - true}

    return validate


def opinions(bank: TokenBank, model: RewardBackend, scores: SplitScores) -> tuple[float, float]:
    """Mean reward of judged plans (EPDMS without EC) as the model predicts it, and as it truly is."""
    row_of = {str(token): row for row, token in enumerate(bank.token)}
    rows = np.array([row_of[frame.token] for frame in scores.frames])
    said = model.score(rows, scores.plans[:, None]).values[:, 0].copy()
    true = scores.subscores.copy()
    said[:, -1] = true[:, -1] = np.nan
    return float(reward(said, RewardWeights()).mean()), float(reward(true, RewardWeights()).mean())
