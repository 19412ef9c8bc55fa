"""Batches ahead of their step: read and put together in threads while the model computes.

What a batch holds is a function of its step alone, so neither the number of threads nor how far they are ahead changes
a training, and one that was stopped and resumed equals one that was not.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Batch = TypeVar("Batch")


def prefetched(make: Callable[[int], Batch], steps: Iterable[int], threads: int = 1) -> Iterator[tuple[int, Batch]]:
    """Yields (step, ``make(step)``) in order; up to ``threads`` + 1 batches are under way at a time.

    Args:
        make: must not draw from torch's or numpy's global generators. What it raises is raised here, at its step.
    """
    waiting: deque[tuple[int, Future[Batch]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="batches") as pool:
        try:
            for step in steps:
                waiting.append((step, pool.submit(make, step)))
                if len(waiting) > threads + 1:
                    done, batch = waiting.popleft()
                    yield done, batch.result()
            while waiting:
                done, batch = waiting.popleft()
                yield done, batch.result()
        finally:
            for _, batch in waiting:
                batch.cancel()


def batch_rows(count: int, size: int, step: int, *, worker: int, workers: int, seed: int) -> NDArray[np.int64]:
    """Rows (size,) of one worker's batch: the workers walk together through one permutation an epoch.

    Args:
        count: number of rows; a batch may reach into the next epoch.
    """
    places = (step * workers + worker) * size + np.arange(size)
    return np.array(
        [_permutation(count, seed, epoch)[place] for epoch, place in zip(*divmod(places, count), strict=True)]
    )


def step_seed(seed: int, step: int, worker: int) -> int:
    """Seed of the random numbers of one worker in one step."""
    return int(np.random.SeedSequence([seed, step, worker]).generate_state(1, np.uint64)[0] >> 1)


def step_generator(seed: int, step: int, worker: int) -> torch.Generator:
    """The random numbers that one worker draws for the batch of one step."""
    return torch.Generator().manual_seed(step_seed(seed, step, worker))


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
