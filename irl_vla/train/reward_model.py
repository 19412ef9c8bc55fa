"""Fits the reward world model to a label set on Ray Train, and reports its quality on held-out layouts.

Batches are a function of (seed, step, worker), so a run that was stopped and resumed equals one that was not.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, cast

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from irl_vla.errors import CheckpointError
from irl_vla.ledger.checkpoint import Provenance, save_checkpoint
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank, TokenLayout
from irl_vla.reward.comfort import history_comforts
from irl_vla.reward.config import RewardModelConfig, RewardTrainConfig
from irl_vla.reward.labels import LabelSet, open_labels
from irl_vla.reward.loss import LEARNED, class_weights, irl_loss, subscore_losses, total_loss, within_scene_loss
from irl_vla.reward.model import STAGE, RewardWorldModel, Views, predict_subscores
from irl_vla.reward.proposals import SOURCES
from irl_vla.reward.quality import QualityReport, quality_report
from irl_vla.reward.views import bank_rollouts, look
from irl_vla.scene import SUBSCORES
from irl_vla.train.loader import prefetched
from irl_vla.train.loop import (
    ALONE,
    Entry,
    Rank,
    Report,
    RunSpec,
    last_state,
    one_cycle,
    report_entries,
    report_state,
    run_training,
    this_rank,
)

_COLUMNS: Final = [SUBSCORES.index(name) for name in LEARNED]
_HC: Final = SUBSCORES.index("hc")
_POLICY, _HUMAN = SOURCES.index("policy"), SOURCES.index("human")
_LOG_EVERY: Final = 20

log = logging.getLogger(__name__)


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
    """Labelled rows in memory; tokens stay in the memory-mapped bank.

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
    rows: tuple[NDArray[np.int64], ...] = ()


class Ensemble(nn.Module):
    """Independent reward world models that are fitted side by side."""

    def __init__(self, layout: TokenLayout, config: RewardTrainConfig) -> None:
        super().__init__()
        self.members = nn.ModuleList(RewardWorldModel(layout, config.model) for _ in range(config.model.members))

    def forward(self, batches: Sequence[Views]) -> Tensor:
        """Logits (members, B, P, 12), each member on a batch of its own."""
        members = cast(Iterable[RewardWorldModel], self.members)
        return torch.stack([member(views) for member, views in zip(members, batches, strict=True)])


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


class LabelledBank(NamedTuple):
    """A token bank and the label set made from it."""

    bank: Location
    labels: Location


def train_reward(
    train: LabelledBank,
    validation: LabelledBank,
    config: RewardTrainConfig,
    folder: Location,
    *,
    seed: int,
    report: Report,
) -> Location:
    """Fits, and writes the checkpoint and its quality (``quality.json`` and two CSV tables) into ``folder``.

    The quality on held-out layouts of the training split lies in ``folder`` itself; that on the validation split, whose
    layouts perception has never seen either, in ``folder/validation``. Call it again after an interruption: it goes on
    from the last checkpoint of the same configuration.

    Args:
        report: receives metrics and their step.

    Returns:
        The checkpoint folder.

    Raises:
        CheckpointError: if bank and labels do not fit, or hold fewer than two groups.
        ClusterError: if training failed on the cluster more often than ``config.max_failures``.
    """
    job = FitJob(*train, folder / "training", config, seed)
    data = open_data(job)
    name = run_name(job, data)
    spec = RunSpec("train-reward", name, job.folder, config.steps, config.workers, config.use_gpu, config.max_failures)
    state = run_training(fit_worker, job, spec, report)
    models = _members(data, config, state["model"])
    quality = evaluate(models, data.bank, data.labels, data.held_out)
    quality.write(folder)
    unseen = evaluate_validation(models, validation)
    unseen.write(folder / "validation")
    figures = _headline(quality) | own_plans(unseen)
    log_quality(unseen)
    report(figures, config.steps)
    checkpoint = folder / "checkpoint"
    save_checkpoint(
        checkpoint,
        STAGE,
        {f"member_{index}": model.state_dict() for index, model in enumerate(models)},
        config.model,
        Provenance(
            seed,
            {"perception": data.bank.perception_hash, "labels": data.labels.fingerprint},
            {"training": _without_model(config), "quality": figures},
        ),
    )
    return checkpoint


def run_name(job: FitJob, data: FitData) -> str:
    """Name of the run, by what determines its result: another configuration never resumes from its states."""
    inputs = [data.bank.fingerprint, data.labels.fingerprint]
    return f"reward-{content_hash([job.config.decisive(), job.seed, inputs])}"


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
    subscores, members = labels.subscores()[..., _COLUMNS], job.config.model.members
    data = FitData(bank, labels, subscores, np.flatnonzero(~held_out), np.flatnonzero(held_out))
    return replace(data, rows=tuple(member_rows(data, member, members, job.seed) for member in range(members)))


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


def member_rows(data: FitData, member: int, members: int, seed: int) -> NDArray[np.int64]:
    """Training rows of a member: of as many groups as there are, drawn with replacement; all rows of a single model."""
    if members == 1:
        return data.train
    groups = data.bank.group[data.labels.rows[data.train]]
    names, place = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng([seed, member]).integers(0, len(names), len(names))
    return np.concatenate([data.train[place == group] for group in drawn])


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


