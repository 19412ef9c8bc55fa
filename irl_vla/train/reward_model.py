"""Fits the reward world model to a label set on Ray Train, and reports its quality on layouts that it has not seen."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

import numpy as np
import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn

from irl_vla.ledger.arrays import scratch_array
from irl_vla.ledger.checkpoint import Provenance, save_checkpoint
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenLayout
from irl_vla.reward.config import RewardModelConfig, RewardTrainConfig
from irl_vla.reward.loss import LEARNED, class_weights, irl_loss, subscore_losses, total_loss, within_scene_loss
from irl_vla.reward.model import STAGE, RewardWorldModel, Views
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
from irl_vla.train.reward_data import Batch, FitData, FitJob, draw_batch, open_data
from irl_vla.train.reward_quality import (
    LabelledBank,
    evaluate,
    evaluate_validation,
    headline,
    own_plans,
)

_LOG_EVERY: Final = 20

log = logging.getLogger(__name__)


class Ensemble(nn.Module):
    """Independent reward world models that are fitted side by side."""

    def __init__(self, layout: TokenLayout, config: RewardTrainConfig) -> None:
        super().__init__()
        self.members = nn.ModuleList(RewardWorldModel(layout, config.model) for _ in range(config.model.members))

    def forward(self, batches: Sequence[Views]) -> Tensor:
        """Logits (members, B, P, 12), each member on a batch of its own."""
        members = cast(Iterable[RewardWorldModel], self.members)
        return torch.stack([member(views) for member, views in zip(members, batches, strict=True)])


def train_reward(
    train: LabelledBank,
    validation: LabelledBank,
    config: RewardTrainConfig,
    folder: Location,
    *,
    seed: int,
    report: Report,
) -> Location:
    """Fits, and writes the checkpoint and its quality (``quality.json`` and three CSV tables) into ``folder``.

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
    figures = headline(quality) | own_plans(unseen)
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

    def batch_of(step: int) -> Batch:
        return draw_batch(data, config, job.seed, step, rank.number)

    for step, drawn in prefetched(batch_of, steps):
        batch = drawn.to(rank.device)
        loss, losses = ensemble_loss(ensemble, batch, config.model, weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(ensemble.parameters(), config.grad_norm)
        optimiser.step()
        schedule.step()
        metrics = {f"train_reward/loss_{name}": value.item() for name, value in losses.items()}
        metrics |= {"train_reward/loss": loss.item(), "train_reward/grad_norm": float(norm)}
        if after is not None:
            after(step + 1, metrics)


def ensemble_loss(
    ensemble: nn.Module, batch: Batch, config: RewardModelConfig, weights: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted loss of a batch and its parts by name.

    Args:
        weights: (8, 3) of ``class_weights``.
    """
    logits = ensemble(batch.views)
    losses = subscore_losses(logits, batch.subscores, weights)
    total = total_loss(losses, config.head_weights)
    losses["within_scene"] = within_scene_loss(logits, batch.subscores, batch.own)
    losses["irl"] = irl_loss(logits, batch.human, config.loss.irl_temperature)
    return total + config.loss.within_scene * losses["within_scene"] + config.loss.irl * losses["irl"], losses


def make_optimiser(
    parameters: Any, config: RewardTrainConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW under a one-cycle schedule."""
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return optimiser, one_cycle(optimiser, config.steps, config.warmup_fraction)


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


def _members(data: FitData, config: RewardTrainConfig, state: dict[str, Tensor]) -> tuple[RewardWorldModel, ...]:
    ensemble = Ensemble(data.bank.layout, config)
    ensemble.load_state_dict(state)
    members = cast(Iterable[RewardWorldModel], ensemble.members)
    return tuple(member.eval().requires_grad_(False) for member in members)


def _without_model(config: RewardTrainConfig) -> dict[str, Any]:
    return {name: value for name, value in config.decisive().items() if name != "model"}
