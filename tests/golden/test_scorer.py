"""Agreement with the official evaluator's recorded results, and what must not change them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.golden_records import load_scenes, read_rows
from irl_vla.epdms.records import Polygons, PreparedScene
from irl_vla.epdms.scorer import ScoredPlans, score_plans
from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats, rotate, wrap_angle
from irl_vla.judge.official.__main__ import main
from irl_vla.judge.official.compare import compare_folder

DATA = Path(__file__).parent / "data"
CONFIG = ScorerConfig()


@pytest.fixture(scope="module")
def scenes() -> dict[str, PreparedScene]:
    return load_scenes(DATA)


@pytest.fixture(scope="module")
def plans() -> dict[str, Floats]:
    poses: dict[str, list[list[float]]] = {}
    for row in read_rows(DATA, "results"):
        poses.setdefault(row["scene_id"], []).append(row["poses"])
    return {token: np.array(rows).reshape(-1, 8, 3) for token, rows in poses.items()}


def assert_same(left: ScoredPlans, right: ScoredPlans, tolerance: float = 0.0) -> None:
    exact = [0, 1, 2, 3, 5, 6, 7]
    for name in ("raw", "filtered"):
        np.testing.assert_array_equal(getattr(left, name)[:, exact], getattr(right, name)[:, exact])
        np.testing.assert_allclose(getattr(left, name)[:, 4], getattr(right, name)[:, 4], rtol=0, atol=tolerance)
    np.testing.assert_allclose(left.score, right.score, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(left.collision_step, right.collision_step)
    np.testing.assert_array_equal(left.ttc_step, right.ttc_step)


def test_agreement_with_the_official_evaluator() -> None:
    comparisons = compare_folder(DATA)
    assert {item.column: item.mismatches for item in comparisons if item.mismatches} == {}
    rows = {item.column: item.rows for item in comparisons}
    assert rows["results.raw_nc"] == 5075
    assert rows["reactive.raw_nc"] == 72


def test_batch_equals_loop_and_ignores_the_other_plans(
    scenes: dict[str, PreparedScene], plans: dict[str, Floats]
) -> None:
    order = np.random.default_rng(0).permutation(29)
    for token in list(scenes)[::25]:
        together = score_plans(scenes[token], plans[token], CONFIG)
        shuffled = score_plans(scenes[token], plans[token][order], CONFIG)
        np.testing.assert_array_equal(shuffled.raw, together.raw[order])
        np.testing.assert_array_equal(shuffled.rollouts, together.rollouts[order])
        for index in (0, 13, 28):
            alone = score_plans(scenes[token], plans[token][index : index + 1], CONFIG)
            np.testing.assert_array_equal(alone.raw[0], together.raw[index])
            assert alone.score[0] == together.score[index]


def moved(scene: PreparedScene, angle: float, shift: Floats) -> PreparedScene:
    """The scene after a rotation about the ego's start and a shift of the whole world."""
    origin = scene.ego_state[:2].copy()

    def points(xy: Floats) -> Floats:
        return origin + shift + rotate(xy - origin, angle)

    def poses(rows: Floats) -> Floats:
        rest = rows[..., 3:]
        return np.concatenate([points(rows[..., :2]), wrap_angle(rows[..., 2:3] + angle), rest], axis=-1)

    tracks = replace(scene.tracks, poses=poses(scene.tracks.poses), velocities=rotate(scene.tracks.velocities, angle))
    return replace(
        scene,
        ego_state=poses(scene.ego_state),
        history_states=poses(scene.history_states),
        reference_poses=poses(scene.reference_poses),
        centerline=points(scene.centerline),
        polygons=Polygons(points(scene.polygons.vertices), scene.polygons.offsets),
        red_lights=Polygons(points(scene.red_lights.vertices), scene.red_lights.offsets),
        tracks=tracks,
    )


@pytest.mark.parametrize("angle", [0.3, np.pi / 2, -2.8])
def test_rigid_motion_changes_nothing(scenes: dict[str, PreparedScene], plans: dict[str, Floats], angle: float) -> None:
    for token in list(scenes)[::12]:
        there = moved(scenes[token], angle, np.array([-1200.0, 345.0]))
        assert_same(
            score_plans(scenes[token], plans[token], CONFIG), score_plans(there, plans[token], CONFIG), tolerance=1e-7
        )


def test_order_of_agents_polygons_and_lights_changes_nothing(
    scenes: dict[str, PreparedScene], plans: dict[str, Floats]
) -> None:
    generator = np.random.default_rng(1)
    for token in list(scenes)[::12]:
        scene = scenes[token]
        order = generator.permutation(len(scene.tracks))
        tracks = replace(
            scene.tracks,
            tokens=tuple(scene.tracks.tokens[index] for index in order),
            **{
                name: getattr(scene.tracks, name)[order]
                for name in ("kinds", "sizes", "poses", "velocities", "present")
            },
        )
        places = generator.permutation(len(scene.polygons))
        bounds = scene.polygons.offsets
        rings = [scene.polygons.vertices[bounds[index] : bounds[index + 1]] for index in places]
        reordered = replace(
            scene,
            tracks=tracks,
            polygons=Polygons(np.concatenate(rings), np.cumsum([0, *(len(ring) for ring in rings)])),
            polygon_layer=scene.polygon_layer[places],
            polygon_on_route=scene.polygon_on_route[places],
        )
        assert_same(score_plans(scene, plans[token], CONFIG), score_plans(reordered, plans[token], CONFIG))


def test_a_removed_agent_far_away_changes_nothing(scenes: dict[str, PreparedScene], plans: dict[str, Floats]) -> None:
    token = next(iter(scenes))
    scene = scenes[token]
    far = scene.tracks.poses.copy()
    far[..., :2] += 1e4
    apart = replace(scene, tracks=replace(scene.tracks, poses=far))
    empty = replace(scene, tracks=replace(scene.tracks, present=np.zeros_like(scene.tracks.present)))
    assert_same(score_plans(apart, plans[token], CONFIG), score_plans(empty, plans[token], CONFIG))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A copy of the golden data cut down to a few scenes and cases."""
    for path in DATA.iterdir():
        if path.suffix != ".parquet":
            shutil.copy(path, tmp_path)
            continue
        table = pq.read_table(path)
        if "scene_id" in table.column_names:
            kept = pa.array(["s101_0000", "s101_0002"])
            table = table.filter(pa.compute.is_in(table["scene_id"], kept))
        elif path.stem != "ec_cases":  # the two-stage cases refer to all of these
            table = table.slice(0, 5)
        pq.write_table(table, tmp_path / path.name)
    return tmp_path


def test_command_prints_agreement(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(small)]) == 0
    assert "0 mismatches" in capsys.readouterr().out


def test_command_finds_a_wrong_row(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(small / "results.parquet")
    rows = table.to_pylist()
    rows[3]["raw_lk"] = 1.0 - rows[3]["raw_lk"]
    rows[4]["progress_raw"] += 1e-6
    pq.write_table(pa.Table.from_pylist(rows, table.schema), small / "results.parquet")
    assert main([str(small)]) == 1
    assert "2 mismatches" in capsys.readouterr().out


def test_command_names_a_missing_file(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "ec_cases.parquet").unlink()
    with pytest.raises(CheckpointError, match=r"ec_cases\.parquet"):
        compare_folder(small)
    assert main([str(small)]) == 2
    assert "ec_cases.parquet" in capsys.readouterr().out.replace("\n", "")
