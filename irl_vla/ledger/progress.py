"""How far a long piece of work is: a bar on a terminal, else a line in the log now and then."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

#: Without a terminal, progress is logged this often.
SAY_EVERY_S: Final = 25.0

Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Progress:
    """Counts what is done; see :func:`progress`.

    Args:
        unit: what is counted, e.g. "rows".
        total: how many there are.
        clock: seconds, of any origin.
    """

    def __init__(self, title: str, unit: str, total: int, bar: Bar, clock: Callable[[], float]) -> None:
        self._title, self._unit, self._total, self._clock = title, unit, total, clock
        self._bar, self._task = bar, bar.add_task(title, total=total)
        self._first = self._done = 0
        self._started = self._said = clock()

    def start_from(self, done: int) -> None:
        """Tells what was done before; rate and time left begin here."""
        self._first = self._done = done
        self._started = self._said = self._clock()
        self._bar.update(self._task, completed=done)

    def advance(self, count: int = 1) -> None:
        """Tells that so many more are done."""
        self.reach(self._done + count)

    def reach(self, done: int, note: str = "") -> None:
        """Tells how many are done in all.

        Args:
            note: follows the count in the log, e.g. "loss 0.3".
        """
        self._done, now = done, self._clock()
        self._bar.update(self._task, completed=done)
        if not self._bar.disable or now - self._said < SAY_EVERY_S or done <= self._first:
            return
        self._said, rate = now, (done - self._first) / max(now - self._started, 1e-9)
        told = f"{self._title}: {done} of {self._total} {self._unit}{note and f', {note}'}"
        log.info("%s, %.2f a second, %.0f s left", told, rate, max(self._total - done, 0) / rate)


@contextmanager
def progress(title: str, unit: str, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Shows how far the block is; it tells so by ``advance`` or ``reach``."""
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, disable=not Console().is_terminal, transient=True) as bar:
        yield Progress(title, unit, total, bar, clock)


def followed(items: Iterable[Item], title: str, unit: str, total: int) -> Iterator[Item]:
    """Passes items on and shows how many came."""
    with progress(title, unit, total) as shown:
        for item in items:
            shown.advance()
            yield item
