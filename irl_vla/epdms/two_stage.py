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
    """Results of G groups.

    Attributes:
        first, second: (G, C) value of the first-stage scene, and weighted mean of its second-stage scenes.
    """

    first: Floats
    second: Floats

    @property
    def product(self) -> Floats:
        """(G, C) both stages of a group multiplied, which is what driving on through both is worth."""
        return self.first * self.second

    @property
    def combined(self) -> Floats:
        """(C,) mean of ``product`` over all groups."""
        mean: Floats = self.product.mean(axis=0)
        return mean

    @property
    def stage_one(self) -> Floats:
        """(C,) mean of ``first`` over all groups."""
        mean: Floats = self.first.mean(axis=0)
        return mean

    @property
    def stage_two(self) -> Floats:
        """(C,) mean of ``second`` over all groups."""
        mean: Floats = self.second.mean(axis=0)
        return mean


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
    weighted = [second_stage_weights(group.endpoint, group.start_points) @ group.second for group in groups]
    return TwoStageScores(np.stack([group.first for group in groups]), np.stack(weighted))
