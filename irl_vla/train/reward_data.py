"""What the reward world model is fitted to: labelled rows, and batches out of them.

A batch is a function of (seed, step, worker), so a run that was stopped and resumed equals one that was not.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irl_vla.errors import CheckpointError
from irl_vla.ledger.arrays import scratch_array
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.config import RewardModelConfig, RewardTrainConfig
from irl_vla.reward.labels import LabelSet, open_labels
from irl_vla.reward.loss import LEARNED
from irl_vla.reward.model import Views
from irl_vla.reward.proposals import SOURCES
from irl_vla.reward.views import bank_rollouts, look
from irl_vla.scene import SUBSCORES

_COLUMNS: Final = [SUBSCORES.index(name) for name in LEARNED]
_POLICY, _HUMAN = SOURCES.index("policy"), SOURCES.index("human")


@dataclass(frozen=True)
class FitJob:
    """What a training worker needs.

    Attributes:
        folder: of Ray Train's own checkpoints.
    """

    bank: Location
    labels: Location
    folder: Location
    config: RewardTrainConfig
    seed: int


@dataclass(frozen=True, eq=False)
class FitData:
    """Labelled rows; what a plan has, and the tokens, lies on disk.

    Attributes:
        train, held_out: indices into the label set, of disjoint groups.
        rows: those of each member, out of ``train``.
        subscores: (R, P, 8) filtered labels in the order of ``LEARNED``.
    """

    bank: TokenBank
    labels: LabelSet
    subscores: NDArray[np.float32]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    rows: tuple[NDArray[np.int64], ...]


class Batch(NamedTuple):
    """A batch of each member of an ensemble.

    Attributes:
        views: of M members.
        subscores: (M, B, P, 8) labels in the order of ``LEARNED``.
        own, human: (M, B, P) bool, plans of the policy itself, and that of the human.
    """

    views: tuple[Views, ...]
    subscores: Tensor
    own: Tensor
    human: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device."""
        return Batch(tuple(views.to(device) for views in self.views), *(part.to(device) for part in self[1:]))


def open_data(job: FitJob) -> FitData:
    """Opens bank and labels and splits the rows by group.

    Raises:
        CheckpointError: if the labels were made from another bank, or there are fewer than two groups.
    """
    bank, labels = TokenBank.open(job.bank), open_labels(job.labels)
    tokens = bank.token[labels.rows] if labels.rows.max() < len(bank.token) else np.array([])
    if not np.array_equal(tokens, np.asarray(labels.tokens)):
        raise CheckpointError(
            f"{job.labels}: expected labels of the rows of {job.bank}, found other tokens; run `irl-vla label` again"
        )
    groups = bank.group[labels.rows]
    held_out = held_out_rows(groups, job.config.holdout_fraction, job.seed)
    subscores = scratch_array((*labels.source.shape, len(LEARNED)), np.float32)
    for part in labels.parts():
        subscores[part] = labels.subscores(part)[..., _COLUMNS]
    members = job.config.model.members
    train = np.flatnonzero(~held_out)
    rows = tuple(member_rows(groups, train, (job.seed, member), members) for member in range(members))
    return FitData(bank, labels, subscores, train, np.flatnonzero(held_out), rows)


def held_out_rows(groups: NDArray[Any], fraction: float, seed: int) -> NDArray[np.bool_]:
    """(R,) True for the rows of the held-out groups: at least one group, and never all.

    Raises:
        CheckpointError: if there are fewer than two groups.
    """
    names = sorted(set(groups.tolist()), key=lambda name: content_hash([seed, name]))
    if len(names) < 2:
        raise CheckpointError(
            f"train-reward: expected at least two groups (layouts or logs) to hold one out, found {len(names)}; "
            "label a split with more of them"
        )
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    return np.isin(groups, names[:count])


def member_rows(
    groups: NDArray[Any], train: NDArray[np.int64], seed: tuple[int, int], members: int
) -> NDArray[np.int64]:
    """Training rows of a member: of as many groups as there are, drawn with replacement; all rows of a single model.

    Args:
        groups: (R,) of all rows.
        train: rows to choose from.
        seed: of the draw, and the member.
        members: of the ensemble.
    """
    if members == 1:
        return train
    names, place = np.unique(groups[train], return_inverse=True)
    drawn = np.random.default_rng(seed).integers(0, len(names), len(names))
    return np.concatenate([train[place == group] for group in drawn])


def draw_batch(data: FitData, config: RewardTrainConfig, seed: int, step: int, rank: int) -> Batch:
    """A batch of each member, a function of the arguments alone."""
    parts = [_draw(data, config, seed, (step, rank), member) for member in range(config.model.members)]
    views, *labels = zip(*parts, strict=True)
    return Batch(tuple(views), *(torch.from_numpy(np.stack(part)) for part in labels))


def _draw(
    data: FitData, config: RewardTrainConfig, seed: int, turn: tuple[int, int], member: int
) -> tuple[Views, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    rows, generator = data.rows[member], np.random.default_rng([seed, *turn, member])
    chosen = generator.choice(rows, size=config.rows_per_batch, replace=len(rows) < config.rows_per_batch)
    count = data.labels.plans.shape[1]
    kept = min(config.proposals_per_row or count, count)
    picks = np.argsort(generator.random((len(chosen), count)), axis=1)[:, :kept]
    index = (chosen[:, None], picks)
    source = data.labels.source[index]
    views = _views(data, config.model, chosen, data.labels.plans[index])
    return views, data.subscores[index], source == _POLICY, source == _HUMAN


def _views(data: FitData, config: RewardModelConfig, places: NDArray[np.int64], plans: NDArray[np.float32]) -> Views:
    rows = data.labels.rows[places]
    exact = plans.astype(np.float64)
    rollouts = bank_rollouts(data.bank, rows, exact) if config.relations else np.zeros((0, 0, 0, 0))
    return look(config, data.bank, rows, exact, rollouts)
