"""The training loop of imitation: 3D reasoning alone, then everything together, each phase with its own optimiser.

Batches are a function of (seed, step, worker), so a run that was stopped and resumed equals one that was not.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.ledger.storage import Location
from irl_vla.policy.batch import ObservationBatch, PerceptionTargets, observation_batch, target_batch
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.encoder import SceneEncoder, parameter_groups, weighted_loss
from irl_vla.policy.planner_config import PolicyConfig
from irl_vla.policy.vla import Policy, build_policy
from irl_vla.train.config import ImitationConfig
from irl_vla.train.loader import batch_rows, prefetched, step_generator, step_seed
from irl_vla.train.loop import (
    ALONE,
    Entry,
    Rank,
    last_state,
    one_cycle,
    report_entries,
    report_state,
    this_rank,
    use_threads,
)
from irl_vla.train.planner_loss import planner_loss
from irl_vla.train.samples import Samples, open_samples
from irl_vla.train.validation import validate, validate_sight

#: Observation, targets, plans (B, 8, 3), noise level (B, P) and noise (B, P, 24) of a step.
Batch = tuple[ObservationBatch, PerceptionTargets, Tensor, Tensor, Tensor]
#: Selection of a state of the phase before imitation: it is gone on from, and never chosen.
_NEVER_CHOSEN: Final = -1e9

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImitationJob:
    """What a training worker needs.

    Attributes:
        train, val: folders of samples.
    """

    train: Location
    val: Location
    policy: PolicyConfig
    config: ImitationConfig
    validation: PreparedStore | None
    scorer: ScorerConfig
    seed: int


class ImitationModel(nn.Module):
    """The policy with its losses behind one forward pass, as distributed training wants it."""

    def __init__(self, policy: Policy, config: ImitationConfig) -> None:
        super().__init__()
        self.policy, self.config = policy, config

    def forward(
        self, batch: ObservationBatch, targets: PerceptionTargets, plans: Tensor, step: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """Losses by name; ``total`` is their weighted sum.

        Args:
            plans: (B, 8, 3) to imitate.
            step: (B, P) noise level of each draw, 1..K.
            noise: (B, P, 24) standard normal.
        """
        encoder, chain = self.policy.encoder, self.policy.chain
        perception = encoder.perceive(batch, targets)
        losses = encoder.losses(perception, targets)
        total = weighted_loss(losses, encoder.config.loss_weights)
        keys = chain.planner.scene_keys(perception.tokens)
        diffusion, displacement = planner_loss(chain, keys, plans, step, noise)
        total = total + self.config.diffusion_weight * diffusion + self.config.plan_weight * displacement
        return {**losses, "diffusion": diffusion, "displacement_m": displacement, "total": total}


class SightModel(nn.Module):
    """3D reasoning with its losses behind one forward pass."""

    def __init__(self, encoder: SceneEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: ObservationBatch, targets: PerceptionTargets) -> dict[str, Tensor]:
        """Losses by name; ``total`` is their weighted sum."""
        losses = self.encoder.sight_losses(self.encoder.see(batch), targets)
        return {**losses, "total": weighted_loss(losses, self.encoder.config.loss_weights)}


def training_rows(samples: Samples) -> NDArray[np.int64]:
    """Rows that have a plan to imitate: that of a human, or the way back from a shifted view.

    Raises:
        SceneError: if there is none.
    """
    rows = np.flatnonzero(samples.rows.has_plan)
    if not len(rows):
        raise SceneError(
            f"{samples.place}: expected scenes with a plan to imitate, found none among {len(samples)}; "
            "train on a split of logged scenes with 8 frames behind the current one"
        )
    return rows


def fit_codec(samples: Samples, mode_floor: float) -> PlanCodec:
    """The plan code of everything that is imitated: human plans, and from shifted views the ways back to them.

    Without the latter, a swing back would lie many units outside of what the code was made for.
    """
    return PlanCodec.fit(samples.rows.plan[training_rows(samples)].astype(np.float64), mode_floor)


@dataclass(frozen=True, eq=False)
class Trainee:
    """What a phase changes; all of it is in the state, random numbers follow from the step.

    Attributes:
        policy: the whole policy.
        model: what is trained of it, with its losses, possibly wrapped for distributed training.
    """

    policy: Policy
    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def state(self, step: int) -> dict[str, Any]:
        """Everything needed to go on after ``step`` steps of all phases."""
        return {
            "policy": self.policy.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up a state of the same phase."""
        self.policy.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])


