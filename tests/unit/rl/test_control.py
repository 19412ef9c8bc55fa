"""The control of fine-tuning, on the micro bank: PPO without the reward, and nothing else without."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irl_vla.errors import SceneError
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.rl import control
from irl_vla.rl.chains import PlanRewards, draw_scenes, learning_order
from irl_vla.rl.control import ControlTraining, train_control
from irl_vla.rl.job import FinetuneJob, read_history
from irl_vla.rl.ppo import learner_rows
from irl_vla.rl.sampler import ChainBatch
from irl_vla.rl.task import TaskSpec
from irl_vla.train.config import ImitationConfig
from irl_vla.train.planner_loss import PlannerLoss

from .conftest import CONFIG
from .micro import ROWS, make_micro

IMITATION = ImitationConfig()


@pytest.fixture
def spec(tmp_path: Path) -> TaskSpec:
    """No backend is replaced: the control has none."""
    return make_micro(tmp_path, CONFIG)


def with_settings(spec: TaskSpec, **overrides: float) -> TaskSpec:
    return replace(spec, config=spec.config.with_overrides(overrides))


def make_job(spec: TaskSpec, seen: list[float], reported: dict[str, float] | None = None) -> FinetuneJob:
    """Validates by the distance to the human plans."""
    bank = TokenBank.open(spec.bank)

    def validate(chain: DenoisingChain) -> dict[str, float]:
        with torch.no_grad():
            keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(np.arange(len(bank)))))
            gap = chain.plans(keys)[:, 0, :, :2].numpy() - bank.plan[..., :2]
        seen.append(float(-np.linalg.norm(gap, axis=-1).mean()))
        return {"epdms": seen[-1], "ep": 1.0}

    def report(metrics: Any, iteration: int) -> None:
        if reported is not None:
            reported.update(metrics)

    return FinetuneJob(spec, spec.policy.parent / "control", validate, report)


def rows_of_ppo(spec: TaskSpec, iteration: int) -> list[list[int]]:
    """Scene rows of the learner's minibatches, as the training step builds them, in one epoch."""
    config, bank = spec.config, TokenBank.open(spec.bank)
    scenes = draw_scenes(bank, spec.seed, iteration, config.scenes_per_iteration, config.pair_frames)
    shape = (*scenes.rows.shape, config.chains_per_scene)
    rewards = PlanRewards(np.zeros(shape), np.zeros((*shape, 9)))
    x, mean = np.zeros((*shape, 6, 24), np.float32), np.zeros((*shape, 5, 24), np.float32)
    order = learning_order(spec.seed, iteration, scenes.rows.size)
    rows = learner_rows(ChainBatch(scenes, x, mean, rewards), np.zeros(shape), 0.9, order)["obs"]["row"][:, 0].numpy()
    blocks = rows.reshape(-1, config.chains_per_scene * 5)
    assert (blocks == blocks[:, :1]).all()
    return [part.tolist() for part in np.split(blocks[:, 0], config.minibatches)]


def test_it_sees_the_rows_of_ppo_in_the_same_minibatches_and_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_plan = np.ones(ROWS, bool)
    has_plan[[1, 5, 6]] = False
    spec = make_micro(tmp_path, CONFIG.with_overrides({"epochs": 2}), has_plan)
    training = ControlTraining(spec, IMITATION)
    seen: list[list[int]] = []
    tokens = TokenBank.tokens

    def watched(bank: TokenBank, rows: np.ndarray) -> np.ndarray:
        seen.append(rows.tolist())
        return tokens(bank, rows)

    monkeypatch.setattr(TokenBank, "tokens", watched)
    for iteration in range(3):
        seen.clear()
        figures = training.train()
        minibatches = [[row for row in part if has_plan[row]] for part in rows_of_ppo(spec, iteration)]
        assert seen == [part for part in minibatches * 2 if part]
        assert figures["finetune/control_plans"] == sum(map(len, minibatches))


