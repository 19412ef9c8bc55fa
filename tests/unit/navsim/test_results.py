from pathlib import Path

import numpy as np
import pytest

from irl_vla.epdms.scorer import final_score
from irl_vla.errors import CheckpointError
from irl_vla.navsim.results import (
    TWO_STAGE_SUMMARIES,
    OfficialResults,
    one_stage_results,
    read_results,
    two_stage_results,
    write_results,
)
from irl_vla.scene import OFFICIAL_SUBSCORES, SUBSCORES

REAL = Path(__file__).parents[4] / "shared" / "navsim" / "real_results_navhard.csv"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="shared/navsim/real_results_navhard.csv is not there")
NAN = float("nan")


def assert_same(left: OfficialResults, right: OfficialResults) -> None:
    assert left.tokens == right.tokens
    for name in ("second_stage", "valid", "subscores", "score"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert list(left.summary) == list(right.summary)
    for token, means in left.summary.items():
        np.testing.assert_array_equal(means.stage_one, right.summary[token].stage_one)
        np.testing.assert_array_equal(means.stage_two, right.summary[token].stage_two)
        np.testing.assert_array_equal(means.score, right.summary[token].score)


def one_stage() -> OfficialResults:
    subscores = np.array([[1, 1, 1, 1, 0.1 + 0.2, 1, 1, 1, NAN], [1, 0, 1, 1, 0.5, 1, 0, 1, 1], [NAN] * 9])
    return one_stage_results(["t0", "t1", "t2"], subscores, np.array([0.75, 0.0, NAN]))


def two_stage() -> OfficialResults:
    subscores = np.linspace(0, 1, 27).reshape(3, 9)
    stages = (np.full(10, 0.5), np.full(10, 0.25), np.full(10, 0.125))
    return two_stage_results(["a", "b", "c"], np.array([False, True, True]), subscores, np.arange(3) / 2, stages)


def test_one_stage_file(tmp_path: Path) -> None:
    write_results(tmp_path / "x.csv", one_stage())
    header, first, second, failed, mean = (tmp_path / "x.csv").read_text().splitlines()
    assert header == (
        ",token,valid,no_at_fault_collisions,drivable_area_compliance,driving_direction_compliance,"
        "traffic_light_compliance,ego_progress,time_to_collision_within_bound,lane_keeping,history_comfort,"
        "two_frame_extended_comfort,score"
    )
    assert first == "0,t0,True,1.0,1.0,1.0,1.0,0.30000000000000004,1.0,1.0,1.0,,0.75"
    assert second == "1,t1,True,1.0,0.0,1.0,1.0,0.5,1.0,0.0,1.0,1.0,0.0"
    assert failed == "2,t2,False,,,,,,,,,,"
    assert mean == "3,average_all_frames,False,1.0,0.5,1.0,1.0,0.4,1.0,0.5,1.0,1.0,0.375"


def test_two_stage_file(tmp_path: Path) -> None:
    write_results(tmp_path / "x.csv", two_stage())
    lines = [line.split(",") for line in (tmp_path / "x.csv").read_text().splitlines()]
    names = [OFFICIAL_SUBSCORES[name] for name in SUBSCORES]
    stages = [f"{name}_{stage}" for stage in ("stage_one", "stage_two") for name in names]
    assert lines[0] == ["", "token", "valid", *stages, "score"]
    assert lines[1][3:5] == ["0.0", repr(1 / 26)]
    assert lines[1][12:21] == [""] * 9
    assert lines[2][3:12] == [""] * 9
    one, two, combined = lines[4:]
    assert [line[1] for line in (one, two, combined)] == list(TWO_STAGE_SUMMARIES)
    assert one[3:] == ["0.5"] * 9 + [""] * 9 + ["0.5"]
    assert two[3:] == [""] * 9 + ["0.25"] * 9 + ["0.25"]
    assert combined[3:] == ["0.5"] * 9 + ["0.25"] * 9 + ["0.125"]


@pytest.mark.parametrize("made", [one_stage, two_stage])
def test_files_come_back(tmp_path: Path, made: object) -> None:
    results = made()  # type: ignore[operator]
    write_results(tmp_path / "x.csv", results)
    assert_same(read_results(tmp_path / "x.csv"), results)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with pytest.raises(CheckpointError, match=r"x\.csv: expected a results file"):
        read_results(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(CheckpointError, match=r"x\.csv: expected the columns token, valid"):
        read_results(path)
    write_results(path, one_stage())
    text = path.read_text()
    path.write_text(text.replace("t1,True", "t1,maybe"))
    with pytest.raises(CheckpointError, match=r"x\.csv: line 3: .*13 cells: 1, t1, maybe"):
        read_results(path)
    path.write_text(text.replace("0.75", "high"))
    with pytest.raises(CheckpointError, match=r"x\.csv: line 2: .*'high'"):
        read_results(path)
    path.write_text(text.rsplit("\n", 2)[0] + "\n")
    with pytest.raises(CheckpointError, match="expected the last rows average_all_frames"):
        read_results(path)


@needs_real
def test_real_rows_follow_from_their_subscores() -> None:
    real = read_results(REAL)
    assert real.two_stages
    assert (int((~real.second_stage).sum()), int(real.second_stage.sum()), bool(real.valid.all())) == (450, 5462, True)
    assert {len(token) for token in np.array(real.tokens)[real.second_stage]} == {17}
    np.testing.assert_allclose(final_score(real.subscores), real.score, rtol=0, atol=1e-12)


@needs_real
def test_real_summaries_as_far_as_they_follow() -> None:
    """Stage two and the combined score need end points and mapping, which the file lacks; bounds they have."""
    real = read_results(REAL)
    one, two, combined = (real.summary[token] for token in TWO_STAGE_SUMMARIES)
    first = ~real.second_stage
    np.testing.assert_allclose(one.stage_one, real.subscores[first].mean(axis=0), rtol=0, atol=1e-12)
    assert one.score == pytest.approx(real.score[first].mean(), abs=1e-12)
    np.testing.assert_array_equal(combined.stage_one, one.stage_one)
    np.testing.assert_array_equal(combined.stage_two, two.stage_two)
    assert real.score[real.second_stage].min() <= two.score <= real.score[real.second_stage].max()
    assert combined.score <= min(one.score, two.score)  # a mean of products of shares


@needs_real
def test_real_file_is_reproduced_byte_by_byte(tmp_path: Path) -> None:
    write_results(tmp_path / "x.csv", read_results(REAL))
    assert (tmp_path / "x.csv").read_bytes() == REAL.read_bytes()
