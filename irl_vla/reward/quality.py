"""How good a learned reward is: discrimination, calibration and the cost of its picks, by source of the plans.

Rank correlation is left out on purpose: nearly every group of candidates holds ties.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from irl_vla.geometry import Floats
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.backends import RewardBackend
from irl_vla.reward.proposals import SOURCES
from irl_vla.reward.weights import RewardWeights, reward
from irl_vla.scene import SUBSCORES

ALL_SOURCES: Final = "all"
#: Equal bins of [0, 1] in which predictions are held against the truth.
BINS: Final = 10
_EC: Final = SUBSCORES.index("ec")


@dataclass(frozen=True, slots=True)
class SubscoreQuality:
    """Quality of one sub-score on the plans of one source.

    Attributes:
        auroc: chance that a full mark (value 1) is ranked above a lesser one; NaN where only one kind occurs.
        ece: expected calibration error over ten bins.
        mae: mean absolute error.
        mean_predicted, mean_true: means over ``plans`` plans.
    """

    source: str
    subscore: str
    plans: int
    auroc: float
    ece: float
    mae: float
    mean_predicted: float
    mean_true: float


@dataclass(frozen=True, slots=True)
class SubscoreBin:
    """Plans of one source whose predicted sub-score lies in one bin, a point of the reliability diagram.

    Attributes:
        bin: index k of [k / 10, (k + 1) / 10), the last with its upper end.
        plans: at least one.
        mean_predicted, mean_true: means over them; equal if the model is calibrated.
    """

    source: str
    subscore: str
    bin: int
    plans: int
    mean_predicted: float
    mean_true: float


@dataclass(frozen=True, slots=True)
class PickQuality:
    """What choosing the plan of the highest predicted reward costs, in true reward.

    Attributes:
        rows: scenes with at least two plans of the source.
        regret: mean of best true reward minus true reward of the pick.
        exact, within_5, miss_20: shares of rows whose pick is the best plan (ties count), at most 0.05 below it, or at
            least 0.20 below it.
        mean_pick, mean_best, mean_random: true reward of the pick, of the best plan and of a random plan.
        enrichment: mean true reward of the quarter of plans that the model likes best, minus that of a random plan;
            not above zero, the model cannot tell these plans apart.
        correlation: of predicted with true advantages, rewards less their mean in the scene; what a policy gradient
            gets of the truth.
        spread_predicted, spread_true: standard deviations of those advantages.
        bias: mean of predicted minus true reward over all plans; above 0 is optimism.
    """

    source: str
    rows: int
    regret: float
    exact: float
    within_5: float
    miss_20: float
    mean_pick: float
    mean_best: float
    mean_random: float
    enrichment: float
    correlation: float
    spread_predicted: float
    spread_true: float
    bias: float


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Held-out quality, over all plans and by source."""

    subscores: tuple[SubscoreQuality, ...]
    bins: tuple[SubscoreBin, ...]
    picks: tuple[PickQuality, ...]
    groups: int

    def write(self, folder: Location) -> None:
        """Writes ``quality.json`` and the three tables as CSV."""
        (folder / "quality.json").write_text(json.dumps(_without_nan(asdict(self)), indent=1))
        (folder / "quality_bins.csv").write_text(_csv(self.bins))
        (folder / "quality_subscores.csv").write_text(_csv(self.subscores))
        (folder / "quality_picks.csv").write_text(_csv(self.picks))


class MeanRewards(NamedTuple):
    """Mean reward of the same plans (EPDMS without EC, all weights 1): as a backend predicts it, and as it truly is."""

    predicted: float
    true: float


def mean_rewards(
    backend: RewardBackend, bank: TokenBank, tokens: Sequence[str], plans: Floats, subscores: Floats
) -> MeanRewards:
    """Compares what a backend predicts for plans with their true sub-scores.

    Args:
        tokens: of N rows of the bank.
        plans: (N, 8, 3) one plan a row.
        subscores: (N, 9) its true sub-scores.
    """
    row_of = {str(token): row for row, token in enumerate(bank.token)}
    rows = np.array([row_of[token] for token in tokens])
    predicted, true = backend.score(rows, plans[:, None]).values[:, 0].copy(), subscores.copy()
    predicted[:, _EC] = true[:, _EC] = np.nan  # a backend does not know it
    weights = RewardWeights()
    return MeanRewards(float(reward(predicted, weights).mean()), float(reward(true, weights).mean()))


