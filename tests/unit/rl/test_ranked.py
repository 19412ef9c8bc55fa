"""Fine-tuning by ranking, on the micro bank: what is chosen, that it is learned, and that chance teaches nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.reward.candidates import chosen_in_time
from irl_vla.reward.config import RewardWeights
from irl_vla.rl import ranking
from irl_vla.rl.control import train_control
from irl_vla.rl.job import FinetuneJob, read_history
from irl_vla.rl.ranked import RankedTraining, train_ranked
from irl_vla.rl.ranking import candidate_plans, choose, part_starts, preferred, ranked_targets
from irl_vla.rl.task import TaskSpec
from irl_vla.train.config import ImitationConfig

from .micro import ROWS, SpeedBackend, deterministic_end

RANKED = {"method": "ranked", "ranked.samples": 6, "ranked.steps": 10, "ranked.batch_rows": 8, "iterations": 4}


def with_settings(spec: TaskSpec, **overrides: Any) -> TaskSpec:
    settings = RANKED | {f"ranked.{name}": value for name, value in overrides.items()}
    return replace(spec, config=spec.config.with_overrides(settings))


def opened(spec: TaskSpec) -> tuple[TokenBank, DenoisingChain]:
    return TokenBank.open(spec.bank), load_chain(spec.policy, sigma_floor_m=spec.config.sigma_floor_m)


def make_job(spec: TaskSpec, name: str, reported: dict[str, float] | None = None) -> FinetuneJob:
    """Validates by the closeness of the plans' mean end to the 30 m that the backend rewards."""
    bank = TokenBank.open(spec.bank)

    def validate(chain: DenoisingChain) -> dict[str, float]:
        end = deterministic_end(chain, bank.tokens(np.arange(len(bank))))
        return {"epdms": float(np.exp(-abs(end - 30) / 10)), "ep": 1.0}

    def report(metrics: Any, iteration: int) -> None:
        if reported is not None:
            reported.update(metrics)

    return FinetuneJob(spec, spec.policy.parent / name, validate, report)


def test_the_best_is_preferred_and_at_ties_the_deterministic_plan() -> None:
    rewards = np.array([[0.5, 0.5, 0.5], [0.5, 0.5005, 0.1], [0.5, 0.6, 0.7], [0.9, 0.6, 0.7]])
    assert preferred(rewards, 1e-3).tolist() == [0, 0, 2, 0]
    assert preferred(rewards, 0.0).tolist() == [0, 1, 2, 0]


def test_candidates_are_the_deterministic_plan_and_samples_however_rows_are_cut(spec: TaskSpec) -> None:
    spec = with_settings(spec)
    bank, chain = opened(spec)
    rows = np.arange(ROWS)
    plans = candidate_plans(spec, bank, chain, rows, 0)
    assert plans.shape == (ROWS, 7, 8, 3)
    with torch.no_grad():
        keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(rows)))
        np.testing.assert_allclose(plans[:, 0], chain.plans(keys)[:, 0], atol=1e-5)
    np.testing.assert_allclose(plans[5:7], candidate_plans(spec, bank, chain, rows[5:7], 0), atol=1e-4)
    assert (plans[:, 1:] != candidate_plans(spec, bank, chain, rows, 1)[:, 1:]).any(axis=(2, 3)).all(), "another round"


def test_the_reward_chooses_the_best_and_tells_its_gain(spec: TaskSpec) -> None:
    spec = with_settings(spec)
    spec = replace(spec, config=spec.config.with_overrides({"pair_frames": False}))
    bank, chain = opened(spec)
    rows = np.arange(ROWS)
    plans = candidate_plans(spec, bank, chain, rows, 0)
    found = choose(spec, bank, rows, plans, 0)
    ends = SpeedBackend().score(rows, plans).values[..., 4]
    assert found.choice.tolist() == preferred(5 * ends / 14, 1e-3).tolist()
    np.testing.assert_allclose(found.gain, 5 / 14 * (ends[rows, found.choice] - ends[:, 0]))
    assert (found.gain >= 0).all()
    np.testing.assert_array_equal(found.plan, plans[rows, found.choice].astype(np.float32))


def test_pairs_of_frames_are_chosen_for_extended_comfort_too(spec: TaskSpec) -> None:
    spec = with_settings(spec)
    bank, chain = opened(spec)
    rows = np.arange(ROWS)
    plans = candidate_plans(spec, bank, chain, rows, 0)
    found = choose(spec, bank, rows, plans, 0)
    values = SpeedBackend().score(rows, plans).values
    assert found.choice.tolist() == chosen_in_time(bank, rows, plans, values, RewardWeights(), preference=1e-3).tolist()


