"""Configuration of fine-tuning and of the sweep (imports no heavy library)."""

from typing import Literal

from pydantic import Field

from irl_vla.config import Config, speed_only
from irl_vla.reward.config import BackendConfig, RewardWeights


class RankedConfig(Config):
    """Imitation of the plans that the reward likes best, in rounds; see ``irl_vla.rl.ranked``.

    Attributes:
        rounds: how often the policy of the moment plans anew in every row of the bank.
        samples: N, plans that it samples in a row; its deterministic plan joins them.
        choice: what chooses among them: the reward, or chance; the second is the control.
        preference: reward that the deterministic plan gets on top: at ties, and for less than that, it stays.
        steps: optimiser steps of a round, of ``batch_rows`` rows each.
        warmup_fraction: share of a round's steps in which the learning rate rises.
        noise_draws, diffusion_weight, plan_weight: as in ``ImitationConfig``.
        rows_per_part: least rows, of whole logs, whose plans are chosen and stored together.
    """

    rounds: int = Field(1, gt=0)
    samples: int = Field(24, gt=0)
    choice: Literal["reward", "random"] = "reward"
    preference: float = Field(1e-3, ge=0.0)
    steps: int = Field(1000, gt=0)
    batch_rows: int = Field(64, gt=0)
    learning_rate: float = Field(3e-4, gt=0.0)
    weight_decay: float = Field(1e-3, ge=0.0)
    warmup_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    noise_draws: int = Field(8, gt=0)
    diffusion_weight: float = Field(1.0, ge=0.0)
    plan_weight: float = Field(0.5, ge=0.0)
    rows_per_part: int = speed_only(256, gt=0)


class FinetuneConfig(Config):
    """Fine-tuning of the planner on a reward.

    "ppo": every iteration samples G chains in each of S scenes and updates once. "ranked": the steps of all rounds of
    ``ranked`` are cut into ``iterations`` equal parts. Averaging, validation and what is kept follow the same rules.

    Attributes:
        method: how the planner learns.
        ranked: the second method's own settings; of those below it shares ``iterations``, ``pair_frames``,
            ``sigma_floor_m``, ``grad_clip``, and all from ``average`` on.
        scenes_per_iteration: S, over all env runners.
        chains_per_scene: G; the group mean is the baseline of group-relative advantages.
        pair_frames: score a frame together with its predecessor, so that extended comfort enters the reward.
        minibatches: equal parts of the iteration's rows, one optimiser step each.
        advantage: "group" subtracts the scene's mean reward (never divided by its deviation), "critic" a learned
            value of the scene tokens, "both" the mean of the two baselines.
        denoising_discount: factor on the advantage for every step before the last.
        behaviour_cloning: weight of KL(policy || imitation policy), summed over plan dimensions; keeps a policy
            that is trained on a learned reward from exploiting it.
        sigma_floor_m: exploration floor of every step in metres; None keeps that of the imitation checkpoint.
        env_runners: remote samplers of one CPU each, which share the scenes of an iteration; 0 samples in the driver.
            The chains are the same in any number of them.
        average: share that the running mean of the policy's weights keeps in an iteration; it is that mean that is
            validated and kept (0: the policy of the last update).
        validate_every: iterations between true-score checks on the validation split.
        checkpoint_every: iterations between resumable checkpoints.
        max_progress_loss: which point of the trade of EPDMS for EP is kept: the state of the best true validation score
            among those whose EP lies at most so far below imitation's. All states are validated and recorded.
        patience: validations without a new best true score before training stops, counting the states that this rule
            chooses from.
        audit_share: share of the scenes of an iteration whose plans are scored truly as well, to watch the learned
            reward; what is rewarded never uses it. PPO only, and not where the true score is what is paid.
        force: fine-tunes even on a reward model that cannot tell the policy's own plans apart.
    """

    method: Literal["ppo", "ranked"] = "ppo"
    ranked: RankedConfig = RankedConfig()
    iterations: int = Field(40, gt=0)
    scenes_per_iteration: int = Field(48, gt=0)
    chains_per_scene: int = Field(8, gt=1)
    pair_frames: bool = True
    epochs: int = Field(1, gt=0)
    minibatches: int = Field(2, gt=0)
    lr: float = Field(3e-4, gt=0.0)
    critic_lr: float = Field(1e-3, gt=0.0)
    clip: float = Field(0.1, gt=0.0)
    grad_clip: float = Field(1.0, gt=0.0)
    advantage: Literal["group", "critic", "both"] = "group"
    denoising_discount: float = Field(0.9, gt=0.0, le=1.0)
    behaviour_cloning: float = Field(0.02, ge=0.0)
    sigma_floor_m: float | None = Field(None, gt=0.0)
    env_runners: int = speed_only(0, ge=0)
    average: float = Field(0.9, ge=0.0, lt=1.0)
    validate_every: int = Field(10, gt=0)
    checkpoint_every: int = speed_only(10, gt=0)
    max_progress_loss: float = Field(0.02, ge=0.0)
    patience: int = Field(1000, gt=0)
    audit_share: float = speed_only(0.05, ge=0.0, le=1.0)
    force: bool = speed_only(False)
    weights: RewardWeights = RewardWeights()
    backend: BackendConfig = BackendConfig()


class SweepConfig(Config):
    """Search over the reward weights; trials are ranked by the true score on the validation split.

    Attributes:
        trials: weight settings tried; the first is always (1, 1, 1).
        concurrent: trials at a time, one CPU each.
        iterations: PPO iterations of a trial.
        safety, comfort, efficiency: ranges, sampled log-uniformly.
    """

    trials: int = Field(12, gt=0)
    concurrent: int = speed_only(2, gt=0)
    iterations: int = Field(40, gt=0)
    safety: tuple[float, float] = (0.25, 4.0)
    comfort: tuple[float, float] = (0.25, 4.0)
    efficiency: tuple[float, float] = (0.25, 4.0)
