"""The same work for many items: in this process, in several processes of this machine, or on Ray.

What scores or prepares whole splits is handed a :class:`ForEach` and need not know where the work runs. Only
:func:`on_ray` needs Ray, and loads it when it is called.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from irl_vla.dataset.spread import spread
from irl_vla.errors import ClusterError, IrlVlaError
from irl_vla.ledger.progress import followed

Item = TypeVar("Item")
Result = TypeVar("Result")
_UNIT: Final = "parts"


class ForEach(Protocol):
    """Does some work for every item."""

    def __call__(
        self, label: str, work: Callable[[Item], Result], items: Mapping[str, Item]
    ) -> Iterator[tuple[str, Result]]:
        """Yields name and result of every item as soon as it is done, in no order.

        Args:
            label: what is done, for the progress bar and for errors.
            work: a function of a module, or a ``partial`` of one, so that it can be sent to other processes.
            items: by name, e.g. that of the log.

        Raises:
            IrlVlaError: whatever the work raises.
            ClusterError: if a process or a node was lost.
        """


def one_by_one(label: str, work: Callable[[Item], Result], items: Mapping[str, Item]) -> Iterator[tuple[str, Result]]:
    """Works in this process, without a progress bar; inside a Ray worker tasks could wait forever for a free CPU."""
    del label
    for name, item in items.items():
        yield name, work(item)


def in_processes(workers: int) -> ForEach:
    """Works in this many processes of this machine; one is this very process."""
    return partial(_in_processes, workers)


def on_ray(
    label: str, work: Callable[[Item], Result], items: Mapping[str, Item], *, at_once: int | None = None
) -> Iterator[tuple[str, Result]]:
    """Works in Ray tasks of one CPU each.

    Args:
        at_once: tasks that run at a time; None leaves it to Ray.
    """
    if items:
        yield from followed(_ray_results(label, work, items, at_once or len(items)), label, _UNIT, len(items))


def _in_processes(
    workers: int, label: str, work: Callable[[Item], Result], items: Mapping[str, Item]
) -> Iterator[tuple[str, Result]]:
    results = spread(partial(_with_name, work), list(items.items()), workers)
    try:
        yield from followed(results, label, _UNIT, len(items))
    except BrokenProcessPool as error:
        raise ClusterError(
            f"{label}: expected {workers} processes to work to the end, one was killed ({error}); is the memory "
            "exhausted? start again with fewer"
        ) from error


def _with_name(work: Callable[[Item], Result], named: tuple[str, Item]) -> tuple[str, Result]:
    name, item = named
    return name, work(item)


def _ray_results(
    label: str, work: Callable[[Item], Result], items: Mapping[str, Item], at_once: int
) -> Iterator[tuple[str, Result]]:
    import ray

    task, shared = ray.remote(num_cpus=1)(_apply), ray.put(work)  # what the items share travels once
    waiting = iter(items.items())
    names: dict[Any, str] = {task.remote(shared, item): name for name, item in islice(waiting, at_once)}
    while names:
        done, _ = ray.wait(list(names))
        for reference in done:
            name = names.pop(reference)
            yield name, _ray_result(label, name, reference)
            names |= {task.remote(shared, item): following for following, item in islice(waiting, 1)}


def _apply(work: Callable[[Item], Result], item: Item) -> Result:
    return work(item)


def _ray_result(label: str, name: str, reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, IrlVlaError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise ClusterError(f"{label}: Ray lost the task of {name} ({error}); start the stage again") from error
