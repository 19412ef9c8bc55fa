"""Configuration of the diffusion planner, its denoising chain and the whole policy (imports no heavy library)."""

from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from irl_vla.config import Config
from irl_vla.policy.config import EncoderConfig


class DecoderConfig(Config):
    """The stack of cross-attentions from plan queries to scene tokens; the reward world model uses the same kind.

    Attributes:
        width: features of a query.
        layers: N of the paper's figure.
        feedforward: hidden features of the feed-forward network.
        queries: Q, queries of one plan.
    """

    width: PositiveInt = 64
    heads: PositiveInt = 4
    layers: PositiveInt = 2
    feedforward: PositiveInt = 256
    queries: PositiveInt = 4

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class ChainConfig(Config):
    """The denoising chain.

    Attributes:
        steps: K, denoising steps from noise to plan.
        train_timesteps: length of the noise schedule of which K levels are used.
        eta: 1 samples like DDPM; 0 is deterministic but for the floor.
        sigma_floor_m: least standard deviation of every sampled step, as the root-mean-square displacement of the
            plan's positions; DDIM's last step would otherwise have no density.
        clip: predicted plans are kept within so many whitened units of the mean human plan.
    """

    steps: PositiveInt = 5
    train_timesteps: PositiveInt = 100
    eta: float = Field(default=1.0, ge=0.0, le=1.0)
    sigma_floor_m: PositiveFloat = 0.1
    clip: PositiveFloat = 6.0

    @model_validator(mode="after")
    def _steps_divide(self) -> Self:
        if self.train_timesteps % self.steps:
            raise ValueError(f"train_timesteps {self.train_timesteps} is not a multiple of steps {self.steps}")
        return self


class PlannerConfig(Config):
    """The diffusion planner.

    Attributes:
        mode_floor: least scale of a mode of the plan code, in standard deviations of the human plans; keeps modes
            in which humans hardly differ from turning rounding into signal.
    """

    decoder: DecoderConfig = DecoderConfig()
    chain: ChainConfig = ChainConfig()
    mode_floor: float = Field(default=0.03, gt=0.0, lt=1.0)


class PolicyConfig(Config):
    """The whole vision-language-action policy."""

    encoder: EncoderConfig = EncoderConfig()
    planner: PlannerConfig = PlannerConfig()
