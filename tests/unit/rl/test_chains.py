import numpy as np
import pytest

from irl_vla.reward.config import RewardWeights
from irl_vla.rl.chains import chain_noise, draw_scenes, earn
from irl_vla.rl.task import TaskSpec, open_task


def test_noise_depends_on_seed_iteration_and_chain_alone() -> None:
    noise = chain_noise(1, 2, np.array([0, 5, 7]), steps=5, size=24)
    np.testing.assert_array_equal(noise[1], chain_noise(1, 2, np.array([5]), 5, 24)[0])
    assert not np.allclose(noise[1], chain_noise(1, 3, np.array([5]), 5, 24)[0])
    assert not np.allclose(noise[1], chain_noise(2, 2, np.array([5]), 5, 24)[0])
    assert abs(chain_noise(0, 0, np.arange(400), 5, 24).std() - 1) < 0.01


def test_pairs_are_a_frame_and_its_predecessor(spec: TaskSpec) -> None:
    bank = open_task(spec).bank
    scenes = draw_scenes(bank, 0, 0, 12, pair=True)
    assert sorted(scenes.rows[:, 0]) == list(range(12))
    for (now, previous), paired in zip(scenes.rows, scenes.paired, strict=True):
        assert paired == (now not in {0, 6})  # the first frames of the two logs
        assert previous == (now - 1 if paired else now)


def test_pair_comfort_enters_both_rewards(spec: TaskSpec) -> None:
    task = open_task(spec)
    scenes = draw_scenes(task.bank, 0, 0, 4, pair=True)
    plans = np.repeat(task.bank.plan[scenes.rows][:, :, None], 2, axis=2).astype(float)
    plans[:, 0, 1] *= 0.1  # the frame's second plan brakes hard, its predecessor's does not
    values = earn(task.bank, task.backend, scenes, plans, RewardWeights()).subscores[..., 8]
    assert np.isnan(values[~scenes.paired]).all()
    np.testing.assert_array_equal(values[scenes.paired][:, 0], values[scenes.paired][:, 1])
    assert (values[scenes.paired][:, :, 1] == 0).all()


def test_rewards_follow_the_weights(spec: TaskSpec) -> None:
    task = open_task(spec)
    scenes = draw_scenes(task.bank, 0, 0, 2, pair=False)
    plans = np.repeat(task.bank.plan[scenes.rows][:, :, None], 2, axis=2).astype(float)
    earnings = earn(task.bank, task.backend, scenes, plans, RewardWeights())
    progress = earnings.subscores[..., 4]
    assert earnings.reward == pytest.approx((5 * progress + 9) / 14)
    indifferent = earn(task.bank, task.backend, scenes, plans, RewardWeights(efficiency=0))
    assert indifferent.reward == pytest.approx(1.0)
