"""How good a fitted reward world model is, on held-out layouts and on the validation split."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.backends import ModelBackend
from irl_vla.reward.config import BackendConfig
from irl_vla.reward.labels import LabelSet, open_labels
from irl_vla.reward.model import RewardWorldModel
from irl_vla.reward.quality import QualityReport, quality_report


class LabelledBank(NamedTuple):
    """A token bank and the label set made from it."""

    bank: Location
    labels: Location


def evaluate(
    models: tuple[RewardWorldModel, ...],
    bank: TokenBank,
    labels: LabelSet,
    places: NDArray[np.int64],
    rows_per_batch: int = 64,
) -> QualityReport:
    """Quality of what fine-tuning would be told on some labelled rows: HC is computed, EC has no part in it.

    Args:
        places: indices into the label set.
    """
    backend = ModelBackend(models, bank, BackendConfig())
    parts = [places[start : start + rows_per_batch] for start in range(0, len(places), rows_per_batch)]
    scored = [backend.score(labels.rows[part], labels.plans[part].astype(np.float64)).values for part in parts]
    true = labels.subscores(places).astype(np.float64)
    groups = bank.group[labels.rows[places]]
    return quality_report(np.concatenate(scored), true, labels.source[places], len(set(groups.tolist())))


def evaluate_validation(models: tuple[RewardWorldModel, ...], validation: LabelledBank) -> QualityReport:
    """Quality on all labelled rows of the validation split."""
    bank, labels = TokenBank.open(validation.bank), open_labels(validation.labels)
    return evaluate(models, bank, labels, np.arange(len(labels.rows)))


def own_plans(quality: QualityReport) -> dict[str, float]:
    """Figures of the policy's own plans, which fine-tuning asks for; all plans where a policy made none."""
    sources = {pick.source: pick for pick in quality.picks}
    pick = sources.get("policy", quality.picks[0])
    names = ("correlation", "enrichment", "regret", "within_5", "spread_predicted", "spread_true")
    figures = {f"train_reward/val_{name}": float(getattr(pick, name)) for name in names}
    for item in quality.subscores:
        if item.source == pick.source:
            figures |= {f"train_reward/val_auroc_{item.subscore}": item.auroc}
            figures |= {f"train_reward/val_ece_{item.subscore}": item.ece}
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def headline(quality: QualityReport) -> dict[str, float]:
    """Figures of all plans of held-out layouts."""
    figures = {f"train_reward/auroc_{q.subscore}": q.auroc for q in quality.subscores if q.source == "all"}
    figures |= {f"train_reward/ece_{q.subscore}": q.ece for q in quality.subscores if q.source == "all"}
    pick = quality.picks[0]
    figures |= {"train_reward/regret": pick.regret, "train_reward/exact_pick": pick.exact}
    return {name: value for name, value in figures.items() if np.isfinite(value)}
