"""Route, centreline, PDM-Closed, tracks and reactive traffic against what the official devkit computed."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from irl_vla.epdms.golden_records import by_scene, read_rows
from irl_vla.epdms.inputs import plan_scene
from irl_vla.epdms.tracks import interpolate_tracks
from irl_vla.errors import CheckpointError
from irl_vla.geometry import wrap_angle
from irl_vla.judge.official.__main__ import main
from irl_vla.judge.official.compare import compare_folder
from irl_vla.judge.official.observation import Comparison
from irl_vla.judge.official.planning import frame_objects_of, map_of, moment_of
from irl_vla.scene import OBJECT_NAMES

INPUTS = Path(__file__).parent / "inputs"
SCORER_DATA = Path(__file__).parent / "data"
METRES = 1e-6


@pytest.fixture(scope="module")
def comparisons() -> dict[str, Comparison]:
    return {item.column: item for item in compare_folder(INPUTS)}


def test_everything_recorded_is_computed_again(comparisons):
    assert {name: item.mismatches for name, item in comparisons.items() if item.mismatches} == {}
    rows = {name: item.rows for name, item in comparisons.items()}
    assert rows["synthetic.chosen"] == rows["synthetic_carryover.chosen"] == 44
    assert rows["synthetic.prop_nc"] == 660
    assert rows["graph_cases.route_corrected"] == 80
    assert rows["lane_cases.lane_path"] == 150
    assert rows["synthetic_reactive_tracks.tokens"] == 88 * 41
    assert rows["synthetic_reactive_tracks.heading"] == len(read_rows(INPUTS, "synthetic_reactive_tracks"))


def test_the_synthetic_scenes_exercise_the_hard_cases():
    """What the comparison above would prove nothing without."""
    names = ("map_lanes", "map_roadblocks", "map_areas", "tracks_now", "lights_now")
    parts = {name: by_scene(read_rows(INPUTS, f"synthetic_{name}"), "scene") for name in names}
    planned = []
    for row in read_rows(INPUTS, "synthetic_scenes"):
        rows = {name: groups.get(row["token"], []) for name, groups in parts.items()}
        view = map_of(row["token"], *(rows[name] for name in names[:3]))
        planned.append((row, plan_scene(view, moment_of(row, view, rows["tracks_now"], rows["lights_now"]))))
    assert sum(list(planned.followed.repair.blocks) != row["route_in"] for row, planned in planned) >= 10
    assert sum(planned.followed.repair.blocks != planned.followed.repair.before_loop_cut for _, planned in planned) >= 5
    assert any(not planned.followed.search.found for _, planned in planned)
    assert any((planned.reference.details.tlc == 0).any() for _, planned in planned)
    assert any((planned.reference.states[..., 1] < 0).any() for _, planned in planned)
    assert any(planned.reference.touched for _, planned in planned)
    assert len({planned.reference.chosen for _, planned in planned}) >= 5


def test_the_recorded_traffic_depends_on_the_plan_and_loses_vehicles():
    """Both must happen, or the comparison of traffic could not tell a simulation from a replay."""
    steps: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    for row in read_rows(INPUTS, "synthetic_reactive_tracks"):
        steps.setdefault((row["scene"], row["step"]), {}).setdefault(row["plan"], {})[row["token"]] = row["x"]
    last = [plans for (_, step), plans in steps.items() if step == 40 and len(plans) == 2]
    different = [plans for plans in last if plans["human_copy"] != plans["too_fast"]]
    assert len(different) >= 5
    first = {scene: plans for (scene, step), plans in steps.items() if step == 0}
    second = {scene: plans for (scene, step), plans in steps.items() if step == 1}
    lost = [scene for scene in first if set(first[scene]["too_fast"]) - set(second.get(scene, {}).get("too_fast", {}))]
    assert len(lost) >= 5


def test_tracks_are_interpolated_as_recorded():
    recorded = by_scene(read_rows(SCORER_DATA, "agents"))
    for scene, rows in by_scene(read_rows(SCORER_DATA, "tracks_2hz")).items():
        tracks = interpolate_tracks([frame_objects_of([r for r in rows if r["frame"] == frame]) for frame in range(9)])
        expected = {row["token"]: row for row in recorded[scene]}
        assert set(tracks.tokens) == set(expected)
        assert (np.diff(tracks.kinds) >= 0).all()
        for a, token in enumerate(tracks.tokens):
            row = expected[token]
            assert np.flatnonzero(tracks.present[a]).tolist() == row["steps"], (scene, token)
            assert OBJECT_NAMES[tracks.kinds[a]] == row["type"].lower()
            assert tracks.sizes[a].tolist() == [row["length"], row["width"]]
            poses, velocities = tracks.poses[a, row["steps"]], tracks.velocities[a, row["steps"]]
            xy = np.stack([row["x"], row["y"]], axis=-1)
            np.testing.assert_allclose(poses[:, :2], xy, rtol=0, atol=METRES)
            np.testing.assert_allclose(wrap_angle(poses[:, 2] - row["heading"]), 0, atol=METRES)
            np.testing.assert_allclose(velocities, np.stack([row["vx"], row["vy"]], -1), rtol=0, atol=METRES)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A copy of the golden inputs cut down to two scenes."""
    kept = pa.array(["syn000", "syn001"])
    for path in INPUTS.iterdir():
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            key = "token" if "scene" not in table.column_names else "scene"
            pq.write_table(table.filter(pa.compute.is_in(table[key], kept)), tmp_path / path.name)
        else:
            (tmp_path / path.name).write_text("[]" if path.suffix == ".json" else "")
    return tmp_path


def test_the_command_takes_golden_inputs(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(small)]) == 0
    assert "0 mismatches" in capsys.readouterr().out


def test_a_vehicle_in_another_place_is_found(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small / "synthetic_reactive_tracks.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[-1]["x"] += 1e-5
    rows[-2]["token"] = "stranger"
    rows[-2]["step"] = 3
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    assert main([str(small)]) == 1
    shown = capsys.readouterr().out
    assert "0 mismatches" not in shown


def test_a_folder_without_golden_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        CheckpointError, match=r"results\.parquet, synthetic_scenes\.parquet, graph_cases\.json, lane_cases\.json"
    ):
        compare_folder(tmp_path)
    shutil.copy(INPUTS / "synthetic_scenes.parquet", tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "synthetic_map_lanes.parquet" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(("name", "rows"), [("graph_cases", 80), ("lane_cases", 150)])
def test_graphs_and_lanes_may_stand_alone(
    name: str, rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(INPUTS / f"{name}.json", tmp_path)
    with caplog.at_level(logging.INFO):
        assert main([str(tmp_path)]) == 0
    assert f"{rows}" in capsys.readouterr().out
    assert "not compared, since it is not there: results.parquet, synthetic_scenes.parquet" in caplog.text
    cases = json.loads((tmp_path / f"{name}.json").read_text())
    for case in cases:
        case["path_found"] = case["path_found"] is not True
    (tmp_path / f"{name}.json").write_text(json.dumps(cases))
    assert main([str(tmp_path)]) == 1, "a wrong record must be found"
