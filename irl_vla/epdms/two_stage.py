"""Two-stage (pseudo closed-loop) aggregation of scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from irl_vla.geometry import Floats

_KERNEL_VARIANCE_M2: Final = 0.1
_NEGLIGIBLE_WEIGHT: Final = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class StageGroup:
    """One first-stage scene and the second-stage scenes that start near where it leads.

    Columns C are the nine sub-scores after the filter, EC filled in, and the final score.

    Attributes:
        first: (C,) values of the first-stage scene.
        endpoint: (2,) last proposed pose of its plan, global (not where the rollout ends).
        second: (N, C) values of the second-stage scenes.
        start_points: (N, 2) their initial rear axles, global.
    """

    first: Floats
    endpoint: Floats
    second: Floats
    start_points: Floats


@dataclass(frozen=True, slots=True, eq=False)
class TwoStageScores:
    """(C,) means over all groups: ``combined`` multiplies the stages group by group before the mean."""

    combined: Floats
    stage_one: Floats
    stage_two: Floats


def second_stage_weights(endpoint: Floats, start_points: Floats) -> Floats:
    """Weights (N,), summing to 1, of second-stage scenes by a Gaussian kernel on the distance to ``endpoint``.

    Uniform where all are too far away for the kernel.
    """
    squared = ((start_points - endpoint) ** 2).sum(axis=-1)
    weights = np.exp(-squared / (2 * _KERNEL_VARIANCE_M2))
    total = weights.sum()
    if not total > _NEGLIGIBLE_WEIGHT:
        return np.full(len(weights), 1 / len(weights))
    normalised: Floats = weights / total
    return normalised


def aggregate(groups: Sequence[StageGroup]) -> TwoStageScores:
    """Aggregates the groups of all mappings.

    Every mapping has two groups, of its current and of its previous scene, and counts alike; so does every group.

    Args:
        groups: at least one.
    """
    first = np.stack([group.first for group in groups])
    second = np.stack([second_stage_weights(group.endpoint, group.start_points) @ group.second for group in groups])
    return TwoStageScores((first * second).mean(axis=0), first.mean(axis=0), second.mean(axis=0))
