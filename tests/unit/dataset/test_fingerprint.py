"""The fingerprint of a data set: every change of content shows, and nothing else."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from irl_vla.dataset import fingerprint as module
from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.fingerprint import (
    CACHE_NAME,
    DatasetFingerprint,
    content_hashes,
    dataset_fingerprint,
    hash_cache,
)
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.splits import LogLayout, write_layouts, write_split
from irl_vla.errors import CheckpointError, LogFormatError
from irl_vla.ledger.artefact import Identity, Record

from .example import LOG, write_example

OTHER = LOG.replace("veh-01", "veh-02")
WORLD = Identity("dataset", 3, {"logs": 3}, {"generator": "1"}, {"seed": 7})


@pytest.fixture
def own(tmp_path: Path) -> Dataset:
    found: Dataset = write_example(tmp_path / "data", logs=(LOG, OTHER), count=12)
    for path in found.root.rglob("*"):  # written long ago
        os.utime(path, (1.6e9, 1.6e9))
    return found


def look(dataset: Dataset, cache: Path | None = None) -> DatasetFingerprint:
    return dataset_fingerprint(dataset, ["train"], cache)


def write(dataset: Dataset, identity: Identity, code: str) -> None:
    """The record of a generated world."""
    record = Record(identity, (code,), whole=True, facts={})
    (dataset.root / "artefact.json").write_text(record.to_json())


def flip_byte(path: Path) -> None:
    """Another content of the same size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def changed(before: DatasetFingerprint, after: DatasetFingerprint) -> set[str]:
    """Names of the parts that differ."""
    now = asdict(after)
    return {part for part, value in asdict(before).items() if value != now[part]}


def first(dataset: Dataset, pattern: str) -> Path:
    return min(dataset.root.glob(pattern))


def edit_log(dataset: Dataset) -> None:
    flip_byte(first(dataset, "navsim_logs/mini/*.pkl"))


def repaint(dataset: Dataset) -> None:
    flip_byte(first(dataset, f"sensor_blobs/mini/{LOG}/CAM_F0/*.jpg"))


def lose_sweep(dataset: Dataset) -> None:
    first(dataset, f"sensor_blobs/mini/{LOG}/MergedPointCloud/*.pcd").unlink()


def add_map(dataset: Dataset) -> None:
    there = first(dataset, "maps/*/*/map.gpkg")
    new = dataset.maps_root / "us-ma-boston" / "9.12.1817" / "map.gpkg"
    new.parent.mkdir(parents=True)
    shutil.copy2(there, new)


def edit_map(dataset: Dataset) -> None:
    flip_byte(first(dataset, "maps/*/*/map.gpkg"))


def narrow(dataset: Dataset) -> None:
    write_split(dataset.root, "train", "mini", SceneFilter(num_future_frames=8, frame_interval=2))


def move_layout(dataset: Dataset) -> None:
    write_layouts(dataset.root, {LOG: LogLayout("straight-2", "follow")})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (edit_log, "log_files"),
        (repaint, "sensors"),
        (lose_sweep, "sensors"),
        (add_map, "maps"),
        (edit_map, "maps"),
        (narrow, "splits"),
        (move_layout, "splits"),
    ],
)
def test_every_change_shows_in_its_part(
    own: Dataset, tmp_path: Path, change: Callable[[Dataset], None], part: str
) -> None:
    before = look(own, tmp_path / "cache")
    assert (before.kind, before.logs, before.generator) == ("recorded", 2, None)
    change(own)
    after = look(own, tmp_path / "cache")
    assert after.value != before.value
    assert changed(before, after) == {part}
    assert (after.content == before.content) == (part == "sensors")
    assert after == look(own), "what is remembered and what is read agree"


def test_fewer_logs_are_counted(own: Dataset) -> None:
    before = look(own)
    write_split(own.root, "train", "mini", SceneFilter(num_future_frames=8, frame_interval=1, log_names=(LOG,)))
    (own.root / f"navsim_logs/mini/{OTHER}.pkl").unlink()
    after = look(own)
    assert after.logs == 1
    assert changed(before, after) == {"logs", "log_files", "splits", "sensors"}


def test_a_copy_is_the_same_data(own: Dataset, tmp_path: Path) -> None:
    root = Path(shutil.copytree(own.root, tmp_path / "copy", copy_function=shutil.copyfile))
    copied = Dataset(root, root / "maps", root / "train_test_split")
    assert look(copied) == look(own)


