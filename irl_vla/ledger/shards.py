"""Artefacts in parts: one shard a log, made by Ray Data actors anywhere on the cluster, each a whole file or none.

Nobody shares a file, so nothing is lost on a network file system; a job that was stopped goes on with the shards that
are missing.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from irl_vla.errors import ClusterError
from irl_vla.ledger.owner import OWNER_NAME
from irl_vla.ledger.progress import progress
from irl_vla.ledger.storage import Location

log = logging.getLogger(__name__)


class ShardWriter(Protocol):
    """Writes whole shards in an actor; made once there, from what :func:`write_shards` was given."""

    def __call__(self, name: str) -> int:
        """Writes one shard (``Location.writing``); returns its rows."""


@dataclass(frozen=True)
class ShardPlan:
    """How shards are made.

    Attributes:
        title: what is made, for people, e.g. "labels".
        unit: what a shard's size counts, e.g. "rows" or "plans".
        workers: actors at a time.
        cpus, gpus: of each actor.
    """

    title: str
    unit: str
    workers: int
    cpus: float = 1.0
    gpus: float = 0.0


def shard_path(folder: Location, name: str, suffix: str) -> Location:
    """Where a shard lies."""
    return folder / f"{name}{suffix}"


def missing_shards(folder: Location, names: Sequence[str], suffix: str) -> list[str]:
    """The names whose shard is not there, in order."""
    there = set(folder.children())
    return [name for name in names if f"{name}{suffix}" not in there]


def clear_unfinished(folder: Location) -> None:
    """Removes temporary files of writers that were killed; for the driver, before it starts its own.

    Those of processes that ask for the folder stay: they are of the living, and remove them themselves.
    """
    for name in folder.children():
        if name.startswith(".") and not name.startswith(f".{OWNER_NAME}."):
            (folder / name).delete()


def write_shards(
    writer: Callable[..., ShardWriter], arguments: tuple[Any, ...], sizes: Mapping[str, int], plan: ShardPlan
) -> None:
    """Makes shards on Ray and shows how far they are.

    Args:
        writer: class of the actors; a module-level one, that pickles by name.
        arguments: of its constructor; small and picklable.
        sizes: name to expected rows of each shard to make; the largest are begun first.

    Raises:
        Exception: what a writer raised, as it raised it.
        ClusterError: if Ray lost the actors; finished shards are kept.
    """
    if not sizes:
        return
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)  # it sets itself to INFO when it is imported
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    workers = min(plan.workers, len(names))
    # One block a shard: Ray hands out blocks, and a block is what a worker has in hand.
    data = ray.data.from_items([{"shard": name} for name in names], override_num_blocks=len(names)).map_batches(
        _Actor,
        fn_constructor_args=(writer, arguments),
        batch_size=1,
        num_cpus=plan.cpus,
        num_gpus=plan.gpus or None,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    started, rows = time.monotonic(), 0
    with progress(plan.title, plan.unit, sum(sizes.values())) as shown:
        for done in _unwrapped(data, plan.title):
            rows += done
            shown.advance(done)
    seconds = max(time.monotonic() - started, 1e-9)
    log.info("%s: %d %s in %.0f s, %.1f a second", plan.title, rows, plan.unit, seconds, rows / seconds)


class _WriterError(Exception):
    """Carries what a writer raised, its first argument, past Ray Data, which adds words of its own to an error's.

    A message of the project would have further lines, and an error of the disk another file name.
    """


class _Actor:
    """Ray Data's side of a writer, which is made with the first shard: Ray hides errors of an actor's constructor."""

    def __init__(self, writer: Callable[..., ShardWriter], arguments: tuple[Any, ...]) -> None:
        self._writer, self._arguments = writer, arguments
        self._write: ShardWriter | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            self._write = self._write or self._writer(*self._arguments)
            return {"rows": [self._write(str(batch["shard"][0]))]}
        except Exception as error:
            raise _WriterError(error) from error


def _unwrapped(data: Any, title: str) -> Iterator[int]:
    """Rows of each finished shard; errors of writers come out as they were raised."""
    import ray.exceptions

    try:
        for batch in data.iter_batches(batch_size=1):
            yield int(batch["rows"][0])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, _WriterError):
            raise error.cause.args[0] from error
        raise
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"{title}: Ray lost its workers ({error}); start the command again, finished parts are kept"
        ) from error
