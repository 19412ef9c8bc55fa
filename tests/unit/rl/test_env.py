from dataclasses import replace

import gymnasium as gym
import numpy as np

from irl_vla.rl.env import DenoisingVectorEnv, chain_rows
from irl_vla.rl.task import TaskSpec, open_task


def test_vector_environment_keeps_to_its_spaces_and_autoreset(spec: TaskSpec) -> None:
    task = open_task(spec)
    env = DenoisingVectorEnv(task)
    observations, _ = env.reset(seed=3)
    assert env.num_envs == 4 * 3 * 2
    assert env.observation_space.contains(observations)
    assert env.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    for step in range(1, task.steps + 1):
        observations, rewards, terminated, truncated, _ = env.step(observations["x"] * 0.5)
        assert terminated.all() == (step == task.steps)
        assert not truncated.any()
        assert (rewards != 0).any() == (step == task.steps)
    assert (observations["k"] == 0).all()
    after, rewards, terminated, _, _ = env.step(observations["x"])
    assert not rewards.any()
    assert not terminated.any()
    assert (after["k"] == task.steps).all()
    assert (after["chain"][:, 0] == 1).all()


def test_a_seed_starts_over(spec: TaskSpec) -> None:
    env = DenoisingVectorEnv(open_task(spec))
    first, _ = env.reset(seed=5)
    env.reset()
    again, _ = env.reset(seed=5)
    other, _ = env.reset(seed=6)
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])


def test_environments_of_the_parts_have_the_chains_of_one_environment(spec: TaskSpec) -> None:
    whole = DenoisingVectorEnv(open_task(spec))
    halves = [DenoisingVectorEnv(replace(open_task(spec), parts=2), part) for part in range(2)]
    for _ in range(2):
        expected, _ = whole.reset()
        found = [env.reset()[0] for env in halves]
        for name, values in expected.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in found]), values)
    found_rewards = [step_to_the_end(env) for env in halves]
    np.testing.assert_array_equal(np.concatenate(found_rewards), step_to_the_end(whole))


def step_to_the_end(env: DenoisingVectorEnv) -> np.ndarray:
    observations, _ = env.reset()
    for _ in range(env.task.steps):
        observations, rewards, _, _, _ = env.step(observations["x"] * 0.5)
    return rewards


def test_members_of_a_pair_stand_side_by_side(spec: TaskSpec) -> None:
    task = open_task(spec)
    env = DenoisingVectorEnv(task)
    env.reset()
    rows = chain_rows(env._scenes, task.chains).reshape(4, 3, 2)
    assert (rows == rows[:, :1]).all()
    np.testing.assert_array_equal(rows[:, 0], env._scenes.rows)