def test_its_loss_is_that_of_imitation_for_the_draws_of_ppo(spec: TaskSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def loss(chain: DenoisingChain, keys: Any, plans: torch.Tensor, *drawn: torch.Tensor) -> PlannerLoss:
        calls.append(tuple(drawn[0].shape))
        weight = next(chain.planner.parameters()).sum() * 0
        return PlannerLoss(weight + 2.0, weight + 3.0)

    monkeypatch.setattr(control, "planner_loss", loss)
    weights = ImitationConfig(diffusion_weight=10.0, plan_weight=100.0)
    assert ControlTraining(spec, weights).train()["finetune/control_loss"] == 10 * 2 + 100 * 3
    assert calls == [(4, 3 * 5)] * 2, "half of 4 pairs a minibatch; 3 chains of 5 steps a row"


def test_imitating_comes_closer_to_the_humans_and_the_best_is_kept(spec: TaskSpec) -> None:
    spec = with_settings(spec, iterations=30, lr=3e-3, average=0.5, validate_every=10, checkpoint_every=10)
    seen: list[float] = []
    reported: dict[str, float] = {}
    best = train_control(make_job(spec, seen, reported), IMITATION)
    assert len(seen) == 4
    assert max(seen) > seen[0] + 1.0
    validate = make_job(spec, []).validate
    assert validate(load_chain(best))["epdms"] == pytest.approx(max(seen), abs=1e-5)
    assert set(reported) == {f"finetune/control_{name}" for name in ("loss", "plans", "val_epdms", "val_ep")}


def test_states_without_progress_are_not_kept(spec: TaskSpec) -> None:
    scores = iter([{"epdms": 0.5, "ep": 0.9}, {"epdms": 0.9, "ep": 0.8}, {"epdms": 0.6, "ep": 0.9}])
    job = replace(make_job(spec, []), validate=lambda chain: next(scores))
    best = train_control(job, IMITATION)
    assert [row["finetune/val_epdms"] for row in read_history(job.folder)] == [0.5, 0.9, 0.6]
    states = [load_chain(path).state_dict() for path in (best, spec.policy)]
    assert any((states[0][name] != states[1][name]).any() for name in states[0]), "the last, not the first, is kept"


@pytest.mark.parametrize("epochs", [1, 2])
def test_it_is_validated_as_often_as_ppo(spec: TaskSpec, epochs: int) -> None:
    seen: list[float] = []
    train_control(make_job(with_settings(spec, epochs=epochs), seen), IMITATION)
    assert len(seen) == 3  # 4 iterations, each second validated, and the start


def parameters(training: ControlTraining) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in training.policy().parameters()]


def test_the_judged_weights_are_averaged_once_an_iteration(spec: TaskSpec) -> None:
    averaged = ControlTraining(with_settings(spec, average=0.75), IMITATION)
    plain = ControlTraining(with_settings(spec, average=0.0), IMITATION)
    seen = []
    for _ in range(3):
        averaged.train()
        plain.train()
        seen.append(parameters(plain))
    for first, second, third, found in zip(*seen, parameters(averaged), strict=True):
        torch.testing.assert_close(found, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)


def test_stopped_and_resumed_equals_straight(spec: TaskSpec, tmp_path: Path) -> None:
    straight, stopped, resumed = (ControlTraining(spec, IMITATION) for _ in range(3))
    for _ in range(4):
        straight.train()
    for _ in range(2):
        stopped.train()
    stopped.save(tmp_path / "state")
    resumed.restore(tmp_path / "state")
    assert resumed.iteration == 2
    for _ in range(2):
        resumed.train()
    for found, wanted in zip(parameters(resumed), parameters(straight), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_bank_without_plans_to_imitate_is_refused(tmp_path: Path) -> None:
    spec = make_micro(tmp_path, CONFIG, np.zeros(ROWS, bool))
    with pytest.raises(SceneError, match="found none among 12"):
        ControlTraining(spec, IMITATION)
