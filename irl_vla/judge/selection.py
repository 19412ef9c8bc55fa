"""Which scenes of a split are worth learning from and being judged on.

NAVSIM leaves out scenes that teach nothing or cannot be judged: those in which driving on at constant velocity already
scores well, and those in which the human's own drive breaks a rule. :func:`select_scenes` does so on prepared scenes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.scorer import final_score, score_plans
from irl_vla.judge.baselines import constant_velocity, human
from irl_vla.judge.selection_config import SelectionConfig
from irl_vla.scene import SUBSCORES

_NC: Final = SUBSCORES.index("nc")
_DAC: Final = SUBSCORES.index("dac")

Reason = Literal["kept", "kept_trivial", "trivial", "human_fails"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What became of every scene, in the order in which they came.

    Attributes:
        reasons: token to why it was kept or left out.
    """

    reasons: dict[str, Reason]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens of the kept scenes."""
        return tuple(token for token, reason in self.reasons.items() if reason in ("kept", "kept_trivial"))

    def counts(self) -> dict[Reason, int]:
        """Number of scenes with each reason."""
        found: dict[Reason, int] = {"kept": 0, "kept_trivial": 0, "trivial": 0, "human_fails": 0}
        for reason in self.reasons.values():
            found[reason] += 1
        return found


def select_scenes(
    scenes: Iterable[PreparedScene],
    kinds: Mapping[str, str],
    config: SelectionConfig,
    *,
    scorer: ScorerConfig,
    generator: np.random.Generator,
) -> Selection:
    """Chooses scenes by the raw scores of two plans, without the human filter: forgiveness would hide both faults.

    Args:
        scenes: logged ones, without views; read one after the other.
        kinds: token to scenario kind; tokens without one (real data) count as one kind of their own.
        generator: draws which trivial scenes stay.

    Raises:
        SceneError: for a scene without a human plan.
    """
    reasons: dict[str, Reason] = {}
    trivial: list[str] = []
    for scene in scenes:
        raw = score_plans(scene, np.stack([human(scene), constant_velocity(scene)]), scorer).raw
        if not config.keep_human_failures and min(raw[0, _NC], raw[0, _DAC]) < 1.0:
            reasons[scene.token] = "human_fails"
        elif final_score(raw)[1] > config.trivial_above:
            reasons[scene.token] = "trivial"
            trivial.append(scene.token)
        else:
            reasons[scene.token] = "kept"
    kept = sum(reason == "kept" for reason in reasons.values())
    # share s of all kept scenes: s / (1 - s) for every one that is not trivial
    staying = min(round(kept * config.trivial_share / (1.0 - config.trivial_share)), len(trivial))
    shuffled = [trivial[int(index)] for index in generator.permutation(len(trivial))]
    reasons |= dict.fromkeys(shuffled[:staying], "kept_trivial")
    _fill_up(reasons, shuffled[staying:], kinds, config.least_share)
    return Selection(reasons)


def _fill_up(reasons: dict[str, Reason], spare: list[str], kinds: Mapping[str, str], least_share: float) -> None:
    """Lets spare trivial scenes of rare kinds stay, until each kind has its share of all that stay or none to spare."""
    counts = Counter(kinds.get(token, "") for token in Selection(reasons).tokens)
    waiting: dict[str, list[str]] = {}
    for token in reversed(spare):
        waiting.setdefault(kinds.get(token, ""), []).append(token)
    while rare := [kind for kind in waiting if waiting[kind] and counts[kind] < least_share * counts.total()]:
        for kind in rare:
            reasons[waiting[kind].pop()] = "kept_trivial"
            counts[kind] += 1