def test_logs_of_other_splits_do_not_matter(own: Dataset) -> None:
    write_split(own.root, "train", "mini", SceneFilter(num_future_frames=8, frame_interval=1, log_names=(LOG,)))
    before = look(own)
    flip_byte(own.root / f"navsim_logs/mini/{OTHER}.pkl")
    flip_byte(first(own, f"sensor_blobs/mini/{OTHER}/CAM_F0/*.jpg"))
    assert look(own) == before
    assert dataset_fingerprint(own, ["train", "mini"], None) != before


def test_a_second_call_opens_no_log_and_no_sensor(
    own: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look(own, tmp_path / "cache")

    def refuse(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr(module, "file_hash", refuse)
    monkeypatch.setattr(module, "_sampled_hash", refuse)
    assert look(own, tmp_path / "cache") == before
    with pytest.raises(AssertionError):
        look(own, None)


def test_files_written_just_now_are_not_remembered(own: Dataset, tmp_path: Path) -> None:
    repaint(own)
    look(own, tmp_path / "cache")
    remembered = json.loads((tmp_path / "cache" / CACHE_NAME).read_text())
    assert not any(path.endswith(f"sensor_blobs/mini/{LOG}") for path in remembered)
    assert any(path.endswith(f"sensor_blobs/mini/{OTHER}") for path in remembered)


def test_files_are_remembered_one_by_one_and_for_the_fingerprint(
    own: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(own, tmp_path)
    read: list[Path] = []
    whole = module.file_hash

    def watched(path: Path) -> str:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(module, "file_hash", watched)
    logs = sorted((own.root / "navsim_logs/mini").glob("*.pkl"))
    before = content_hashes(logs, tmp_path)
    assert read == [], "the fingerprint has read them"
    assert list(before) == logs
    assert before[logs[0]] != before[logs[1]]
    assert content_hashes(logs, None) == before
    read.clear()
    flip_byte(logs[0])
    for _ in range(2):  # written just now, so it is never remembered
        after = content_hashes(logs, tmp_path)
        assert after[logs[0]] != before[logs[0]]
        assert after[logs[1]] == before[logs[1]]
    assert read == [logs[0]] * 2


def test_hashes_are_remembered_where_the_user_keeps_such_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert hash_cache() == Path("/c/irl-vla")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert hash_cache() is None


def test_a_broken_cache_is_made_anew(own: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = look(own)
    path = tmp_path / CACHE_NAME
    for text in ("{", "[]", '{"a": 1}'):
        path.write_text(text)
        assert look(own, tmp_path) == before
        assert "everything is read again" in caplog.text
        caplog.clear()
    look(own, tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("place", [0, 100_000, 199_999])
def test_large_sensor_files_are_told_by_size_and_samples(own: Dataset, place: int) -> None:
    path = first(own, f"sensor_blobs/mini/{LOG}/CAM_F0/*.jpg")
    path.write_bytes(bytes(200_000))
    before = look(own)
    data = bytearray(200_000)
    data[place] = 1
    path.write_bytes(data)
    assert look(own) != before
    path.write_bytes(bytes(200_001))
    assert look(own) != before


def test_a_generated_world_says_so_without_the_version_of_the_package(own: Dataset) -> None:
    recorded = look(own)
    write(own, WORLD, "0.1.0")
    found = look(own)
    assert (found.kind, found.generator) == ("generated", WORLD.fingerprint)
    assert found.content == recorded.content
    write(own, WORLD, "0.2.0")
    assert look(own) == found
    for other in (
        replace(WORLD, seeds={"seed": 8}),
        replace(WORLD, settings={"logs": 4}),
        replace(WORLD, inputs={"generator": "2"}),
    ):
        write(own, other, "0.1.0")
        assert changed(found, look(own)) == {"generator"}


def test_bad_input_is_named(own: Dataset) -> None:
    (own.root / "artefact.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"artefact\.json: not a record"):
        look(own)
    (own.root / "artefact.json").unlink()
    with pytest.raises(LogFormatError, match="logs that are missing"):
        write_split(own.root, "train", "mini", SceneFilter(log_names=("absent",)))
        look(own)
