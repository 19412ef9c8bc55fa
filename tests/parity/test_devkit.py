"""The official devkit itself, where a user names its checkouts, on a generated data set.

Off unless NAVSIM_DEVKIT_ROOT and NUPLAN_DEVKIT_ROOT are set; what it takes is in docs/epdms.md. That these tests find
what they are to find is tested in test_harness, with a pretended devkit.
"""

import os
from pathlib import Path

import pytest

from irl_vla.dataset.layout import Dataset
from tests.parity.agents import agent_answer, agent_request
from tests.parity.comparison import differences
from tests.parity.harness import ask, checkouts
from tests.parity.ours import SPLITS, load_scenes, make_request, make_world, our_answer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def devkit() -> list[Path]:
    return checkouts(os.environ)


@pytest.fixture(scope="module")
def dataset(devkit: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_world(tmp_path_factory.mktemp("world"))


def test_scores_as_the_devkit_does(devkit: list[Path], dataset: Dataset, tmp_path: Path) -> None:
    scenes = {split: load_scenes(dataset, split) for split in SPLITS}
    request = make_request(dataset, scenes, devkit)
    official = ask("devkit_scores", request, dataset, tmp_path)
    found = list(differences(official, our_answer(request, scenes)))
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:40])


def test_the_devkit_loads_our_submission_and_drives_our_agent(
    devkit: list[Path], dataset: Dataset, tmp_path: Path
) -> None:
    request = agent_request(dataset, devkit, tmp_path)
    found = list(differences(ask("devkit_agent", request, dataset, tmp_path), agent_answer(dataset, request)))
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:40])
