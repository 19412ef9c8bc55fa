"""The true score of a policy on a split's token bank, by which fine-tuning and the sweep choose.

Beside it stands what the reward model predicts for the same plans: where that rises and the true score does not, the
policy is exploiting the model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.judge.bank_plans import bank_plans, frames_of_bank
from irl_vla.judge.one_stage import prepared_frames, score_split
from irl_vla.ledger.storage import Location
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.backends import make_backend
from irl_vla.reward.config import BackendConfig
from irl_vla.reward.quality import mean_rewards


@dataclass(frozen=True)
class ValidationSpec:
    """Token bank, prepared scenes and reward checkpoint with which a policy is validated."""

    bank: Location
    prepared: Location
    reward: Location
    scorer: ScorerConfig


def open_validator(spec: ValidationSpec) -> Callable[[DenoisingChain], dict[str, float]]:
    """Returns a function from a policy to its mean true sub-scores and "epdms" (deterministic inference).

    "predicted" is the reward model's mean for the same plans and "gap" its excess over the truth, both without EC.

    Raises:
        SceneError: if no frame of the bank is prepared.
    """
    bank, store = TokenBank.open(spec.bank), PreparedStore.open(spec.prepared)
    model = make_backend(BackendConfig(kind="rwm"), spec.bank, model=spec.reward)
    frames = prepared_frames(store, frames_of_bank(bank), spec.prepared.name)

    def validate(chain: DenoisingChain) -> dict[str, float]:
        scores = score_split(store, frames, bank_plans(chain, bank), spec.scorer)
        tokens = [frame.token for frame in scores.frames]
        predicted, true = mean_rewards(model, bank, tokens, scores.plans, scores.subscores)
        return scores.means() | {"predicted": predicted, "gap": predicted - true}

    return validate
