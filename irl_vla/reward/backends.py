"""Reward backends: what gives plans their sub-scores, behind one interface.

Every backend turns (rows of the token bank, plans) into sub-scores, never into a reward: ``weights.reward`` alone does
that. The human filter is applied where the configured score applies it; EC is NaN (``comfort.pair_comforts`` adds it).
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import ScoringContext, score_in_context, scoring_context
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import ConfigError
from irl_vla.geometry import Floats
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.comfort import history_comforts
from irl_vla.reward.config import BackendConfig
from irl_vla.reward.labels import LabelSet, open_labels
from irl_vla.reward.loss import LEARNED
from irl_vla.reward.model import RewardWorldModel, load_reward_model, predict_subscores
from irl_vla.reward.proposals import comparable
from irl_vla.reward.views import bank_rollouts, look
from irl_vla.scene import SUBSCORES, SubScores

_HC: Final = SUBSCORES.index("hc")
#: EC, the last, is not learned.
_LEARNED_COLUMNS: Final = slice(len(LEARNED))

log = logging.getLogger(__name__)


class RewardBackend(Protocol):
    """Scores plans of bank rows."""

    def score(self, rows: NDArray[np.int64], plans: Floats) -> SubScores:
        """Sub-scores (B, P, 9) of plans (B, P, 8, 3) in rows (B,), and which of them (B, P) are real."""


class ModelBackend:
    """The reward world model. What a scene contributes is computed once a call, however many plans ask for it."""

    def __init__(self, models: tuple[RewardWorldModel, ...], bank: TokenBank, config: BackendConfig) -> None:
        self._models = models
        self._bank = bank
        self._config = config

    def score(self, rows: NDArray[np.int64], plans: Floats) -> SubScores:
        """Expected sub-scores; HC is computed from the rollout unless the configuration asks for the learned one."""
        scenes, slots, width = _by_scene(rows, plans.shape[1])
        grouped = np.zeros((len(scenes), width, *plans.shape[2:]))
        grouped[slots] = plans.reshape(-1, *plans.shape[2:])
        step = max(1, self._config.plans_per_batch // width)
        parts = [
            self._scored(scenes[start : start + step], grouped[start : start + step])
            for start in range(0, len(scenes), step)
        ]
        shape = plans.shape[:2]
        return SubScores(np.concatenate(parts)[slots].reshape(*shape, len(SUBSCORES)), np.ones(shape, np.bool_))

    def _scored(self, scenes: NDArray[np.int64], plans: Floats) -> Floats:
        """Sub-scores (B, P, 9) of plans (B, P, 8, 3) of bank rows (B,)."""
        values = np.full((*plans.shape[:2], len(SUBSCORES)), np.nan)
        rollouts = bank_rollouts(self._bank, scenes, plans)
        with torch.inference_mode():
            views = look(self._models[0].config, self._bank, scenes, plans, rollouts)
            values[..., _LEARNED_COLUMNS] = predict_subscores(self._models, views, self._config.pessimism).numpy()
        if self._config.computed_comfort:
            values[..., _HC] = history_comforts(self._bank.ego_history[scenes].astype(np.float64), rollouts)
        return values


class ScorerBackend:
    """The true scorer in this process. Prepared scenes are kept, the least recently used is dropped first."""

    def __init__(self, store: PreparedStore, bank: TokenBank, scorer: ScorerConfig, scenes_in_memory: int) -> None:
        self._store = store
        self._bank = bank
        self._scorer = scorer
        self._limit = scenes_in_memory
        self._scenes: OrderedDict[str, ScoringContext] = OrderedDict()

    def score(self, rows: NDArray[np.int64], plans: Floats) -> SubScores:
        """The sub-scores that enter the final score; invalid without a prepared scene or where a plan has no score."""
        corrected = self._scorer.filter_convention == "corrected"
        values = np.full((*plans.shape[:2], len(SUBSCORES)), np.nan)
        valid = np.zeros(plans.shape[:2], np.bool_)
        for index, row in enumerate(rows):
            token = str(self._bank.token[row])
            if token in self._store:
                scored = score_in_context(self._scene(token), np.asarray(plans[index], np.float64), self._scorer)
                values[index] = scored.filtered if corrected else scored.raw
                valid[index] = [plan not in scored.failures for plan in range(plans.shape[1])]
        return _counted(SubScores(values, valid), "scorer", "prepared scene")

    def _scene(self, token: str) -> ScoringContext:
        if token not in self._scenes:
            self._scenes[token] = scoring_context(self._store[token])
            if len(self._scenes) > self._limit:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(token)
        return self._scenes[token]


class ActorBackend:
    """The true scorer in running Ray actors. A row always goes to the same actor, which keeps its prepared scene.

    Args:
        names: as :func:`scorer_actors` gives them. Names travel to any process of the Ray session, and through
            checkpoints of a session that is gone.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._actors: list[Any] = [ray.get_actor(name) for name in names]

    def score(self, rows: NDArray[np.int64], plans: Floats) -> SubScores:
        """As :class:`ScorerBackend`, in parallel over rows."""
        values = np.full((*plans.shape[:2], len(SUBSCORES)), np.nan)
        valid = np.zeros(plans.shape[:2], np.bool_)
        parts = [np.flatnonzero(rows % len(self._actors) == index) for index in range(len(self._actors))]
        pending = [actor.score.remote(rows[part], plans[part]) for actor, part in zip(self._actors, parts, strict=True)]
        for part, result in zip(parts, ray.get(pending), strict=True):
            values[part], valid[part] = result.values, result.valid
        return _counted(SubScores(values, valid), "scorer", "prepared scene")


