"""Advantages of whole chains and the rows that the learner sees.

They are made where whole groups are present (the driver): a learner sees rows, and with several learners only a part.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats

_SMALL = 1e-6


def advantages(reward: Floats, values: Floats | None, kind: Literal["group", "critic", "both"]) -> Floats:
    """Reward minus baseline, over the batch's standard deviation.

    The group's own deviation is not divided out: that would blow up the noise of scenes in which all plans are alike
    (measured in a toy world: 0.527 against 0.560 mean reward with and without).

    Args:
        reward: (S, M, G).
        values: (S, M) critic's value of the scene; needed unless ``kind`` is "group".

    Returns:
        (S, M, G), standard deviation 1 (0 if all rewards equal their baseline).
    """
    baseline = np.zeros_like(reward)
    if kind != "critic":
        baseline += reward.mean(axis=2, keepdims=True)
    if kind != "group":
        if values is None:
            raise ValueError(f"advantage {kind!r} needs the critic's values")
        baseline += values[..., None]
    if kind == "both":
        baseline /= 2
    gaps = reward - baseline
    return np.asarray(gaps / (gaps.std() + _SMALL))


def step_weights(steps: int, discount: float) -> NDArray[np.float32]:
    """(K,) factor on a chain's advantage for its steps k = K .. 1: the last step, which decides most, has 1."""
    return (discount ** np.arange(steps - 1, -1, -1)).astype(np.float32)


def explained_variance(values: Floats, targets: Floats) -> float:
    """Share of the targets' variance that the values explain, not clamped; NaN for constant targets.

    Judge it against the share that the scene can explain at all (:func:`scene_ceiling`), not against 1.
    """
    variance = float(np.var(targets))
    return float("nan") if variance == 0 else 1.0 - float(np.var(targets - values)) / variance


def scene_ceiling(reward: Floats) -> float:
    """Share of the reward's variance that lies between scenes: what a perfect scene critic would explain.

    Biased upwards by about 1 / G, because each scene's mean is itself estimated from G chains.
    """
    return explained_variance(np.broadcast_to(reward.mean(axis=2, keepdims=True), reward.shape), reward)
