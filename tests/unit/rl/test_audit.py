"""What is audited, and that nothing but figures comes of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from irl_vla.reward.backends import RewardBackend
from irl_vla.rl import audit as auditing
from irl_vla.rl.audit import audit
from irl_vla.rl.env import action_space, observation_space
from irl_vla.rl.module import ChainModule
from irl_vla.rl.ppo import ppo_config
from irl_vla.rl.sampler import ChainBatch, sample_chains
from irl_vla.rl.task import TaskSpec, open_task
from irl_vla.scene import SUBSCORES, SubScores

from .micro import SpeedBackend


class Contrary:
    """Likes the progress that the other backend dislikes."""

    def score(self, rows: Any, plans: Any) -> SubScores:
        found = SpeedBackend().score(rows, plans)
        found.values[..., SUBSCORES.index("ep")] *= -1.0
        found.values[..., SUBSCORES.index("ep")] += 1.0
        return found


@pytest.fixture
def batch(spec: TaskSpec) -> ChainBatch:
    task, settings = open_task(spec), ppo_config(spec).rl_module_spec.model_config
    module = ChainModule(
        observation_space=observation_space(task), action_space=action_space(task), model_config=settings
    )
    return sample_chains(task, module, 0)


def audited(spec: TaskSpec, batch: ChainBatch, truth: RewardBackend, patch: pytest.MonkeyPatch) -> dict[str, float]:
    patch.setattr(auditing, "_scorer", lambda spec: truth)
    half = replace(spec, config=spec.config.model_copy(update={"audit_share": 0.5}))
    return audit(half, batch, 0)


def test_a_reward_that_is_the_truth_correlates_fully(
    spec: TaskSpec, batch: ChainBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = audited(spec, batch, SpeedBackend(), monkeypatch)
    assert found["audit_correlation"] == pytest.approx(1.0)
    assert found["audit_predicted"] == pytest.approx(found["audit_true"])
    assert found["audit_spread_predicted"] == pytest.approx(found["audit_spread_true"])
    assert found["audit_enrichment"] >= 0


def test_a_reward_that_likes_the_worse_plans_is_found_out(
    spec: TaskSpec, batch: ChainBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = batch.rewards.subscores.copy()
    assert audited(spec, batch, Contrary(), monkeypatch)["audit_correlation"] < 0
    np.testing.assert_array_equal(batch.rewards.subscores, before)


def test_nothing_is_scored_where_no_scene_is_asked_for(spec: TaskSpec, batch: ChainBatch) -> None:
    few = replace(spec, config=spec.config.model_copy(update={"audit_share": 0.05}))
    assert audit(few, batch, 0) == {}  # 5 % of four scenes