@contextmanager
def scorer_actors(
    config: BackendConfig, bank: Location, store: Location, scorer: ScorerConfig
) -> Iterator[tuple[str, ...]]:
    """Runs the scorer actors that the configuration asks for (maybe none), and ends them, also after an error.

    Call it in the driver, before anything else takes CPUs: whoever waits for an actor's answer may hold a CPU itself,
    and an actor that has none would never answer. The block begins when every actor has its CPU.

    Args:
        store: prepared scenes.

    Yields:
        The names of the actors, for :func:`make_backend`.
    """
    actor = ray.remote(num_cpus=1)(_ScorerActor)
    handles: dict[str, Any] = {}
    try:
        for _ in range(config.scorer_actors):
            name = f"scorer-{uuid4().hex}"
            handles[name] = actor.options(name=name).remote(store, bank, scorer, config.scenes_in_memory)
        ray.get([handle.__ray_ready__.remote() for handle in handles.values()])
        yield tuple(handles)
    finally:
        for handle in handles.values():
            ray.kill(handle)


class VocabularyBackend:
    """Looks up the labelled plan nearest to the asked one. Rows without labels are invalid."""

    def __init__(self, labels: LabelSet) -> None:
        self._labels = labels
        self._place = {int(row): index for index, row in enumerate(labels.rows)}

    def score(self, rows: NDArray[np.int64], plans: Floats) -> SubScores:
        """Sub-scores of the nearest labelled plan of the same row."""
        values = np.full((*plans.shape[:2], len(SUBSCORES)), np.nan)
        valid = np.zeros(plans.shape[:2], np.bool_)
        for index, row in enumerate(rows):
            place = self._place.get(int(row))
            if place is not None:
                asked, known = comparable(plans[index]), comparable(self._labels.plans[place])
                nearest = ((asked[:, None] - known[None]) ** 2).sum(-1).argmin(1)
                values[index], valid[index] = self._labels.subscores([place])[0, nearest], True
        return _counted(SubScores(values, valid), "vocabulary", "labels")


