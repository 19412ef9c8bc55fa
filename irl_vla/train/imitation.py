"""Imitation of the human plans, and of the ways back from shifted views, on Ray Train: stage (a) of the paper.

Perception, language model and planner are trained together. The best state by the true score of the validation split
becomes the policy checkpoint; its frozen perception then writes the token banks.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from irl_vla.dataset.config import DataConfig, ViewConfig
from irl_vla.dataset.features import ViewSensors
from irl_vla.dataset.layout import Dataset
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location
from irl_vla.policy.batch import ObservationBatch, PerceptionTargets, observation_batch, target_batch
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.encoder import SceneEncoder, parameter_groups, weighted_loss
from irl_vla.policy.planner_config import PolicyConfig
from irl_vla.policy.vla import Policy, build_policy, load_policy, save_policy
from irl_vla.train.bank import write_banks
from irl_vla.train.config import ImitationConfig
from irl_vla.train.ego_mlp import save_ego_mlp, train_ego_mlp
from irl_vla.train.encode import SampleJob, write_samples
from irl_vla.train.loader import batch_rows, prefetched, step_generator, step_seed
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
    use_threads,
)
from irl_vla.train.planner_loss import planner_loss
from irl_vla.train.samples import Samples, open_samples
from irl_vla.train.validation import validate, validate_sight

#: Purposes of the splits that imitation looks at; what is judged on is encoded when it is judged.
SPLITS: Final = ("train", "val")
_STAGE: Final = "pretrain"

#: Observation, targets, plans (B, 8, 3), noise level (B, P) and noise (B, P, 24) of a step.
Batch = tuple[ObservationBatch, PerceptionTargets, Tensor, Tensor, Tensor]
#: Selection of a state of the phase before imitation: it is gone on from, and never chosen.
_NEVER_CHOSEN: Final = -1e9

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainInputs:
    """What imitation is made from.

    Attributes:
        splits: names of the train, validation and test split.
        validation: prepared scenes of the validation split; None chooses the best state by displacement.
        fingerprints: name of a split to the fingerprint of what it draws on.
        views, data_seed: shifted views of training scenes, as for prepared scenes.
        view_sensors: paints what shifted views see; None keeps the recorded sensors.
        samples: folder of the samples of each purpose; trainings of other seeds may share it.
    """

    dataset: Dataset
    fingerprints: Mapping[str, str]
    splits: DataConfig
    validation: PreparedStore | None
    scorer: ScorerConfig
    views: ViewConfig
    view_sensors: ViewSensors | None
    data_seed: int
    samples: Mapping[str, Location]


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


def pretrain(
    inputs: PretrainInputs,
    policy: PolicyConfig,
    config: ImitationConfig,
    folder: Location,
    *,
    seed: int,
    report: Report,
) -> Location:
    """Trains the policy and the ego-status baseline, and writes the token banks.

    Call it again after an interruption: samples, training and banks go on where they stopped.

    Args:
        folder: gets ``policy``, ``ego_mlp`` and ``banks/{train,val}``.
        report: receives metrics while training runs.

    Returns:
        The policy's checkpoint folder, ``folder/policy``.

    Raises:
        CheckpointError: if the folder holds results of another configuration.
        SceneError: if no training scene has a plan to imitate.
        ClusterError: if training failed more often than ``config.max_failures``.
    """
    samples = write_samples({name: sample_job(inputs, name, policy, config) for name in SPLITS})
    _fit_baseline(samples["train"], config, folder / "ego_mlp", seed)
    trained, provenance = _fit_policy(inputs, samples, policy, config, folder, seed=seed, report=report)
    checkpoint = save_policy(trained, folder / "policy", policy, provenance).folder
    places = {name: samples[name].place for name in SPLITS}
    write_banks(checkpoint, places, folder / "banks", config.bank, config.use_gpu)
    return checkpoint


def encode_split(
    inputs: PretrainInputs,
    checkpoint: Location,
    config: ImitationConfig,
    folder: Location,
    incomplete: Literal["error", "leave_out", "blank"],
    *,
    remedy: str,
) -> None:
    """Writes the token bank of the test split, as a trained policy perceives it; what is there already is kept.

    Args:
        checkpoint: of the policy.
        folder: of banks; this one has the name of the split.
        incomplete: what becomes of scenes whose sensor files are not all there.
        remedy: the command that makes them.

    Raises:
        ConfigError: if there are samples or a bank of another policy or of other data.
    """
    _, policy = load_policy(checkpoint)
    settings = config.with_overrides({"samples.incomplete": incomplete})
    job = replace(sample_job(inputs, "test", policy, settings), setting="evaluate.incomplete", remedy=remedy)
    samples = write_samples({job.split: job})[job.split]
    write_banks(checkpoint, {job.split: samples.place}, folder, config.bank, config.use_gpu, remedy=remedy)


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
    if job.config.sight.steps:
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


def sample_job(inputs: PretrainInputs, name: str, policy: PolicyConfig, config: ImitationConfig) -> SampleJob:
    """The samples of a split, by its purpose "train", "val" or "test"; only training sees shifted views."""
    split = inputs.splits.splits[name]
    return SampleJob(
        dataset=inputs.dataset,
        dataset_fingerprint=inputs.fingerprints[split],
        split=split,
        encoder=policy.encoder,
        samples=config.samples,
        views=inputs.views if name == "train" else None,
        view_sensors=inputs.view_sensors,
        seed=inputs.data_seed,
        folder=inputs.samples[name],
    )


def _fit_policy(
    inputs: PretrainInputs,
    samples: Mapping[str, Samples],
    policy: PolicyConfig,
    config: ImitationConfig,
    folder: Location,
    *,
    seed: int,
    report: Report,
) -> tuple[Policy, Provenance]:
    """Trains on Ray and returns the best policy, on the CPU."""
    values = config.decisive()
    origin = {f"samples_{name}": samples[name].fingerprint for name in ("train", "val")}
    name = f"imitation-{content_hash([policy.model_dump(mode='json'), values, origin, seed])}"
    job = ImitationJob(
        train=samples["train"].place,
        val=samples["val"].place,
        policy=policy,
        config=config,
        validation=inputs.validation,
        scorer=inputs.scorer,
        seed=seed,
    )
    storage = folder / "ray"
    steps = config.sight.steps + config.steps
    spec = RunSpec(_STAGE, name, storage, steps, config.workers, config.use_gpu, config.max_failures)
    state = run_training(imitation_worker, job, spec, report)
    trained = build_policy(policy, PlanCodec(), seed)
    trained.load_state_dict(state["policy"])
    return trained.eval(), Provenance(seed, origin, {"step": state["step"], "training": values})


def _validated(job: ImitationJob, policy: Policy, val: Samples, rank: Rank) -> dict[str, float]:
    metrics = validate(policy.eval(), val, job.validation, job.scorer, logs=job.config.validation_logs, rank=rank)
    return {f"pretrain/val_{name}": value for name, value in metrics.items()}


def _selection(metrics: Mapping[str, float]) -> float:
    """The true score; without prepared scenes, the displacement error. Without a policy, that of the phase before."""
    return metrics.get("pretrain/val_epdms", -metrics.get("pretrain/val_ade_m", -_NEVER_CHOSEN))


def _fit_baseline(samples: Samples, config: ImitationConfig, folder: Location, seed: int) -> None:
    # Humans alone: a shifted view has the ego status of its scene, which cannot tell that there is a way back to drive.
    rows, humans = samples.rows, samples.rows.has_human
    model = train_ego_mlp(rows.ego_history[humans], rows.command[humans], rows.plan[humans], config.ego_mlp, seed)
    save_ego_mlp(model, folder, config.ego_mlp, Provenance(seed, {"samples_train": samples.fingerprint}))
