"""What a command tells the shell: 0 done, 2 bad input (named on one line), 130 interrupted."""

import errno
import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from irl_vla.errors import IrlVlaError

#: What a person can do about an error of the operating system. Errors that are not here are faults of the program.
_REMEDIES: Final = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "delete what is no longer needed, ask for a larger quota, or choose another folder",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose a folder on another file system",
    errno.EACCES: "give this user the right to it, or choose another folder",
    errno.EPERM: "give this user the right to it, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name or folder",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EISDIR: "name a file, not a folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n 65536), or use fewer workers",
    errno.ENFILE: "raise the limit of open files of this machine (sysctl fs.file-max), or use fewer workers",
    errno.ENOENT: "the folder does not exist; make it, or choose another one",
}

log = logging.getLogger(__name__)


def exit_status(work: Callable[[], int | None]) -> int:
    """Runs the work of a command with logging set up; returns its status, 0 for None.

    Errors of the project, and those of the operating system that a person can mend (disk full, no permission, ...), are
    one line for people and status 2; any other error is a fault of the program and keeps its traceback. It makes no
    difference whether an error was raised here or in a worker of Ray.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for chatty in ("ray", "pyogrio", "httpx", "alembic", "matplotlib", "mlflow", "numba", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        return work() or 0
    except KeyboardInterrupt:
        log.warning("interrupted; the same command resumes")
        return 130
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        log.error("%s", line)  # noqa: TRY400 (the line is made for people)
        return 2


def explain(error: BaseException) -> str | None:
    """One line for people: what went wrong, where, and what to do; None for a fault of the program."""
    plain = _without_wrapping(error)
    if isinstance(plain, IrlVlaError):
        return f"{type(plain).__name__}: {plain}"
    if isinstance(plain, OSError):
        return _explain_system(plain)
    return None


def _without_wrapping(error: BaseException) -> BaseException:
    """The error as it was raised in a worker, without what Ray puts around it.

    An error of a Ray task carries the remote traceback in its text. A failed training names one error a worker, and is
    the cause of an error of the project that says less than they do.
    """
    held = [getattr(error, "cause", None), getattr(error, "controller_failure", None)]
    held += getattr(error, "worker_failures", {}).values()
    for inner in held:
        if isinstance(inner, Exception):
            return _without_wrapping(inner)
    if isinstance(error, IrlVlaError) and error.__cause__ is not None:
        below = _without_wrapping(error.__cause__)
        if below is not error.__cause__ and explain(below) is not None:
            return below
    return error


def _explain_system(error: OSError) -> str | None:
    if error.errno not in _REMEDIES:
        return None
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    if error.errno == errno.ENOENT and (where is None or Path(where).parent.is_dir()):
        return None  # not the folder is missing but a file that the program itself expected
    reason = os.strerror(error.errno).lower()
    return f"{where or _place(error)}: {reason}; {_REMEDIES[error.errno]}, then run the same command again"


def _place(error: OSError) -> str:
    """Where an error without a path arose, as far as that is known."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "irl_vla" in Path(frame.filename).parts]
    return f"a file in use by {Path(frames[-1].filename).stem}.{frames[-1].name}" if frames else "a file"
