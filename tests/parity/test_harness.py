"""What the parity test stands on, without the devkit: stand-ins, comparison, data set, and a pretended devkit."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from irl_vla.dataset.checks.dataset import check_dataset
from irl_vla.dataset.layout import Dataset
from irl_vla.world.second_stage_files import SECOND_STAGE
from tests.parity.agents import agent_answer, agent_request
from tests.parity.comparison import differences
from tests.parity.devkit_scores import instantiate
from tests.parity.harness import ROOT, ask, checkouts
from tests.parity.ours import SPLITS, load_scenes, make_request, make_world, our_answer
from tests.parity.pretended import FAULT, write_checkouts

#: A package that uses its libraries in every way in which the devkit does at import time.
PACKAGE = """
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Dict, List, Optional, Union

import hydra
import pytorch_lightning as pl
import rasterio
import torch
import torch.nn as nn
from botocore.exceptions import ClientError
from hydra.utils import instantiate
from omegaconf import DictConfig
from retry import retry
from torch import Tensor

warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)


class Agent(nn.Module, ABC):
    def __init__(self, name: str):
        super().__init__()
        self.name = name

    @abstractmethod
    def plan(self, features: Dict[str, torch.Tensor], cfg: List[Union[str, DictConfig]]) -> Optional[Tensor]: ...


class Mine(Agent):
    def plan(self, features, cfg):
        return 1


@dataclass
class Features:
    values: torch.FloatTensor
    device: Tensor | None = torch.device("cpu")


class Callback(pl.Callback):
    pass


@hydra.main(config_path="config", version_base=None)
def main(cfg: DictConfig) -> int:
    return 2


@retry(RuntimeError)
@torch.jit.unused
@torch.no_grad()
def unused() -> int:
    with torch.no_grad():
        return 3


try:
    raise KeyError
except (ClientError, KeyError):
    caught = True
"""
PROBE = """
import sys
from tests.parity.stand_ins import DEVKIT_LIBRARIES, install
install(DEVKIT_LIBRARIES)
sys.path.insert(0, sys.argv[1])
import package
agent = package.Mine("a name")
assert (agent.name, agent.plan({}, []), package.main(None), package.unused()) == ("a name", 1, 2, 3)
assert package.caught and not isinstance(3, package.torch.Tensor)
try:
    package.Agent("abstract")
except TypeError:
    pass
else:
    raise AssertionError("abstract methods are forgotten")
try:
    agent.missing
except AttributeError:
    pass
else:
    raise AssertionError("objects have attributes that nobody gave them")