@dataclass(frozen=True, eq=False)
class Phase:
    """A part of the training with an optimiser of its own.

    Attributes:
        steps: of all phases, numbered through, those of this one.
        rows: of the samples that it draws from.
        batch: arguments of the model out of a step and rows.
        validate: what the policy is judged by.
    """

    steps: range
    trainee: Trainee
    rows: NDArray[np.int64]
    batch_size: int
    batch: Callable[[int, NDArray[np.int64]], Sequence[Any]]
    validate: Callable[[], dict[str, float]]


def imitation_worker(arguments: dict[str, Any]) -> None:
    """The loop of one Ray Train worker: 3D reasoning alone, then everything together."""
    job: ImitationJob = arguments["job"]
    rank = this_rank()
    use_threads(job.config.threads_per_worker)
    train, val = open_samples(job.train), open_samples(job.val)
    policy = build_policy(job.policy, fit_codec(train, job.policy.planner.mode_floor), job.seed)
    state = last_state()
    if state is not None:
        policy.load_state_dict(state["policy"])
        log.info("pretrain: going on from step %d", state["step"])
    if job.config.sight.steps > (0 if state is None else state["step"]):
        run_phase(sight_phase(job, policy, train, val, rank=rank), job, state, rank)
    run_phase(imitation_phase(job, policy, train, val, rank=rank), job, state, rank)


def run_phase(phase: Phase, job: ImitationJob, state: Mapping[str, Any] | None, rank: Rank) -> None:
    """Takes the steps of a phase that are left after a state, and reports losses and states."""
    config, trainee = job.config, phase.trainee
    start = phase.steps.start if state is None else max(state["step"], phase.steps.start)
    if start >= phase.steps.stop:
        return
    if state is not None and start > phase.steps.start:
        trainee.restore(state)

    def after(step: int, losses: Mapping[str, float]) -> None:
        ends = step == phase.steps.stop
        entries = [Entry(step, losses)] if step % config.log_every == 0 or ends else []
        if step % config.validate_every == 0 or ends:
            metrics = phase.validate()
            report_state(trainee.state(step), [*entries, Entry(step, metrics)], _selection(metrics))
        elif entries:
            report_entries(entries)

    train_steps(phase, range(start, phase.steps.stop), config, seed=job.seed, rank=rank, after=after)


def sight_phase(job: ImitationJob, policy: Policy, train: Samples, val: Samples, *, rank: Rank) -> Phase:
    """3D reasoning alone, on all rows."""
    config = job.config.sight
    used = {"find_unused_parameters": True}  # language model and tokens have no part in it
    model = ray.train.torch.prepare_model(SightModel(policy.encoder), parallel_strategy_kwargs=used)
    groups = parameter_groups(policy.encoder, nn.Module(), config.learning_rate, job.config.weight_decay, 1.0)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    schedule = one_cycle(optimiser, config.steps, job.config.warmup_fraction)

    def batch(step: int, rows: NDArray[np.int64]) -> Sequence[Any]:
        del step
        taken = train.take(rows)
        return observation_batch(taken), target_batch(taken)

    def judged() -> dict[str, float]:
        metrics = validate_sight(policy.eval().encoder, val, logs=job.config.validation_logs, rank=rank)
        return {f"pretrain/val_{name}": value for name, value in metrics.items()}

    trainee = Trainee(policy, model, optimiser, schedule)
    return Phase(range(config.steps), trainee, np.arange(len(train)), config.batch_size, batch, judged)


