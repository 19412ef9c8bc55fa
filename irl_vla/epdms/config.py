"""Options of the EPDMS scorer; the official evaluator's constants are fixed in the modules that use them."""

from typing import Final, Literal

from irl_vla.config import Config

#: Goes up by hand with every change that can move a score: of the scorer, of what it reads, or of how frames are
#: paired for extended comfort. Results of different versions are never compared.
SCORER_VERSION: Final = 1


class ScorerConfig(Config):
    """How sub-scores become a score.

    Attributes:
        human_filter: forgive a plan what the logged human does wrong too (real scenes only).
        filter_convention: "corrected" (NAVSIM since 29 September 2025): forgiven sub-scores enter the final score.
            "before": they change the reported sub-scores only. Numbers of the two cannot be compared.
        traffic: "replay": every object moves as logged (the official one-stage rule). "reactive": vehicles follow their
            lanes and brake for the ego, simulated anew for every plan (the official default in two stages). Numbers of
            the two cannot be compared.
    """

    human_filter: bool = True
    filter_convention: Literal["corrected", "before"] = "corrected"
    traffic: Literal["replay", "reactive"] = "replay"
