"""The whole of stage 3 on a micro bank: same chains on both paths, resume, and that it learns."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.rl import chains
from irl_vla.rl.chains import Scenes
from irl_vla.rl.env import by_chain
from irl_vla.rl.finetune import PpoTraining, finetune
from irl_vla.rl.job import FinetuneJob, read_history
from irl_vla.rl.ppo import ChainPPO, ppo_config
from irl_vla.rl.task import TaskSpec, open_task

from .micro import deterministic_end


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def make_job(spec: TaskSpec, reported: list[dict[str, float]]) -> FinetuneJob:
    bank = open_task(spec).bank

    def validate(chain: DenoisingChain) -> dict[str, float]:
        end = deterministic_end(chain, bank.tokens(np.arange(len(bank))))
        return {"epdms": float(np.exp(-abs(end - 30) / 10)), "ep": 1.0}

    return FinetuneJob(
        spec, spec.policy.parent / "finetune", validate, lambda metrics, step: reported.append(dict(metrics))
    )


def weights_of(algorithm: ChainPPO) -> list[torch.Tensor]:
    """Of the learner's policy, and of its running mean."""
    policies = (algorithm.learned_module().chain, PpoTraining(algorithm).policy())
    return [parameter.detach().clone() for chain in policies for parameter in chain.planner.parameters()]


def test_what_is_judged_is_the_running_mean_of_the_policy(spec: TaskSpec) -> None:
    algorithm = ppo_config(replace(spec, config=spec.config.with_overrides({"average": 0.75}))).build_algo()
    seen = []
    for _ in range(3):
        algorithm.train()
        seen.append([parameter.detach().clone() for parameter in algorithm.learned_module().chain.parameters()])
    mean = PpoTraining(algorithm).policy().parameters()
    algorithm.stop()
    for first, second, third, found in zip(*seen, mean, strict=True):
        torch.testing.assert_close(found, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)


def test_the_stock_runner_gives_the_chains_of_the_fast_path(spec: TaskSpec) -> None:
    fast = ppo_config(spec).build_algo()
    stock = ppo_config(spec).env_runners(env_runner_cls=SingleAgentEnvRunner).build_algo()
    try:
        batch = fast.env_runner.sample_chains(0)
        episodes = stock.env_runner.sample(num_episodes=open_task(spec).chain_count, random_actions=False)
        assert len(episodes) == batch.rewards.reward.size
        by_number = {int(episode.get_observations(0)["chain"][1]): episode for episode in episodes}
        x = by_chain_states(batch.x)
        rewards = by_chain(batch.rewards.reward)
        sigma = fast.env_runner.module.chain.sigma
        for number, episode in by_number.items():
            np.testing.assert_allclose(episode.get_observations()["x"], x[number], atol=2e-5)
            assert episode.get_return() == pytest.approx(rewards[number], abs=1e-5)
            mean = by_chain_states(batch.mean)[number]
            expected = torch.distributions.Normal(torch.from_numpy(mean), sigma[1:].flip(0)[:, None])
            log_probability = expected.log_prob(torch.from_numpy(x[number][1:])).sum(-1)
            found = episode.get_extra_model_outputs(Columns.ACTION_LOGP)
            np.testing.assert_allclose(found, log_probability, rtol=1e-3, atol=1e-2)
    finally:
        fast.stop()
        stock.stop()


def by_chain_states(values: np.ndarray) -> np.ndarray:
    """(S, M, G, ...) in chain order."""
    return values.swapaxes(1, 2).reshape(-1, *values.shape[3:])


