"""Rows in shards: any cut gives the same rows; shards that do not fit are named."""

import errno
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from irl_vla.errors import CheckpointError
from irl_vla.ledger import arrays
from irl_vla.ledger.arrays import (
    BrokenShardError,
    RowLayout,
    ShardedRows,
    open_shard,
    row_bytes,
    scratch_array,
    unfit_shards,
    write_rows,
)
from irl_vla.ledger.code import CodeVersion
from irl_vla.ledger.storage import Location

LAYOUT: RowLayout = {
    "name": ((), np.str_),
    "time": ((), np.int64),
    "is_day": ((), np.bool_),
    "image": ((2, 3, 3), np.uint8),
    "valid": ((2,), np.bool_),
    "half": ((4,), np.float16),
}
ROWS = 11
REMEDY = "run `make`"


def make_rows(count: int = ROWS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "name": np.array([f"{'n' * row}-{row}" for row in range(count)]),
        "time": np.arange(count) * 10**12,
        "is_day": rng.random(count) < 0.5,
        "image": rng.integers(0, 255, (count, 2, 3, 3), dtype=np.uint8),
        "valid": rng.random((count, 2)) < 0.5,
        "half": rng.normal(size=(count, 4)).astype(np.float16),
    }


def store(folder: Path, cuts: list[int], fingerprint: str = "a1", batch: int = 2) -> dict[str, int]:
    rows, shards = make_rows(), {}
    for start, end in zip([0, *cuts], [*cuts, ROWS], strict=True):
        parts = [slice(i, min(i + batch, end)) for i in range(start, end, batch)]
        batches = [{name: values[part] for name, values in rows.items()} for part in parts]
        shards[f"from-{start}"] = write_rows(folder / f"from-{start}.arrow", LAYOUT, batches, fingerprint)
    return shards


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 9], [2, 4, 6, 8, 10]])
@pytest.mark.parametrize("batch", [1, 4])
def test_any_cut_gives_the_same_rows(tmp_path: Path, cuts: list[int], batch: int) -> None:
    opened = ShardedRows.open(Location.of(tmp_path), store(tmp_path, cuts, batch=batch), LAYOUT, "a1", REMEDY)
    assert len(opened) == ROWS
    wanted, many = np.array([10, 0, 3, 3, 9]), np.tile(np.arange(ROWS), 8)[::-1]
    for name, values in make_rows().items():
        assert opened.column(name).dtype == values.dtype
        np.testing.assert_array_equal(opened.column(name), values)
        np.testing.assert_array_equal(opened.take(name, wanted), values[wanted])
        np.testing.assert_array_equal(opened.take(name, many), values[many])


def test_numbers_are_views_of_the_file_and_standard_arrow(tmp_path: Path) -> None:
    store(tmp_path, [])
    shard = open_shard(tmp_path / "from-0.arrow", LAYOUT, "a1", REMEDY)
    assert not shard.chunks["image"][0].flags.owndata
    assert not shard.chunks["image"][0].flags.writeable
    with pa.OSFile(str(tmp_path / "from-0.arrow")) as stream:
        table = pa.ipc.open_file(stream).read_all()
    np.testing.assert_array_equal(table["image"].combine_chunks().to_numpy_ndarray(), make_rows()["image"])


def test_no_shards_are_no_rows(tmp_path: Path) -> None:
    opened = ShardedRows.open(Location.of(tmp_path), {}, LAYOUT, "a1", REMEDY)
    assert len(opened) == 0
    assert opened.take("image", []).shape == (0, 2, 3, 3)


def test_a_shard_of_another_artefact_is_named(tmp_path: Path) -> None:
    shards = store(tmp_path, [5])
    store(tmp_path, [], fingerprint="b2")
    for read in (
        lambda: ShardedRows.open(Location.of(tmp_path), shards, LAYOUT, "a1", REMEDY),
        lambda: unfit_shards(Location.of(tmp_path), shards, LAYOUT, "a1", REMEDY),
    ):
        with pytest.raises(CheckpointError, match=r"from-0\.arrow: expected a shard of a1, found one of b2"):
            read()


