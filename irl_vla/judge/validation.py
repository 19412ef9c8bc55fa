"""The true score of a policy on a split's token bank, by which fine-tuning and the sweep choose.

Beside it stands what the reward model predicts for the same plans: where that rises and the true score does not, the
policy is exploiting the model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.judge.bank_plans import bank_plans, frames_of_bank
from irl_vla.judge.equal_progress import Point, gain_at_equal_progress
from irl_vla.judge.one_stage import SplitScores, prepared_frames, score_split
from irl_vla.judge.slowed import slowed_plans
from irl_vla.ledger.storage import Location
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.reward.backends import make_backend
from irl_vla.reward.config import BackendConfig
from irl_vla.reward.quality import mean_rewards


@dataclass(frozen=True)
class ValidationSpec:
    """What a policy is validated with.

    Attributes:
        imitation: checkpoint of the policy whose slowed plans others are compared with.
        bank: token bank of the split.
        prepared: its prepared scenes.
        reward: checkpoint of the reward stage.
        scorer: of the plans.
    """

    imitation: Location
    bank: Location
    prepared: Location
    reward: Location
    scorer: ScorerConfig


def open_validator(spec: ValidationSpec) -> Callable[[DenoisingChain], dict[str, float]]:
    """Returns a function from a policy to its mean true sub-scores and "epdms" (deterministic inference).

    "predicted" is the reward model's mean for the same plans and "gap" its excess over the truth, both without EC.
    "equal_progress" is the gain over imitation slowed to the same EP, whose plans are scored here, once.

    Raises:
        SceneError: if no frame of the bank is prepared.
    """
    bank, store = TokenBank.open(spec.bank), PreparedStore.open(spec.prepared)
    model = make_backend(BackendConfig(kind="rwm"), spec.bank, model=spec.reward)
    frames = prepared_frames(store, frames_of_bank(bank), spec.prepared.name)
    imitated = bank_plans(load_chain(spec.imitation, perception_hash=bank.perception_hash), bank)
    slower = [plans for _, plans in slowed_plans(imitated)]
    frontier = [_point(score_split(store, frames, plans, spec.scorer)) for plans in (imitated, *slower)]

    def validate(chain: DenoisingChain) -> dict[str, float]:
        scores = score_split(store, frames, bank_plans(chain, bank), spec.scorer)
        gain = gain_at_equal_progress(_point(scores), frontier)
        tokens = [frame.token for frame in scores.frames]
        predicted, true = mean_rewards(model, bank, tokens, scores.plans, scores.subscores)
        return scores.means() | {"predicted": predicted, "gap": predicted - true, "equal_progress": gain}

    return validate


def _point(scores: SplitScores) -> Point:
    means = scores.means()
    return Point(means["ep"], means["epdms"])
