"""Shards of labels: what comes back, to which accuracy, and how many bytes it takes."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from irl_vla.errors import CheckpointError
from irl_vla.ledger.storage import Location
from irl_vla.reward.label_shards import LabelledRows, read_label_shard, read_label_shards, write_label_shard
from irl_vla.reward.plan_codes import rounded
from irl_vla.scene import SUBSCORES

EP, EC = SUBSCORES.index("ep"), SUBSCORES.index("ec")
GENERATOR = np.random.default_rng(0)
VOCABULARY = rounded(np.cumsum(GENERATOR.normal(2.0, 1.0, (64, 8, 3)), axis=1)).astype(np.float64)


def labels(rows: int, count: int, from_vocabulary: float) -> LabelledRows:
    """Random sub-scores of random plans, of which a share is in the vocabulary."""
    plans = rounded(np.cumsum(GENERATOR.normal(2.0, 1.0, (rows, count, 8, 3)), axis=2))
    known = GENERATOR.random((rows, count)) < from_vocabulary
    plans[known] = VOCABULARY[GENERATOR.integers(0, len(VOCABULARY), known.sum())]
    raw = GENERATOR.choice([0.0, 0.5, 1.0], (rows, count, len(SUBSCORES)), p=[0.1, 0.1, 0.8]).astype(np.float32)
    raw[..., EP], raw[..., EC] = GENERATOR.random((rows, count)), np.nan
    human = np.where(np.arange(rows) % 2, np.nan, 1.0)[:, None] * raw[:, 0]
    return LabelledRows(
        tokens=np.array([f"{row:016x}" for row in range(rows)]),
        rows=np.arange(7, 7 + rows),
        plans=plans,
        source=GENERATOR.integers(0, 11, (rows, count)).astype(np.int8),
        raw=raw,
        progress_m=GENERATOR.uniform(0.0, 80.0, (rows, count)).astype(np.float32),
        reference_m=GENERATOR.uniform(0.0, 80.0, rows).astype(np.float32),
        human=human.astype(np.float32),
    )


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_all_comes_back_exactly_but_ep_and_progress(tmp_path, share):
    shard, written = Location.of(tmp_path / "log.parquet"), labels(5, 12, share)
    write_label_shard(shard, written, VOCABULARY, "abc")
    found = read_label_shard(shard, VOCABULARY, 12, "abc")
    for name in ("tokens", "rows", "plans", "source", "reference_m", "human"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(written, name).dtype
    exact = [index for index in range(len(SUBSCORES)) if index != EP]
    np.testing.assert_array_equal(found.raw[..., exact], written.raw[..., exact])
    np.testing.assert_allclose(found.raw[..., EP], written.raw[..., EP], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.progress_m, written.progress_m, rtol=0, atol=5.1e-3)


def test_no_ep_and_full_ep_stay_what_they_are(tmp_path):
    shard, written = Location.of(tmp_path / "log.parquet"), labels(1, 2, 0.0)
    written.raw[0, :, EP] = [0.0, 1.0]
    write_label_shard(shard, written, VOCABULARY, "abc")
    np.testing.assert_array_equal(read_label_shard(shard, VOCABULARY, 2, "abc").raw[0, :, EP], [0.0, 1.0])


@pytest.mark.parametrize(("share", "bound"), [(1.0, 40.0), (0.0, 80.0)])
def test_a_label_takes_few_bytes(tmp_path, share, bound):
    """Random numbers, which nothing compresses: real plans and scores take less."""
    shard = Location.of(tmp_path / "log.parquet")
    write_label_shard(shard, labels(20, 64, share), VOCABULARY, "abc")
    assert shard.size_bytes() / (20 * 64) <= bound


def test_another_kind_of_sub_score_is_refused(tmp_path):
    other = labels(1, 2, 0.0)
    other.raw[0, 1, 0] = 0.25
    with pytest.raises(ValueError, match=r"expected nc, dac, .* of 0, 1/2 or 1, found \[.*0\.25"):
        write_label_shard(Location.of(tmp_path / "log.parquet"), other, VOCABULARY, "abc")


def test_shards_of_another_set_and_damaged_ones_are_named(tmp_path):
    path = tmp_path / "log.parquet"
    shard = Location.of(path)
    write_label_shard(shard, labels(2, 4, 0.5), VOCABULARY, "abc")
    with pytest.raises(CheckpointError, match=r"log\.parquet: expected a shard of label set other, found 'abc'"):
        read_label_shard(shard, VOCABULARY, 4, "other")
    with pytest.raises(CheckpointError, match=r"log\.parquet: expected labels of 5 plans a row"):
        read_label_shard(shard, VOCABULARY, 5, "abc")
    with pytest.raises(CheckpointError, match=r"log\.parquet: expected labels of 4 plans a row"):
        read_label_shard(shard, VOCABULARY[:2], 4, "abc")
    pq.write_table(pq.read_table(path).drop_columns(["ep"]), path)
    with pytest.raises(CheckpointError, match=r"log\.parquet: expected labels"):
        read_label_shard(shard, VOCABULARY, 4, "abc")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"log\.parquet: expected labels"):
        read_label_shard(shard, VOCABULARY, 4, "abc")


def test_shards_come_out_by_row_and_their_plans_lie_on_disk(tmp_path):
    first, second = (replace(labels(2, 4, 0.5), rows=np.array(rows)) for rows in ([3, 8], [0, 5]))
    shards = [Location.of(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    for shard, written in zip(shards, (first, second), strict=True):
        write_label_shard(shard, written, VOCABULARY, "abc")
    found = read_label_shards(shards, VOCABULARY, 4, "abc")
    one, other = (read_label_shard(shard, VOCABULARY, 4, "abc") for shard in shards)
    np.testing.assert_array_equal(found.rows, [0, 3, 5, 8])
    for name in ("tokens", "plans", "source", "raw", "progress_m", "reference_m", "human"):
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(getattr(found, name), np.stack([b[0], a[0], b[1], a[1]]))
    for name in ("plans", "source", "raw", "progress_m"):
        assert isinstance(getattr(found, name), np.memmap)
