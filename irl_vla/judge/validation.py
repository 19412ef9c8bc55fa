"""The true score of a policy on a split's token bank, by which fine-tuning and the sweep choose.

Beside it stands what the reward model predicts for the same plans: where that rises and the true score does not, the
policy is exploiting the model.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.judge.one_stage import FrameId, bank_plans, frames_of_bank, score_here
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.backends import make_backend
from irl_vla.reward.config import BackendConfig
from irl_vla.reward.quality import mean_rewards

_NAMED = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationSpec:
    """Token bank, prepared scenes and reward checkpoint with which a policy is validated."""

    bank: Path
    prepared: Path
    reward: Path
    scorer: ScorerConfig


def open_validator(spec: ValidationSpec) -> Callable[[DenoisingChain], dict[str, float]]:
    """Returns a function from a policy to its mean true sub-scores and "epdms" (deterministic inference).

    "predicted" is the reward model's mean for the same plans and "gap" its excess over the truth, both without EC.

    Raises:
        SceneError: if no frame of the bank is prepared.
    """
    bank, store = TokenBank.open(spec.bank), PreparedStore.open(spec.prepared)
    model = make_backend(BackendConfig(kind="rwm"), spec.bank, model=spec.reward)
    frames = prepared_frames(frames_of_bank(bank), store)

    def validate(chain: DenoisingChain) -> dict[str, float]:
        scores = score_here(store, frames, bank_plans(chain, bank), spec.scorer)
        tokens = [frame.token for frame in scores.frames]
        predicted, true = mean_rewards(model, bank, tokens, scores.plans, scores.subscores)
        return scores.means() | {"predicted": predicted, "gap": predicted - true}

    return validate


def prepared_frames(frames: Sequence[FrameId], store: PreparedStore) -> list[FrameId]:
    """The frames that have a prepared scene; the others are counted and named in a warning.

    Raises:
        SceneError: if none has one.
    """
    kept = [frame for frame in frames if frame.token in store]
    if not kept:
        raise SceneError(
            f"{store.folder}: expected prepared scenes of {len(frames)} frames, found none of them; do they belong to "
            "the same split?"
        )
    if len(kept) < len(frames):
        lost = [frame.token for frame in frames if frame.token not in store]
        log.warning(
            "%d of %d frames have no prepared scene and are left out: %s%s",
            len(lost),
            len(frames),
            ", ".join(lost[:_NAMED]),
            ", ..." if len(lost) > _NAMED else "",
        )
    return kept
