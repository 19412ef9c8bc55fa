"""Evaluation on two straight logs without Ray: what is written, and that it says what it should."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from irl_vla.dataset.splits import SceneRef
from irl_vla.judge.fingerprint import all_fingerprints, read_fingerprint, require_comparable
from irl_vla.judge.for_each import one_by_one
from irl_vla.judge.judgement import GENERATED, REAL, frames_to_judge
from irl_vla.judge.one_stage import FrameId
from irl_vla.judge.policies import POLICIES
from irl_vla.judge.slowed import FRONTIER
from irl_vla.judge.tables import read_judged_plans
from irl_vla.ledger.storage import Location
from irl_vla.navsim.results import read_results
from irl_vla.stages import folders, judge
from irl_vla.stages.experiment import Experiment
from tests.unit.epdms.store_record import Store, finish_store
from tests.unit.epdms.straight_road import TIME_US, plan, scene, tracks

#: token to (log, seconds, scene): one free road, one behind a slow car.
SLOW = {"objects": tracks(("vehicle", 20.0, 0.0, 2.0, 0)), "human": plan(3.0), "reference_mps": 4.0}
SCENES: dict[str, tuple[str, float, dict[str, Any]]] = {
    "a0": ("free", 0.0, {"human": plan(9.0)}),
    "a1": ("free", 0.5, {"human": plan(9.0)}),
    "b0": ("slow", 0.0, SLOW),
    "b1": ("slow", 0.5, SLOW),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(
        (token, replace(scene(10.0, **options), token=token, time_us=TIME_US + round(seconds * 1e6)))
        for token, (_, seconds, options) in SCENES.items()
    )
    found.folder = tmp_path / "prepared"
    finish_store(found.folder, {"free": "1", "slow": "2"})
    return found


@pytest.fixture
def evaluated(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the stage's work for some settings; returns what it wrote and reported."""
    refs = [SceneRef(token, log, 3, "map", log, "cruise") for token, (log, _, _) in SCENES.items()]
    refs.append(SceneRef("lost", "free", 9, "map", "free", "cruise"))  # could not be prepared
    monkeypatch.setattr(judge, "scene_refs", lambda dataset, split: refs)
    monkeypatch.setattr(judge, "read_split", lambda dataset, split: SimpleNamespace(stage_pairs=()))

    local = Location.of(tmp_path / "out")

    def run(place: Location = local, **settings: Any) -> dict[str, Any]:
        experiment = Experiment(
            name="x", runs=tmp_path, evaluate={"bootstrap_samples": 100, **settings.pop("evaluate")}
        )
        experiment = experiment.with_overrides(settings)
        reported: dict[str, float] = {}
        paths = judge.write_evaluation(
            experiment,
            SimpleNamespace(),
            store,
            place,
            lambda values, step: reported.update(values),
            for_each=one_by_one,
        )
        return {"reported": reported, "paths": [path.local() for path in paths], "folder": place.local()}

    return run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


POLICIES_TO_JUDGE = {"policies": ("constant_velocity", "human", "reference"), "against": ("constant_velocity",)}


def test_tables_agree_with_each_other(evaluated: Any) -> None:
    found = evaluated(evaluate=POLICIES_TO_JUDGE)
    folder = found["folder"]
    official = [f"official_{name}.csv" for name in POLICIES_TO_JUDGE["policies"]]
    assert found["paths"] == [folder / name for name in ("frames.csv", "logs.csv", "results.csv", *official)]
    results = {row["policy"]: row for row in rows(folder / "results.csv")}
    assert list(results) == list(POLICIES_TO_JUDGE["policies"])
    frames, logs = rows(folder / "frames.csv"), rows(folder / "logs.csv")
    assert [row["token"] for row in frames[:4]] == list(SCENES), "the scene that could not be prepared is left out"
    for name, row in results.items():
        scores = [float(frame["score"]) for frame in frames if frame["policy"] == name]
        assert float(row["epdms"]) == pytest.approx(100 * np.mean(scores))
        assert found["reported"][f"evaluate/{name}_epdms"] == float(row["epdms"])
        for line in (line for line in logs if line["policy"] == name):
            own = [float(f["score"]) for f in frames if (f["policy"], f["log"]) == (name, line["log"])]
            assert (float(line["epdms"]), int(line["frames"])) == (pytest.approx(100 * np.mean(own)), 2)
    assert float(results["human"]["epdms"]) > float(results["constant_velocity"]["epdms"])
    judged = read_judged_plans(Location.of(folder / "plans.json"))
    plans = judged.policies
    assert judged.split == "test"
    np.testing.assert_allclose(plans["human"]["a0"]["plan"], plan(9.0))
    np.testing.assert_allclose(plans["constant_velocity"]["b1"]["plan"], plan(10.0))


