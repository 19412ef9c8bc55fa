"""The command ``irl-vla split`` on a generated world."""

from pathlib import Path

import pytest

from irl_vla.cli.main import main
from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.split_guard import require_disjoint
from irl_vla.dataset.splits import write_split
from tests.unit.dataset.tiny_world import write_tiny_world


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_world(tmp_path_factory.mktemp("split") / "world", None).root


def test_writes_two_splits_and_prints_their_counts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["split", str(root), "--from", "train", "--hold-out", "0.5", "--seed", "3", "--name", "mine"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    rows = [line.split("│")[1:-1] for line in shown.splitlines() if "mine_" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["mine_train", "2", "1", "1", "1"],
        ["mine_val", "2", "1", "1", "1"],
    ]
    dataset = open_dataset(DataConfig(root=root), {})
    require_disjoint(dataset, {"train": "mine_train", "val": "mine_val", "test": "test"})
    before = {path: path.read_bytes() for path in dataset.splits_root.glob("mine_*.yaml")}
    assert len(before) == 2
    assert main(arguments) == 0
    assert {path: path.read_bytes() for path in before} == before


def test_scenes_without_neighbours_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(root, "sparse", "train", SceneFilter(num_future_frames=8))
    assert main(["split", str(root), "--from", "sparse", "--hold-out", "0.5"]) == 0
    assert "frame_interval: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "train", "--hold-out", "0.9"], "above 0 and at most 0.5"),
        (["--from", "absent", "--hold-out", "0.1"], "no such split"),
    ],
)
def test_bad_input_writes_nothing(
    root: Path, arguments: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = sorted(root.rglob("*.yaml"))
    assert main(["split", str(root), *arguments, "--name", "bad"]) == 2
    assert message in caplog.text
    assert sorted(root.rglob("*.yaml")) == before
