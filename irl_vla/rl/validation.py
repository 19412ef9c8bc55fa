"""The true score of a policy on a split's token bank: what fine-tuning and the sweep are watched and ranked by."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.evaluate import bank_plans, frames_of_bank, score_here
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.token_bank import TokenBank


@dataclass(frozen=True)
class ValidationSpec:
    """Token bank and prepared scenes of the validation split."""

    bank: Path
    prepared: Path
    scorer: ScorerConfig


def open_validator(spec: ValidationSpec) -> Callable[[DenoisingChain], dict[str, float]]:
    """Returns a function from a policy to its mean true sub-scores and "epdms" (deterministic inference)."""
    bank, store = TokenBank.open(spec.bank), PreparedStore.open(spec.prepared)
    frames = frames_of_bank(bank)

    def validate(chain: DenoisingChain) -> dict[str, float]:
        return score_here(store, frames, bank_plans(chain, bank), spec.scorer).means()

    return validate
