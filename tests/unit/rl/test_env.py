import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from irl_vla.rl.env import DenoisingEnv, DenoisingVectorEnv, chain_rows
from irl_vla.rl.task import TaskSpec, open_task


def test_single_environment_passes_gymnasiums_checks(spec: TaskSpec) -> None:
    check_env(DenoisingEnv(open_task(spec)), skip_render_check=True)


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


def test_parallel_environments_never_share_an_iteration(spec: TaskSpec) -> None:
    task = open_task(spec, streams=2)
    left, right = DenoisingVectorEnv(task, 0, 2), DenoisingVectorEnv(task, 1, 2)
    seen = []
    for env in (left, right):
        for _ in range(2):
            env.reset()
            seen.append(env.iteration)
    assert sorted(seen) == [0, 1, 2, 3]


def test_members_of_a_pair_stand_side_by_side(spec: TaskSpec) -> None:
    task = open_task(spec)
    env = DenoisingVectorEnv(task)
    env.reset()
    rows = chain_rows(env._scenes, task.chains).reshape(4, 3, 2)
    assert (rows == rows[:, :1]).all()
    np.testing.assert_array_equal(rows[:, 0], env._scenes.rows)
