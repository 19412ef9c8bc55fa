"""Configuration of imitation, its samples, token banks and the ego-status baseline (imports no heavy library)."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from irl_vla.config import Config, speed_only


class SampleConfig(Config):
    """Encoded observations and targets.

    Attributes:
        view_fraction: share of the training scenes that are also seen from shifted egos (how many and how far is the
            business of ``ViewConfig``).
        incomplete: what becomes of scenes whose sensor files are not all there: "error" stops and counts them,
            "leave_out" goes without them, "blank" takes black images and empty sweeps; both count them.
        workers: actors of one CPU each; None takes as many as there are CPUs, 0 encodes in the calling process.
    """

    view_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    incomplete: Literal["error", "leave_out", "blank"] = "error"
    workers: int | None = speed_only(None, ge=0)


class BankConfig(Config):
    """How token banks are written.

    Attributes:
        workers: actors; None takes as many as there are CPUs (with GPUs, as many as share them), 0 encodes in the
            calling process.
        gpus: GPUs of each actor, a fraction shares one; counts if ``use_gpu`` is set and there is a GPU.
    """

    workers: int | None = speed_only(None, ge=0)
    gpus: float = speed_only(1.0, gt=0.0)


class EgoMlpConfig(Config):
    """The baseline that sees ego status and command alone; what it reaches takes no perception."""

    hidden: PositiveInt = 256
    steps: PositiveInt = 1500
    batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-3


class SightConfig(Config):
    """3D reasoning alone, before anything else is trained: half the cost of a step of imitation.

    Attributes:
        steps: 0 leaves this phase out.
        batch_size: scenes of a batch, of each worker.
    """

    steps: NonNegativeInt = 0
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1.5e-3


class ImitationConfig(Config):
    """Imitation of the human plans, and of the ways back to the logged path from shifted views.

    Attributes:
        sight: the phase before.
        steps: of imitation.
        batch_size: scenes of a batch, of each worker.
        encoder_factor: learning rate of the encoder, relative to the planner's.
        warmup_fraction: share of the steps in which the learning rate rises.
        noise_draws: noised plans of each scene in a batch; they share the scene's keys and are nearly free.
        diffusion_weight: weight of the squared error of the predicted clean plan, in whitened units.
        plan_weight: weight of its mean displacement in metres; keeps the few modes that move the car ahead of the
            many that hardly do. The encoder's losses have their weights in the encoder section.
        validate_every: steps between validations; each also writes a resumable checkpoint.
        validation_logs: at most so many validation logs, evenly chosen; 0 takes all.
        workers: Ray Train workers of one CPU each (or one GPU, if ``use_gpu``).
        threads_per_worker: torch threads; 0 shares a machine's cores among the workers that run on it.
        loader_threads: threads of each worker that read batches ahead.
        log_every: steps between reported losses.
    """

    sight: SightConfig = SightConfig()
    steps: PositiveInt = 3000
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 5e-4
    encoder_factor: PositiveFloat = 0.5
    weight_decay: NonNegativeFloat = 1e-2
    warmup_fraction: float = Field(default=0.05, gt=0.0, lt=1.0)
    grad_norm: PositiveFloat = 1.0
    noise_draws: PositiveInt = 8
    diffusion_weight: NonNegativeFloat = 1.0
    plan_weight: NonNegativeFloat = 0.5
    validate_every: PositiveInt = 500
    validation_logs: NonNegativeInt = 16
    workers: PositiveInt = 1
    threads_per_worker: int = speed_only(0, ge=0)
    loader_threads: int = speed_only(1, gt=0)
    use_gpu: bool = speed_only(False)
    max_failures: int = speed_only(2, ge=0)
    log_every: int = speed_only(20, gt=0)
    samples: SampleConfig = SampleConfig()
    bank: BankConfig = BankConfig()
    ego_mlp: EgoMlpConfig = EgoMlpConfig()
