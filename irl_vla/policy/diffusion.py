"""The denoising chain: Gaussian steps from noise x_K to the code x_0 of a plan, with their log-probabilities.

Coefficients are those of diffusers' ``DDIMScheduler`` (Song et al. 2021, eq. 12 and 16), taken once, because its
``step`` costs more than a small network. Deviation: standard deviations are floored, so that every step has a density
(the floor is given in metres). Step k = K .. 1 turns x_k into x_{k-1}; the last one, k = 1, yields the plan.
"""

import math
from typing import NamedTuple

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.planner import DiffusionPlanner, SceneKeys
from irl_vla.policy.planner_config import ChainConfig


class Chains(NamedTuple):
    """Sampled chains.

    Attributes:
        x: (B, P, K + 1, 24) x_K, x_{K-1} .. x_0.
        mean: (B, P, K, 24) mean of the step into x_{K-1} .. x_0.
    """

    x: Tensor
    mean: Tensor


class DenoisingChain(nn.Module):
    """The planner as a policy over denoising steps.

    Attributes:
        alpha: (K + 1,) cumulative signal share of noise level k; 1 at k = 0.
        std: (K + 1,) DDIM's standard deviation of step k; 0 at k = 1 (and at the unused k = 0).
    """

    alpha: Tensor
    std: Tensor
    _of_clean: Tensor
    _of_noised: Tensor

    def __init__(self, planner: DiffusionPlanner, codec: PlanCodec, config: ChainConfig) -> None:
        super().__init__()
        self.planner, self.codec, self.config = planner, codec, config
        alpha = _signal_shares(config)
        std = torch.zeros_like(alpha)
        before, now = alpha[:-1], alpha[1:]
        std[1:] = config.eta * ((1 - before) / (1 - now) * (1 - now / before)).clamp_min(0).sqrt()
        # mean = sqrt(a') x0 + sqrt(1 - a' - s^2) e with e = (x_k - sqrt(a) x0) / sqrt(1 - a), as weights of x0 and x_k
        of_noised, of_clean = torch.zeros_like(alpha), torch.zeros_like(alpha)
        of_noised[1:] = ((1 - before - std[1:] ** 2).clamp_min(0) / (1 - now)).sqrt()
        of_clean[1:] = before.sqrt() - of_noised[1:] * now.sqrt()
        for name, values in (("alpha", alpha), ("std", std), ("_of_clean", of_clean), ("_of_noised", of_noised)):
            self.register_buffer(name, values.to(torch.float32), persistent=False)

    @property
    def steps(self) -> int:
        """K."""
        return self.config.steps

    @property
    def sigma_floor(self) -> Tensor:
        """() the floor in whitened units: that much noise displaces the plan's positions by ``sigma_floor_m`` (RMS)."""
        return self.config.sigma_floor_m / self.codec.metres_per_unit

    @property
    def sigma(self) -> Tensor:
        """(K + 1,) standard deviation of sampled step k; entry 0 is not used."""
        return torch.maximum(self.std, self.sigma_floor)

    def noised(self, clean: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """x_k (..., 24) for training: ``clean`` and ``noise`` (..., 24) mixed at noise level ``step`` (...)."""
        alpha = self.alpha[step][..., None]
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def mean(self, noised: Tensor, step: Tensor, keys: SceneKeys) -> Tensor:
        """Mean (B, P, 24) of x_{k-1}, given x_k (B, P, 24) and k (B, P)."""
        clean = self.planner.predict(noised, step, keys).clamp(-self.config.clip, self.config.clip)
        return self._of_clean[step][..., None] * clean + self._of_noised[step][..., None] * noised

    def sample(self, keys: SceneKeys, noise: Tensor) -> Chains:
        """Samples whole chains; the same noise gives the same chains.

        Args:
            noise: (B, P, K + 1, 24) standard normal; entry 0 is x_K, entry j the noise of step K + 1 - j.
        """
        sigma = self.sigma
        x, states, means = noise[:, :, 0], [noise[:, :, 0]], []
        for index, level in enumerate(range(self.steps, 0, -1), start=1):
            mean = self.mean(x, x.new_full(x.shape[:2], level, dtype=torch.int64), keys)
            x = mean + sigma[level] * noise[:, :, index]
            states.append(x)
            means.append(mean)
        return Chains(torch.stack(states, dim=2), torch.stack(means, dim=2))

    def infer(self, keys: SceneKeys, start: Tensor | None = None) -> Tensor:
        """The deterministic chain, for deployment: every step takes its mean.

        Args:
            start: (B, P, 24) x_K; None starts one chain a scene at zero, the centre of the noise.

        Returns:
            (B, P, 24) codes of plans.
        """
        x = keys.meta.new_zeros(keys.meta.shape[2], 1, self.codec.mean.numel()) if start is None else start
        for level in range(self.steps, 0, -1):
            x = self.mean(x, x.new_full(x.shape[:2], level, dtype=torch.int64), keys)
        return x

    def plans(self, keys: SceneKeys, start: Tensor | None = None) -> Tensor:
        """(B, P, 8, 3) deterministic plans; see :meth:`infer`."""
        return self.codec.decode(self.infer(keys, start))

    def candidates(self, keys: SceneKeys, noise: Tensor) -> Tensor:
        """(B, N + 1, 8, 3) plans to choose from: the deterministic one, then N sampled with noise (B, N, K + 1, 24)."""
        return self.codec.decode(torch.cat([self.infer(keys), self.sample(keys, noise).x[:, :, -1]], dim=1))


def step_log_density(outcome: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density (...) of x_{k-1} (..., 24) under one step, summed over the code.

    Args:
        mean: (..., 24) of the step.
        log_std: (..., 24) logarithm of its standard deviation.
    """
    surprise = ((outcome - mean) * torch.exp(-log_std)).square()
    return -(0.5 * surprise + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def step_log_ratio(outcome: Tensor, mean: Tensor, other: Tensor, log_std: Tensor) -> Tensor:
    """Difference (...) of two :func:`step_log_density`, of means ``mean`` and ``other`` and one deviation.

    Written without the parts that cancel, because in single precision their difference would be mostly rounding.
    """
    gaps = (outcome - other) ** 2 - (outcome - mean) ** 2
    return (0.5 * gaps * torch.exp(-2 * log_std)).sum(dim=-1)


def step_divergence(mean: Tensor, other: Tensor, log_std: Tensor) -> Tensor:
    """KL divergence (...) of two steps of means (..., 24) and one deviation, summed over the code; symmetric."""
    return (0.5 * (mean - other) ** 2 * torch.exp(-2 * log_std)).sum(dim=-1)


def ddim_scheduler(config: ChainConfig) -> DDIMScheduler:
    """The schedule that the chain follows.

    Trailing spacing: the chain starts at the last level, where x_K is pure noise, so that the start that is sampled
    is the start that was trained.
    """
    scheduler = DDIMScheduler(
        num_train_timesteps=config.train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=True,
        clip_sample_range=config.clip,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(config.steps)
    return scheduler


def _signal_shares(config: ChainConfig) -> Tensor:
    """(K + 1,) float64."""
    scheduler = ddim_scheduler(config)
    shares = scheduler.alphas_cumprod.to(torch.float64)[scheduler.timesteps].flip(0)
    return torch.cat([torch.ones(1, dtype=torch.float64), shares])
