"""Which shards of a token bank are made, and what is said of a bank that another policy wrote."""

from pathlib import Path

import numpy as np
import pytest

from irl_vla.errors import ConfigError
from irl_vla.ledger.artefact import Artefact
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import Encoded, TokenLayout, bank_artefact, finish_bank, write_bank_shard
from irl_vla.train.bank import begin
from tests.unit.policy.test_token_bank import rows

LAYOUT = TokenLayout({"ego": 1}, 2)
REMEDY = "run `irl-vla evaluate`"
LEFT = ".log.arrow.x1y2.arrow"
SHARDS = {"a": 1, "b": 1}


def bank(folder: Path, perception: str) -> Artefact:
    return bank_artefact(Location.of(folder), LAYOUT, perception, "samples", REMEDY)


def write(whole: Artefact, *names: str) -> None:
    for name in names:
        write_bank_shard(whole, name, LAYOUT, [Encoded(np.zeros((1, 1, 2)), rows([0.0]))])


def test_what_is_missing_is_made(tmp_path: Path) -> None:
    found = bank(tmp_path, "one")
    assert begin(found, SHARDS, LAYOUT) == ["a", "b"]
    write(found, "a")
    assert begin(found, SHARDS, LAYOUT) == ["b"]
    write(found, "b")
    finish_bank(found, SHARDS)
    assert begin(found, SHARDS, LAYOUT) == []
    assert found.is_whole()
    (tmp_path / "a.arrow").unlink()
    assert begin(found, SHARDS, LAYOUT) == ["a"]
    assert not found.is_whole()


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_bank_of_another_perception_is_named_with_what_differs_and_what_makes_it(
    tmp_path: Path, is_whole: bool
) -> None:
    """Imitation never makes the bank of the split that is judged on: its command would not help."""
    stale = bank(tmp_path, "one")
    stale.begin()
    write(stale, "a", "b")
    if is_whole:
        finish_bank(stale, SHARDS)
    with pytest.raises(
        ConfigError, match=r"perception: 'one' then, 'two' now.*delete the folder and run `irl-vla evalu"
    ):
        begin(bank(tmp_path, "two"), SHARDS, LAYOUT)


@pytest.mark.parametrize("is_whole", [False, True])
def test_what_a_killed_writer_left_is_removed_before_shards_are_made(tmp_path: Path, is_whole: bool) -> None:
    found = bank(tmp_path, "p")
    if is_whole:
        found.finish({"shards": [["log", 3]], "rows": 3})
    (tmp_path / LEFT).write_bytes(b"half")
    assert begin(found, {"log": 3}, LAYOUT) == ["log"]
    assert found.folder.children() == ["artefact.json"]


def test_a_bank_that_is_whole_is_only_read(tmp_path: Path) -> None:
    found = bank(tmp_path, "p")
    found.finish({"shards": [], "rows": 0})
    (tmp_path / LEFT).write_bytes(b"half")
    assert begin(found, {}, LAYOUT) == []
    assert found.is_whole()
    assert (tmp_path / LEFT).exists()
