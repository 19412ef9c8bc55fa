"""The standing audit of a reward backend: what it predicts for given plans against what they truly earn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.reward.backends import RewardBackend
from irl_vla.reward.quality import PickQuality, SubscoreQuality, pick_quality, subscore_quality
from irl_vla.reward.weights import RewardWeights, reward
from irl_vla.scene import SUBSCORES


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """Predicted against true reward of plans; all rewards here are EPDMS without EC (all weights 1).

    Attributes:
        rows: (N,) audited bank rows: those where both backends are valid.
        groups: N names of the independent units, for bootstrap intervals of the gap.
        predicted, true: (N, P) rewards.
        subscores: quality of every sub-score on these plans.
        pick: what choosing by the predicted reward costs; None for a single plan a row.
        skipped: rows left out because a backend had no answer.
    """

    rows: NDArray[np.int64]
    groups: tuple[str, ...]
    predicted: Floats
    true: Floats
    subscores: tuple[SubscoreQuality, ...]
    pick: PickQuality | None
    skipped: int

    @property
    def gap_by_row(self) -> Floats:
        """(N,) mean of predicted minus true reward: above 0 where the backend is too kind."""
        gap: Floats = (self.predicted - self.true).mean(axis=1)
        return gap

    def metrics(self) -> Mapping[str, float]:
        """Figures for tracking."""
        gap = self.predicted - self.true
        figures = {
            "audit/predicted": float(self.predicted.mean()),
            "audit/true": float(self.true.mean()),
            "audit/gap": float(gap.mean()),
            "audit/absolute_gap": float(np.abs(gap).mean()),
            "audit/overrated_by_half": float((gap >= 0.5).mean()),
            "audit/rows": float(len(self.rows)),
            "audit/skipped": float(self.skipped),
        }
        figures |= {f"audit/gap_{item.subscore}": item.mean_predicted - item.mean_true for item in self.subscores}
        return figures if self.pick is None else figures | {"audit/regret": self.pick.regret}


def audit(
    predicted: RewardBackend, true: RewardBackend, rows: NDArray[np.int64], plans: Floats, groups: Sequence[str]
) -> Audit:
    """Asks both backends about the same plans.

    Args:
        predicted: the backend under audit.
        true: the true scorer.
        rows: (B,) held-out bank rows.
        plans: (B, P, 8, 3) plans of a policy.
        groups: B names (layouts or logs).

    Raises:
        ValueError: if there is no row that both backends can score.
    """
    said, real = predicted.score(rows, plans), true.score(rows, plans)
    both: NDArray[np.bool_] = np.all(said.valid & real.valid, axis=1)
    if not both.any():
        raise ValueError(f"audit: none of {len(rows)} rows is scored by both backends; use rows with prepared scenes")
    weights = RewardWeights()
    said_values, real_values = said.values[both], real.values[both]
    said_reward, real_reward = reward(said_values, weights), reward(real_values, weights)
    everything = np.ones(said_reward.shape, np.bool_)
    return Audit(
        rows=rows[both],
        groups=tuple(group for group, keep in zip(groups, both, strict=True) if keep),
        predicted=said_reward,
        true=real_reward,
        subscores=tuple(
            subscore_quality("audit", name, said_values[..., index].ravel(), real_values[..., index].ravel())
            for index, name in enumerate(SUBSCORES)
            if name != "ec"
        ),
        pick=pick_quality("audit", said_reward, real_reward, everything) if said_reward.shape[1] > 1 else None,
        skipped=int((~both).sum()),
    )
