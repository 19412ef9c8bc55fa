"""From hand-made second-stage files to both stages' tables, without Ray: read, prepared, judged, written."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import read_split
from irl_vla.epdms.store import PreparedStore, write_shard
from irl_vla.errors import SceneError
from irl_vla.judge.fingerprint import read_fingerprint
from irl_vla.judge.for_each import one_by_one
from irl_vla.judge.prepared_log import prepare_log
from irl_vla.ledger.storage import Location
from irl_vla.navsim.results import TWO_STAGE_SUMMARIES, read_results
from irl_vla.stages import judge
from irl_vla.stages.experiment import Experiment
from tests.unit.dataset.example import LOG
from tests.unit.dataset.second_stage_example import SPLIT, write_two_stage
from tests.unit.epdms.store_record import finish_store

OTHER = LOG.replace("veh-01", "veh-02")
POLICIES = ("constant_velocity", "reference")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two logs; the second stage starts on the logged path, and 0.4 m beside it."""
    root = tmp_path_factory.mktemp("two_stage")
    dataset = write_two_stage(root / "data", logs=(LOG, OTHER), speed=5.0)
    for log in (LOG, OTHER):
        found = prepare_log(dataset, SPLIT, log, None, None, seed=0)
        assert not found.failed
        write_shard(root / "prepared" / f"{log}.arrow", found.scenes)
    finish_store(root / "prepared", {LOG: "1", OTHER: "2"})
    return dataset, PreparedStore.open(root / "prepared")


@pytest.fixture
def evaluated(prepared: Any, tmp_path: Path) -> Any:
    def run(policies: tuple[str, ...] = POLICIES, without: tuple[str, ...] = ()) -> dict[str, float]:
        dataset, store = prepared
        places = {token: place for token, place in store.places.items() if token not in without}
        settings = {"policies": policies, "against": ("constant_velocity",), "bootstrap_samples": 100}
        experiment = Experiment(name="x", runs=tmp_path, data={"test": SPLIT}, evaluate=settings)
        reported: dict[str, float] = {}
        judge.write_evaluation(
            experiment,
            dataset,
            PreparedStore(store.folder, places),
            Location.of(tmp_path),
            lambda values, step: reported.update(values),
            for_each=one_by_one,
        )
        return reported

    return run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_both_stages_are_written(
    evaluated: Any, prepared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = evaluated()
    shown = " ".join(capsys.readouterr().out.split())  # captions wrap
    assert "12 frames, 2 groups; convention corrected. 2 pairs; 0 scenes left out, 0 plans that do not count." in shown
    assert read_fingerprint(tmp_path / "results.csv").rule == "two-stage"
    tokens = {ref.token for ref in scene_refs(prepared[0], SPLIT)}
    assert len(tokens) == 12
    for row in rows(tmp_path / "results.csv"):
        name = row["policy"]
        frames = {frame["token"]: frame for frame in rows(tmp_path / "frames.csv") if frame["policy"] == name}
        assert set(frames) == tokens
        assert all(frame["ec"] for frame in frames.values())
        results = read_results(tmp_path / f"official_{name}.csv")
        assert set(results.tokens) == tokens
        assert int(results.second_stage.sum()) == 8
        one, two, combined = (results.summary[summary] for summary in TWO_STAGE_SUMMARIES)
        first = [float(frame["score"]) for token, frame in frames.items() if len(token) == 16]
        assert one.score == pytest.approx(np.mean(first))
        assert float(row["stage_one_epdms"]) == pytest.approx(100 * one.score)
        assert float(row["stage_two_epdms"]) == pytest.approx(100 * two.score)
        assert float(row["epdms"]) == pytest.approx(100 * combined.score)
        assert reported[f"evaluate/{name}_epdms"] == float(row["epdms"])
        assert {
            f"{stage}epdms_{side}" for stage in ("", "stage_one_", "stage_two_") for side in ("low", "high")
        } <= set(row)


def test_scenes_that_could_not_be_prepared_are_counted(
    evaluated: Any, prepared: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pairs = read_split(prepared[0], SPLIT).stage_pairs
    lost = pairs[0].second[1][0]
    evaluated(without=(lost,))
    shown = capsys.readouterr().out.split()
    assert "10 frames, 2 groups; convention corrected. 2 pairs; 2 scenes left out" in " ".join(shown)
    assert lost in caplog.text


def test_the_human_drove_no_second_stage(evaluated: Any) -> None:
    with pytest.raises(SceneError, match="leave the human baseline out"):
        evaluated(policies=("human",))
