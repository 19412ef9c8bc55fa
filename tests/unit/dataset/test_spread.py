"""Work spread over processes: every result once, no matter who is interrupted or killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from irl_vla.dataset.spread import spread

PATIENCE_S = 60.0
#: Says which process works on an item, then is slow; items are folder and number.
PROGRAM = """
import os, sys, time
from pathlib import Path
from irl_vla.dataset.spread import spread
from irl_vla.cli.outcome import exit_status

def work(item):
    (Path(sys.argv[1]) / str(item)).write_text(str(os.getpid()))
    time.sleep(0.2)

def work_all():
    for _ in spread(work, range(1000), 2):
        pass

if __name__ == "__main__":
    sys.exit(exit_status(work_all))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_worked_on_once(workers: int) -> None:
    assert sorted(spread(abs, range(-30, 0), workers)) == list(range(1, 31))


def test_an_error_of_a_worker_is_raised_here() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(spread(int, ["1", "two", "3"], 2))


@pytest.fixture
def at_work(tmp_path: Path) -> tuple["subprocess.Popen[str]", set[int]]:
    """A program in a process group of its own, and its two workers, both at work."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    marks = tmp_path / "marks"
    marks.mkdir()
    process = subprocess.Popen(
        [sys.executable, program, marks],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: len(workers_of(marks)) == 2)
    return process, workers_of(marks)


def test_ctrl_c_is_said_once(at_work: tuple["subprocess.Popen[str]", set[int]]) -> None:
    process, workers = at_work
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes get it
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors.strip().endswith("interrupted; the same command resumes")
    assert "Traceback" not in errors
    assert not any(map(alive, workers))


def test_workers_end_with_a_parent_that_is_killed(at_work: tuple["subprocess.Popen[str]", set[int]]) -> None:
    process, workers = at_work
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, workers)))


def workers_of(marks: Path) -> set[int]:
    return {int(text) for mark in marks.iterdir() if (text := mark.read_text())}


def alive(process_id: int) -> bool:
    state = Path(f"/proc/{process_id}/stat")
    try:
        return state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
