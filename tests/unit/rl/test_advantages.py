import numpy as np
import pytest

from irl_vla.rl.advantages import advantages, explained_variance, scene_ceiling, step_weights

REWARD = np.array([[[0.0, 1.0]], [[0.4, 0.4]]])


def test_group_advantages_compare_within_the_scene_only() -> None:
    found = advantages(REWARD, None, "group")
    np.testing.assert_allclose(found[1], 0)
    assert found[0, 0, 1] == -found[0, 0, 0] > 0
    assert found.std() == pytest.approx(1, abs=1e-4)


def test_critic_advantages_compare_with_the_value() -> None:
    found = advantages(REWARD, np.array([[0.0], [0.4]]), "critic")
    np.testing.assert_allclose(found.reshape(-1) / found[0, 0, 1], [0, 1, 0, 0], atol=1e-12)
    with pytest.raises(ValueError, match="needs the critic"):
        advantages(REWARD, None, "both")


def test_equal_rewards_teach_nothing() -> None:
    np.testing.assert_allclose(advantages(np.full((2, 1, 3), 0.7), None, "group"), 0, atol=1e-8)


def test_the_last_step_weighs_most() -> None:
    np.testing.assert_allclose(step_weights(3, 0.5), [0.25, 0.5, 1.0])


def test_explained_variance_is_not_clamped() -> None:
    targets = np.array([0.0, 1.0])
    assert explained_variance(targets, targets) == 1
    assert explained_variance(np.array([100.0, 0.0]), targets) < -1000
    assert np.isnan(explained_variance(targets, np.ones(2)))


def test_scene_ceiling_is_the_share_between_scenes() -> None:
    assert scene_ceiling(np.array([[[0.0, 0.0]], [[1.0, 1.0]]])) == 1
    assert scene_ceiling(np.array([[[0.0, 1.0]], [[1.0, 0.0]]])) == 0
