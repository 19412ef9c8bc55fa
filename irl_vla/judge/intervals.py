"""Confidence intervals by bootstrap over independent groups (road layouts or logs), never over frames.

Frames half a second apart are near copies of each other; resampling them would promise a precision that is not there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def group_bootstrap(
    values: Floats, groups: Sequence[str], rng: np.random.Generator, samples: int = 2000, level: float = 0.95
) -> Interval:
    """Interval of the mean over frames, resampling whole groups.

    Args:
        values: (N,) per frame, or (seeds, N) for several training seeds, which are then resampled too.
        groups: N group names.
        samples: bootstrap draws.

    Raises:
        ValueError: if there are fewer than two groups: no interval can be given.
    """
    values = np.atleast_2d(np.asarray(values, np.float64))
    names, membership = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a bootstrap over groups needs at least two groups, found {len(names)}")
    sizes = np.bincount(membership)
    sums = np.stack([np.bincount(membership, weights=row).astype(np.float64) for row in values])
    draws = _draws(rng, sums, sizes, samples)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _draws(rng: np.random.Generator, sums: Floats, sizes: NDArray[np.int64], samples: int) -> Floats:
    """Means of ``samples`` resamples of seeds (rows) and groups (columns)."""
    seeds, count = sums.shape
    chosen = rng.integers(0, count, size=(samples, count))
    picked = rng.integers(0, seeds, size=(samples, seeds))
    totals = sums[picked[:, :, None], chosen[:, None, :]].sum(axis=2).mean(axis=1)
    return np.asarray(totals / sizes[chosen].sum(axis=1))
