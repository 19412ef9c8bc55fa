"""Plans from files on small logs: what is scored, what is named, and with which exit status."""

import csv
import json
import logging
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irl_vla.cli.commands import score as command
from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.content import CITY_EPSG
from irl_vla.dataset.maps.writer import map_path, write_map
from irl_vla.dataset.scenes import scene_refs
from irl_vla.epdms.config import ScorerConfig
from irl_vla.errors import LogFormatError, SceneError
from irl_vla.geometry import Floats
from irl_vla.judge import score_files as score
from irl_vla.judge.fingerprint import differences, fingerprint, read_fingerprint
from irl_vla.judge.plan_file import write_plans
from irl_vla.judge.prepared_log import FailedScene
from irl_vla.judge.score_files import BadToken, ScoreJob, score_files
from tests.unit.dataset.example import CITY, LOG, map_content, strip, write_example
from tests.unit.dataset.second_stage_example import SPLIT, write_two_stage
from tests.unit.epdms.straight_road import plan

OTHER = LOG.replace("veh-01", "veh-02")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    found: Dataset = write_example(tmp_path / "data", logs=(LOG, OTHER), count=14, sensors=False)
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def job(folder: Path, plans: dict[str, Floats], against: dict[str, Floats] | None = None, **changes: Any) -> ScoreJob:
    write_plans(folder / "mine.parquet", plans)
    if against is not None:
        write_plans(folder / "theirs.parquet", against)
    settings: dict[str, Any] = {
        "plans": folder / "mine.parquet",
        "against": None if against is None else folder / "theirs.parquet",
        "data": DataConfig(root=folder / "data"),
        "split": "train",
        "prepared": folder / "prepared",
        "scorer": ScorerConfig(),
        "output": folder / "out",
        "samples": 100,
    }
    return ScoreJob(**settings | changes)


