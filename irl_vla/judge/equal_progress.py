"""What a policy gains over imitation that is slowed to the same progress: skill told from caution.

The frontier is a line through points (EP, EPDMS): imitation's, then those of its slowed plans
(:mod:`irl_vla.judge.slowed`). It is linear between neighbours. Who is faster than imitation is compared with imitation
itself, who is slower than the slowest with the slowest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from irl_vla.geometry import Floats
from irl_vla.judge.intervals import Interval, group_resamples, interval_of


class Point(NamedTuple):
    """Mean EP and EPDMS of a policy."""

    ep: float
    epdms: float


class Driving(NamedTuple):
    """EP and EPDMS of a policy in N frames: (N,), or (seeds, N) of several training seeds."""

    ep: Floats
    epdms: Floats


def gain_at_equal_progress(policy: Point, frontier: Sequence[Point]) -> float:
    """EPDMS of a policy minus that of the frontier at the same EP.

    A slower point of the frontier that has more EP than a faster one counts as having as much as that, so that the
    frontier has one value at every EP.

    Args:
        policy: whose gain.
        frontier: from the fastest to the slowest.
    """
    ep = np.minimum.accumulate([point.ep for point in frontier])
    epdms = np.array([point.epdms for point in frontier])
    return float(policy.epdms - np.interp(policy.ep, ep[::-1], epdms[::-1]))


def equal_progress(
    policy: Driving, frontier: Sequence[Driving], groups: Sequence[str], rng: np.random.Generator, samples: int
) -> Interval:
    """The gain at equal progress with its 95 % interval.

    Every resample draws groups (and seeds), and takes the means of the policy and of the frontier from them.

    Args:
        policy: of N frames, or (seeds, N).
        frontier: of the same frames and seeds, from the fastest to the slowest.
        groups: N group names.
        samples: bootstrap draws.

    Raises:
        ValueError: if there are fewer than two groups.
    """
    values = np.stack([np.atleast_2d(quantity) for driving in (policy, *frontier) for quantity in driving])
    draws = group_resamples(values, groups, rng, samples)
    return interval_of(_gain(values.mean(axis=(1, 2))), np.array([_gain(draw) for draw in draws]))


def _gain(means: Floats) -> float:
    """The gain by means (2 + 2F,): EP and EPDMS of the policy, then of every point of the frontier."""
    policy, *frontier = (Point(*pair) for pair in means.reshape(-1, 2).tolist())
    return gain_at_equal_progress(policy, frontier)