@pytest.mark.parametrize("killed_at", ["write_results", "write_judged_plans"])
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_results_are_gone_while_other_files_are_replaced(
    evaluated: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, killed_at: str, kind: str
) -> None:
    """The report looks for results.csv: new tables beside old plans are never shown."""
    root = request.getfixturevalue("bucket") if kind == "s3" else Location.of(request.getfixturevalue("tmp_path"))
    place = root / f"evaluate-{killed_at}"
    evaluated(place, evaluate=POLICIES_TO_JUDGE)
    results = {"results.csv", "results.evaluator.json"}
    assert results <= set(place.children())

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judge, killed_at, die)
    with pytest.raises(KeyboardInterrupt):
        evaluated(place, evaluate=POLICIES_TO_JUDGE)
    assert not results & set(place.children())
    assert "frames.csv" in place.children()


def test_official_files_hold_the_same_scores(evaluated: Any) -> None:
    folder = evaluated(evaluate=POLICIES_TO_JUDGE)["folder"]
    for row in rows(folder / "results.csv"):
        results = read_results(folder / f"official_{row['policy']}.csv")
        frames = [frame for frame in rows(folder / "frames.csv") if frame["policy"] == row["policy"]]
        assert results.tokens == tuple(frame["token"] for frame in frames)
        np.testing.assert_array_equal(results.score, [float(frame["score"]) for frame in frames])
        assert results.summary["average_all_frames"].score == pytest.approx(float(row["epdms"]) / 100)


