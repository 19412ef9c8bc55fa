"""Parts of an iteration, sampled apart and joined."""

from dataclasses import replace

import numpy as np
import pytest

from irl_vla.rl.env import action_space, observation_space
from irl_vla.rl.module import ChainModule
from irl_vla.rl.ppo import ppo_config
from irl_vla.rl.sampler import join_parts, runner_part, sample_chains
from irl_vla.rl.task import TaskSpec, open_task


@pytest.fixture
def module(spec: TaskSpec) -> ChainModule:
    task, settings = open_task(spec), ppo_config(spec).rl_module_spec.model_config
    return ChainModule(
        observation_space=observation_space(task), action_space=action_space(task), model_config=settings
    )


def test_joined_parts_are_the_batch_of_one_sampler(spec: TaskSpec, module: ChainModule) -> None:
    whole = sample_chains(open_task(spec), module, 5)
    halved = replace(open_task(spec), parts=2)
    halves = {part: sample_chains(halved, module, 5, part) for part in (1, 0)}  # the order of arrival does not count
    joined = join_parts(halves, 2, 5)
    np.testing.assert_array_equal(joined.scenes.rows, whole.scenes.rows)
    np.testing.assert_array_equal(joined.scenes.paired, whole.scenes.paired)
    np.testing.assert_allclose(joined.x, whole.x, atol=1e-5)
    np.testing.assert_allclose(joined.mean, whole.mean, atol=1e-5)
    np.testing.assert_allclose(joined.rewards.reward, whole.rewards.reward, atol=1e-5)
    assert joined.rewards.subscores.shape == whole.rewards.subscores.shape


def test_lost_parts_are_counted_and_named(
    spec: TaskSpec, module: ChainModule, caplog: pytest.LogCaptureFixture
) -> None:
    task = replace(open_task(spec), parts=4)
    found = {part: sample_chains(task, module, 0, part) for part in (0, 2)}
    batch = join_parts(found, 4, 0)
    assert len(batch.scenes.rows) == 2
    assert "iteration 1 has chains of 2 scenes only, because env runner 2, 4 of 4 is lost" in caplog.text
    caplog.clear()
    join_parts(dict.fromkeys(range(4), found[0]), 4, 0)
    assert not caplog.text


def test_remote_runners_are_numbered_from_one() -> None:
    assert [runner_part(index) for index in range(4)] == [0, 0, 1, 2]
