"""Confidence intervals by bootstrap over independent groups (road layouts or logs), never over frames.

Frames half a second apart are near copies of each other; resampling them would promise a precision that is not there.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from irl_vla.geometry import Floats

_QUANTILES: Final = (0.025, 0.975)


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def group_bootstrap(values: Floats, groups: Sequence[str], rng: np.random.Generator, samples: int = 2000) -> Interval:
    """Interval of the mean over frames, resampling whole groups.

    Args:
        values: (N,) per frame, or (seeds, N) for several training seeds, which are then resampled too.
        groups: N group names.
        samples: bootstrap draws.

    Raises:
        ValueError: if there are fewer than two groups: no interval can be given.
    """
    values = np.atleast_2d(np.asarray(values, np.float64))
    return interval_of(float(values.mean()), group_resamples(values[None], groups, rng, samples)[:, 0])


def interval_of(value: float, draws: Floats) -> Interval:
    """The 95 % interval around a value, by its values (samples,) in resamples."""
    low, high = np.quantile(draws, _QUANTILES)
    return Interval(value, float(low), float(high))


def group_resamples(values: Floats, groups: Sequence[str], rng: np.random.Generator, samples: int) -> Floats:
    """Means of several quantities in resamples of whole groups (and seeds), the same resamples for all quantities.

    Args:
        values: (Q, seeds, N).
        groups: N group names.
        samples: bootstrap draws.

    Returns:
        (samples, Q).

    Raises:
        ValueError: if there are fewer than two groups.
    """
    names, membership = np.unique(np.asarray(groups), return_inverse=True)
    count, seeds = len(names), values.shape[1]
    if count < 2:
        raise ValueError(f"a bootstrap over groups needs at least two groups, found {count}")
    sizes = np.bincount(membership)
    chosen = rng.integers(0, count, size=(samples, count))
    picked = rng.integers(0, seeds, size=(samples, seeds))
    frames = sizes[chosen].sum(axis=1)
    means = []
    for quantity in values:
        sums = np.stack([np.bincount(membership, weights=row).astype(np.float64) for row in quantity])
        means.append(sums[picked[:, :, None], chosen[:, None, :]].sum(axis=2).mean(axis=1) / frames)
    return np.stack(means, axis=1)
