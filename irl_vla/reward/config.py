"""Configuration of proposals, labels, the reward world model and the reward backends (imports no heavy library)."""

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from irl_vla.config import Config, speed_only
from irl_vla.policy.planner_config import DecoderConfig

_POSES: Final = 8  # as in ``scene``, which costs numpy and shapely to import


class RewardWeights(Config):
    """What the training reward stresses; all ones give exactly the EPDMS. Evaluation never uses these.

    Attributes:
        safety: weight of the gates and of TTC; above 1 a failed gate costs as well as gaining nothing.
        comfort: weight of lane keeping, history comfort and extended comfort.
        efficiency: weight of ego progress.
    """

    safety: float = Field(default=1.0, ge=0.0)
    comfort: float = Field(default=1.0, ge=0.0)
    efficiency: float = Field(default=1.0, ge=0.0)

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.safety + self.comfort + self.efficiency <= 0.0:
            raise ValueError("at least one of safety, comfort and efficiency must be above 0")
        return self


class CandidateConfig(Config):
    """Best of N at inference: the learned reward chooses among the deterministic plan and sampled ones.

    Attributes:
        samples: N.
        seed: of the noise, which is the same in every frame.
        weights: what the choice stresses.
    """

    samples: int = Field(default=16, gt=0)
    seed: int = Field(default=0, ge=0)
    weights: RewardWeights = RewardWeights()


class ProposalConfig(Config):
    """How many candidate plans of each source every bank row gets, and how strongly plans are disturbed.

    ``human`` is the plan to imitate: the human's, or in a shifted view the way back to the logged path (the source
    "recovery"). ``denoising`` plans are the decoded intermediate x_k of policy chains; without a policy, the places of
    ``policy`` and ``denoising`` go to the vocabulary.
    """

    vocabulary_size: int = Field(default=256, gt=1, lt=2**15)
    vocabulary_speed_scale_mps: float = Field(default=2.0, gt=0.0)
    human: int = Field(default=1, ge=0, le=1)
    vocabulary: int = Field(default=16, ge=1)
    policy: int = Field(default=12, ge=0)
    denoising: int = Field(default=8, ge=0)
    perturbed: int = Field(default=7, ge=0)
    jittery: int = Field(default=3, ge=0)
    off_road: int = Field(default=3, ge=0)
    reversed: int = Field(default=1, ge=0)
    hard_brake: int = Field(default=2, ge=0)
    speeding: int = Field(default=3, ge=0)
    manoeuvre: int = Field(default=8, ge=0)
    perturbed_lateral_m: float = Field(default=1.0, gt=0.0)
    perturbed_speed: float = Field(default=0.2, gt=0.0, lt=1.0)
    jitter_m: tuple[float, float] = (0.05, 0.5)
    jitter_heading_rad: float = Field(default=0.05, ge=0.0)
    off_road_m: tuple[float, float] = (2.0, 8.0)
    brake_mps2: tuple[float, float] = (3.0, 7.0)
    speeding_factor: tuple[float, float] = (1.2, 2.0)
    manoeuvre_acceleration_mps2: tuple[float, float] = (-5.0, 3.0)
    manoeuvre_lateral_mps2: float = Field(default=3.0, gt=0.0)
    manoeuvre_curvature_per_m: float = Field(default=0.15, gt=0.0)

    @property
    def count(self) -> int:
        """Candidate plans of one bank row."""
        disturbed = self.perturbed + self.jittery + self.off_road + self.reversed + self.hard_brake + self.speeding
        return self.human + self.vocabulary + self.policy + self.denoising + disturbed + self.manoeuvre


class LabelConfig(Config):
    """Labelling: which proposals, and how the work is cut.

    Attributes:
        rows_per_chain_batch: rows whose policy chains are sampled in one forward pass.
        workers: Ray Data actors of one CPU each.
    """

    proposals: ProposalConfig = ProposalConfig()
    rows_per_chain_batch: int = speed_only(64, gt=0)
    workers: int = speed_only(1, gt=0)


class HeadWeights(Config):
    """Weights of the heads in the loss. Collisions and time to collision are the hard ones, the rest is easy."""

    nc: float = Field(default=3.0, ge=0.0)
    dac: float = Field(default=1.0, ge=0.0)
    ddc: float = Field(default=1.0, ge=0.0)
    tlc: float = Field(default=1.0, ge=0.0)
    ep: float = Field(default=1.0, ge=0.0)
    ttc: float = Field(default=2.0, ge=0.0)
    lk: float = Field(default=1.0, ge=0.0)
    hc: float = Field(default=1.0, ge=0.0)


