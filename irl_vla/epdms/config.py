"""Options of the EPDMS scorer; the official evaluator's constants are fixed in the modules that use them."""

from typing import Literal

from irl_vla.config import Config


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
