"""Imitation driven more slowly along its own path: the gain in EPDMS that needs no skill.

Whoever drives slower hits less, leaves the road less and is more comfortable, so much of a gain may be caution. The
plans of imitation and their slowed copies, from the fastest to the slowest, are the *frontier* to which
:mod:`irl_vla.judge.equal_progress` compares a policy.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from irl_vla.geometry import Floats
from irl_vla.reward.proposals import follow_path
from irl_vla.scene import FUTURE_FRAMES

IMITATION: Final = "imitation"
#: Shares of the way that a slowed plan lacks at 4 s, by name.
STRENGTHS: Final[Mapping[str, float]] = {f"slowed_{percent:02d}": percent / 100 for percent in (5, 10, 15, 20, 30)}
#: Names of the frontier's policies, from the fastest to the slowest.
FRONTIER: Final = (IMITATION, *STRENGTHS)
#: A plan of a shorter way stands, and stays as it is.
_STANDING_M: Final = 0.5


def slowed(plan: Floats, strength: float) -> Floats:
    """A plan along its own path, progressively slower: its way to pose k is shortened by the share k/8 of ``strength``.

    Args:
        plan: (8, 3) in the ego frame.
        strength: share of the way that is missing at the last pose, 0 to 1.

    Returns:
        (8, 3); the plan itself if it drives less than half a metre.
    """
    knots = np.concatenate([np.zeros((1, 2)), plan[:, :2]])
    driven_m = np.hypot(*np.diff(knots, axis=0).T).cumsum()
    if driven_m[-1] < _STANDING_M:
        return plan
    return follow_path(plan, driven_m * (1 - strength * np.arange(1, FUTURE_FRAMES + 1) / FUTURE_FRAMES))


def slowed_plans(plans: Mapping[str, Floats]) -> Iterator[tuple[str, dict[str, Floats]]]:
    """Imitation's plans (8, 3) by token, at every strength: names of ``STRENGTHS`` with the slowed plans."""
    for name, strength in STRENGTHS.items():
        yield name, {token: slowed(plan, strength) for token, plan in plans.items()}
