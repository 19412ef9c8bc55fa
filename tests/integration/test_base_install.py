"""The scorer installs alone: a new environment with the base requirements and nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from irl_vla.dataset.scenes import scene_refs
from irl_vla.judge.fingerprint import sidecar
from irl_vla.judge.plan_file import write_plans
from irl_vla.stages.extra import TRAIN_MODULES
from tests.unit.dataset.example import LOG, write_example
from tests.unit.epdms.straight_road import plan

from .command import PATIENCE_S, ROOT, Finished, environment

pytestmark = pytest.mark.slow


def call(folder: Path, *command: str | Path) -> Finished:
    surroundings = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=surroundings | {"XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment ``venv``, made as a user makes it from a copy of the sources."""
    folder = tmp_path_factory.mktemp("base")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=PATIENCE_S)
    if call(folder, python, "-m", "pip", "download", "--no-deps", "--dest", folder / "probe", "shapely").returncode:
        pytest.skip("the package index does not answer")
    source = folder / "source"
    for name in ("irl_vla", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    constraints = ROOT / "constraints.txt"
    finished = call(folder, python, "-m", "pip", "install", "--quiet", "--constraint", constraints, source)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder


def test_no_package_for_training_comes_along(installed: Path) -> None:
    finished = call(installed, installed / "venv/bin/python", "-m", "pip", "list", "--format", "json")
    names = {package["name"].lower() for package in json.loads(finished.stdout)}
    assert "numba" in names
    assert not names & {*TRAIN_MODULES}


def test_plans_are_scored(installed: Path) -> None:
    dataset = write_example(installed / "data", logs=(LOG, LOG.replace("veh-01", "veh-02")), count=14, sensors=False)
    write_plans(installed / "plans.parquet", {ref.token: plan(10.0) for ref in scene_refs(dataset, "train")})
    program = installed / "venv/bin/irl-vla"
    where = ("--data", "data", "--split", "train", "--workers", "2", "--output", "scores")
    finished = call(installed, program, "score", "plans.parquet", *where)
    assert finished.returncode == 0, finished.stderr[-3000:]
    evaluator = json.loads(sidecar(installed / "scores" / "results.csv").read_text())
    assert evaluator["self_check"].startswith("passed")
    assert evaluator["code"]["commit"] is None, "an installed package is no checkout"
    finished = call(installed, program, "doctor")
    assert finished.returncode == 0, finished.stdout