def fit_steps(
    ensemble: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    data: FitData,
    *,
    steps: range,
    job: FitJob,
    rank: Rank = ALONE,
    after: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Takes optimiser steps; ``after`` hears the step just done and its losses."""
    config = job.config
    flat = torch.from_numpy(data.subscores[data.train].reshape(-1, len(LEARNED)))
    weights = class_weights(flat, config.model.class_balance).to(rank.device)
    ensemble.train()

    def batch_of(step: int) -> Batch:
        return draw_batch(data, config, job.seed, step, rank.number)

    for step, drawn in prefetched(batch_of, steps):
        batch = drawn.to(rank.device)
        logits, extra = ensemble(batch.views), config.model.loss
        losses = subscore_losses(logits, batch.subscores, weights)
        loss = total_loss(losses, config.model.head_weights)
        losses["within_scene"] = within_scene_loss(logits, batch.subscores, batch.own)
        losses["irl"] = irl_loss(logits, batch.human, extra.irl_temperature)
        loss = loss + extra.within_scene * losses["within_scene"] + extra.irl * losses["irl"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(ensemble.parameters(), config.grad_norm)
        optimiser.step()
        schedule.step()
        metrics = {f"train_reward/loss_{name}": value.item() for name, value in losses.items()}
        metrics |= {"train_reward/loss": loss.item(), "train_reward/grad_norm": float(norm)}
        if after is not None:
            after(step + 1, metrics)


def make_optimiser(
    parameters: Any, config: RewardTrainConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW under a one-cycle schedule."""
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return optimiser, one_cycle(optimiser, config.steps, config.warmup_fraction)


def evaluate(
    models: tuple[RewardWorldModel, ...],
    bank: TokenBank,
    labels: LabelSet,
    places: NDArray[np.int64],
    rows_per_batch: int = 64,
) -> QualityReport:
    """Quality of the expected sub-scores on some labelled rows; HC is computed, EC has no part in it.

    Args:
        places: indices into the label set.
    """
    predicted = np.full((len(places), labels.plans.shape[1], len(SUBSCORES)), np.nan)
    for start in range(0, len(places), rows_per_batch):
        part = places[start : start + rows_per_batch]
        rows, plans = labels.rows[part], labels.plans[part].astype(np.float64)
        rollouts = bank_rollouts(bank, rows, plans)
        with torch.inference_mode():
            found = predict_subscores(models, look(models[0].config, bank, rows, plans, rollouts))
        values = predicted[start : start + rows_per_batch]
        values[..., _COLUMNS] = found.numpy()
        values[..., _HC] = history_comforts(bank.ego_history[rows].astype(np.float64), rollouts)
    true = labels.subscores()[places].astype(np.float64)
    groups = bank.group[labels.rows[places]]
    return quality_report(predicted, true, labels.source[places], len(set(groups.tolist())))


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


def log_quality(quality: QualityReport) -> None:
    """Says in one line what the fit is worth on unseen layouts."""
    figures = {name.removeprefix("train_reward/val_"): value for name, value in own_plans(quality).items()}
    told = ("correlation", "enrichment", "regret", "within_5")
    log.info(
        "train-reward: the policy's own plans on validation: %s; AUROC %s",
        ", ".join(f"{name} {figures[name]:.3f}" for name in told if name in figures),
        ", ".join(f"{name} {figures[f'auroc_{name}']:.3f}" for name in LEARNED if f"auroc_{name}" in figures),
    )


def fit_worker(arguments: dict[str, Any]) -> None:
    """The loop of one Ray Train worker."""
    job: FitJob = arguments["job"]
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    data = open_data(job)
    ensemble = ray.train.torch.prepare_model(Ensemble(data.bank.layout, job.config))
    bare = ensemble.module if isinstance(ensemble, nn.parallel.DistributedDataParallel) else ensemble
    optimiser, schedule = make_optimiser(ensemble.parameters(), job.config)
    rank, start, state = this_rank(), 0, last_state()
    if state is not None:
        bare.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        start = state["step"]
        log.info("train-reward: going on from step %d", start)

    def after(step: int, metrics: dict[str, float]) -> None:
        last = step == job.config.steps
        entries = [Entry(step, metrics)] if step % _LOG_EVERY == 0 or last else []
        if step % job.config.checkpoint_every == 0 or last:
            state = {"model": bare.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
            # The held-out rows are for the report alone: the last state is the one to keep.
            report_state(state | {"step": step}, entries, selection=float(step))
        elif entries:
            report_entries(entries)

    fit_steps(
        ensemble, optimiser, schedule, data, steps=range(start, job.config.steps), job=job, rank=rank, after=after
    )


def _views(data: FitData, config: RewardModelConfig, places: NDArray[np.int64], plans: NDArray[np.float32]) -> Views:
    rows = data.labels.rows[places]
    exact = plans.astype(np.float64)
    rollouts = bank_rollouts(data.bank, rows, exact) if config.relations else np.zeros((0, 0, 0, 0))
    return look(config, data.bank, rows, exact, rollouts)


def _members(data: FitData, config: RewardTrainConfig, state: dict[str, Tensor]) -> tuple[RewardWorldModel, ...]:
    ensemble = Ensemble(data.bank.layout, config)
    ensemble.load_state_dict(state)
    members = cast(Iterable[RewardWorldModel], ensemble.members)
    return tuple(member.eval().requires_grad_(False) for member in members)


def _without_model(config: RewardTrainConfig) -> dict[str, Any]:
    return {name: value for name, value in config.decisive().items() if name != "model"}


def _headline(quality: QualityReport) -> dict[str, float]:
    figures = {f"train_reward/auroc_{q.subscore}": q.auroc for q in quality.subscores if q.source == "all"}
    figures |= {f"train_reward/ece_{q.subscore}": q.ece for q in quality.subscores if q.source == "all"}
    pick = quality.picks[0]
    figures |= {"train_reward/regret": pick.regret, "train_reward/exact_pick": pick.exact}
    return {name: value for name, value in figures.items() if np.isfinite(value)}
