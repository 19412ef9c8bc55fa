"""What labelling takes."""

from typing import Final

from irl_vla.ledger.estimate import Estimate
from irl_vla.reward.config import ProposalConfig

#: Scoring alone, plans a second on one idle core (benchmarks/README.md): two real drives; generated scenes.
_REAL_PLANS_PER_S: Final = 3_300
_GENERATED_PLANS_PER_S: Final = 7_800
#: Of a row: reading and preparing its scene, proposals, writing; then its twelve chains of five denoising steps
#: (benchmarks/labelling_throughput.py).
_ROW_S: Final = 0.0022
_CHAINS_S: Final = 0.0022
#: Of a label whose plan is in the vocabulary, and of any other (the same; tests hold them to 40 and 80).
_VOCABULARY_BYTES: Final = 12
_OWN_PLAN_BYTES: Final = 40


def labels_estimate(rows: int, config: ProposalConfig, *, policy: bool, generated: bool) -> Estimate:
    """Estimates a label set.

    Args:
        rows: of the token bank that have a prepared scene.
        config: of the proposals.
        policy: True if chains of a policy are among them; else their places go to the vocabulary.
        generated: scenes of the generated world, not of real drives.
    """
    chains = config.policy + config.denoising
    known = config.vocabulary + (0 if policy else chains)
    seconds = config.count / (_GENERATED_PLANS_PER_S if generated else _REAL_PLANS_PER_S) + _ROW_S
    seconds += _CHAINS_S if policy and chains else 0.0
    row_bytes = known * _VOCABULARY_BYTES + (config.count - known) * _OWN_PLAN_BYTES
    return Estimate("labels", rows, rows * config.count, rows * seconds / 3600, rows * row_bytes)
