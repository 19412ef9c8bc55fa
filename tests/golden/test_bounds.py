"""The kernels never leave their arrays: compiled code does not check, so a child process compiles it with checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["data", "inputs"])
def test_golden_cases_stay_within_their_arrays(tmp_path: Path, folder: str) -> None:
    checked = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "irl_vla.judge.official", str(HERE / folder)]
    finished = subprocess.run(command, env=checked, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