def test_other_columns_are_refused(tmp_path: Path) -> None:
    shards = store(tmp_path, [])
    other: Any = LAYOUT | {"image": ((2, 3, 4), np.uint8)}
    with pytest.raises(CheckpointError, match="expected the columns"):
        ShardedRows.open(Location.of(tmp_path), shards, other, "a1", REMEDY)


def test_damaged_missing_and_short_shards_are_to_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = store(tmp_path, [2, 4, 6, 8])
    place = Location.of(tmp_path)
    assert unfit_shards(place, shards, LAYOUT, "a1", REMEDY) == []
    (tmp_path / "from-2.arrow").unlink()
    damaged = tmp_path / "from-4.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        found = unfit_shards(place, shards | {"from-8": 4}, LAYOUT, "a1", REMEDY)
    assert found == ["from-2", "from-4", "from-8"]
    assert "from-4.arrow" in caplog.text
    assert "has 3 rows, expected 4" in caplog.text
    with pytest.raises(BrokenShardError, match=r"from-4\.arrow: .*delete it and run `make` again"):
        open_shard(damaged, LAYOUT, "a1", REMEDY)
    damaged.write_bytes(b"")
    with pytest.raises(BrokenShardError):
        open_shard(damaged, LAYOUT, "a1", REMEDY)


def test_shards_of_different_code_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shards = store(tmp_path, [3, 6])
    monkeypatch.setattr(arrays, "code_version", lambda: CodeVersion("0.1", "f" * 40, dirty=False))
    batch = {name: values[3:6] for name, values in make_rows().items()}
    write_rows(tmp_path / "from-3.arrow", LAYOUT, [batch], "a1")
    with caplog.at_level(logging.WARNING):
        ShardedRows.open(Location.of(tmp_path), shards, LAYOUT, "a1", REMEDY)
    assert sum("different code" in record.message for record in caplog.records) == 1
    assert "f" * 8 in caplog.text


def test_a_wrong_shape_is_a_programming_error(tmp_path: Path) -> None:
    rows = make_rows()
    with pytest.raises(ValueError, match="expected rows of shape"):
        write_rows(tmp_path / "x.arrow", LAYOUT, [rows | {"image": rows["image"][..., :2]}], "a1")


def test_a_row_takes_what_its_layout_says(tmp_path: Path) -> None:
    layout: RowLayout = {name: LAYOUT[name] for name in ("time", "is_day", "image", "valid", "half")}
    assert row_bytes(layout) == 8 + 1 + 18 + 2 + 8
    assert row_bytes({**layout, "name": LAYOUT["name"]}) == row_bytes(layout) + 32
    sizes = []
    for count in (1000, 3000):
        write_rows(tmp_path / str(count), layout, [make_rows(count)], "x")
        sizes.append((tmp_path / str(count)).stat().st_size)
    assert (sizes[1] - sizes[0]) / 2000 == pytest.approx(row_bytes(layout), rel=0.01)


def test_some_columns_are_the_same_rows(tmp_path: Path) -> None:
    shards = store(tmp_path, [3, 6])
    whole = ShardedRows.open(Location.of(tmp_path), shards, LAYOUT, "a1", REMEDY)
    some = whole.only(["time", "image"])
    assert (some.columns, len(some), some.names) == (["time", "image"], len(whole), whole.names)
    np.testing.assert_array_equal(some.take("image", [7, 1]), whole.take("image", [7, 1]))


def test_a_scratch_array_is_zero_takes_values_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    values = scratch_array((3, 2), np.float32)
    assert isinstance(values, np.memmap)
    np.testing.assert_array_equal(values, np.zeros((3, 2)))
    values[1] = [4.0, 5.0]
    np.testing.assert_array_equal(values, [[0, 0], [4, 5], [0, 0]])
    assert list(tmp_path.iterdir()) == []
    assert scratch_array((0, 2), np.float32).shape == (0, 2)


def test_a_scratch_array_that_does_not_fit_the_disk_is_refused() -> None:
    """Writing to a map without space behind it would kill the process."""
    with pytest.raises(OSError, match=r"No space left|File too large") as caught:
        scratch_array((1 << 52,), np.float32)
    assert caught.value.errno in {errno.ENOSPC, errno.EFBIG}
