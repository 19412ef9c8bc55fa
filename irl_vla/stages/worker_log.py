"""What workers log reaches the user: each message once while a stage runs, with its count at the end.

Ray shows nothing of what its workers log, or everything, from every process. Here a handler in each worker sends the
project's own messages to an actor, from which the driver takes them. Nothing of it waits in a worker or can make its
work fail.

Only the standard library and Ray are imported: workers get this module's code by value, when they start, before they
know where the project lies.
"""

import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayError

_ACTOR: Final = "irl_vla worker log"
_LOGGER: Final = "irl_vla"
#: How often the driver asks for news, and how long the last messages of a stage may be on their way.
_POLL_S, _LATE_S = 1.0, 0.3
#: Patience with an actor that does not answer.
_ANSWER_S: Final = 10.0
#: Different messages that are kept in a stage; more are counted only.
MOST: Final = 500

log = logging.getLogger(__name__)


class Message(NamedTuple):
    """What a worker said."""

    logger: str
    level: int
    text: str


class Collector:
    """Messages of all workers (a Ray actor)."""

    def __init__(self) -> None:
        self._seen: dict[Message, Counter[str]] = {}
        self._fresh: list[Message] = []
        self._left_out = 0

    def add(self, message: Message, worker: str) -> None:
        """Notes a message of a worker."""
        if message not in self._seen:
            if len(self._seen) == MOST:
                self._left_out += 1
                return
            self._seen[message] = Counter()
            self._fresh.append(message)
        self._seen[message][worker] += 1

    def take(self) -> list[Message]:
        """Messages that are new since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def settle(self) -> tuple[list[Message], list[tuple[Message, int, int]], int]:
        """Ends a stage and forgets what it saw.

        Returns:
            As :meth:`take`; each message with how often and by how many workers it was said; how many messages were
            not kept.
        """
        told = [(message, said.total(), len(said)) for message, said in self._seen.items()]
        ended = self.take(), told, self._left_out
        self._seen, self._left_out = {}, 0
        return ended


class WorkerHandler(logging.Handler):
    """In a worker: sends messages to the collector and does not wait for it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._collector: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one message; trouble is told in the worker's own file and nowhere else."""
        if not ray.is_initialized():
            return
        try:
            if self._collector is None:
                self._collector = ray.get_actor(_ACTOR)
            message = Message(record.name, record.levelno, self.format(record))
            self._collector.add.options(num_returns=0).remote(message, self._worker)
        except (RayError, OSError, RuntimeError, TypeError, ValueError):
            self.handleError(record)


def install() -> None:
    """In a worker that starts: messages of the project go to the driver, too."""
    logger = logging.getLogger(_LOGGER)
    logger.setLevel(logging.INFO)
    logger.addHandler(WorkerHandler())


@contextmanager
def worker_messages() -> Iterator[None]:
    """In the driver that has just connected to Ray: shows what workers say while the block runs."""
    collector = ray.remote(num_cpus=0)(Collector).options(name=_ACTOR, max_restarts=-1).remote()
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(collector, stop), name="worker messages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_ANSWER_S)
        _end_stage(collector)


@contextmanager
def stage_messages() -> Iterator[None]:
    """A stage inside :func:`worker_messages`: counts are told at its end, and what is said again is shown again."""
    try:
        yield
    finally:
        try:
            collector = ray.get_actor(_ACTOR)
        except ValueError:  # somebody else connected to Ray, and their workers send nothing
            pass
        else:
            _end_stage(collector)


def _follow(collector: Any, stop: threading.Event) -> None:
    while not stop.wait(_POLL_S):
        try:
            _show(ray.get(collector.take.remote(), timeout=_ANSWER_S))
        except GetTimeoutError:  # a machine under load
            continue
        except RayError as error:
            log.warning("messages of workers are no longer shown: %s", error)
            return


def _end_stage(collector: Any) -> None:
    """Shows the last messages and how often each warning came."""
    try:
        time.sleep(_LATE_S)
        fresh, told, left_out = ray.get(collector.settle.remote(), timeout=_ANSWER_S)
    except RayError as error:
        log.warning("the last messages of workers are not shown: %s", error)
        return
    _show(fresh)
    for message, times, workers in told:
        if message.level >= logging.WARNING and times > 1:
            counted = f"{message.text} (seen {times} times on {workers} worker{'s' if workers > 1 else ''})"
            _show([message._replace(text=counted)])
    if left_out:
        log.warning("%d further messages of workers are not shown; they are in Ray's log files", left_out)


def _show(messages: list[Message]) -> None:
    for message in messages:
        logger = logging.getLogger(message.logger)
        if logger.isEnabledFor(message.level):
            logger.handle(logging.makeLogRecord({
                "name": message.logger,
                "levelno": message.level,
                "levelname": logging.getLevelName(message.level),
                "msg": message.text,
            }))  # fmt: skip
