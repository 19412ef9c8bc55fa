"""Batches, learning rates, metric following, and the ego-status baseline."""

from pathlib import Path

import numpy as np
import pytest
import torch

from irl_vla.errors import CheckpointError
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.train.config import EgoMlpConfig
from irl_vla.train.ego_mlp import ego_mlp_plans, load_ego_mlp, save_ego_mlp, train_ego_mlp
from irl_vla.train.loop import append_history, batch_rows, following, one_cycle, step_generator


def test_every_epoch_visits_every_row_once_whatever_the_workers() -> None:
    for workers in (1, 2):
        drawn = [
            batch_rows(12, 6 // workers, step, worker=worker, workers=workers, seed=3)
            for step in range(4)
            for worker in range(workers)
        ]
        first, second = np.concatenate(drawn).reshape(2, 12)
        assert sorted(first) == sorted(second) == list(range(12))
        assert list(first) != list(second)


def test_a_batch_may_be_larger_than_the_data() -> None:
    rows = batch_rows(3, 8, 0, worker=0, workers=1, seed=0)
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


def test_random_numbers_follow_from_the_step() -> None:
    def draw(step: int, worker: int) -> float:
        return float(torch.rand((), generator=step_generator(7, step, worker)))

    assert draw(3, 0) == draw(3, 0)
    assert len({draw(3, 0), draw(4, 0), draw(3, 1)}) == 3


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0.05), (1, 0.05), (2, 0.5), (4, 0.25), (100, 0.01), (300, 0.05)])
def test_the_rate_rises_to_each_groups_own_and_falls_again_with_constant_momentum(steps: int, warmup: float) -> None:
    """Also where the rise would be of a single step (steps * warmup = 1), which torch's schedule divides by."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimiser = torch.optim.AdamW([{"params": [w], "lr": lr} for w, lr in zip(weights, (1e-2, 1e-3), strict=True)])
    schedule = one_cycle(optimiser, steps, warmup)
    rates, betas = [], set()
    for _ in range(steps):
        optimiser.step()
        rates.append(schedule.get_last_lr())
        betas |= {group["betas"] for group in optimiser.param_groups}
        schedule.step()
    assert betas == {(0.9, 0.999)}
    np.testing.assert_allclose(np.array(rates)[:, 0], 10 * np.array(rates)[:, 1])
    assert rates[0][0] == pytest.approx(1e-2 / 25)
    if steps >= 4:
        peak = max(range(steps), key=lambda step: rates[step][0])
        assert peak == max(round(steps * warmup), 2) - 1
        assert rates[peak][0] == pytest.approx(1e-2)
        assert rates[-1][0] < 0.6 * rates[peak][0], "on its way down"


def test_metrics_are_passed_on_once_and_only_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    append_history(path, {"old": 1.0}, 1)
    heard: list[tuple[dict[str, float], int]] = []
    with following(path, lambda metrics, step: heard.append((dict(metrics), step)), total=3, title="t"):
        append_history(path, {"loss": 2.0}, 2)
        append_history(path, {"loss": 3.0}, 3)
    assert heard == [({"loss": 2.0}, 2), ({"loss": 3.0}, 3)]


def test_ego_mlp_learns_constant_velocity_and_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    history = np.zeros((256, 4, 7), np.float32)
    history[:, -1, 3] = rng.uniform(0, 15, 256)
    command = rng.integers(0, 3, 256)
    plans = np.zeros((256, 8, 3), np.float32)
    plans[..., 0] = history[:, -1, 3:4] * 0.5 * np.arange(1, 9)
    config = EgoMlpConfig(hidden=32, steps=300, batch_size=64, learning_rate=3e-3)
    model = train_ego_mlp(history, command, plans, config, seed=0)
    planned = ego_mlp_plans(model, history, command)
    assert planned.shape == (256, 8, 3)
    assert np.abs(planned[..., 0] - plans[..., 0]).mean() < 1.0 < np.abs(plans[..., 0] - plans[..., 0].mean(0)).mean()
    save_ego_mlp(model, tmp_path, config, Provenance(0))
    np.testing.assert_array_equal(ego_mlp_plans(load_ego_mlp(tmp_path), history, command), planned)
    with pytest.raises(CheckpointError, match="run `irl-vla pretrain`"):
        load_ego_mlp(tmp_path / "absent")
