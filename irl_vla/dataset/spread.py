"""Work on many logs spread over processes, a few ahead at a time."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from typing import Final, TypeVar

Result = TypeVar("Result")
#: Items handed to the workers ahead of those that are done, a worker.
_AHEAD: Final = 4


def spread(work: Callable[[str], Result], names: Sequence[str], workers: int) -> Iterator[Result]:
    """Results as they are ready, in no order; only a few are waited for at a time, so that they do not pile up."""
    if workers <= 1 or len(names) < 2:
        yield from map(work, names)
        return
    # spawned, not forked: map and image libraries keep threads that do not survive a fork
    with ProcessPoolExecutor(min(workers, len(names)), mp_context=get_context("spawn")) as pool:
        left = iter(names)
        running: set[Future[Result]] = {pool.submit(work, name) for name in islice(left, _AHEAD * workers)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, name) for name in islice(left, len(done))}
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