def imitation_phase(job: ImitationJob, policy: Policy, train: Samples, val: Samples, *, rank: Rank) -> Phase:
    """Everything together, on the rows with a plan to imitate."""
    model = ray.train.torch.prepare_model(ImitationModel(policy, job.config))
    trainee = Trainee(policy, model, *make_optimiser(policy, job.config))

    def judged() -> dict[str, float]:
        return _validated(job, policy, val, rank)

    return imitate(trainee, train, job.config, job.seed, rank=rank, validate=judged)


def imitate(
    trainee: Trainee,
    samples: Samples,
    config: ImitationConfig,
    seed: int,
    *,
    rank: Rank = ALONE,
    validate: Callable[[], dict[str, float]] = dict,
) -> Phase:
    """The phase of imitation of a model that is ready to be trained."""
    levels = trainee.policy.chain.steps

    def batch(step: int, rows: NDArray[np.int64]) -> Sequence[Any]:
        return draw_batch(samples, rows, config.noise_draws, levels, generator=step_generator(seed, step, rank.number))

    steps = range(config.sight.steps, config.sight.steps + config.steps)
    return Phase(steps, trainee, training_rows(samples), config.batch_size, batch, validate)


def train_steps(
    phase: Phase,
    steps: range,
    config: ImitationConfig,
    *,
    seed: int,
    rank: Rank,
    after: Callable[[int, Mapping[str, float]], None],
) -> None:
    """Takes optimiser steps; ``after`` hears how many are done, of all phases, and the losses of the last."""
    trainee, first = phase.trainee, phase.steps.start

    def batch_of(step: int) -> Sequence[Any]:
        places = batch_rows(
            len(phase.rows),
            phase.batch_size,
            step - first,
            worker=rank.number,
            workers=rank.world_size,
            seed=seed,
        )
        return phase.batch(step, phase.rows[places])

    for step, batch in prefetched(batch_of, steps, config.loader_threads):
        trainee.policy.train()
        torch.manual_seed(step_seed(seed, step, rank.number))  # for modules that draw themselves
        losses = trainee.model(*(part.to(rank.device) for part in batch))
        trainee.optimiser.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = nn.utils.clip_grad_norm_(trainee.policy.parameters(), config.grad_norm)
        trainee.optimiser.step()
        trainee.schedule.step()
        metrics = {f"pretrain/loss_{name}": loss.item() for name, loss in losses.items()}
        rate = trainee.schedule.get_last_lr()[-1]
        after(step + 1, metrics | {"pretrain/grad_norm": float(norm), "pretrain/learning_rate": rate})


def draw_batch(
    samples: Samples, rows: NDArray[np.int64], draws: int, levels: int, *, generator: torch.Generator
) -> Batch:
    """Arguments of :class:`ImitationModel` for some rows, with random noise levels and noise."""
    taken = samples.take(rows)
    plans = torch.from_numpy(taken["plan"])
    step = torch.randint(1, levels + 1, (len(rows), draws), generator=generator)
    noise = torch.randn(len(rows), draws, plans[0].numel(), generator=generator)
    return observation_batch(taken), target_batch(taken), plans, step, noise


def make_optimiser(
    policy: Policy, config: ImitationConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, the encoder at a reduced rate, under a one-cycle schedule."""
    groups = parameter_groups(
        policy.encoder, policy.chain, config.learning_rate, config.weight_decay, config.encoder_factor
    )
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    return optimiser, one_cycle(optimiser, config.steps, config.warmup_fraction)


def _validated(job: ImitationJob, policy: Policy, val: Samples, rank: Rank) -> dict[str, float]:
    metrics = validate(policy.eval(), val, job.validation, job.scorer, logs=job.config.validation_logs, rank=rank)
    return {f"pretrain/val_{name}": value for name, value in metrics.items()}


def _selection(metrics: Mapping[str, float]) -> float:
    """The true score; without prepared scenes, the displacement error. Without a policy, that of the phase before."""
    return metrics.get("pretrain/val_epdms", -metrics.get("pretrain/val_ade_m", -_NEVER_CHOSEN))
