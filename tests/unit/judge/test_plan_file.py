"""Plan files: what is written is read, and what is wrong is named with file, row and token."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from irl_vla.errors import LogFormatError
from irl_vla.judge.plan_file import read_plan_file, read_plans, write_plans
from tests.unit.epdms.straight_road import plan


def write(path: Path, rows: list[tuple[str | None, Any]], kind: Any = None) -> Path:
    tokens, plans = zip(*rows, strict=True)
    pq.write_table(pa.table({"token": pa.array(tokens, pa.string()), "plan": pa.array(plans, kind)}), path)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    plans = {"b": plan(3.0), "a": plan(7.0) + 0.125}
    write_plans(tmp_path / "new" / "plans.parquet", plans)
    found = read_plans(tmp_path / "new" / "plans.parquet")
    assert list(found) == ["b", "a"]
    for token, expected in plans.items():
        np.testing.assert_array_equal(found[token], expected)
    (row, *_) = pq.read_table(tmp_path / "new" / "plans.parquet").to_pylist()
    assert row["token"] == "b"
    assert row["plan"][:6] == [1.5, 0.0, 0.0, 3.0, 0.0, 0.0], "x, y, heading of 0.5 s, then of 1.0 s"


def test_only_whole_plans_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a: expected a plan of shape \(8, 3\), found \(5, 3\)"):
        write_plans(tmp_path / "plans.parquet", {"a": plan(1.0)[:5]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 24)])
def test_other_lists_of_numbers_are_read_too(tmp_path: Path, kind: Any) -> None:
    path = write(tmp_path / "p.parquet", [("a", plan(2.0).ravel().tolist())], kind)
    np.testing.assert_array_equal(read_plans(path)["a"], plan(2.0))


GOOD = plan(2.0).ravel().tolist()
UNFIT = {
    "short": (GOOD[:15], "row 1: expected 24 numbers (8 poses at 0.5 .. 4.0 s), found 15"),
    "tens": (GOOD * 5, "row 2: expected 24 numbers (8 poses at 0.5 .. 4.0 s), found 120; of poses at 10 Hz take every"),
    "nothing": (None, "row 3: expected 24 numbers (8 poses at 0.5 .. 4.0 s), found 0"),
    "nan": ([float("nan"), *GOOD[1:]], "row 4: expected a finite plan, found NaN or infinity"),
    "null": ([None, *GOOD[1:]], "row 5: expected a finite plan, found NaN or infinity"),
    "global": ([664_430.0, *GOOD[1:]], "row 6: expected metres in the ego frame, found 6.644e+05: global coordinates?"),
    "degrees": ([0.0, 0.0, 45.0, *GOOD[3:]], "row 7: expected a heading in radians, found 45: degrees?"),
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    rows = [("good", GOOD), *((token, values) for token, (values, _) in UNFIT.items())]
    return write(tmp_path / "mixed.parquet", [*rows, ("twice", GOOD), ("twice", GOOD), (None, GOOD), ("last", GOOD)])


def test_unfit_rows_are_named_and_the_rest_is_read(mixed: Path) -> None:
    found = read_plan_file(mixed)
    assert list(found.plans) == ["good", "last"]
    for token, (_, reason) in UNFIT.items():
        assert found.unfit[token].startswith(reason), token
    assert found.unfit["twice"] == "row 9: expected a token once, found it in row 8 too"
    assert found.unfit["row 10"] == "expected a token, found none"
    assert len(found.unfit) == len(UNFIT) + 2


def test_reading_strictly_names_file_rows_and_tokens(mixed: Path) -> None:
    with pytest.raises(LogFormatError) as caught:
        read_plans(mixed)
    assert str(caught.value).startswith(f"{mixed}: 9 unfit plans: ")
    for token, (_, reason) in UNFIT.items():
        assert f"{token}: {reason}" in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogFormatError, match="found no file"):
        read_plans(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("token,plan")
    with pytest.raises(LogFormatError, match="found another content"):
        read_plans(tmp_path / "text.parquet")
    pq.write_table(pa.table({"token": ["a"], "poses": [[1.0]]}), tmp_path / "columns.parquet")
    with pytest.raises(LogFormatError, match="expected the columns token and plan, found token, poses"):
        read_plans(tmp_path / "columns.parquet")
    pq.write_table(pa.table({"token": [1], "plan": [GOOD]}), tmp_path / "numbers.parquet")
    with pytest.raises(LogFormatError, match="token: expected strings, found int64"):
        read_plans(tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"token": ["a"], "plan": ["[1, 2]"]}), tmp_path / "words.parquet")
    with pytest.raises(LogFormatError, match="plan: expected lists of 24 numbers"):
        read_plans(tmp_path / "words.parquet")