"""


def test_stand_ins_serve_every_use_at_import_time(tmp_path: Path) -> None:
    (tmp_path / "package.py").write_text(PACKAGE)
    finished = run_python(PROBE, str(tmp_path))
    assert finished.returncode == 0, finished.stderr


def test_stand_ins_come_before_the_libraries() -> None:
    code = "import torch\nfrom tests.parity.stand_ins import install\ninstall(['ray', 'torch'])"
    assert "found imported: torch" in run_python(code).stderr


def test_no_stand_in_is_left_here() -> None:
    import torch

    assert torch.tensor([1.0]).item() == 1.0
    assert not any(type(finder).__module__ == "tests.parity.stand_ins" for finder in sys.meta_path)


def run_python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_checkout_that_is_not_named_skips_and_says_which(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="NAVSIM_DEVKIT_ROOT and NUPLAN_DEVKIT_ROOT not set"):
        checkouts({})
    with pytest.raises(pytest.skip.Exception, match=r"^NUPLAN_DEVKIT_ROOT not set"):
        checkouts({"NAVSIM_DEVKIT_ROOT": str(tmp_path)})


def test_a_checkout_without_its_package_fails(tmp_path: Path) -> None:
    (tmp_path / "navsim").mkdir()
    with pytest.raises(pytest.fail.Exception, match="NUPLAN_DEVKIT_ROOT: expected a checkout with the package nuplan"):
        checkouts({"NAVSIM_DEVKIT_ROOT": str(tmp_path), "NUPLAN_DEVKIT_ROOT": str(tmp_path)})


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        ({"nc": [1.0, 0.5], "ego": [2.0 + 1e-7], "ids": ["a"], "ec": float("nan")}, []),
        ({"nc": [1.0, 0.5 + 1e-7], "ego": [2.0], "ids": ["a"], "ec": float("nan")}, ["/nc/1: the devkit has 0.5"]),
        ({"nc": [1.0, 0.5], "ego": [2.0 + 2e-6], "ids": ["a"], "ec": float("nan")}, ["/ego/0: the devkit has 2.0"]),
        ({"nc": [1.0, 0.5], "ego": [2.0], "ids": ["b"], "ec": 1.0}, ["/ec: the devkit has nan", "/ids/0: the dev"]),
        (
            {"nc": [1.0], "ego": [float("nan")], "ids": ["a"]},
            ["/ec: only the devkit", "/ego/0: the", "/nc: the devkit"],
        ),
        (
            {"nc": [1.0, 0.5], "ego": 2.0, "ids": ["a"], "ec": float("nan"), "x": 1},
            ["/ego: the", "/x: only the project"],
        ),
    ],
)
def test_differences_are_named(ours: Any, found: list[str]) -> None:
    official = {"nc": [1.0, 0.5], "ego": [2.0], "ids": ["a"], "ec": float("nan")}
    named = list(differences(official, ours))
    assert len(named) == len(found)
    assert all(line.startswith(start) for line, start in zip(named, found, strict=True)), named


def test_settings_are_made_as_hydra_makes_them() -> None:
    node = {"_target_": "fractions.Fraction", "_convert_": "all", "numerator": "${n}", "denominator": 4}
    assert instantiate({"a": [node], "b": "5e-03", "c": None}, {"n": 3}) == {"a": [0.75], "b": 0.005, "c": None}
    assert instantiate({"_target_": "fractions.Fraction"}, {}, 1, 2) == 0.5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_world(tmp_path_factory.mktemp("world"), logs=2, groups=1)


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(write_checkouts(tmp_path_factory.mktemp("checkouts")))


def test_the_data_set_passes_the_check(dataset: Dataset) -> None:
    report = check_dataset(dataset)
    assert report.total("error") == 0
    assert {split for folder in report.folders for split in folder.splits} >= set(SPLITS)


@pytest.mark.slow
def test_plans_pass_and_fail_and_a_devkit_that_agrees_is_told_from_one_that_does_not(
    dataset: Dataset, devkit: list[Path], tmp_path: Path
) -> None:
    scenes = {split: load_scenes(dataset, split) for split in SPLITS}
    request = make_request(dataset, scenes, devkit)
    ours = our_answer(request, scenes)
    for split in SPLITS:
        values = [score["raw"] for score in ours[split]["scores"].values()]
        for name in ("drivable_area_compliance", "lane_keeping", "history_comfort"):
            assert {0.0, 1.0} <= {row[name] for row in values}, f"{split}: {name}"
    assert len(ours[SECOND_STAGE]["results"]) == 10
    assert len(ours["test"]["results"]) == 12
    assert list(differences(ask("devkit_scores", request, dataset, tmp_path / "good"), ours)) == []

    less = copy.deepcopy(request)
    del less["splits"][SECOND_STAGE]
    faulty = ask("devkit_scores", less, dataset, tmp_path / "bad", **{FAULT: "lane_keeping"})
    named = [line.partition(":")[0] for line in differences(faulty, {"test": ours["test"]})]
    parts = {path.split("/")[2] for path in named}
    assert parts == {"scores", "results"}
    assert {path.rpartition("/")[2] for path in named if "/scores/" in path} == {"lane_keeping"}


def test_the_agent_and_the_submission_pass_through_a_devkit(
    dataset: Dataset, devkit: list[Path], tmp_path: Path
) -> None:
    request = agent_request(dataset, devkit, tmp_path)
    official, ours = ask("devkit_agent", request, dataset, tmp_path), agent_answer(dataset, request)
    assert list(differences(official, ours)) == []
    assert len(ours["submitted"]) == len(ours["driven"]["plans"]) == 4


def test_a_child_that_stops_is_quoted(dataset: Dataset, tmp_path: Path) -> None:
    request = {"checkouts": [str(tmp_path)], "splits": {}}
    with pytest.raises(pytest.fail.Exception, match="No module named 'navsim"):
        ask("devkit_scores", request, dataset, tmp_path)
