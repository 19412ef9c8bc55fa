"""Python, packages and the scorer: what is fine, what is suspicious, and what must be changed."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from irl_vla.cli.doctor import installation
from irl_vla.cli.doctor.installation import CONSTRAINTS, PYTHONS, packages, pins, python_version, torch_setup
from irl_vla.epdms.self_check import SelfCheck
from irl_vla.stages.experiment import Experiment

ROOT = Path(__file__).parents[4]
REQUIREMENTS = [
    "numpy>=2.1",
    "ray[data,tune]>=2.55",
    "scipy",
    'torch>=2.6; extra == "train"',
    'pytest>=8; extra == "dev"',
]
PINNED = {"numpy": "2.3.1", "ray": "2.60.0", "scipy": "1.17.0"}


def test_supported_pythons_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text).groups()  # type: ignore[union-attr]
    assert tuple((3, minor) for minor in range(int(low), int(high))) == PYTHONS
    assert python_version((3, 11)).level == "ok"
    assert "tested with 3.11" in python_version((3, 13)).found
    assert python_version((3, 10)).level == "problem"


@pytest.mark.parametrize(
    ("changed", "level", "found"),
    [
        ({}, "ok", "3 direct ones as tested"),
        ({"numpy": "2.3.1+local"}, "ok", "3 direct ones as tested"),
        ({"numpy": "2.4.0"}, "warning", "numpy 2.4.0 (tested 2.3.1)"),
        ({"ray": "2.9.0"}, "problem", "ray 2.9.0 (needs 2.55)"),
        ({"scipy": None}, "problem", "missing: scipy"),
    ],
)
def test_packages_are_held_against_needs_and_pins(changed: dict[str, str | None], level: str, found: str) -> None:
    finding = packages(REQUIREMENTS, PINNED | changed, PINNED)
    assert (finding.level, finding.found) == (level, found)
    assert bool(finding.remedy) == (level != "ok")


def test_packages_of_an_extra_are_looked_at_alone() -> None:
    finding = packages(REQUIREMENTS, {"torch": "2.5.0"}, {}, "train")
    assert (finding.check, finding.level, finding.found) == ("packages to train", "problem", "torch 2.5.0 (needs 2.6)")
    assert packages(REQUIREMENTS, {"torch": "2.7"}, {}, "train").found.startswith("1 direct ones")


def test_only_who_has_an_experiment_misses_the_packages_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "missing_modules", lambda: ["ray", "torch"])
    for experiment, level in ((None, "ok"), (Experiment(name="x"), "problem")):
        found = {finding.check: finding for finding in installation.installation(experiment)}
        assert "torch" not in found
        assert (found["packages to train"].level, found["packages to train"].found) == (
            level,
            "not installed: ray, torch",
        )
        assert "pip install 'irl-vla[train]'" in found["packages to train"].remedy


def test_pins_are_read_from_the_constraints(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("# numpy==1.0\nFlask==3.1.3\ntorch==2.13.0  # exactly\nrange>=1\n")
    assert pins(path) == {"flask": "3.1.3", "torch": "2.13.0"}
    assert pins(tmp_path / "absent.txt") == {}
    assert pins(CONSTRAINTS)["torch"]
    assert "no constraints.txt" in packages(REQUIREMENTS, PINNED, {}).found


@pytest.mark.parametrize(("folder", "level"), [("planning", "ok"), ("simulation_of_ships", "problem")])
def test_the_unrelated_package_of_navsims_name_is_a_problem(
    folder: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "navsim" / folder).mkdir(parents=True)
    found = SimpleNamespace(version="1.0", locate_file=lambda name: tmp_path / name, read_text=lambda name: None)
    monkeypatch.setattr(installation, "distribution", lambda name: found)
    assert installation.unrelated_navsim().level == level


def test_a_development_install_of_the_devkit_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code" / "navsim" / "planning").mkdir(parents=True)
    url = f'{{"dir_info": {{"editable": true}}, "url": "file://{tmp_path / "code"}"}}'
    found = SimpleNamespace(version="2", locate_file=lambda name: tmp_path / name, read_text=lambda name: url)
    monkeypatch.setattr(installation, "distribution", lambda name: found)
    assert installation.unrelated_navsim().level == "ok"


def test_navsim_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "distribution", absent)
    assert installation.unrelated_navsim().level == "ok"


def test_a_gpu_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    wanting = Experiment(name="x", pretrain={"use_gpu": True})
    assert torch_setup(None).level == "ok"
    assert torch_setup(Experiment(name="x")).level == "ok"
    finding = torch_setup(wanting)
    assert finding.level == "problem"
    assert "pretrain.use_gpu=false" in finding.remedy
    assert "train_reward" not in finding.remedy
    assert torch_setup(wanting.with_overrides({"ray.address": "head:6379"})).level == "ok", "the GPUs are elsewhere"


def test_a_scorer_that_disagrees_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.scorer().level == "ok"
    monkeypatch.setattr(installation, "self_check", lambda: SelfCheck(30, ("a b: raw_nc",)))
    assert installation.scorer().level == "problem"
    assert "a b: raw_nc" in installation.scorer().found
