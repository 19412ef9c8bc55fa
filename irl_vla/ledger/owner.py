"""One owner a folder: a second process that would write to it is told who does, before it spoils anything.

The owner's record lies in the folder. On the same machine it counts as long as its process lives. A process of another
machine or container cannot be asked, so an owner touches its record every half minute, and one that has been silent for
five minutes has lost the folder.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from irl_vla.errors import ConfigError
from irl_vla.ledger.storage import Location

OWNER_NAME: Final = "owner.json"
#: How often an owner touches its record, and the silence after which one of another machine counts as dead.
TOUCH_S, SILENT_S = 30.0, 300.0
#: Tries for a folder that others take and give back at the same time, and the pause between two.
_TRIES, _PAUSE_S = 50, 0.1
#: How often a process that waits for its turn looks again.
_TURN_S: Final = 1.0

log = logging.getLogger(__name__)
_held: dict[Path, "_Hold"] = {}
_held_lock = threading.Lock()


@dataclass(frozen=True)
class Owner:
    """Who works in a folder.

    Attributes:
        process: its number.
        started: when the process began, in ticks since the machine did: tells it from a later one of this number.
        host: name of the machine.
        machine: this run of the machine and its process numbers: two containers may share a host name.
        since: when the folder was taken.
        what: what is done in the folder, e.g. "the stage finetune".
    """

    process: int
    started: str
    host: str
    machine: str
    since: str
    what: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since} ({self.what})"


@dataclass
class _Hold:
    """How often this process holds a folder, and what ends the touching of its record."""

    times: int
    stop: threading.Event


@contextmanager
def owned(folder: Location | Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Holds a folder for this process while the block runs; the same process may hold it several times.

    An owner that has ended without giving the folder back is replaced, with a line in the log. A folder of an object
    store, where nothing can be held, is anybody's.

    Args:
        folder: made if it is not there.
        what: named to others, e.g. "the stage finetune".
        wait: waits for another owner, for a cache that whoever comes first makes for all; False is an error.

    Raises:
        ConfigError: naming the process that holds the folder.
    """
    place = Location.of(folder)
    if not place.is_local:
        yield
        return
    path = place.path.resolve() / OWNER_NAME
    with _held_lock:
        if path not in _held:
            path.parent.mkdir(parents=True, exist_ok=True)
            mine, stop = _this_process(what), threading.Event()
            _take_in_turn(path, mine, wait=wait)
            threading.Thread(target=_touch, args=(path, mine, stop), name=f"owner of {place}", daemon=True).start()
            _held[path] = _Hold(0, stop)
        _held[path].times += 1
    try:
        yield
    finally:
        with _held_lock:
            _held[path].times -= 1
            if not _held[path].times:
                _held.pop(path).stop.set()
                _give_back(path)


def read_owner(folder: Path) -> Owner | None:
    """The record in a folder, of a living process or not; None if there is none."""
    try:
        return Owner(**json.loads((folder / OWNER_NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):  # a disk that was full, or a hand that wrote it
        return Owner(0, "", "an unknown machine", "", "an unknown time", f"{OWNER_NAME} is not readable")


def _take_in_turn(path: Path, mine: Owner, *, wait: bool) -> None:
    """As :func:`_take`; waits for another owner if it may, and says so once."""
    told = False
    while True:
        try:
            _take(path, mine)
        except ConfigError as error:
            if not wait:
                raise
            if not told:
                log.info("%s; waiting", str(error).partition(";")[0])
                told = True
            time.sleep(_TURN_S)
        else:
            return


def _take(path: Path, mine: Owner) -> None:
    """Makes the record, which only one process can.

    Raises:
        ConfigError: if a living process has done so.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{OWNER_NAME}.")
    record = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(asdict(mine), stream)
        record.chmod(0o644)
        with _locked(path.parent):
            for _ in range(_TRIES):
                if _publish(record, path):
                    return
                found = read_owner(path.parent)
                if found is None:  # given back just now
                    time.sleep(_PAUSE_S)
                    continue
                # The file server's clock on both sides: that of another machine may be wrong.
                silent_s = _age_s(path, now=record.stat().st_mtime)
                if _is_alive(found, mine, silent_s):
                    raise ConfigError(f"{path.parent} is in use by {found}; {_remedy(found, mine, path)}")
                log.warning("%s: %s has ended without giving the folder back; taken over", path.parent, found)
                _set_aside(path, found)
    finally:
        record.unlink(missing_ok=True)
    raise ConfigError(f"{path.parent}: other processes take and leave it all the time; wait for them or end them")


def _publish(record: Path, path: Path) -> bool:
    """Gives a whole record its name; False if there is one already."""
    try:
        path.hardlink_to(record)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        try:  # a file system without hard links; for a moment the record is there and not whole
            with path.open("x", encoding="utf-8") as stream:
                stream.write(record.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    return True


def _remedy(found: Owner, mine: Owner, path: Path) -> str:
    if found.machine == mine.machine:
        return "wait for it or end it"
    return f"wait for it or end it; if it has ended, delete {path}, or wait {SILENT_S:.0f} s"


def _age_s(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_alive(found: Owner, mine: Owner, silent_s: float) -> bool:
    if found.machine != mine.machine:
        return silent_s < SILENT_S
    try:
        return _start_ticks(found.process) == found.started
    except PermissionError:  # another user's process, hidden from this one
        return True


def _set_aside(path: Path, dead: Owner) -> None:
    """Removes the record of a dead owner; one that another process has put there meanwhile is put back."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{OWNER_NAME}.")
    os.close(handle)
    aside = Path(name)
    try:
        path.replace(aside)
        if Owner(**json.loads(aside.read_text(encoding="utf-8"))) != dead:
            path.hardlink_to(aside)
    except (FileNotFoundError, FileExistsError, ValueError, TypeError):
        pass  # removed or taken by another process, or never readable
    finally:
        aside.unlink(missing_ok=True)


def _give_back(path: Path) -> None:
    found = read_owner(path.parent)
    if found is not None and found.process == os.getpid() and found.machine == _machine():
        path.unlink(missing_ok=True)


def _touch(path: Path, mine: Owner, stop: threading.Event) -> None:
    """Shows other machines that this process lives."""
    while not stop.wait(TOUCH_S):
        found = read_owner(path.parent)
        if found != mine:
            log.error("%s is no longer this process's: %s; end one of the two", path.parent, found or "record removed")
            return
        with suppress(OSError):  # a file server that is away for a moment
            os.utime(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time judge an owner, on file systems that can lock a folder; on others, any."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _this_process(what: str) -> Owner:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    started = _start_ticks(os.getpid()) or ""
    return Owner(os.getpid(), started, socket.gethostname(), _machine(), since, what)


def _machine() -> str:
    """Equal for two processes if they see each other's process numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _start_ticks(process: int) -> str | None:
    """When a process began; None if there is none, or only what is left of one.

    Raises:
        PermissionError: if it is there and hidden.
    """
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if process > 0:
            with suppress(ProcessLookupError):
                os.kill(process, 0)
        return None
    return None if state in ("Z", "X") else fields[18]
