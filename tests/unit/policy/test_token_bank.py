import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from irl_vla.errors import CheckpointError
from irl_vla.policy.token_bank import BankRows, TokenBank, TokenBankWriter, TokenLayout

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


def write(path: Path, *parts: BankRows, seed: int = 0) -> np.ndarray:
    tokens = [scene_tokens(len(part), seed + index) for index, part in enumerate(parts)]
    with TokenBankWriter(path, LAYOUT, "perception-a", seed=3, inputs={"samples": "d"}) as writer:
        for values, part in zip(tokens, parts, strict=True):
            writer.append(values, part)
    return np.concatenate(tokens)


def test_rows_come_back_across_batches(tmp_path: Path) -> None:
    parts = [rows([float(i) for i in range(size)], log=f"log{size}") for size in (3, 250, 400, 1)]
    tokens = write(tmp_path, *parts)
    bank = TokenBank.open(tmp_path, "perception-a")
    assert len(bank) == 654
    wanted = np.array([653, 0, 255, 256, 257, 511, 512, 0, 300])
    np.testing.assert_array_equal(bank.tokens(wanted), tokens[wanted])
    np.testing.assert_array_equal(bank.token, np.concatenate([part.token for part in parts]))
    np.testing.assert_array_equal(bank.ego_history, np.concatenate([part.ego_history for part in parts]))
    for name in ("plan", "has_plan", "has_human"):
        np.testing.assert_array_equal(getattr(bank, name), np.concatenate([getattr(part, name) for part in parts]))


def test_only_neighbouring_original_frames_of_a_log_are_linked(tmp_path: Path) -> None:
    # rows: log a at 1.0, 0.5, 2.0 (gap), 2.55, 2.85 s; its shifted view at 1.5 s; log b at 1.5 s
    write(tmp_path, rows([1.0, 0.5, 2.0, 2.55, 2.85], "a"), rows([1.5], "a", view="s1"), rows([1.5], "b"))
    bank = TokenBank.open(tmp_path)
    assert bank.previous_row.tolist() == [1, -1, -1, 2, 3, -1, -1]


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


def test_a_bank_of_an_older_schema_is_refused_with_the_way_to_rebuild_it(tmp_path: Path) -> None:
    write(tmp_path, rows([0.0]))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "schema": 1}))
    with pytest.raises(CheckpointError, match=r"schema 2 of token_bank, found 1; run `irl-vla pretrain` again.*remove"):
        TokenBank.open(tmp_path)


def test_a_bank_that_failed_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TokenBankWriter(tmp_path, LAYOUT, "p", seed=0, inputs={}) as writer:
        writer.append(scene_tokens(1), rows([0.0]))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="no manifest"):
        TokenBank.open(tmp_path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, rows([0.0]))
    data = (tmp_path / "rows.arrow").read_bytes()
    (tmp_path / "rows.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="run `irl-vla pretrain` again"):
        TokenBank.open(tmp_path)


def test_overflowing_tokens_are_refused(tmp_path: Path) -> None:
    tokens = scene_tokens(1).astype(np.float32)
    tokens[0, 0, 0] = 1e6
    with (
        pytest.raises(CheckpointError, match="half precision"),
        TokenBankWriter(tmp_path, LAYOUT, "p", 0, {}) as writer,
    ):
        writer.append(tokens, rows([0.0]))