def auroc(predicted: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of (N,) predictions; ties count half; NaN without both classes."""
    positives = int(positive.sum())
    negatives = positive.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = rankdata(predicted)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_error(predicted: Floats, true: Floats) -> float:
    """Expected calibration error: |mean predicted - mean true| in equal bins of [0, 1], weighted by their size."""
    if not predicted.size:
        return float("nan")
    gap = np.bincount(_bin_of(predicted), predicted - true, minlength=BINS)
    return float(np.abs(gap).sum() / predicted.size)


def subscore_bins(source: str, name: str, predicted: Floats, true: Floats) -> list[SubscoreBin]:
    """The bins that hold any of (N,) plans; plans without a true value (NaN) are left out."""
    known = np.isfinite(true)
    predicted, true = predicted[known], true[known]
    index = _bin_of(predicted)
    plans, ours, theirs = (np.bincount(index, values, minlength=BINS) for values in (None, predicted, true))
    return [
        SubscoreBin(source, name, place, int(plans[place]), ours[place] / plans[place], theirs[place] / plans[place])
        for place in np.flatnonzero(plans).tolist()
    ]


def _bin_of(predicted: Floats) -> NDArray[np.int64]:
    index: NDArray[np.int64] = np.clip((predicted * BINS).astype(np.int64), 0, BINS - 1)
    return index


def pick_quality(source: str, predicted: Floats, true: Floats, mask: NDArray[np.bool_]) -> PickQuality:
    """Cost of the top pick among the masked plans of every row.

    Args:
        predicted, true: (R, P) rewards.
        mask: (R, P) the plans that may be picked; rows with fewer than two are left out.
    """
    keep = mask.sum(1) >= 2
    predicted, true, mask = predicted[keep], true[keep], mask[keep]
    if not len(true):
        return PickQuality(source, 0, *([float("nan")] * 12))
    pick = np.where(mask, predicted, -np.inf).argmax(1)
    picked = true[np.arange(len(true)), pick]
    best = np.where(mask, true, -np.inf).max(1)
    regret = best - picked
    mean = _means(true, mask)
    ours, theirs = ((values - _means(values, mask)[:, None])[mask] for values in (predicted, true))
    return PickQuality(
        source=source,
        rows=len(true),
        regret=float(regret.mean()),
        exact=float((regret <= 1e-9).mean()),
        within_5=float((regret <= 0.05 + 1e-9).mean()),
        miss_20=float((regret >= 0.20 - 1e-9).mean()),
        mean_pick=float(picked.mean()),
        mean_best=float(best.mean()),
        mean_random=float(mean.mean()),
        enrichment=float((_means(true, _favourites(predicted, mask)) - mean).mean()),
        correlation=_correlation(ours, theirs),
        spread_predicted=float(ours.std()),
        spread_true=float(theirs.std()),
        bias=float((predicted - true)[mask].mean()),
    )


def _means(values: Floats, mask: NDArray[np.bool_]) -> Floats:
    """(R,) means over the masked plans of each row."""
    means: Floats = (values * mask).sum(1) / mask.sum(1)
    return means


def _favourites(predicted: Floats, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(R, P) True for the quarter of the masked plans, at least one, that are predicted to be best."""
    order = np.argsort(np.where(mask, -predicted, np.inf), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    favourites: NDArray[np.bool_] = rank < np.maximum(mask.sum(1) // 4, 1)[:, None]
    return favourites


def _correlation(first: Floats, second: Floats) -> float:
    """Of two (N,) arrays whose mean is 0; NaN where one is constant."""
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 0 else float("nan")


def subscore_quality(source: str, name: str, predicted: Floats, true: Floats) -> SubscoreQuality:
    """Quality of one sub-score over (N,) plans; plans without a true value (NaN) are left out."""
    known = np.isfinite(true)
    predicted, true = predicted[known], true[known]
    if not true.size:
        return SubscoreQuality(source, name, 0, *([float("nan")] * 5))
    return SubscoreQuality(
        source=source,
        subscore=name,
        plans=int(true.size),
        auroc=auroc(predicted, true >= 1.0),
        ece=calibration_error(predicted, true),
        mae=float(np.abs(predicted - true).mean()),
        mean_predicted=float(predicted.mean()),
        mean_true=float(true.mean()),
    )


def quality_report(predicted: Floats, true: Floats, source: NDArray[np.int8], groups: int) -> QualityReport:
    """Compares predicted with true sub-scores of held-out plans.

    Args:
        predicted, true: (R, P, 9) in the order of ``SUBSCORES``; EC may be NaN.
        source: (R, P) index into ``SOURCES``.
        groups: independent groups among the rows (layouts or logs), for the reader to judge the sample.
    """
    weights = RewardWeights()
    predicted_reward, true_reward = reward(predicted, weights), reward(true, weights)
    masks = {ALL_SOURCES: np.ones(source.shape, np.bool_)}
    masks |= {name: source == index for index, name in enumerate(SOURCES) if (source == index).any()}
    columns = [
        (name, subscore, predicted[mask][:, index], true[mask][:, index])
        for name, mask in masks.items()
        for index, subscore in enumerate(SUBSCORES)
        if subscore != "ec"
    ]
    return QualityReport(
        subscores=tuple(subscore_quality(*column) for column in columns),
        bins=tuple(found for column in columns for found in subscore_bins(*column)),
        picks=tuple(pick_quality(name, predicted_reward, true_reward, mask) for name, mask in masks.items()),
        groups=groups,
    )


def _csv(rows: Sequence[SubscoreQuality] | Sequence[SubscoreBin] | Sequence[PickQuality]) -> str:
    records = [asdict(row) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _without_nan(value: object) -> object:
    """JSON has no NaN: a figure that does not exist becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
