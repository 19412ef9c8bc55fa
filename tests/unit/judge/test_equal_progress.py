"""Gains at equal progress: the line between points, what lies beyond it, and what the interval knows."""

import numpy as np
import pytest

from irl_vla.judge.equal_progress import Driving, Point, equal_progress, gain_at_equal_progress

LINE = [Point(0.9, 0.6), Point(0.8, 0.7), Point(0.6, 0.65)]


@pytest.mark.parametrize(
    ("policy", "gain"),
    [
        (Point(0.85, 0.7), 0.05),  # halfway between 0.6 and 0.7
        (Point(0.7, 0.7), 0.025),  # halfway between 0.7 and 0.65: slower is not always better
        (Point(0.8, 0.7), 0.0),
        (Point(0.9, 0.6), 0.0),
        (Point(1.0, 0.7), 0.1),  # faster than imitation: imitation itself
        (Point(0.2, 0.6), -0.05),  # slower than the slowest: the slowest
    ],
)
def test_compared_with_the_line_at_its_own_progress(policy: Point, gain: float) -> None:
    assert gain_at_equal_progress(policy, LINE) == pytest.approx(gain)


def test_a_slower_point_with_more_progress_counts_as_having_as_much() -> None:
    """The second point lies at 0.95, to the right of imitation's: it is taken to be at 0.9."""
    line = [Point(0.9, 0.6), Point(0.95, 0.9), Point(0.8, 0.7)]
    assert gain_at_equal_progress(Point(0.93, 0.6), line) == pytest.approx(0.0)
    assert gain_at_equal_progress(Point(0.85, 0.8), line) == pytest.approx(0.0), "between 0.9 and 0.7"


def frames(*values: float) -> np.ndarray:
    return np.array(values)


def test_policy_and_frontier_are_resampled_together() -> None:
    """Layout h is harder by 0.4 and slower by 0.2 for all: every resample finds the same gain."""
    level, pace = frames(0.4, 0.4, 0.0, 0.0), frames(0.2, 0.2, 0.0, 0.0)
    frontier = [Driving(point.ep - 0.2 + pace, point.epdms - 0.4 + level) for point in LINE]
    policy = Driving(0.65 + pace, 0.4 + level)  # 0.85 and 0.8 where it is easy
    found = equal_progress(policy, frontier, ["g", "g", "h", "h"], np.random.default_rng(0), 300)
    assert found == pytest.approx((0.15, 0.15, 0.15))


def test_the_interval_knows_that_layouts_differ() -> None:
    """A gain of 0.2 in layout g and none in h, at imitation's pace: resamples of both give 0, 0.1 or 0.2."""
    groups = ["g", "g", "h", "h"]
    frontier = [Driving(np.full(4, point.ep), np.full(4, point.epdms)) for point in LINE]
    policy = Driving(np.full(4, 0.9), frames(0.8, 0.8, 0.6, 0.6))
    assert equal_progress(policy, frontier, groups, np.random.default_rng(0), 300) == pytest.approx((0.1, 0.0, 0.2))


def test_seeds_are_resampled_with_their_own_frontier() -> None:
    """In seed 1 all is better by 0.2, the frontier too, so that it changes nothing; then the policy alone."""
    groups, lift = ["g", "g", "h", "h"], np.array([[0.0], [0.2]])
    frontier = [Driving(np.full((2, 4), point.ep), point.epdms + np.zeros((2, 4)) + lift) for point in LINE]
    policy = Driving(np.full((2, 4), 0.9), 0.7 + np.zeros((2, 4)) + lift)
    assert equal_progress(policy, frontier, groups, np.random.default_rng(0), 300) == pytest.approx((0.1, 0.1, 0.1))
    better = policy._replace(epdms=policy.epdms + lift)
    assert equal_progress(better, frontier, groups, np.random.default_rng(0), 300) == pytest.approx((0.2, 0.1, 0.3))


def test_one_group_gives_no_interval() -> None:
    policy = Driving(np.full(2, 0.9), np.full(2, 0.9))
    with pytest.raises(ValueError, match="at least two groups"):
        equal_progress(policy, [policy], ["g", "g"], np.random.default_rng(0), 100)
