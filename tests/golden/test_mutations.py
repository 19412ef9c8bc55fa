"""Every convention of the evaluator, broken by itself, must show in the golden files (``mutations.yaml``)."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import yaml

from irl_vla.judge.official.observation import compared

from .cases_by_hand import CASES
from .mutation_probe import PROBES, SAME

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "irl_vla"
_TIMEOUT_S: Final = 300


@dataclass(frozen=True)
class Mutation:
    """One entry of the file; see there."""

    id: str
    breaks: str
    section: str
    module: str
    find: str
    replace: str
    probe: str
    rows: tuple[str, ...] = ()
    equivalent: str = ""


def _strings(rows: list[Any]) -> tuple[str, ...]:
    return tuple(str(row) for row in rows)


FILE: Final = yaml.safe_load((Path(__file__).parent / "mutations.yaml").read_text())
ROWS: Final = {probe: _strings(rows) for probe, rows in FILE["probes"].items()}
MUTATIONS: Final = [Mutation(**{**entry, "rows": _strings(entry.get("rows", []))}) for entry in FILE["mutations"]]


def rows_of(mutation: Mutation) -> tuple[str, ...]:
    return mutation.rows or ROWS[mutation.probe]


def differs(package: Path, probe: str, rows: tuple[str, ...]) -> str:
    """What a probe says of the ``irl_vla`` in a folder, in a process of its own that compiles nothing."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{package}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_DISABLE_JIT": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.golden.mutation_probe", probe, *rows]
    done = subprocess.run(
        command, cwd=package, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    shutil.copytree(PACKAGE, tmp_path / "irl_vla", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_every_mutation_can_be_applied() -> None:
    for mutation in MUTATIONS:
        count = (PACKAGE / mutation.module).read_text().count(mutation.find)
        assert count == 1, f"{mutation.id}: expected its text once in {mutation.module}, found it {count} times"
        assert mutation.replace != mutation.find
        assert mutation.section in FILE["sections"], mutation.id
        assert rows_of(mutation), mutation.id
    assert set(ROWS) == set(PROBES)
    assert {name for name, count in Counter(mutation.id for mutation in MUTATIONS).items() if count > 1} == set()


def test_every_section_has_a_mutation() -> None:
    assert {mutation.section for mutation in MUTATIONS} == set(FILE["sections"])


@pytest.mark.parametrize("name", CASES)
def test_cases_by_hand_agree(name: str) -> None:
    comparisons = compared(CASES[name]())
    assert {item.column: item.mismatches for item in comparisons if item.mismatches} == {}
    assert np.sum([item.rows for item in comparisons]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES)
def test_the_package_as_it_is_shows_no_difference(probe: str, package: Path) -> None:
    rows = dict.fromkeys(ROWS[probe])
    for mutation in MUTATIONS:
        rows |= dict.fromkeys(mutation.rows if mutation.probe == probe else ())
    assert differs(package, probe, tuple(rows)) == SAME


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.id)
def test_a_broken_convention_shows(mutation: Mutation, package: Path) -> None:
    module = package / "irl_vla" / mutation.module
    module.write_text(module.read_text().replace(mutation.find, mutation.replace))
    found = differs(package, mutation.probe, rows_of(mutation))
    if mutation.equivalent:
        assert found == SAME, f"{mutation.id}: said to be equivalent ({mutation.equivalent}), but {found}"
    else:
        assert found != SAME, f"{mutation.id}: nothing recorded shows that {mutation.breaks}"
