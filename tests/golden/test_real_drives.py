"""Real drives against the official evaluator, from log and map alone: a part in every run, all of it if slow."""

from pathlib import Path

import pytest

from irl_vla.cli.commands.compare_official import drive_scenes
from irl_vla.errors import CheckpointError
from irl_vla.judge.official.drives import check_drives
from irl_vla.judge.official.observation import Comparison, compared

DRIVES = Path(__file__).parents[3] / "shared" / "real_drives"
pytestmark = pytest.mark.skipif(not DRIVES.is_dir(), reason="../shared/real_drives is not here")


def rows_without_mismatch(comparisons: list[Comparison]) -> dict[str, int]:
    assert {item.column: item.mismatches for item in comparisons if item.mismatches} == {}
    return {item.column: item.rows for item in comparisons}


def test_some_scenes_agree() -> None:
    scenes = [pair for index, pair in enumerate(drive_scenes(DRIVES, "mini")) if index % 21 in (0, 13)]
    rows = rows_without_mismatch(compared(check_drives(DRIVES, scenes)))
    assert len({scene.log_name for scene, _ in scenes}) == 2
    assert rows["official_inputs.prop_nc"] == 15 * len(scenes)
    assert rows["official_scores.replay.filt_nc"] == 20 * len(scenes)
    assert rows["official_scores.reactive.filt_nc"] == 3 * len(scenes)
    assert rows["reactive_tracks.tokens"] == 2 * 41 * len(scenes)


@pytest.mark.slow
def test_all_scenes_agree() -> None:
    rows = rows_without_mismatch(compared(check_drives(DRIVES, drive_scenes(DRIVES, "mini"))))
    assert rows["official_scores.replay.filt_nc"] == 840
    assert rows["official_scores.reactive.filt_nc"] == 126
    assert rows["reactive_tracks.tokens"] == 84 * 41


def test_a_scene_that_was_not_recorded_is_named() -> None:
    scene, view = next(drive_scenes(DRIVES, "mini", 1))
    unknown = type(scene)(
        **{name: getattr(scene, name) for name in scene.__slots__} | {"token": "f" * 16}  # type: ignore[attr-defined]
    )
    with pytest.raises(CheckpointError, match="f" * 16):
        compared(check_drives(DRIVES, [(unknown, view)]))
