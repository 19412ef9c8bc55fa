"""Fits the reward world model to a label set on Ray Train, and reports its quality on held-out layouts.

Batches are a function of (seed, step, worker), so a run that was stopped and resumed equals one that was not.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from irl_vla.errors import CheckpointError
from irl_vla.ledger.arrays import scratch_array
from irl_vla.ledger.checkpoint import Provenance, save_checkpoint
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank, TokenLayout
from irl_vla.reward.config import RewardTrainConfig
from irl_vla.reward.labels import LabelSet, open_labels
from irl_vla.reward.loss import LEARNED, class_weights, subscore_losses, total_loss
from irl_vla.reward.model import STAGE, RewardWorldModel, predict_subscores
from irl_vla.reward.quality import QualityReport, quality_report
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
    """Labelled rows; what a plan has, and the tokens, lies on disk.

    Attributes:
        train, held_out: indices into the label set, of disjoint groups.
        subscores: (R, P, 8) filtered labels in the order of ``LEARNED``.
    """

    bank: TokenBank
    labels: LabelSet
    subscores: NDArray[np.float32]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


class Ensemble(nn.Module):
    """Independent reward world models that are fitted side by side."""

    def __init__(self, layout: TokenLayout, config: RewardTrainConfig) -> None:
        super().__init__()
        self.members = nn.ModuleList(RewardWorldModel(layout, config.model) for _ in range(config.model.members))

    def forward(self, tokens: Tensor, plans: Tensor, history: Tensor) -> Tensor:
        """Logits (members, B, P, 12)."""
        members = cast(Iterable[RewardWorldModel], self.members)
        return torch.stack([member(plans, history, member.scene_keys(tokens)) for member in members])


def train_reward(
    bank: Location, labels: Location, config: RewardTrainConfig, folder: Location, *, seed: int, report: Report
) -> Location:
    """Fits, writes the checkpoint and the held-out quality (``quality.json`` and two CSV tables) into ``folder``.

    Call it again after an interruption: it goes on from the last checkpoint of the same configuration.

    Args:
        bank, labels: token bank and label set made from it.
        report: receives metrics and their step.

    Returns:
        The checkpoint folder.

    Raises:
        CheckpointError: if bank and labels do not fit, or hold fewer than two groups.
        ClusterError: if training failed on the cluster more often than ``config.max_failures``.
    """
    job = FitJob(bank, labels, folder / "training", config, seed)
    data = open_data(job)
    name = run_name(job, data)
    spec = RunSpec("train-reward", name, job.folder, config.steps, config.workers, config.use_gpu, config.max_failures)
    state = run_training(fit_worker, job, spec, report)
    models = _members(data, config, state["model"])
    quality = evaluate_held_out(models, data)
    quality.write(folder)
    report(_headline(quality), config.steps)
    checkpoint = folder / "checkpoint"
    save_checkpoint(
        checkpoint,
        STAGE,
        {f"member_{index}": model.state_dict() for index, model in enumerate(models)},
        config.model,
        Provenance(
            seed,
            {"perception": data.bank.perception_hash, "labels": data.labels.fingerprint},
            {"training": _without_model(config), "held_out": _headline(quality)},
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
    subscores = scratch_array((*labels.source.shape, len(LEARNED)), np.float32)
    for part in labels.parts():
        subscores[part] = labels.subscores(part)[..., _COLUMNS]
    return FitData(bank, labels, subscores, np.flatnonzero(~held_out), np.flatnonzero(held_out))


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


def draw_batch(data: FitData, config: RewardTrainConfig, generator: np.random.Generator) -> tuple[Tensor, ...]:
    """Tokens (B, N, D), plans (B, P, 8, 3), histories (B, 4, 7) and labels (B, P, 8) of random rows."""
    chosen = generator.choice(data.train, size=config.rows_per_batch, replace=len(data.train) < config.rows_per_batch)
    count = data.labels.plans.shape[1]
    kept = min(config.proposals_per_row or count, count)
    picks = np.argsort(generator.random((len(chosen), count)), axis=1)[:, :kept]
    index = (chosen[:, None], picks)
    return (*_scene_inputs(data, chosen), *(torch.from_numpy(a[index]) for a in (data.labels.plans, data.subscores)))


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
    weights = _class_weights(data, config).to(rank.device)
    ensemble.train()

    def batch_of(step: int) -> tuple[Tensor, ...]:
        return draw_batch(data, config, np.random.default_rng([job.seed, step, rank.number]))

    for step, batch in prefetched(batch_of, steps):
        tokens, history, plans, labels = (part.to(rank.device) for part in batch)
        losses = subscore_losses(
            ensemble(tokens, plans, history), labels.expand(config.model.members, *labels.shape), weights
        )
        loss = total_loss(losses, config.model.head_weights)
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


def evaluate_held_out(models: tuple[RewardWorldModel, ...], data: FitData, rows_per_batch: int = 64) -> QualityReport:
    """Quality of the expected sub-scores on the held-out rows; EC has no part in it."""
    predicted = np.full((len(data.held_out), data.labels.plans.shape[1], len(SUBSCORES)), np.nan)
    with torch.inference_mode():
        for start in range(0, len(data.held_out), rows_per_batch):
            rows = data.held_out[start : start + rows_per_batch]
            tokens, history = _scene_inputs(data, rows)
            plans = torch.from_numpy(data.labels.plans[rows])
            found = predict_subscores(models, tokens, plans, history)
            predicted[start : start + rows_per_batch][..., _COLUMNS] = found.numpy()
    true = data.labels.subscores(data.held_out).astype(np.float64)
    groups = data.bank.group[data.labels.rows[data.held_out]]
    return quality_report(predicted, true, data.labels.source[data.held_out], len(set(groups.tolist())))


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


def _class_weights(data: FitData, config: RewardTrainConfig) -> Tensor:
    """(8, 3) of the rows that are trained on."""
    here = scratch_array((len(data.train), *data.subscores.shape[1:]), np.float32)
    np.take(data.subscores, data.train, axis=0, out=here, mode="clip")  # "raise" would take a copy in memory
    return class_weights(torch.from_numpy(here.reshape(-1, len(LEARNED))), config.model.class_balance)


def _scene_inputs(data: FitData, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    rows = data.labels.rows[places]
    return torch.from_numpy(data.bank.tokens(rows)), torch.from_numpy(data.bank.ego_history[rows])


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
