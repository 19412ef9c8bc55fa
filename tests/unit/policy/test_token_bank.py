import pickle
from pathlib import Path

import numpy as np
import pytest

from irl_vla.errors import CheckpointError
from irl_vla.ledger.artefact import RECORD_NAME
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import (
    BankRows,
    Encoded,
    TokenBank,
    TokenLayout,
    bank_artefact,
    columns_of,
    write_bank_shard,
)
from tests.unit.policy.banks import store_bank

LAYOUT = TokenLayout({"meta": 1, "bev": 2, "map": 1, "object": 2, "ego": 2}, 4)


def rows(times_s: list[float], log: str = "log", view: str = "original") -> BankRows:
    count = len(times_s)
    names = np.array([f"{log}-{time}-{view}" for time in times_s])
    full = np.full
    return BankRows(
        token=names,
        scene_token=names,
        view=full(count, view),
        log_name=full(count, log),
        group=full(count, log),
        kind=full(count, ""),
        timestamp_us=(np.array(times_s) * 1e6).astype(np.int64),
        ego_history=np.arange(count * 28, dtype=np.float32).reshape(count, 4, 7),
        command=np.ones(count, np.int64),
        plan=np.arange(count * 24, dtype=np.float32).reshape(count, 8, 3),
        has_plan=np.arange(count) % 4 != 1,
        has_human=np.arange(count) % 2 == 0,
    )


def scene_tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, LAYOUT.total, LAYOUT.width)).astype(np.float16)


def write(path: Path, *parts: BankRows, seed: int = 0, rows_per_shard: int = 100) -> np.ndarray:
    tokens = np.concatenate([scene_tokens(len(part), seed + index) for index, part in enumerate(parts)])
    columns = [columns_of(part) for part in parts]
    together = BankRows(**{name: np.concatenate([part[name] for part in columns]) for name in columns[0]})
    store_bank(path, LAYOUT, "perception-a", tokens, together, rows_per_shard=rows_per_shard)
    return tokens


@pytest.mark.parametrize("rows_per_shard", [1, 100, 256, 1000])
def test_rows_come_back_whatever_the_size_of_shards(tmp_path: Path, rows_per_shard: int) -> None:
    parts = [rows([float(i) for i in range(size)], log=f"log{size}") for size in (3, 250, 400, 1)]
    tokens = write(tmp_path, *parts, rows_per_shard=rows_per_shard)
    bank = TokenBank.open(tmp_path, "perception-a")
    assert len(bank) == 654
    wanted = np.array([653, 0, 255, 256, 257, 511, 512, 0, 300])
    np.testing.assert_array_equal(bank.tokens(wanted), tokens[wanted])
    np.testing.assert_array_equal(bank.tokens(np.arange(654)), tokens)
    for name, column in columns_of(parts[1]).items():
        np.testing.assert_array_equal(getattr(bank, name)[3:253], column)


def test_only_neighbouring_original_frames_of_a_log_are_linked(tmp_path: Path) -> None:
    # rows: log a at 1.0, 0.5, 2.0 (gap), 2.55, 2.85 s; its shifted view at 1.5 s; log b at 1.5 s
    write(tmp_path, rows([1.0, 0.5, 2.0, 2.55, 2.85], "a"), rows([1.5], "a", view="s1"), rows([1.5], "b"))
    bank = TokenBank.open(tmp_path)
    assert bank.previous_row.tolist() == [1, -1, -1, 2, 3, -1, -1]


def test_kinds_of_tokens_keep_their_order(tmp_path: Path) -> None:
    write(tmp_path, rows([0.0]))
    assert list(TokenBank.open(tmp_path).layout.counts) == ["meta", "bev", "map", "object", "ego"]


def test_layout_says_where_kinds_lie() -> None:
    assert LAYOUT.total == 8
    assert LAYOUT.slices["map"] == slice(3, 4)
    assert LAYOUT.slices["ego"] == slice(6, 8)


def test_a_bank_travels_as_its_path(tmp_path: Path) -> None:
    tokens = write(tmp_path, rows([0.0, 0.5]))
    data = pickle.dumps(TokenBank.open(tmp_path))
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).tokens([1]), tokens[1:])


def test_empty_bank(tmp_path: Path) -> None:
    write(tmp_path, rows([]))
    bank = TokenBank.open(tmp_path)
    assert len(bank) == 0
    assert bank.tokens([]).shape == (0, 8, 4)


def test_other_perception_is_refused(tmp_path: Path) -> None:
    write(tmp_path, rows([0.0]))
    with pytest.raises(CheckpointError, match=r"perception-b.*perception-a"):
        TokenBank.open(tmp_path, "perception-b")


def test_a_bank_that_is_not_finished_is_none(tmp_path: Path) -> None:
    bank = bank_artefact(Location.of(tmp_path), LAYOUT, "p", "d")
    bank.begin()
    write_bank_shard(bank, "a", LAYOUT, [Encoded(scene_tokens(1), rows([0.0]))])
    with pytest.raises(CheckpointError, match="half-written"):
        TokenBank.open(tmp_path)
    with pytest.raises(CheckpointError, match=f"no {RECORD_NAME}"):
        TokenBank.open(tmp_path / "absent")


def test_a_shard_that_is_cut_off_is_named_with_a_remedy(tmp_path: Path) -> None:
    write(tmp_path, rows([0.0, 0.5]), rows_per_shard=1)
    shard = tmp_path / "shard-000001.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"shard-000001\.arrow: .*delete it and run `irl-vla pretrain` again"):
        TokenBank.open(tmp_path)


def test_overflowing_tokens_are_refused_by_name(tmp_path: Path) -> None:
    tokens = scene_tokens(2).astype(np.float32)
    tokens[1, 0, 0] = 1e6
    bank = bank_artefact(Location.of(tmp_path), LAYOUT, "p", "d")
    with pytest.raises(CheckpointError, match=r"log-0\.5-original are not finite in half precision"):
        write_bank_shard(bank, "a", LAYOUT, [Encoded(tokens, rows([0.0, 0.5]))])
    assert not (tmp_path / "a.arrow").exists()


@pytest.mark.parametrize("changed", [{"perception_hash": "q"}, {"samples": "e"}])
def test_perception_and_samples_are_its_identity(changed: dict[str, str]) -> None:
    given = {"perception_hash": "p", "samples": "d"}
    place = Location.of("/nowhere")
    one, other = (bank_artefact(place, LAYOUT, **values) for values in (given, given | changed))
    assert one.fingerprint != other.fingerprint