class MixBackend:
    """Weighted mean of two backends' sub-scores; where only one is valid, that one alone."""

    def __init__(self, first: RewardBackend, second: RewardBackend, second_share: float) -> None:
        self._first = first
        self._second = second
        self._share = second_share

    def score(self, rows: NDArray[np.int64], plans: Floats) -> SubScores:
        """Mean of the valid parts, element by element."""
        first, second = self._first.score(rows, plans), self._second.score(rows, plans)
        share = np.where(second.valid, np.where(first.valid, self._share, 1.0), 0.0)[..., None]
        values = np.where(share < 1.0, (1.0 - share) * first.values, 0.0)
        values = values + np.where(share > 0.0, share * second.values, 0.0)
        return SubScores(values, first.valid | second.valid)


def make_backend(
    config: BackendConfig,
    bank: Location | Path,
    *,
    model: Location | Path | None = None,
    store: Location | Path | None = None,
    labels: Location | Path | None = None,
    scorer: ScorerConfig | None = None,
    actors: Sequence[str] = (),
) -> RewardBackend:
    """Opens the backend that the configuration names.

    Args:
        model: reward checkpoint folder, for "rwm" and "mix".
        store: prepared scenes, for "scorer" and "mix".
        labels: label set, for "vocabulary".
        scorer: how the true scorer scores, for "scorer" and "mix".
        actors: names of the :func:`scorer_actors` to ask instead of scoring in this process.

    Raises:
        ConfigError: if the kind needs an input that is not there.
        CheckpointError: if an input does not fit the bank.
    """
    needed: dict[str, dict[str, object]] = {
        "rwm": {"model": model},
        "scorer": {"store": store, "scorer": scorer},
        "vocabulary": {"labels": labels},
        "mix": {"model": model, "store": store, "scorer": scorer},
    }
    absent = [name for name, value in needed[config.kind].items() if value is None]
    if absent:
        raise ConfigError(f"backend.kind={config.kind!r} needs {', '.join(absent)}; run the stage that makes it first")
    opened = TokenBank.open(bank)
    parts: list[RewardBackend] = []
    if config.kind == "vocabulary" and labels is not None:
        parts.append(VocabularyBackend(open_labels(labels)))
    if config.kind in ("rwm", "mix") and model is not None:
        parts.append(ModelBackend(load_reward_model(model, opened.perception_hash, opened.layout), opened, config))
    if config.kind in ("scorer", "mix") and store is not None and scorer is not None:
        parts.append(
            ActorBackend(actors)
            if actors
            else ScorerBackend(PreparedStore.open(store), opened, scorer, config.scenes_in_memory)
        )
    return parts[0] if len(parts) == 1 else MixBackend(parts[0], parts[1], config.mix_scorer)


class _ScorerActor:
    def __init__(self, store: Location, bank: Location, scorer: ScorerConfig, scenes_in_memory: int) -> None:
        self._backend = ScorerBackend(PreparedStore.open(store), TokenBank.open(bank), scorer, scenes_in_memory)

    def score(self, rows: NDArray[np.int64], plans: Floats) -> SubScores:
        return self._backend.score(rows, plans)


def _by_scene(rows: NDArray[np.int64], plans_per_row: int) -> tuple[NDArray[np.int64], tuple[Any, Any], int]:
    """Groups plans by scene.

    Returns:
        (U,) scenes; for each of the B * P plans, in order, its (scene, slot); and the number of slots of a scene.
    """
    scenes, place = np.unique(rows, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(place))])
    turn = np.empty(len(rows), np.int64)
    turn[order] = np.arange(len(rows)) - starts[place[order]]
    slots = turn[:, None] * plans_per_row + np.arange(plans_per_row)
    return scenes, (np.repeat(place, plans_per_row), slots.ravel()), int((turn.max() + 1) * plans_per_row)


def _counted(scores: SubScores, backend: str, lacking: str) -> SubScores:
    invalid = int((~scores.valid).sum())
    if invalid:
        log.warning("%s backend: %d of %d plans have no %s", backend, invalid, scores.valid.size, lacking)
    return scores