def test_generated_and_real_data_are_told_apart(evaluated: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(evaluate=POLICIES_TO_JUDGE)
    shown = capsys.readouterr().out
    assert GENERATED in shown
    assert "4 frames, 2 groups; convention corrected." in shown
    assert "free  human" not in shown
    evaluated(evaluate=POLICIES_TO_JUDGE, generate=None)
    shown = capsys.readouterr().out
    assert REAL in shown
    assert GENERATED not in shown
    for log in ("free", "slow"):
        for name in POLICIES_TO_JUDGE["policies"]:
            assert f"{log}  {name}: " in shown


def test_every_table_tells_who_judged(evaluated: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(evaluate=POLICIES_TO_JUDGE)
    evaluator = read_fingerprint(found["paths"][0])
    assert require_comparable(all_fingerprints(found["paths"])) == evaluator
    assert evaluator.frames == len(SCENES)
    assert evaluator.scorer["filter_convention"] == "corrected"
    assert evaluator.short in capsys.readouterr().out
    evaluated(evaluate=POLICIES_TO_JUDGE | {"scorer": {"filter_convention": "before"}})
    assert read_fingerprint(found["paths"][0]) != evaluator


def test_frames_say_where_points_were_lost(evaluated: Any) -> None:
    found = evaluated(evaluate=POLICIES_TO_JUDGE)
    lost = {(row["policy"], row["token"]): row["lost"] for row in rows(found["folder"] / "frames.csv")}
    assert "nc=0" in lost["constant_velocity", "b0"], "it runs into the slow car"
    assert "nc=0" not in lost["human", "b0"]


def test_the_convention_is_named(evaluated: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(evaluate=POLICIES_TO_JUDGE | {"scorer": {"filter_convention": "before"}})
    assert "convention before." in capsys.readouterr().out


def test_the_constant_manoeuvre_is_fitted_on_training_scenes(
    evaluated: Any, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    training = Store({"b0": store["b0"], "b1": store["b1"]})
    training.folder = store.folder

    def prepared(experiment: Experiment, split: str) -> Store:
        asked.append(split)
        return training

    monkeypatch.setattr(folders, "prepared", prepared)
    monkeypatch.setattr(folders, "dataset", lambda experiment: SimpleNamespace())
    found = evaluated(evaluate={"policies": ("constant_velocity", "constant_acceleration"), "against": ()})
    assert asked == ["train"]
    plans = json.loads((found["folder"] / "plans.json").read_text())["policies"]
    assert plans["constant_acceleration"]["a0"]["plan"][-1][0] < 40.0, "behind a slow car braking is best, so all brake"


def test_scenes_that_are_not_prepared_are_counted_and_named(evaluated: Any, caplog: pytest.LogCaptureFixture) -> None:
    evaluated(evaluate=POLICIES_TO_JUDGE)
    assert "1 of 5 scenes are missing and left out: lost" in caplog.text


def test_every_baseline_of_the_table_has_its_plans() -> None:
    assert set(judge.BASELINE_PLANS) == {name for name, policy in POLICIES.items() if policy.kind == "baseline"}


def test_untrained_policies_have_no_prediction(tmp_path: Path) -> None:
    experiment = Experiment(name="x", runs=tmp_path)
    assert judge.predicted_columns(experiment, "test", {}, "human") == {}
    assert judge.predicted_columns(experiment, "test", {}, "slowed_10") == {}


@pytest.fixture
def imitating(evaluated: Any, store: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judges imitation at 10 m/s everywhere, and a fine-tuned policy that drives as the human; no bank is read."""
    monkeypatch.setattr(judge, "perceived_frames", lambda bank, frames, split: frames)
    monkeypatch.setattr(judge, "TokenBank", SimpleNamespace(open=lambda place: None))
    monkeypatch.setattr(judge, "predicted_columns", lambda *arguments: {})

    def plans_of(name: str, experiment: Experiment, scenes: judge.JudgedScenes) -> dict[str, Any]:
        frames = scenes.judged.frames
        return {frame.token: plan(10.0) if name == "imitation" else store[frame.token].human_plan for frame in frames}

    monkeypatch.setattr(judge, "plans_of", plans_of)

    def run(scenes: judge.JudgedScenes | None) -> Any:
        monkeypatch.setattr(judge, "training_scenes", lambda experiment, count: scenes)
        return evaluated(evaluate={"policies": ("imitation", "finetuned"), "against": ("imitation",)})

    return run


def test_imitation_is_judged_with_its_slowed_plans(imitating: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = imitating(None)
    results = {row["policy"]: row for row in rows(found["folder"] / "results.csv")}
    assert list(results) == [*FRONTIER, "finetuned"]
    assert [results[name]["split"] for name in results] == ["test"] * len(results)
    assert all(results[name]["equal_progress"] == "" for name in FRONTIER), "no policy is compared with itself"
    finetuned = results["finetuned"]
    ep, epdms = (np.array([float(results[name][key]) for name in FRONTIER]) for key in ("ep", "epdms"))
    assert (np.diff(ep) < 0).all(), "slower from point to point"
    own = float(finetuned["ep"]), float(finetuned["epdms"])
    assert ep[1] > own[0] > ep[2], "between the two weakest"
    share = (ep[1] - own[0]) / (ep[1] - ep[2])
    assert float(finetuned["equal_progress"]) == pytest.approx(own[1] - (1 - share) * epdms[1] - share * epdms[2])
    assert found["reported"]["evaluate/finetuned_equal_progress"] == float(finetuned["equal_progress"])
    assert "equal progress" in capsys.readouterr().out


def test_training_scenes_have_tables_of_their_own(imitating: Any, store: Any) -> None:
    training = frames_to_judge([FrameId(token, log, log, "") for token, (log, _, _) in list(SCENES.items())[:3]], ())
    found = imitating(judge.JudgedScenes("train", store, training))
    folder = found["folder"]
    assert found["paths"][-2:] == [folder / "training_frames.csv", folder / "training_results.csv"]
    results = {row["policy"]: row for row in rows(folder / "training_results.csv")}
    assert {row["split"] for row in results.values()} == {"train"}
    assert len(rows(folder / "training_frames.csv")) == 3 * len(results)
    assert read_fingerprint(folder / "training_results.csv").frames == 3
    reported = found["reported"]
    assert reported["evaluate/training_finetuned_epdms"] == float(results["finetuned"]["epdms"])
    assert reported["evaluate/training_finetuned_epdms"] != reported["evaluate/finetuned_epdms"]
    imitating(None)
    assert not (folder / "training_results.csv").exists(), "those of an earlier call are withdrawn"


def test_training_scenes_are_drawn_only_for_trained_policies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for settings in ({"training_scenes": 0}, {"policies": ("human",)}):
        assert judge.training_scenes(Experiment(name="x", runs=tmp_path, evaluate=settings), 10) is None
    caplog.set_level("INFO")
    assert judge.training_scenes(Experiment(name="x", runs=tmp_path), 10) is None
    assert "training layouts are not judged" in caplog.text


def test_who_chooses_among_plans_does_so_by_the_learned_reward(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bank = SimpleNamespace(perception_hash="seen")
    monkeypatch.setattr(judge, "TokenBank", SimpleNamespace(open=lambda place: bank))
    monkeypatch.setattr(judge, "load_chain", lambda place, perception_hash: (place.parent.name, perception_hash))
    monkeypatch.setattr(judge, "make_backend", lambda config, place, model: (config.kind, model))
    monkeypatch.setattr(judge, "bank_plans", lambda chain, bank: {"one": chain})
    monkeypatch.setattr(judge, "best_of_plans", lambda chain, bank, backend, config: {"best": (chain, backend, config)})
    names = ("imitation", "imitation_best_of", "finetuned_best_of")
    experiment = Experiment(name="x", runs=tmp_path, evaluate={"policies": names, "candidates": {"samples": 3}})
    chooser = (("rwm", folders.reward_path(experiment)), experiment.evaluate.candidates)
    scenes = judge.JudgedScenes("test", SimpleNamespace(), frames_to_judge([], ()))
    assert {name: judge.plans_of(name, experiment, scenes) for name in names} == {
        "imitation": {"one": ("pretrain", "seen")},
        "imitation_best_of": {"best": (("pretrain", "seen"), *chooser)},
        "finetuned_best_of": {"best": (("finetune", "seen"), *chooser)},
    }
