"""Which logs of a split are missing or broken: all of them found before any work, and left out on request."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import absent_logs, first_names, iter_scenes, logs_of
from irl_vla.dataset.splits import read_split
from irl_vla.dataset.spread import spread
from irl_vla.errors import LogFormatError

#: Fewer logs a process are read before it has started.
_LOGS_A_PROCESS: Final = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokenLog:
    """A log that cannot be judged whole.

    Attributes:
        reason: file, what is wrong and what to do.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Read:
    """A log that was read: why it is broken, or the tokens of its scenes."""

    name: str
    reason: str | None
    tokens: tuple[str, ...]


def whole_logs(dataset: Dataset, split: str, *, skip: str | None, processes: int | None = None) -> Dataset:
    """The data set, without the missing and broken logs of a split if those are to be left out.

    Every scene of the split is read once, with the second stage behind it: little beside preparing it.

    Args:
        dataset: where the logs are.
        split: name of the split.
        skip: None leaves out what is missing or broken; else the option by which a user asks for that.
        processes: to read with; None takes a process a CPU.

    Raises:
        LogFormatError: naming all logs that are missing or broken, unless they are left out; or if none is whole.
    """
    selection = read_split(dataset, split)
    missing = absent_logs(dataset, selection)
    present = logs_of(replace(dataset, left_out=dataset.left_out | frozenset(missing)), selection)
    broken = list(find_broken_logs(dataset, split, present, processes or os.cpu_count() or 1))
    if not missing and not broken:
        return dataset
    folder, total = dataset.log_folder(selection.data_split), len(missing) + len(present)
    bad = [f"{item.name}: {item.reason}" for item in broken]
    if missing:
        bad.append(f"{len(missing)} missing in {folder}: {first_names(missing)}; fetch them")
    count = f"split {split!r}: {len(missing) + len(broken)} of {total} logs are missing or broken"
    if skip is not None or len(missing) + len(broken) == total:
        way_out = "" if len(missing) + len(broken) == total else f"; or judge what is whole with {skip}"
        raise LogFormatError(f"{count}: {' | '.join(bad)}{way_out}")
    for line in bad:
        log.warning("left out: %s", line)
    log.warning("%s and left out; the others are judged", count)
    return replace(dataset, left_out=dataset.left_out | {*missing, *(item.name for item in broken)})


def find_broken_logs(dataset: Dataset, split: str, names: Sequence[str], processes: int) -> Iterator[BrokenLog]:
    """Those logs, of ``names``, from which a scene cannot be read, or whose scenes another log has too."""
    limit = read_split(dataset, split).scene_filter.max_scenes
    owner: dict[str, str] = {}
    for item in _read(dataset, split, names, processes, limit):
        again = next((token for token in item.tokens if token in owner), None)
        if item.reason is not None:
            yield BrokenLog(item.name, item.reason)
        elif again is not None:
            found = f"found {again} in {owner[again]} too; remove one of them"
            yield BrokenLog(item.name, f"expected tokens that no other log has, {found}")
        else:
            owner |= dict.fromkeys(item.tokens, item.name)
        if limit is not None and len(owner) >= limit:
            return


def _read(dataset: Dataset, split: str, names: Sequence[str], processes: int, limit: int | None) -> Iterator[_Read]:
    """In the order of the names; with a limit of scenes no further than asked."""
    work = partial(_read_log, dataset, split)
    if limit is not None:
        yield from map(work, names)
        return
    yield from sorted(spread(work, names, min(processes, len(names) // _LOGS_A_PROCESS)), key=lambda item: item.name)


def _read_log(dataset: Dataset, split: str, name: str) -> _Read:
    try:
        return _Read(name, None, tuple(scene.token for scene in iter_scenes(dataset, split, logs=[name])))
    except LogFormatError as error:
        return _Read(name, str(error), ())
