"""Plan code, decoder and denoising chain against closed forms, diffusers and torch."""

import numpy as np
import pytest
import torch

from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.policy.codec import PLAN_SIZE, PlanCodec
from irl_vla.policy.diffusion import (
    DenoisingChain,
    ddim_scheduler,
    step_divergence,
    step_log_density,
    step_log_ratio,
)
from irl_vla.policy.planner import DiffusionPlanner, SceneDecoder, pack_tokens, unpack_tokens
from irl_vla.policy.planner_config import ChainConfig, DecoderConfig
from irl_vla.policy.token_bank import TokenLayout

LAYOUT = TokenLayout({"meta": 2, "bev": 5, "map": 4, "object": 3, "ego": 2}, 16)
DECODER = DecoderConfig(width=16, heads=2, layers=2, feedforward=24, queries=2)


def human_plans(count: int, seed: int = 0) -> Floats:
    """Arcs of constant speed and curvature with a little wobble."""
    rng = np.random.default_rng(seed)
    time_s = 0.5 * np.arange(1, 9)
    distance = rng.uniform(0, 15, (count, 1)) * time_s + 0.02 * rng.standard_normal((count, 8))
    curvature = rng.uniform(-0.05, 0.05, (count, 1)) + 1e-9
    heading = distance * curvature
    return np.stack([np.sin(heading) / curvature, (1 - np.cos(heading)) / curvature, heading], axis=-1)


def chain(config: ChainConfig | None = None) -> DenoisingChain:
    config = config or ChainConfig()
    torch.manual_seed(0)
    codec = PlanCodec.fit(human_plans(200), mode_floor=0.03)
    return DenoisingChain(DiffusionPlanner(DECODER, config, LAYOUT), codec, config).eval()


def tokens(scenes: int) -> torch.Tensor:
    return torch.randn(scenes, LAYOUT.total, LAYOUT.width, generator=torch.Generator().manual_seed(1))


def test_code_decodes_to_the_plan_it_came_from() -> None:
    plans = human_plans(200)
    codec = PlanCodec.fit(plans, mode_floor=0.03)
    wanted = torch.tensor(plans, dtype=torch.float32).view(2, 100, 8, 3)
    torch.testing.assert_close(codec.decode(codec.encode(wanted)), wanted, atol=1e-3, rtol=0)


def test_code_of_human_plans_is_white_above_the_floor() -> None:
    plans = human_plans(400)
    code = PlanCodec.fit(plans, mode_floor=0.03).encode(torch.tensor(plans, dtype=torch.float32)).double()
    covariance = code.T @ code / len(code)
    torch.testing.assert_close(
        covariance - torch.diag(covariance.diag()), torch.zeros(24, 24).double(), atol=1e-2, rtol=0
    )
    assert covariance[0, 0] == pytest.approx(1, abs=1e-2)
    assert (covariance.diag() < 1.01).all()


