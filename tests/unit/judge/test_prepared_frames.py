"""Which frames a policy is validated on."""

from pathlib import Path

import pytest

from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.judge.one_stage import FrameId, prepared_frames
from tests.unit.reward.roads import write_world


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    folder: Path = tmp_path_factory.mktemp("world")
    return PreparedStore.open(write_world(folder, rows=2)[1])


def frame(number: int) -> FrameId:
    return FrameId(f"{number:016x}", "log", "group", "")


def test_frames_that_are_not_prepared_are_counted_and_named(
    store: PreparedStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert prepared_frames(store, [frame(0), frame(7), frame(1)], "val") == [frame(0), frame(1)]
    assert "1 of 3 scenes are missing and left out: 0000000000000007" in caplog.text
    assert f"split val: among the prepared scenes {store.folder}" in caplog.text
    caplog.clear()
    assert prepared_frames(store, [frame(1)], "val") == [frame(1)]
    assert not caplog.text


def test_a_long_list_is_cut(store: PreparedStore, caplog: pytest.LogCaptureFixture) -> None:
    prepared_frames(store, [frame(number) for number in range(20)], "val")
    assert "18 of 20 scenes" in caplog.text
    assert "000b, ..." in caplog.text
    assert "000c" not in caplog.text


def test_a_foreign_store_is_an_error(store: PreparedStore) -> None:
    with pytest.raises(SceneError, match=r"split val: among the prepared scenes .*expected 1 scenes, found none"):
        prepared_frames(store, [frame(9)], "val")