def test_stopped_and_resumed_equals_straight(spec: TaskSpec) -> None:
    straight = ppo_config(spec).build_algo()
    for _ in range(4):
        straight.train()
    expected = weights_of(straight)
    straight.stop()

    half = replace(spec, config=spec.config.with_overrides({"iterations": 2}))
    reported: list[dict[str, float]] = []
    finetune(make_job(half, reported))
    finetune(make_job(spec, reported))
    history = read_history(spec.policy.parent / "finetune")
    assert [row["iteration"] for row in history] == [0, 2, 4]

    resumed = ppo_config(spec).build_algo()
    state = next((spec.policy.parent / "finetune").path.glob("state-*"))
    resumed.restore_from_path(str(state))
    for found, wanted in zip(weights_of(resumed), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    resumed.stop()


def test_it_learns_what_is_rewarded_and_keeps_the_best(spec: TaskSpec) -> None:
    config = spec.config.with_overrides(
        {
            "iterations": 30,
            "scenes_per_iteration": 12,
            "chains_per_scene": 8,
            "validate_every": 10,
            "checkpoint_every": 10,
            "lr": 1e-3,
            "behaviour_cloning": 0.0,
            "advantage": "both",
            "pair_frames": False,
        }
    )
    spec = replace(spec, config=config)
    reported: list[dict[str, float]] = []
    best = finetune(make_job(spec, reported))
    validations = [row["finetune/val_epdms"] for row in reported if "finetune/val_epdms" in row]
    assert max(validations) > validations[0] + 0.1
    assert all(np.isfinite(value) for row in reported for value in row.values())
    bank = open_task(spec).bank
    end = deterministic_end(load_chain(best), bank.tokens(np.arange(len(bank))))
    assert np.exp(-abs(end - 30) / 10) == pytest.approx(max(validations), abs=1e-4)


def test_the_ranked_method_is_run_by_the_same_rules(spec: TaskSpec) -> None:
    settings = {"method": "ranked", "ranked.samples": 3, "ranked.steps": 4, "ranked.batch_rows": 4}
    reported: list[dict[str, float]] = []
    finetune(make_job(replace(spec, config=spec.config.with_overrides(settings)), reported))
    assert [row["iteration"] for row in read_history(spec.policy.parent / "finetune")] == [0, 2, 4]
    assert sum("finetune/ranked_loss" in row for row in reported) == 4


def test_the_pull_keeps_the_policy_at_home(spec: TaskSpec) -> None:
    moved = []
    for pull in (0.0, 100.0):
        config = spec.config.with_overrides({"behaviour_cloning": pull, "lr": 1e-3})
        algorithm = ppo_config(replace(spec, config=config)).build_algo()
        before = weights_of(algorithm)
        bank = open_task(spec).bank
        tokens = bank.tokens(np.arange(len(bank)))
        start = deterministic_end(PpoTraining(algorithm).policy(), tokens)
        for _ in range(6):
            algorithm.train()
        assert any((a != b).any() for a, b in zip(before, weights_of(algorithm), strict=True))
        moved.append(abs(deterministic_end(PpoTraining(algorithm).policy(), tokens) - start))
        algorithm.stop()
    assert moved[1] < 0.5 * moved[0]


def test_a_figure_is_reported_only_by_iterations_that_have_it(spec: TaskSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pair of frames in an iteration there is no extended comfort."""
    algorithm = ppo_config(spec).build_algo()
    pairs = [True, False, True]
    draw = chains.draw_scenes

    def drawn(bank: TokenBank, seed: int, iteration: int, *rest: Any) -> Scenes:
        scenes = draw(bank, seed, iteration, *rest)
        return scenes._replace(paired=scenes.paired & pairs[iteration])

    monkeypatch.setattr(chains, "draw_scenes", drawn)
    training = PpoTraining(algorithm)
    found = [training.train() for _ in pairs]
    algorithm.stop()
    assert ["finetune/predicted_ec" in metrics for metrics in found] == pairs
    assert [metrics["finetune/scenes"] for metrics in found] == [4.0] * 3


def test_unfit_inputs_are_named(spec: TaskSpec) -> None:
    odd = spec.config.with_overrides({"minibatches": 3})
    with pytest.raises(ConfigError, match="must divide"):
        ppo_config(replace(spec, config=odd))
    with pytest.raises(CheckpointError, match="pretrain"):
        ppo_config(replace(spec, policy=spec.policy / "nothing"))
