"""Audit of the learned reward while a policy learns from it: a sample of its plans is scored truly, and never paid so.

A policy moves to where its reward model has not been; how well predicted advantages follow the true ones tells when the
model is to be fitted again.
"""

from functools import lru_cache
from typing import Final

import numpy as np

from irl_vla.epdms.store import PreparedStore
from irl_vla.reward.backends import ScorerBackend
from irl_vla.reward.quality import pick_quality
from irl_vla.reward.weights import RewardWeights, reward
from irl_vla.rl.sampler import ChainBatch
from irl_vla.rl.task import TaskSpec, open_task
from irl_vla.scene import SUBSCORES

_EC: Final = SUBSCORES.index("ec")
_STREAM: Final = 4


def audit(spec: TaskSpec, batch: ChainBatch, iteration: int) -> dict[str, float]:
    """Compares predicted with true rewards (EPDMS without EC) of the chains of some scenes of an iteration.

    Returns:
        ``audit_correlation`` of advantages, ``audit_enrichment``, both spreads and mean rewards; empty if nothing is
        audited, if the true score is what is paid, or if none of the scenes is prepared. A correlation that does not
        exist is left out.
    """
    config = spec.config
    count = 0 if config.backend.kind == "scorer" else round(config.audit_share * len(batch.scenes.rows))
    if not count:
        return {}
    rng = np.random.default_rng([_STREAM, spec.seed, iteration])
    chosen = rng.choice(len(batch.scenes.rows), count, replace=False)
    rows = batch.scenes.rows[chosen, 0]
    plans = open_task(spec).plans(batch.x[chosen, 0, :, -1])
    scored = _scorer(spec).score(rows, plans)
    known = scored.valid.all(axis=1)
    if not known.any():
        return {}
    predicted, true = (_without_pairs(values[known]) for values in (batch.rewards.subscores[chosen, 0], scored.values))
    found = pick_quality("policy", predicted, true, np.ones(true.shape, np.bool_))
    figures = {
        "audit_correlation": found.correlation,
        "audit_enrichment": found.enrichment,
        "audit_spread_predicted": found.spread_predicted,
        "audit_spread_true": found.spread_true,
        "audit_predicted": float(predicted.mean()),
        "audit_true": float(true.mean()),
    }
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _without_pairs(subscores: np.ndarray) -> np.ndarray:
    """EPDMS (N, G) of sub-scores (N, G, 9), EC left out."""
    values = np.array(subscores, np.float64)
    values[..., _EC] = np.nan
    return reward(values, RewardWeights())


@lru_cache(maxsize=2)
def _scorer(spec: TaskSpec) -> ScorerBackend:
    task, store = open_task(spec), PreparedStore.open(spec.prepared)
    return ScorerBackend(store, task.bank, spec.scorer, spec.config.backend.scenes_in_memory)
