"""What a token bank's folder is cleared of before shards are made."""

from pathlib import Path

import pytest

from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenLayout, bank_artefact
from irl_vla.train.bank import begin

LAYOUT = TokenLayout({"ego": 1}, 2)
LEFT = ".log.arrow.x1y2.arrow"


@pytest.mark.parametrize("is_whole", [False, True])
def test_what_a_killed_writer_left_is_removed_before_shards_are_made(tmp_path: Path, is_whole: bool) -> None:
    bank = bank_artefact(Location.of(tmp_path), LAYOUT, "p", "s")
    if is_whole:
        bank.finish({"shards": [["log", 3]], "rows": 3})
    (tmp_path / LEFT).write_bytes(b"half")
    assert begin(bank, {"log": 3}, LAYOUT) == ["log"]
    assert bank.folder.children() == ["artefact.json"]


def test_a_bank_that_is_whole_is_only_read(tmp_path: Path) -> None:
    bank = bank_artefact(Location.of(tmp_path), LAYOUT, "p", "s")
    bank.finish({"shards": [], "rows": 0})
    (tmp_path / LEFT).write_bytes(b"half")
    assert begin(bank, {}, LAYOUT) == []
    assert bank.is_whole()
    assert (tmp_path / LEFT).exists()