def test_parts_are_whole_logs(spec: TaskSpec) -> None:
    bank = TokenBank.open(spec.bank)
    assert [part_starts(bank, size) for size in (1, 6, 7, 100)] == [[0, 6], [0, 6], [0], [0]], "two logs of six rows"


def test_chance_chooses_every_candidate_alike_and_asks_no_reward(spec: TaskSpec) -> None:
    spec = replace(with_settings(spec, choice="random"), reward=spec.reward / "nothing")
    bank, _ = opened(spec)
    rows = np.arange(3000)
    found = choose(spec, bank, rows, np.zeros((3000, 7, 8, 3)), 0)
    assert np.isnan(found.gain).all()
    shares = np.bincount(found.choice, minlength=7) / 3000
    np.testing.assert_allclose(shares, 1 / 7, atol=0.03)
    assert choose(spec, bank, rows[40:60], np.zeros((20, 7, 8, 3)), 0).choice.tolist() == found.choice[40:60].tolist()
    assert choose(spec, bank, rows, np.zeros((3000, 7, 8, 3)), 1).choice.tolist() != found.choice.tolist()


def test_an_interrupted_ranking_goes_on_with_the_parts_that_are_missing(
    spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = with_settings(spec, rows_per_part=6)
    bank, chain = opened(spec)
    whole = ranked_targets(spec, bank, chain, 0, spec.policy.parent / "whole")
    seen: list[list[int]] = []
    plan = ranking.candidate_plans

    def dies_in_the_second_part(spec: TaskSpec, bank: TokenBank, chain: DenoisingChain, rows: Any, number: int) -> Any:
        seen.append(rows.tolist())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return plan(spec, bank, chain, rows, number)

    monkeypatch.setattr(ranking, "candidate_plans", dies_in_the_second_part)
    folder = spec.policy.parent / "stopped"
    with pytest.raises(KeyboardInterrupt):
        ranked_targets(spec, bank, chain, 0, folder)
    found = ranked_targets(spec, bank, chain, 0, folder)
    first, second = list(range(6)), list(range(6, 12))
    assert seen == [first, second, second]
    for part, wanted in zip(found, whole, strict=True):
        np.testing.assert_array_equal(part, wanted)
    with torch.no_grad():
        next(chain.planner.parameters()).add_(0.1)
    ranked_targets(spec, bank, chain, 0, folder)
    assert seen[3:] == [first, second], "another policy plans anew"
    assert len(folder.children()) == 1, "and what the former chose is gone"


def parameters(training: RankedTraining) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in training.policy().parameters()]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_stopped_and_resumed_equals_straight(spec: TaskSpec, stop: int) -> None:
    """Three iterations of ten steps in two rounds: the second round begins in the middle of the second iteration."""
    spec = with_settings(spec, rounds=2, steps=15)
    spec = replace(spec, config=spec.config.with_overrides({"iterations": 3}))
    folder = spec.policy.parent
    straight, stopped, resumed = (RankedTraining(spec, folder / name) for name in ("one", "two", "two"))
    figures = [straight.train() for _ in range(3)]
    for _ in range(stop):
        stopped.train()
    stopped.save((folder / "state").path)
    resumed.restore((folder / "state").path)
    assert [resumed.train() for _ in range(3 - stop)] == figures[stop:]
    assert resumed.iteration == 3
    for found, wanted in zip(parameters(resumed), parameters(straight), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_it_learns_what_is_rewarded_and_its_control_does_not(spec: TaskSpec) -> None:
    spec = with_settings(spec, samples=16, steps=40, rounds=3, learning_rate=4e-3, batch_rows=12, noise_draws=4)
    spec = replace(spec, config=spec.config.with_overrides({"iterations": 12, "validate_every": 4, "average": 0.5}))
    gains = []
    reported: list[dict[str, float]] = [{}, {}]
    best = train_ranked(make_job(spec, "finetune", reported[0]))
    train_control(make_job(spec, "control", reported[1]), ImitationConfig())
    for name in ("finetune", "control"):
        scores = [row["finetune/val_epdms"] for row in read_history(spec.policy.parent / name)]
        assert len(scores) == 4
        gains.append(max(scores) - scores[0])
    assert gains[0] > 0.1
    assert gains[1] < 0.3 * gains[0]
    assert make_job(spec, "x").validate(load_chain(best))["epdms"] - gains[0] == pytest.approx(
        read_history(spec.policy.parent / "finetune")[0]["finetune/val_epdms"], abs=1e-4
    )
    figures = ("ranked_loss", "ranked_kept", "ranked_gain", "val_epdms", "val_ep")
    assert set(reported[0]) == {f"finetune/{name}" for name in figures}
    assert set(reported[1]) == {f"finetune/control_{name}" for name in ("loss", "kept", "val_epdms", "val_ep")}
