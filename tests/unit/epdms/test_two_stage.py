import numpy as np
import pytest

from irl_vla.epdms.two_stage import StageGroup, aggregate, second_stage_weights


def test_weights_follow_the_kernel() -> None:
    starts = np.array([[0.0, 0.0], [np.sqrt(0.2 * np.log(3.0)), 0.0]])  # exp(-d^2 / 0.2) = 1 and 1/3
    np.testing.assert_allclose(second_stage_weights(np.zeros(2), starts), [0.75, 0.25])


def test_far_scenes_weigh_alike() -> None:
    np.testing.assert_array_equal(second_stage_weights(np.zeros(2), np.array([[50.0, 0.0], [0.0, 9.0]])), [0.5, 0.5])


def test_stages_multiply_within_a_group() -> None:
    def group(first: float, second: float) -> StageGroup:
        return StageGroup(np.array([first, 1.0]), np.zeros(2), np.array([[second, 0.5]]), np.zeros((1, 2)))

    result = aggregate([group(0.5, 1.0), group(1.0, 0.0)])
    np.testing.assert_allclose(result.combined, [0.25, 0.5])
    np.testing.assert_allclose(result.stage_one, [0.75, 1.0])
    np.testing.assert_allclose(result.stage_two, [0.5, 0.5])


def test_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="need at least one"):
        aggregate([])
