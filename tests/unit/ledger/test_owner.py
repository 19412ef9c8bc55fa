"""A folder has one owner: processes that race, are killed, sit on other machines, and go on where another ended."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from irl_vla.errors import ConfigError
from irl_vla.ledger import owner
from irl_vla.ledger.owner import OWNER_NAME, SILENT_S, Owner, owned, read_owner
from irl_vla.ledger.storage import Location

PATIENCE_S = 60.0
HOLD = """
import sys, time
from pathlib import Path
from irl_vla.ledger.owner import owned

with owned(Path(sys.argv[1]), "the stage finetune"):
    print("held", flush=True)
    time.sleep(600)
"""
#: Takes the folder again and again, and looks whether another one is in it.
RACE = """
import logging, os, sys, time
from pathlib import Path
from irl_vla.errors import ConfigError
from irl_vla.ledger.owner import owned

logging.disable()
folder, inside, refused = Path(sys.argv[1]), 0, 0
while not (folder.parent / "go").exists():
    time.sleep(0.001)
end = time.monotonic() + 60
while inside < 20 and time.monotonic() < end:
    try:
        with owned(folder, "a race"):
            (folder.parent / "inside").touch(exist_ok=False)
            time.sleep(0.002)
            (folder.parent / "inside").unlink()
            inside += 1
    except ConfigError:
        refused += 1
        time.sleep(0.001)
print(inside, refused)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "finetune"


def hold(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def put(folder: Path, record: Owner, age_s: float = 0.0) -> None:
    """Somebody's record, touched some time ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / OWNER_NAME
    path.write_text(json.dumps(asdict(record)))
    now = time.time()
    os.utime(path, (now - age_s, now - age_s))


def test_a_folder_is_held_and_given_back(folder: Path) -> None:
    with owned(folder, "the stage finetune"):
        held = read_owner(folder)
        assert held is not None
        assert (held.process, held.what) == (os.getpid(), "the stage finetune")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_it_is_given_back_whatever_ends_the_work(folder: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), owned(folder, "work"):
        raise error
    assert list(folder.iterdir()) == []


def test_the_same_process_may_hold_it_twice(folder: Path) -> None:
    with owned(folder, "outer"):
        with owned(folder / ".." / folder.name, "inner"):
            pass
        assert (folder / OWNER_NAME).exists(), "the inner one is not the last"
    assert list(folder.iterdir()) == []


def test_a_second_process_is_told_who_holds_it(folder: Path) -> None:
    process = hold(folder)
    try:
        message = rf"{folder} is in use by process {process.pid} on .* since .* UTC \(the stage finetune\); wait for it"
        with pytest.raises(ConfigError, match=message), owned(folder, "the stage finetune"):
            pass
        assert [path.name for path in folder.iterdir()] == [OWNER_NAME], "the first one's record is as it was"
    finally:
        process.kill()
        process.communicate()


def test_a_cache_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_TURN_S", 0.01)
    process = hold(folder)
    threading.Timer(0.3, process.kill).start()
    with caplog.at_level(logging.INFO), owned(folder, "samples", wait=True):
        found = read_owner(folder)
        assert found is not None
        assert found.what == "samples"
    assert caplog.text.count("waiting") == 1
    process.wait(PATIENCE_S)


def test_a_folder_of_an_object_store_is_anybodys(bucket: Location) -> None:
    with owned(bucket / "x", "one"), owned(bucket / "x", "two"):
        assert (bucket / "x").children() == []


def test_a_killed_owner_is_noticed_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = hold(folder)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (folder / OWNER_NAME).exists()
    with owned(folder, "the stage finetune"):
        held = read_owner(folder)
    assert held is not None
    assert held.process == os.getpid()
    assert f"process {process.pid} on {held.host}" in caplog.text
    assert "taken over" in caplog.text
    assert list(folder.iterdir()) == []


def test_a_killed_owner_that_nobody_has_waited_for_is_dead(folder: Path) -> None:
    process = hold(folder)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, its number is still taken
    with owned(folder, "the stage finetune"):
        pass
    process.communicate()


def test_another_process_with_the_number_of_the_dead_one_is_not_the_owner(folder: Path) -> None:
    mine = owner._this_process("work")
    put(folder, replace(mine, started=str(int(mine.started) - 1)))
    with owned(folder, "work"):
        pass


def test_an_owner_on_another_machine_counts_until_it_is_silent(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    foreign = replace(owner._this_process("the stage finetune"), host="node7", machine="another", process=12)
    put(folder, foreign, age_s=SILENT_S - 60)
    message = rf"process 12 on node7 since .*; if it has ended, delete {folder / OWNER_NAME}"
    with pytest.raises(ConfigError, match=message), owned(folder, "work"):
        pass
    put(folder, foreign, age_s=SILENT_S + 60)
    with owned(folder, "work"):
        assert read_owner(folder) != foreign
    assert "process 12 on node7" in caplog.text
    assert list(folder.iterdir()) == []


def test_a_record_that_cannot_be_read_is_respected_until_it_is_old(folder: Path) -> None:
    folder.mkdir()
    (folder / OWNER_NAME).write_text("{")
    with pytest.raises(ConfigError, match="an unknown machine"), owned(folder, "work"):
        pass
    long_ago = time.time() - SILENT_S - 60
    os.utime(folder / OWNER_NAME, (long_ago, long_ago))
    with owned(folder, "work"):
        pass
    assert list(folder.iterdir()) == []


def test_an_owner_shows_that_it_lives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "TOUCH_S", 0.01)
    with owned(folder, "work"):
        path = folder / OWNER_NAME
        os.utime(path, (1.0, 1.0))
        wait_for(lambda: path.stat().st_mtime > 1.0)


def test_an_owner_that_was_replaced_says_so_and_leaves_the_other_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(owner, "TOUCH_S", 0.01)
    foreign = Owner(12, "0", "node7", "another", "2026-01-01 00:00:00 UTC", "work")
    with owned(folder, "work"):
        put(folder, foreign)
        wait_for(lambda: "is no longer this process's: process 12 on node7" in caplog.text)
    assert read_owner(folder) == foreign


def test_a_record_that_appears_while_a_dead_one_is_removed_is_put_back(folder: Path) -> None:
    dead = replace(owner._this_process("dead"), process=1)
    put(folder, alive := owner._this_process("alive"))
    owner._set_aside(folder / OWNER_NAME, dead)
    assert read_owner(folder) == alive
    assert [path.name for path in folder.iterdir()] == [OWNER_NAME]


def test_file_systems_without_hard_links_will_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with owned(folder, "work"):
        assert not owner._publish(folder / OWNER_NAME, folder / OWNER_NAME), "it is there already"
    assert list(folder.iterdir()) == []


def test_processes_that_race_are_never_in_the_folder_together(folder: Path) -> None:
    dead = replace(owner._this_process("dead"), started="0")
    put(folder, dead)  # all of them notice at the same time that it is dead
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    (folder.parent / "go").touch()
    results = [racer.communicate(timeout=2 * PATIENCE_S) for racer in racers]
    assert all(racer.returncode == 0 for racer in racers), results
    inside = [int(out.split()[0]) for out, _ in results]
    assert inside == [20, 20, 20]


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(folder: Path) -> None:
    folder.parent.joinpath("file").touch()
    with pytest.raises(NotADirectoryError), owned(folder.parent / "file" / "finetune", "work"):
        pass


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_logging_names_the_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(folder, replace(owner._this_process("the stage label"), started="0"))
    with caplog.at_level(logging.WARNING), owned(folder, "work"):
        pass
    assert caplog.messages[0].startswith(f"{folder}: process {os.getpid()} on ")
