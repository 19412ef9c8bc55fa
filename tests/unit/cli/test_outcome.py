"""Errors that a person can mend are one line, wherever they were raised; faults of the program keep their traceback."""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray.train
from ray.exceptions import RayTaskError

from irl_vla.cli.outcome import exit_status, explain
from irl_vla.errors import ClusterError, ConfigError, SceneError


def in_a_task(cause: Exception) -> Exception:
    error: Exception = RayTaskError("work", "Traceback (most recent call last): ...", cause).as_instanceof_cause()
    return error


def in_training(*causes: Exception) -> Exception:
    error: Exception = ray.train.WorkerGroupError("[Rank 0 ...]", dict(enumerate(causes)))
    return error


def after_training(*causes: Exception) -> Exception:
    error = ClusterError("pretrain: training failed more than 2 times; the last cause was: Traceback ...")
    error.__cause__ = in_training(*causes)
    return error


@pytest.mark.parametrize(
    ("number", "reason", "remedy"),
    [
        (errno.ENOSPC, "no space left on device", "free some space"),
        (errno.EDQUOT, "disk quota exceeded", "quota"),
        (errno.EACCES, "permission denied", "give this user the right"),
        (errno.EROFS, "read-only file system", "can be written to"),
        (errno.ENAMETOOLONG, "file name too long", "shorter name"),
        (errno.EMFILE, "too many open files", "ulimit -n"),
        (errno.ENOTDIR, "not a directory", "part of the path is a file"),
    ],
)
@pytest.mark.parametrize("wrapped", [lambda error: error, in_a_task, in_training, after_training])
def test_errors_of_the_system_are_one_line(
    number: int, reason: str, remedy: str, wrapped: Callable[[Exception], Exception]
) -> None:
    line = explain(wrapped(OSError(number, os.strerror(number), "/runs/x/samples/plan.npy")))
    assert line is not None
    assert line.startswith(f"/runs/x/samples/plan.npy: {reason}; ")
    assert remedy in line
    assert "\n" not in line


def test_a_full_disk_ends_with_status_2_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        with Path("/dev/full").open("w") as stream:
            stream.write("x")

    with caplog.at_level(logging.INFO):
        assert exit_status(work) == 2
    assert "no space left on device" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_missing_folder_is_named_but_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("x")

    absent = tmp_path / "absent" / "table.csv"
    with pytest.raises(FileNotFoundError) as missing:
        write(absent)
    assert explain(missing.value) == (
        f"{absent}: no such file or directory; the folder does not exist; make it, or choose another one, "
        "then run the same command again"
    )
    with pytest.raises(FileNotFoundError) as fault:
        (tmp_path / "expected.json").read_text()
    assert explain(fault.value) is None


def test_other_errors_of_the_system_keep_their_traceback() -> None:
    def work() -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    with pytest.raises(ConnectionRefusedError):
        exit_status(work)
    assert explain(OSError("100 requested and 12 written")) is None


@pytest.mark.parametrize("wrapped", [in_a_task, in_training, after_training])
def test_errors_of_the_project_are_found_under_what_ray_puts_around_them(
    wrapped: Callable[[Exception], Exception],
) -> None:
    assert explain(wrapped(SceneError("scene abc: expected a route"))) == "SceneError: scene abc: expected a route"


def test_a_fault_below_a_failed_training_leaves_the_word_to_the_training() -> None:
    assert (explain(after_training(ZeroDivisionError())) or "").startswith("ClusterError: pretrain: training failed")


def test_what_an_error_of_the_project_arose_from_does_not_hide_it() -> None:
    error = ConfigError("x.yaml: cannot be read")
    error.__cause__ = PermissionError(errno.EACCES, "Permission denied", "x.yaml")
    assert explain(error) == "ConfigError: x.yaml: cannot be read"


WITH_RAY = """
import errno, os, sys
import ray
from irl_vla.cli.outcome import exit_status, explain
from irl_vla.errors import SceneError
from irl_vla.ledger.shards import ShardPlan, write_shards
from irl_vla.stages.session import RayConfig, ray_session

def full(name):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/x/shard-3.parquet")

def broken(name):
    raise SceneError("scene abc: expected a route")

def in_a_task(write):
    ray.get(ray.remote(write).remote("log"))

def as_shards(write):
    write_shards(lambda: write, (), {"log": 1}, ShardPlan("labels", "rows", workers=1))

def told(run, write):
    try:
        run(write)
    except Exception as error:
        return explain(error)

def work():
    with ray_session(RayConfig(cpus=1, object_store_mb=80)):
        for run in (in_a_task, as_shards):
            line = told(run, full)
            assert line.startswith("/runs/x/shard-3.parquet: no space left on device; free some space"), line
            line = told(run, broken)
            assert line == "SceneError: scene abc: expected a route", line

sys.exit(exit_status(work))
"""


@pytest.mark.slow
def test_errors_of_a_worker_are_one_line(tmp_path: Path) -> None:
    """Ray Data adds lines to the arguments of an error, which stand for the file in one of the system."""
    command = [sys.executable, "-c", WITH_RAY]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