class RewardLossConfig(Config):
    """What the reward world model learns beside the sub-scores themselves.

    Attributes:
        within_scene: weight of the squared error of the reward of a policy's own plans, less their mean in the scene:
            what fine-tuning asks for is which of them is better, not how hard the scene is.
        irl: weight of maximum-entropy inverse reinforcement learning: cross-entropy of the human's plan among the
            proposals of its scene, under chances that grow with the exponent of the predicted reward.
        irl_temperature: reward that changes those chances by a factor of e.
    """

    within_scene: float = Field(default=3.0, ge=0.0)
    irl: float = Field(default=0.05, ge=0.0)
    irl_temperature: float = Field(default=0.1, gt=0.0)


class RewardModelConfig(Config):
    """Size of the reward world model and how its loss is weighted.

    Attributes:
        tokens: whether plans attend to scene tokens.
        relations: whether it reads the geometry of plans in what perception says (``reward.relations``).
        width: features of the branch of relations.
        decoder: of the branch of tokens, as the planner's; ``queries`` must divide the 8 poses of a plan: 8 gives one a
            pose, fewer share.
        members: models of an ensemble, fitted side by side on layouts that each draws for itself; their mean is the
            prediction.
        class_balance: exponent b of class weights n^-b; 0 keeps the heads calibrated, 1 balances fully.
    """

    tokens: bool = True
    relations: bool = True
    width: int = Field(default=128, gt=0)
    decoder: DecoderConfig = DecoderConfig(feedforward=128)
    members: int = Field(default=1, gt=0)
    head_weights: HeadWeights = HeadWeights()
    loss: RewardLossConfig = RewardLossConfig()
    class_balance: float = Field(default=0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _sees_something(self) -> Self:
        if not (self.tokens or self.relations):
            raise ValueError("tokens or relations must be true: a model that sees neither knows nothing of the scene")
        return self

    @model_validator(mode="after")
    def _queries_share_poses(self) -> Self:
        if _POSES % self.decoder.queries:
            raise ValueError(f"decoder.queries {self.decoder.queries} does not divide the {_POSES} poses of a plan")
        return self


class RewardTrainConfig(Config):
    """The reward world model and its optimisation.

    Attributes:
        rows_per_batch: bank rows of one batch (of each worker).
        proposals_per_row: plans drawn from each row's proposals in a batch; 0 takes all.
        holdout_fraction: share of the groups (layouts or logs) kept for the held-out report.
        checkpoint_every: steps between resumable checkpoints.
        workers: Ray Train workers of one CPU each (or one GPU, if ``use_gpu``).
    """

    model: RewardModelConfig = RewardModelConfig()
    steps: int = Field(default=1500, gt=0)
    rows_per_batch: int = Field(default=16, gt=0)
    proposals_per_row: int = Field(default=32, ge=0)
    lr: float = Field(default=1e-3, gt=0.0)
    weight_decay: float = Field(default=1e-2, ge=0.0)
    warmup_fraction: float = Field(default=0.05, gt=0.0, lt=1.0)
    grad_norm: float = Field(default=1.0, gt=0.0)
    holdout_fraction: float = Field(default=0.15, gt=0.0, lt=1.0)
    checkpoint_every: int = speed_only(200, gt=0)
    max_failures: int = speed_only(2, ge=0)
    workers: int = Field(default=1, gt=0)
    use_gpu: bool = speed_only(False)


class BackendConfig(Config):
    """Which backend gives the sub-scores behind the reward.

    Attributes:
        actors: Ray actors of the true scorer, one CPU each, which score for all samplers of a fine-tuning; 0 scores
            where the plans are sampled, as the trials of a sweep always do.
        scenes_in_memory: prepared scenes that one process (or actor) keeps.
        mix_scorer: share of the true scorer in a "mix"; the learned model has the rest.
        plans_per_batch: most plans of one forward pass of the learned model; few enough stay in the processor's cache.
        computed_comfort: history comfort from the rollout instead of the learned head.
        pessimism: standard deviations over the members of an ensemble that are taken off each learned sub-score.
    """

    kind: Literal["rwm", "scorer", "vocabulary", "mix"] = "rwm"
    actors: int = speed_only(0, ge=0)
    scenes_in_memory: int = speed_only(2048, gt=0)
    mix_scorer: float = Field(default=0.25, gt=0.0, lt=1.0)
    plans_per_batch: int = speed_only(512, gt=0)
    computed_comfort: bool = True
    pessimism: float = Field(default=0.0, ge=0.0)

    @property
    def scorer_actors(self) -> int:
        """Actors that are started: none where the true scorer is not asked."""
        return self.actors if self.kind in ("scorer", "mix") else 0
