"""The fingerprint of a data set: every change of content shows, and nothing else."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from irl_vla.dataset import fingerprint as module
from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.fingerprint import (
    CACHE_NAME,
    DatasetFingerprint,
    dataset_fingerprint,
    describe_difference,
    generator_identity,
)
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.splits import LogLayout, write_layouts, write_split
from irl_vla.errors import CheckpointError, LogFormatError
from irl_vla.ledger.files import Manifest

from .example import LOG, write_example

OTHER = LOG.replace("veh-01", "veh-02")
WORLD = Manifest("world", 2, {"logs": 3}, 7, inputs={"generator": "1"}, extra={"package": "0.1.0"})


@pytest.fixture
def own(tmp_path: Path) -> Dataset:
    found: Dataset = write_example(tmp_path / "data", logs=(LOG, OTHER), count=12)
    for path in found.root.rglob("*"):  # written long ago
        os.utime(path, (1.6e9, 1.6e9))
    return found


def look(dataset: Dataset, cache: Path | None = None) -> DatasetFingerprint:
    return dataset_fingerprint(dataset, ["train"], cache)


def flip_byte(path: Path) -> None:
    """Another content of the same size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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
    ("change", "named"),
    [
        (edit_log, "the logs (2 then, 2 now) differ"),
        (repaint, "the sensor files differ"),
        (lose_sweep, "the sensor files differ"),
        (add_map, "the maps differ"),
        (edit_map, "the maps differ"),
        (narrow, "the split files or layouts differ"),
        (move_layout, "the split files or layouts differ"),
    ],
)
def test_every_change_shows_and_is_named(
    own: Dataset, tmp_path: Path, change: Callable[[Dataset], None], named: str
) -> None:
    before = look(own, tmp_path / "cache")
    assert (before.kind, before.logs, before.generator) == ("recorded", 2, None)
    change(own)
    after = look(own, tmp_path / "cache")
    assert after.value != before.value
    assert describe_difference(before, after) == named
    assert (after.content == before.content) == ("sensor" in named)
    assert after == look(own), "what is remembered and what is read agree"


def test_fewer_logs_are_counted(own: Dataset) -> None:
    before = look(own)
    write_split(own.root, "train", "mini", SceneFilter(num_future_frames=8, frame_interval=1, log_names=(LOG,)))
    (own.root / f"navsim_logs/mini/{OTHER}.pkl").unlink()
    after = look(own)
    assert after.logs == 1
    assert describe_difference(before, after) == (
        "the logs (2 then, 1 now), the split files or layouts and the sensor files differ"
    )


def test_a_copy_is_the_same_data(own: Dataset, tmp_path: Path) -> None:
    root = Path(shutil.copytree(own.root, tmp_path / "copy", copy_function=shutil.copyfile))
    copied = Dataset(root, root / "maps", root / "train_test_split")
    assert look(copied) == look(own)
    assert describe_difference(look(copied), look(own)) == "nothing differs"


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
    WORLD.write(own.root)
    found = look(own)
    assert (found.kind, found.generator) == ("generated", generator_identity(WORLD))
    assert found.content == recorded.content
    replace(WORLD, extra={"package": "0.2.0"}).write(own.root)
    assert look(own) == found
    for other in (
        replace(WORLD, seed=8),
        replace(WORLD, config={"logs": 4}),
        replace(WORLD, inputs={"generator": "2"}),
    ):
        other.write(own.root)
        assert describe_difference(found, look(own)) == "the generator's settings, seed or version differ"
    assert describe_difference(recorded, found).startswith("the kinds of data (recorded then, generated now) and")


def test_bad_input_is_named(own: Dataset) -> None:
    (own.root / "manifest.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected the manifest of a data set"):
        look(own)
    with pytest.raises(LogFormatError, match="logs that are missing"):
        write_split(own.root, "train", "mini", SceneFilter(log_names=("absent",)))
        look(own)
