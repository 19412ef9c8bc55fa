"""Work on many items spread over processes, a few ahead at a time.

Python's own pool with two additions, because joblib's workers live on for minutes when their parent is killed, and each
prints a traceback at Ctrl-C.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Items handed to the workers ahead of those that are done, a worker.
_AHEAD: Final = 4


def spread(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Results as they are ready, in no order; only a few are waited for at a time, so that they do not pile up.

    Ctrl-C is this process's alone, though a terminal sends it to all: what the workers are at is finished, what they
    have not begun is dropped.
    """
    if workers <= 1 or len(items) < 2:
        yield from map(work, items)
        return
    # spawned, not forked: map and image libraries keep threads that do not survive a fork
    workers = min(workers, len(items))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        left = iter(items)
        with _interrupts_held():  # the first item starts every worker, which inherits what is held
            running: set[Future[Result]] = {pool.submit(work, item) for item in islice(left, _AHEAD * workers)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, item) for item in islice(left, len(done))}
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back until the end of the block; a process started inside never gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Ends this worker when the process that started it is killed: else it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None, "runs in a worker only"

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait_and_end, daemon=True).start()
