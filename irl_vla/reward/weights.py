"""From sub-scores to the training reward: the one place where that happens.

With the gates M = NC * DAC * DDC * TLC and the weighted mean Q of the rest, the reward is
``(1 - w_s (1 - M)) Q`` for a safety weight w_s up to 1 and ``M Q - (w_s - 1)(1 - M)`` above it. An exponent on M
would do nothing, because M is almost always 0 or 1. Both branches give M Q at w_s = 1, which is the EPDMS.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from irl_vla.geometry import Floats
from irl_vla.reward.config import RewardWeights
from irl_vla.scene import SUBSCORES

__all__ = ["RewardWeights", "gates", "reward", "weighted_mean"]

#: EPDMS weights of the averaged sub-scores (EPDMS specification, final score).
EP_WEIGHT: Final = 5.0
TTC_WEIGHT: Final = 5.0
COMFORT_WEIGHT: Final = 2.0

_NC, _DAC, _DDC, _TLC, _EP, _TTC, _LK, _HC, _EC = range(len(SUBSCORES))


def reward(subscores: ArrayLike, weights: RewardWeights) -> Floats:
    """The training reward of plans.

    Args:
        subscores: (..., 9) in the order of ``SUBSCORES``, each in [0, 1]; a NaN extended comfort counts as absent.
        weights: all ones give exactly the EPDMS.

    Returns:
        (...) at most 1; at least ``1 - safety`` or 0, whichever is less.
    """
    values = np.asarray(subscores, np.float64)
    product, mean = gates(values), weighted_mean(values, weights)
    if weights.safety <= 1.0:
        return np.asarray((1.0 - weights.safety * (1.0 - product)) * mean, np.float64)
    return np.asarray(product * mean - (weights.safety - 1.0) * (1.0 - product), np.float64)


def gates(subscores: Floats) -> Floats:
    """M = NC * DAC * DDC * TLC of (..., 9) sub-scores, (...)."""
    product: Floats = subscores[..., _NC] * subscores[..., _DAC] * subscores[..., _DDC] * subscores[..., _TLC]
    return product


def weighted_mean(subscores: Floats, weights: RewardWeights) -> Floats:
    """Q: mean of EP, TTC, LK, HC and EC; an extended comfort of NaN loses its weight.

    Safety scales TTC, efficiency scales EP, comfort scales the three comforts. (...) from (..., 9).
    """
    ep, ttc = weights.efficiency * EP_WEIGHT, weights.safety * TTC_WEIGHT
    comfort = weights.comfort * COMFORT_WEIGHT
    paired = ~np.isnan(subscores[..., _EC])
    total = ep * subscores[..., _EP] + ttc * subscores[..., _TTC]
    total = total + comfort * (subscores[..., _LK] + subscores[..., _HC])
    total = total + comfort * np.where(paired, subscores[..., _EC], 0.0)
    mean: Floats = total / (ep + ttc + comfort * (2.0 + paired))
    return mean