def tokens(dataset: Dataset, split: str = "train") -> list[str]:
    return [ref.token for ref in scene_refs(dataset, split)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_all_frames_are_scored(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = tokens(dataset)
    assert score_files(job(tmp_path, dict.fromkeys(known, plan(10.0)))) == []
    frames = rows(tmp_path / "out" / "frames.csv")
    assert [row["token"] for row in frames] == known
    (result,) = rows(tmp_path / "out" / "results.csv")
    assert result["policy"] == "mine"
    assert float(result["epdms"]) == pytest.approx(100 * np.mean([float(row["score"]) for row in frames]))
    assert all(bool(row["lost"]) == (float(row["score"]) < 1) for row in frames)
    expected = fingerprint(ScorerConfig(), [tmp_path / "prepared"], known)
    assert read_fingerprint(tmp_path / "out" / "frames.csv") == expected
    assert read_fingerprint(tmp_path / "out" / "results.csv") == expected
    assert expected.short in capsys.readouterr().out
    assert not (tmp_path / "out" / "bad_tokens.csv").exists()


def test_processes_write_the_same_tables(dataset: Dataset, tmp_path: Path) -> None:
    plans = {token: plan(8.0 + number) for number, token in enumerate(tokens(dataset))}
    for name, workers in (("one", 1), ("two", 2)):
        score_files(job(tmp_path, plans, workers=workers, prepared=tmp_path / f"{name}_store", output=tmp_path / name))
    for table in ("results.csv", "frames.csv"):
        assert (tmp_path / "two" / table).read_text() == (tmp_path / "one" / table).read_text()


def test_bad_tokens_are_named_and_the_rest_is_scored(dataset: Dataset, tmp_path: Path) -> None:
    first, second, *rest = tokens(dataset)
    plans = {first: plan(10.0) * np.nan, "foreign": plan(1.0)} | dict.fromkeys(rest, plan(10.0))
    bad = score_files(job(tmp_path, plans))
    assert bad == [
        BadToken("mine", first, "row 0: expected a finite plan, found NaN or infinity"),
        BadToken("mine", second, "no plan"),
        BadToken("mine", "foreign", "no such scene in the split"),
    ]
    assert rows(tmp_path / "out" / "bad_tokens.csv") == [asdict(item) for item in bad]
    assert [row["token"] for row in rows(tmp_path / "out" / "frames.csv")] == rest
    assert read_fingerprint(tmp_path / "out" / "results.csv").frames == len(rest)
    score_files(job(tmp_path, dict.fromkeys(tokens(dataset), plan(10.0))))
    assert not (tmp_path / "out" / "bad_tokens.csv").exists(), "that of the earlier call would mislead"


def test_what_is_wrong_with_all_plans_is_said_once_and_recorded(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = tokens(dataset)
    record = tmp_path / "out" / "plan_faults.json"
    late = np.concatenate([np.zeros((1, 3)), plan(10.0)[:-1]])
    assert score_files(job(tmp_path, dict.fromkeys(known, late), dict.fromkeys(known, plan(10.0)))) == []
    (finding,) = json.loads(record.read_text())["mine"]
    assert finding["code"] == "current_pose"
    assert [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING] == [
        f"mine as a whole: {finding['message']}"
    ]
    assert "(6 of 6 plans" in finding["message"]
    assert score_files(job(tmp_path, dict.fromkeys(known, plan(10.0)))) == []
    assert not record.exists(), "that of the earlier call would mislead"


def test_rows_that_are_refused_are_looked_at_too(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plans = {token: plan(10.0) * [100, 100, 1] for token in tokens(dataset)}
    with pytest.raises(SceneError, match="not one can be judged"):
        score_files(job(tmp_path, plans))
    assert "are they in centimetres?" in caplog.text


def test_what_is_whole_is_judged_on_request(dataset: Dataset, tmp_path: Path) -> None:
    known = tokens(dataset)
    (dataset.log_folder("mini") / f"{OTHER}.pkl").write_bytes(b"")
    plans = dict.fromkeys(known, plan(10.0))
    with pytest.raises(
        LogFormatError, match=rf"1 of 2 logs .*{OTHER}.pkl.*; or judge what is whole with --skip-broken"
    ):
        score_files(job(tmp_path, plans))
    left = [ref.token for ref in scene_refs(dataset, "train", [LOG])]
    bad = score_files(job(tmp_path, plans, skip_broken=True))
    assert [row["token"] for row in rows(tmp_path / "out" / "frames.csv")] == left
    assert {item.reason for item in bad} == {"no such scene in the split, or in a log that is left out"}
    assert {item.token for item in bad} == set(known) - set(left)


def test_scenes_that_cannot_be_prepared_are_bad_tokens(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, *rest = tokens(dataset)
    monkeypatch.setattr(score, "failed_scenes", lambda folder: [FailedScene(lost, LOG, "no route")])
    bad = score_files(job(tmp_path, dict.fromkeys([lost, *rest], plan(10.0))))
    assert bad == [BadToken("", lost, "the scene could not be prepared: no route")]


def test_nothing_usable_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"expected plans for the 6 scenes of split 'train', not one can be judged"):
        score_files(job(tmp_path, {"foreign": plan(1.0)}))


def test_two_files_are_compared_on_common_frames(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tokens(dataset)
    mine, theirs = dict.fromkeys(known[1:], plan(10.0)), dict.fromkeys(known[:-1], plan(2.0))
    bad = score_files(job(tmp_path, mine, theirs))
    assert bad == [BadToken("mine", known[0], "no plan"), BadToken("theirs", known[-1], "no plan")]
    frames = rows(tmp_path / "out" / "frames.csv")
    assert [(row["policy"], row["token"]) for row in frames] == [
        (name, token) for name in ("mine", "theirs") for token in known[1:-1]
    ]
    first, second = rows(tmp_path / "out" / "results.csv")
    assert float(first["minus_theirs"]) == pytest.approx(float(first["epdms"]) - float(second["epdms"]))
    assert f"mine minus theirs, paired, resampled by group: {float(first['minus_theirs']):+.2f} [" in (
        capsys.readouterr().out
    )


def test_files_of_one_name_go_by_their_paths(dataset: Dataset, tmp_path: Path) -> None:
    known = tokens(dataset)
    write_plans(tmp_path / "sub" / "mine.parquet", dict.fromkeys(known, plan(2.0)))
    score_files(job(tmp_path, dict.fromkeys(known, plan(10.0)), against=None))
    again = job(tmp_path, dict.fromkeys(known, plan(10.0)), output=tmp_path / "two")
    score_files(ScoreJob(**vars(again) | {"against": tmp_path / "sub" / "mine.parquet"}))
    assert [row["policy"] for row in rows(tmp_path / "two" / "results.csv")] == [
        str(tmp_path / "mine.parquet"),
        str(tmp_path / "sub" / "mine.parquet"),
    ]


def test_a_two_stage_split_is_judged_by_its_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_two_stage(tmp_path / "data", logs=(LOG, OTHER), speed=5.0)
    known = tokens(dataset, SPLIT)
    assert score_files(job(tmp_path, dict.fromkeys(known, plan(5.0)), split=SPLIT)) == []
    (result,) = rows(tmp_path / "out" / "results.csv")
    assert {"stage_one_epdms", "stage_two_epdms"} <= set(result)
    assert read_fingerprint(tmp_path / "out" / "results.csv").rule == "two-stage"
    assert "stage two" in capsys.readouterr().out
    bad = score_files(job(tmp_path, dict.fromkeys(known[1:], plan(5.0)), split=SPLIT))
    assert bad[0] == BadToken("mine", known[0], "no plan")
    assert {item.reason for item in bad[1:]} == {"left out with a scene of its pair"}
    assert len(rows(tmp_path / "out" / "frames.csv")) + len(bad) == len(known)


def test_a_corrected_map_is_seen_in_the_cache(dataset: Dataset, tmp_path: Path) -> None:
    plans, strict = dict.fromkeys(tokens(dataset), plan(10.0)), ScorerConfig(human_filter=False)
    score_files(job(tmp_path, plans, prepared=None, scorer=strict))
    before = rows(tmp_path / "out" / "frames.csv"), read_fingerprint(tmp_path / "out" / "results.csv")
    content = map_content()
    kerb, narrow = strip(0, 100, 2, 4), strip(0, 100, -4, -2.5)
    lanes = tuple(replace(row, polygon={11: kerb, 12: narrow}.get(row.id, row.polygon)) for row in content.lanes)
    groups = tuple(replace(row, polygon=narrow) if row.id == 21 else row for row in content.groups)
    narrowed = replace(content, lanes=lanes, groups=groups)
    write_map(map_path(dataset.maps_root, CITY), narrowed, CITY_EPSG[CITY])
    score_files(job(tmp_path, plans, prepared=None, scorer=strict))
    after = rows(tmp_path / "out" / "frames.csv"), read_fingerprint(tmp_path / "out" / "results.csv")
    assert [float(row["dac"]) for row in before[0]] == [1.0] * 6
    assert [float(row["dac"]) for row in after[0]] == [0.0] * 6, "the road is narrower than the car"
    assert list(differences(before[1], after[1])) == ["dataset"]


def test_the_cache_depends_on_data_and_filter(dataset: Dataset, tmp_path: Path) -> None:
    whole, part = score.cache_folder(dataset, "train"), score.cache_folder(dataset, "mini")
    assert whole.parent == part.parent == tmp_path / "cache" / "irl-vla" / "prepared"
    assert whole != part
    assert whole == score.cache_folder(dataset, "train")
    moved = Dataset(tmp_path / "other", dataset.maps_root, dataset.splits_root)
    assert score.cache_folder(moved, "train") != whole


@pytest.mark.parametrize(("left_out", "status"), [((), 0), ((0,), 1), (range(6), 2)])
def test_the_exit_status_tells(left_out: Sequence[int], status: int, dataset: Dataset, tmp_path: Path) -> None:
    known = tokens(dataset)
    plans = {token: plan(10.0) for index, token in enumerate(known) if index not in left_out}
    write_plans(tmp_path / "p.parquet", plans)
    parser = ArgumentParser()
    command.add_arguments(parser)
    folders = [
        "--data",
        str(tmp_path / "data"),
        "--prepared",
        str(tmp_path / "s"),
        "--output",
        str(tmp_path / "o"),
        "--workers",
        "1",
    ]
    assert command.run(parser.parse_args([str(tmp_path / "p.parquet"), "--split", "train", *folders])) == status
    absent = [str(tmp_path / "absent.parquet"), "--split", "train", *folders]
    assert command.run(parser.parse_args(absent)) == 2
