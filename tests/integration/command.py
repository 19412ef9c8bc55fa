"""Runs the installed command line as a user does: another process, another working directory."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.storage import Location

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.yaml"
PROGRAM = Path(sys.executable).with_name("irl-vla")
PATIENCE_S = 600
#: Settings of the surroundings that would reach into a test.
_FOREIGN = ("RAY_ADDRESS", "OPENSCENE_DATA_ROOT", "NUPLAN_MAPS_ROOT", "NAVSIM_DEVKIT_ROOT")

Finished = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(folder: Path, *arguments: str | Path) -> Finished:
    """``irl-vla`` with these arguments, in ``folder``."""
    return call(folder, [PROGRAM, *arguments])


def call(folder: Path, command: Sequence[str | Path]) -> Finished:
    texts = [str(word) for word in command]
    return subprocess.run(
        texts, cwd=folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """As :func:`run`, without waiting, in a process group of its own."""
    texts = [str(word) for word in (PROGRAM, *arguments)]
    pipes: Mapping[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(texts, cwd=folder, env=environment(), text=True, start_new_session=True, **pipes)


def is_whole(folder: Path) -> bool:
    """True if a stage's folder holds the record of a finished one."""
    record = find_record(Location.of(folder))
    return record is not None and record.whole


def stamps(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of change of every file: what was written again differs."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
