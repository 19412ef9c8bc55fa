"""Settings of the selection of scenes."""

from pydantic import Field

from irl_vla.config import Config


class SelectionConfig(Config):
    """What counts as trivial, and how much of it stays.

    Attributes:
        trivial_above: constant velocity scores more than this in trivial scenes.
        trivial_share: share of the kept scenes that are trivial nevertheless, so that driving on is not unlearned.
        least_share: of every scenario kind among the kept scenes, for which more of its trivial ones may stay.
        keep_human_failures: keeps scenes in which the human's own NC or DAC is below 1.
    """

    trivial_above: float = Field(default=0.8, gt=0, le=1)
    trivial_share: float = Field(default=0.1, ge=0, lt=1)
    least_share: float = Field(default=0.03, ge=0, lt=1)
    keep_human_failures: bool = False
