"""What a command tells the shell: 0 done, 2 bad input (named on one line), 130 interrupted."""

import logging
from collections.abc import Callable

from irl_vla.errors import IrlVlaError

log = logging.getLogger(__name__)


def exit_status(work: Callable[[], int | None]) -> int:
    """Runs the work of a command with logging set up; returns its status, 0 for None.

    Errors of the project are one line for people and status 2; any other error is a fault of the program and keeps its
    traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for chatty in ("ray", "pyogrio", "httpx", "alembic", "matplotlib", "mlflow", "numba", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        return work() or 0
    except IrlVlaError as error:
        plain = getattr(error, "cause", error)  # an error of a Ray task carries the remote traceback in its text
        log.error("%s: %s", type(plain).__name__, plain)  # noqa: TRY400 (the message is made for people)
        return 2
    except KeyboardInterrupt:
        log.warning("interrupted; the same command resumes")
        return 130