def test_a_full_turn_does_not_tear_the_code() -> None:
    """A heading that passes pi is stored wrapped, but codes like its continuation."""
    codec = PlanCodec.fit(human_plans(50), mode_floor=0.03)
    turning = torch.zeros(8, 3)
    turning[:, 2] = torch.linspace(2.9, 3.6, 8)
    wrapped = turning.clone()
    wrapped[:, 2] = torch.atan2(turning[:, 2].sin(), turning[:, 2].cos())
    torch.testing.assert_close(codec.encode(wrapped), codec.encode(turning), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(codec.decode(codec.encode(turning)), wrapped, atol=1e-4, rtol=0)


def test_fitting_leaves_the_plans_alone() -> None:
    plans = human_plans(10)
    plans[0, :, 2] = [3.0, -3.0, 3.0, -3.0, 3.0, -3.0, 3.0, -3.0]
    before = plans.copy()
    PlanCodec.fit(plans, mode_floor=0.03)
    np.testing.assert_array_equal(plans, before)


def test_metres_per_unit_is_the_measured_displacement() -> None:
    codec = PlanCodec.fit(human_plans(200), mode_floor=0.03)
    noise = torch.randn(20000, 24, generator=torch.Generator().manual_seed(0))
    moved = (codec.decode(noise) - codec.decode(torch.zeros(24)))[..., :2]
    assert moved.square().sum(-1).mean().sqrt().item() == pytest.approx(codec.metres_per_unit.item(), rel=0.02)


def test_unfit_human_plans_are_refused() -> None:
    with pytest.raises(SceneError, match="at least 2"):
        PlanCodec.fit(human_plans(1), mode_floor=0.03)
    plans = human_plans(5)
    plans[3, 0, 0] = np.nan
    with pytest.raises(SceneError, match="first at row 3"):
        PlanCodec.fit(plans, mode_floor=0.03)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_steps_are_those_of_diffusers(eta: float, steps: int) -> None:
    config = ChainConfig(steps=steps, eta=eta, sigma_floor_m=1e-9)
    model = chain(config)
    keys = model.planner.scene_keys(tokens(3))
    scheduler = ddim_scheduler(config)
    # In single precision their 1 - a' - s^2 at the noisiest step loses four digits to cancellation.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    x = torch.randn(3, 4, PLAN_SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for level, timestep in zip(range(steps, 0, -1), scheduler.timesteps, strict=True):
            k = torch.full((3, 4), level)
            noise = torch.randn_like(x)
            predicted = model.planner.predict(x, k, keys)
            step = scheduler.step(predicted, timestep, x, eta, use_clipped_model_output=True, variance_noise=noise)
            theirs = step.prev_sample.float()
            ours = model.mean(x, k, keys) + model.std[level] * noise
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
            x = theirs


def test_floor_is_in_metres() -> None:
    model = chain(ChainConfig(sigma_floor_m=0.1))
    assert model.sigma[1].item() == pytest.approx(0.1 / model.codec.metres_per_unit.item())
    assert model.std[1] == 0
    torch.testing.assert_close(model.sigma[3:], model.std[3:])


def test_log_probabilities_are_those_of_a_normal() -> None:
    model = chain()
    step = torch.tensor([[1, 3], [5, 2]])
    mean, outcome = torch.randn(2, 2, 24), torch.randn(2, 2, 24)
    expected = torch.distributions.Normal(mean, model.sigma[step][..., None]).log_prob(outcome).sum(-1)
    log_std = model.sigma[step].log()[..., None].expand_as(mean)
    torch.testing.assert_close(step_log_density(outcome, mean, log_std), expected)


def test_ratio_and_divergence_are_those_of_two_normals() -> None:
    mean, other, outcome = torch.randn(3, 5, 24, dtype=torch.float64).unbind(0)
    log_std = torch.full((5, 24), -0.5, dtype=torch.float64)
    ratio = step_log_density(outcome, mean, log_std) - step_log_density(outcome, other, log_std)
    torch.testing.assert_close(step_log_ratio(outcome, mean, other, log_std), ratio)
    new, old = (torch.distributions.Normal(centre, log_std.exp()) for centre in (mean, other))
    divergence = torch.distributions.kl_divergence(new, old).sum(-1)
    torch.testing.assert_close(step_divergence(mean, other, log_std), divergence)


def test_sampled_chain_follows_its_means_and_noise() -> None:
    model = chain()
    keys = model.planner.scene_keys(tokens(2))
    noise = torch.randn(2, 3, 6, 24)
    with torch.no_grad():
        sampled = model.sample(keys, noise)
        again = model.mean(sampled.x[:, :, 2], torch.full((2, 3), 3), keys)
    assert sampled.x.shape == (2, 3, 6, 24)
    assert sampled.mean.shape == (2, 3, 5, 24)
    torch.testing.assert_close(sampled.x[:, :, 0], noise[:, :, 0])
    torch.testing.assert_close(again, sampled.mean[:, :, 2])
    torch.testing.assert_close(sampled.x[:, :, 3], again + model.sigma[3] * noise[:, :, 3])
    # the last mean under the last floor is a plan with a density
    log_std = model.sigma[1].log().expand(24)
    assert step_log_density(sampled.x[:, :, 5], sampled.mean[:, :, 4], log_std).isfinite().all()


def test_deterministic_chain_is_the_chain_without_noise() -> None:
    model = chain()
    keys = model.planner.scene_keys(tokens(2))
    start = torch.randn(2, 3, 24)
    noise = torch.cat([start[:, :, None], torch.zeros(2, 3, 5, 24)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(model.infer(keys, start), model.sample(keys, noise).x[:, :, -1])
        assert model.plans(keys).shape == (2, 1, 8, 3)
        torch.testing.assert_close(model.infer(keys), model.infer(keys, torch.zeros(2, 1, 24)))


def test_shared_keys_equal_repeated_scenes() -> None:
    model = chain()
    packed = tokens(3)
    x, k = torch.randn(3, 4, 24), torch.randint(1, 6, (3, 4))
    with torch.no_grad():
        shared = model.planner.predict(x, k, model.planner.scene_keys(packed))
        repeated = model.planner.scene_keys(packed.repeat_interleave(4, dim=0))
        alone = model.planner.predict(x.view(12, 1, 24), k.view(12, 1), repeated).view(3, 4, 24)
        rows = torch.arange(3).repeat_interleave(4)
        taken = model.planner.scene_keys(packed).take(rows)
    torch.testing.assert_close(shared, alone)
    torch.testing.assert_close(taken.object, repeated.object)


def test_packed_tokens_give_the_keys_of_their_parts() -> None:
    torch.manual_seed(0)
    decoder = SceneDecoder(DECODER, LAYOUT)
    packed = tokens(2)
    parts = unpack_tokens(packed, LAYOUT)
    assert [part.shape[1] for part in parts] == [2, 5, 4, 3, 2]
    torch.testing.assert_close(pack_tokens(parts), packed)
    for ours, theirs in zip(decoder.scene_keys(packed), decoder.scene_keys(parts), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", list(LAYOUT.counts))
def test_every_kind_of_token_matters(kind: str) -> None:
    model = chain()
    packed = tokens(1)
    changed = packed.clone()
    changed[:, LAYOUT.slices[kind]] += 1
    with torch.no_grad():
        one = model.plans(model.planner.scene_keys(packed))
        other = model.plans(model.planner.scene_keys(changed))
    assert not torch.allclose(one, other)
