"""The packaged cases: whole, taken from the golden files, and able to fail."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from irl_vla.epdms.golden_records import read_rows
from irl_vla.epdms.self_check import CASES, SelfCheck, self_check
from irl_vla.errors import CheckpointError

GOLDEN = Path(__file__).parents[2] / "golden" / "data"
SHORT = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")
TABLES = sorted(path.stem for path in CASES.glob("*.parquet"))


def test_this_installation_passes() -> None:
    found = self_check()
    assert found.wrong == ()
    assert found.cases == 30
    assert str(found) == "passed (30 cases)"


@pytest.mark.parametrize("name", SHORT)
def test_every_subscore_passes_somewhere_and_fails_somewhere(name: str) -> None:
    values = {row[f"raw_{name}"] for row in read_rows(CASES, "results")}
    assert {0.0, 1.0} <= values
    if name in ("nc", "ddc"):
        assert 0.5 in values


def test_most_failures_stand_alone() -> None:
    """A fault of one sub-score should show under its own name."""
    alone = set()
    for row in read_rows(CASES, "results"):
        lost = [name for name in SHORT if row[f"raw_{name}"] < 1]
        if len(lost) == 1:
            alone.add(lost[0])
    assert alone >= {"tlc", "ddc", "ep", "ttc", "lk", "hc"}


def test_comfort_between_frames_is_covered_both_ways() -> None:
    assert {row["ec"] for row in read_rows(CASES, "ec_cases")} == {0.0, 1.0}


def test_forgiven_violations_and_second_stage_scenes_are_covered() -> None:
    rows = read_rows(CASES, "results")
    assert any(row["raw_dac"] == 0.0 and row["filt_dac"] == 1.0 for row in rows)
    assert {row["scene_type"] for row in read_rows(CASES, "scenes")} == {"ORIGINAL", "SYNTHETIC"}


@pytest.mark.parametrize("table", TABLES)
def test_the_cases_are_rows_of_the_golden_files(table: str) -> None:
    own = read_rows(CASES, table)
    everything = [{key: row[key] for key in own[0]} for row in read_rows(GOLDEN, table)]
    assert all(row in everything for row in own)


def test_the_cases_are_small() -> None:
    assert sum(path.stat().st_size for path in CASES.iterdir()) < 300_000


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    shutil.copytree(CASES, folder)
    return folder


@pytest.mark.parametrize(
    ("table", "column", "row", "quantity"),
    [
        ("results", "raw_tlc", 3, "raw_tlc"),
        ("results", "final_ec_nan", 0, "final_ec_nan"),
        ("results", "progress_raw", 5, "progress_raw"),
        ("ec_cases", "ec", 0, "ec"),
        ("reactive_results", "filt_ego_progress", 1, "filt_ego_progress"),
    ],
)
def test_a_disagreement_is_named(spoiled: Path, table: str, column: str, row: int, quantity: str) -> None:
    rows = pq.read_table(spoiled / f"{table}.parquet").to_pylist()
    rows[row][column] += 0.25
    pq.write_table(pa.Table.from_pylist(rows), spoiled / f"{table}.parquet")
    found = self_check(spoiled)
    assert not found.passed
    assert len(found.wrong) == 1
    assert found.wrong[0].endswith(f": {quantity}")
    assert "failed (1 disagreements in 30 cases" in str(found)


def test_a_number_that_is_none_is_a_disagreement(spoiled: Path) -> None:
    rows = pq.read_table(spoiled / "results.parquet").to_pylist()
    rows[0]["final_ec0"] = np.nan
    pq.write_table(pa.Table.from_pylist(rows), spoiled / "results.parquet")
    assert [item.split(": ")[1] for item in self_check(spoiled).wrong] == ["final_ec0"]


def test_missing_cases_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"polygons\.parquet: expected a golden file"):
        self_check(tmp_path)


def test_a_failure_reads_as_one() -> None:
    assert str(SelfCheck(3, ("a b: raw_nc",))) == "failed (1 disagreements in 3 cases, first a b: raw_nc)"
