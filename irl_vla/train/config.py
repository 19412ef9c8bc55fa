"""Configuration of imitation, its sample cache and the ego-status baseline (imports no heavy library)."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from irl_vla.config import Config


class SampleConfig(Config):
    """The on-disk cache of encoded training samples.

    Attributes:
        view_fraction: share of the training scenes that are also seen from shifted egos (how many and how far is the
            business of ``ViewConfig``).
        allow_missing_sensors: blank images and empty sweeps where a file is missing, instead of an error.
        workers: Ray tasks at a time, one CPU each; 0 encodes in the calling process.
    """

    view_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    allow_missing_sensors: bool = False
    workers: NonNegativeInt = 1


class EgoMlpConfig(Config):
    """The baseline that sees ego status and command alone; what it reaches takes no perception."""

    hidden: PositiveInt = 256
    steps: PositiveInt = 1500
    batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-3


class ImitationConfig(Config):
    """Imitation of the human plans, and of the ways back to the logged path from shifted views.

    Attributes:
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
        threads_per_worker: torch threads; 0 shares the machine's cores among the workers.
        log_every: steps between reported losses.
    """

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
    threads_per_worker: NonNegativeInt = 0
    use_gpu: bool = False
    max_failures: NonNegativeInt = 2
    log_every: PositiveInt = 20
    samples: SampleConfig = SampleConfig()
    ego_mlp: EgoMlpConfig = EgoMlpConfig()
