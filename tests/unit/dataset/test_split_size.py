"""Sizes of splits: counted where logs are small, else told by tokens or by one log."""

from pathlib import Path

import pytest

from irl_vla.dataset import split_size as module
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.split_size import SplitSize, split_size
from irl_vla.dataset.splits import WHOLE_FOLDER, write_split
from irl_vla.errors import ConfigError
from tests.unit.dataset.example import LOG, write_example

LOGS = tuple(LOG.replace("veh-01", f"veh-0{number}") for number in (1, 2, 3))
#: 14 frames are 3 windows of 12.
EACH = 3


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    found: Dataset = write_example(tmp_path, logs=LOGS, count=14, sensors=False)
    write_split(found.root, "all", "mini", WHOLE_FOLDER)
    tokens = tuple(ref.token for ref in scene_refs(found, "all"))
    write_split(found.root, "few", "mini", WHOLE_FOLDER.model_copy(update={"tokens": tokens[:EACH]}))
    return found


def test_small_logs_are_counted(dataset: Dataset) -> None:
    assert split_size(dataset, "all") == SplitSize(3, 3 * EACH)
    assert split_size(dataset, "few") == SplitSize(1, EACH), "only one log has these tokens"


def test_large_logs_are_not_all_read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(module, "_READ_BYTES", 0)
    monkeypatch.setattr(module, "refs_of", lambda *args: read.append(args[2]) or range(EACH))
    assert split_size(dataset, "few") == SplitSize(3, EACH), "tokens are counted"
    assert read == []
    assert split_size(dataset, "all") == SplitSize(3, 3 * EACH), "one log stands for all"
    assert [len(logs) for logs in read] == [1]


def test_a_split_that_is_not_there_is_named(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="no such split"):
        split_size(dataset, "other")
