"""The ego-status baseline."""

from pathlib import Path

import numpy as np
import pytest

from irl_vla.errors import CheckpointError
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.train.config import EgoMlpConfig
from irl_vla.train.ego_mlp import ego_mlp_plans, load_ego_mlp, save_ego_mlp, train_ego_mlp


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
