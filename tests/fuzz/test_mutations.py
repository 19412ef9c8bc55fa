"""Broken files give a result or an error of the project, never anything else.

``IRL_VLA_FUZZ_SEED=N`` shifts all seeds by N. A failure prints the command that repeats it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRST_SEED = int(os.environ.get("IRL_VLA_FUZZ_SEED", "0"))
#: Mutations of the quick run and of the long one, 10,000 together.
QUICK = {
    "log_bytes": 80,
    "log_values": 100,
    "scene_bytes": 80,
    "scene_values": 100,
    "pcd": 60,
    "jpeg": 40,
    "split_yaml": 60,
    "layouts": 40,
    "map_index": 20,
    "map_values": 5,
    "map_bytes": 5,
}
LONG = {
    "log_bytes": 1800,
    "log_values": 1800,
    "scene_bytes": 800,
    "scene_values": 1000,
    "pcd": 1500,
    "jpeg": 800,
    "split_yaml": 1200,
    "layouts": 500,
    "map_index": 200,
    "map_values": 200,
    "map_bytes": 200,
}


def run(folder, *jobs):
    """Output of the child; fails with the way to repeat a mutation that ended it."""
    command = [sys.executable, "-m", "tests.fuzz.child", str(folder), *jobs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (
        f"exit status {done.returncode}; repeat it with\n"
        f"python -m tests.fuzz.child NEW_FOLDER {lines[-1] if lines else jobs[0]}\n{done.stderr[-4000:]}"
    )
    return lines[-1]


def test_a_few_hundred_mutations(tmp_path):
    summary = run(tmp_path, *(f"{kind}:{FIRST_SEED}:{count}" for kind, count in QUICK.items()))
    print("first seed", FIRST_SEED, summary)
    assert sum(int(word) for word in summary.split() if word.isdigit()) == sum(QUICK.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG)
def test_ten_thousand_mutations(tmp_path, kind):
    first = FIRST_SEED + 100_000
    summary = run(tmp_path, f"{kind}:{first}:{LONG[kind]}")
    print("first seed", first, kind, summary)


def test_the_long_run_is_as_long_as_promised():
    assert sum(LONG.values()) == 10_000
    assert QUICK.keys() == LONG.keys()


def test_a_crash_is_told_with_its_seed(tmp_path):
    with pytest.raises(AssertionError, match=r"repeat it with\s+python -m tests\.fuzz\.child NEW_FOLDER nothing:3:1"):
        run(tmp_path, "nothing:3:1")
