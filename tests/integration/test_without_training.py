"""Scoring, reading and checking without the packages for training: they are made impossible to import."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.geometry import Floats
from irl_vla.judge.fingerprint import sidecar
from irl_vla.judge.plan_file import write_plans
from irl_vla.navsim.submission import Header, write_submission
from irl_vla.stages.extra import TRAIN_MODULES
from tests.unit.dataset.example import LOG, write_example
from tests.unit.epdms.straight_road import plan

from .command import PATIENCE_S, PROGRAM, ROOT, SMOKE, Finished, environment

#: Runs at the start of every Python process, of worker processes too.
FORBID = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (forbidden here)", name=name)

sys.meta_path.insert(0, Forbidden())
"""
WHERE = ("--data", "data", "--split", "train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two logs, plans for its scenes, and the hook that forbids modules."""
    root = tmp_path_factory.mktemp("scorer_alone")
    dataset = write_example(root / "data", logs=(LOG, LOG.replace("veh-01", "veh-02")), count=14, sensors=False)
    write_plans(root / "plans.parquet", plans(dataset))
    (root / "hook").mkdir()
    (root / "hook" / "sitecustomize.py").write_text(FORBID.format(modules=set(TRAIN_MODULES)))
    return root


def plans(dataset: Dataset) -> dict[str, Floats]:
    return {ref.token: plan(10.0) for ref in scene_refs(dataset, "train")}


def call(folder: Path, *command: str | Path) -> Finished:
    """A command in a process, and all that it starts, where the modules for training are missing."""
    surroundings = environment() | {"PYTHONPATH": f"{folder / 'hook'}:{ROOT}", "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def alone(folder: Path, *arguments: str | Path) -> Finished:
    return call(folder, PROGRAM, *arguments)


@pytest.mark.parametrize("module", TRAIN_MODULES)
def test_the_modules_are_missing_here(folder: Path, module: str) -> None:
    """Else the other tests would show nothing."""
    finished = call(folder, sys.executable, "-c", f"import {module}")
    assert finished.returncode == 1
    assert f"No module named {module!r} (forbidden here)" in finished.stderr


def test_plans_are_scored_in_processes(folder: Path) -> None:
    finished = alone(folder, "score", "plans.parquet", *WHERE, "--workers", "2", "--output", "scores")
    assert finished.returncode == 0, finished.stderr
    with (folder / "scores" / "frames.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 6
    evaluator = json.loads(sidecar(folder / "scores" / "frames.csv").read_text())
    assert evaluator["self_check"].startswith("passed")


def test_what_reads_and_checks_works(folder: Path) -> None:
    token = next(
        iter(scene_refs(Dataset(*(folder / "data" / part for part in ("", "maps", "train_test_split"))), "train"))
    )
    graphs = folder / "graphs"
    graphs.mkdir()
    (graphs / "graph_cases.json").write_text((ROOT / "tests/golden/inputs/graph_cases.json").read_text())
    commands: dict[str, tuple[str | Path, ...]] = {
        "--help": ("--help",),
        "check-data": ("check-data", "data", "--workers", "2"),
        "compare-official": ("compare-official", "graphs"),
        "show": ("show", token.token, "--data", "data"),
        "doctor": ("doctor",),
    }
    expected = {"check-data": 1}  # the example has no sensor files
    for name, arguments in commands.items():
        finished = alone(folder, *arguments)
        assert finished.returncode == expected.get(name, 0), f"{name}: {finished.stdout}{finished.stderr}"
        assert "Traceback" not in finished.stderr
    assert (folder / f"{token.token}.png").exists()


def test_a_submission_is_checked(folder: Path) -> None:
    dataset = Dataset(folder / "data", folder / "data" / "maps", folder / "data" / "train_test_split")
    header = Header("team", "authors", "a@example.org", "institution", "country")
    write_submission(folder / "submission.pkl", header, plans(dataset), two_stage=False)
    finished = alone(folder, "check-submission", "submission.pkl", *WHERE)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_stages_say_in_one_line_what_is_missing(folder: Path) -> None:
    missing = ", ".join(TRAIN_MODULES)
    for command in ("pretrain", "evaluate", "run"):
        finished = alone(folder, command, SMOKE)
        assert finished.returncode == 2
        (line,) = finished.stderr.strip().splitlines()
        assert f"irl-vla {command}: expected the packages for training, found no {missing}" in line
        assert line.endswith("pip install 'irl-vla[train]'")
        assert alone(folder, command, SMOKE, "--print-config").returncode == 0
    header = ("--team-name", "t", "--authors", "a", "--email", "e", "--institution", "i", "--country", "c")
    finished = alone(folder, "export-submission", SMOKE, "--policy", "finetuned", "--output", "s.pkl", *header)
    assert finished.returncode == 2
    assert "pip install 'irl-vla[train]'" in finished.stderr
    finished = alone(folder, "doctor", SMOKE)
    assert finished.returncode == 1, "an experiment cannot run here"
    assert "packages to train" in finished.stdout
