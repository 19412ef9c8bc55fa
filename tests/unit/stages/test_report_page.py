"""The report's tables and the choice of its scenes, by hand-made results."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from irl_vla.errors import CheckpointError
from irl_vla.judge.fingerprint import Fingerprint, sidecar, write_fingerprint
from irl_vla.judge.slowed import FRONTIER
from irl_vla.judge.tables import write_csv
from irl_vla.ledger.code import CodeVersion
from irl_vla.ledger.storage import Location
from irl_vla.reward.proposals import SOURCES
from irl_vla.reward.quality import quality_report
from irl_vla.stages import report_page as show
from irl_vla.stages.experiment import Experiment
from irl_vla.train.perception_quality import perception_rows

TRIALS = [
    {
        "trial": "s1.00-c1.00-e1.00",
        "safety": 1.0,
        "comfort": 1.0,
        "efficiency": 1.0,
        "epdms": 0.8,
        "equal_progress": 0.05,
        "nc": 0.9,
        "ep": 0.7,
    },
    {
        "trial": "s2.00-c1.00-e1.00",
        "safety": 2.0,
        "comfort": 1.0,
        "efficiency": 1.0,
        "epdms": 0.7,
        "equal_progress": -0.02,
        "nc": 1.0,
        "ep": 0.5,
    },
]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


EVALUATOR = Fingerprint(
    scorer_version=1,
    rule="one-stage",
    scorer={"filter_convention": "corrected"},
    dataset="cd",
    frames=4,
    self_check="passed (30 cases)",
    code=CodeVersion("0.1.0", "0123456789abcdef", dirty=False),
)


#: Halfway between imitation and its first slowed plans lies what is fine-tuned.
EP = dict(zip(FRONTIER, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), strict=True)) | {"finetuned": 0.85, "only_here": 0.5}


def write_seed(folder: Path, scores: dict[str, list[float]]) -> Path:
    """Results of policies on frames t0, t1 (group g) and t2, t3 (group h)."""
    for table in ("frames.csv", "results.csv"):
        write_fingerprint(folder / "evaluate" / table, EVALUATOR)
    rows = [
        {"policy": name, "token": f"t{index}", "group": "g" if index < 2 else "h", "ep": EP[name], "score": value}
        for name, values in scores.items()
        for index, value in enumerate(values)
    ]
    write_table(folder / "evaluate" / "frames.csv", rows)
    means = [{"policy": name, "ep": 100 * EP[name], "epdms": 25 * sum(values)} for name, values in scores.items()]
    write_table(folder / "evaluate" / "results.csv", means)
    return folder


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    base = {"imitation": [0.2, 0.2, 0.6, 0.6]}
    return [
        write_seed(tmp_path / "x" / "seed-0", base | {"finetuned": [0.3, 0.3, 0.7, 0.7], "only_here": [0.0] * 4}),
        write_seed(tmp_path / "x" / "seed-1", base | {"finetuned": [0.5, 0.5, 0.9, 0.9]}),
    ]


def frame_tables(seeds: list[Path]) -> list[Path]:
    return [seed / "evaluate" / "frames.csv" for seed in seeds]


def test_seeds_are_pooled_and_differences_paired(seeds: list[Path]) -> None:
    rows = {str(row["policy"]): row for row in show.pooled_rows(frame_tables(seeds), ["imitation"], 500)}
    assert set(rows) == {"imitation", "finetuned"}, "a policy that a seed lacks is not pooled"
    assert rows["imitation"]["epdms"] == pytest.approx(40.0)
    assert rows["finetuned"]["epdms"] == pytest.approx(60.0)
    assert (rows["finetuned"]["seed_0"], rows["finetuned"]["seed_1"]) == pytest.approx((50.0, 70.0))
    # +10 in every frame of seed 0, +30 in seed 1: a resample of two seeds gives 10, 20 or 30, whatever the groups
    assert rows["finetuned"]["minus_imitation"] == "+20.00 [+10.00, +30.00]"
    assert (rows["imitation"]["low"], rows["imitation"]["high"]) == pytest.approx((20.0, 60.0))
    assert "minus_imitation" not in rows["imitation"]


def test_seeds_are_pooled_at_equal_progress(tmp_path: Path) -> None:
    """Seed 0: 0.5 against a line at 0.3 of which half is the first slowed point; seed 1: 0.7."""
    seeds = []
    for index, value in enumerate((0.5, 0.7)):
        points = {name: [0.2 if name == "imitation" else 0.4] * 4 for name in FRONTIER}
        seeds.append(write_seed(tmp_path / f"seed-{index}", points | {"finetuned": [value] * 4}))
    rows = {str(row["policy"]): row for row in show.pooled_rows(frame_tables(seeds), [], 500)}
    assert rows["finetuned"]["ep"] == pytest.approx(85.0)
    assert rows["finetuned"]["equal_progress"] == "+30.00 [+20.00, +40.00]"
    assert not any("equal_progress" in rows[name] for name in FRONTIER)


def test_seeds_that_were_judged_differently_are_not_pooled(seeds: list[Path]) -> None:
    table = seeds[1] / "evaluate" / "frames.csv"
    write_fingerprint(table, replace(EVALUATOR, scorer={"filter_convention": "before"}, frames=3))
    message = r"seed-0.*seed-1.*cannot be compared \(frames: 4 / 3; scorer.filter_convention: 'corrected' / 'before'\)"
    with pytest.raises(CheckpointError, match=message):
        show.pooled_rows(frame_tables(seeds), [], 100)
    sidecar(table).unlink()
    with pytest.raises(CheckpointError, match="nobody knows how it was judged"):
        show.pooled_rows(frame_tables(seeds), [], 100)


def scored(**scores: list[float]) -> dict[str, Any]:
    return {name: {f"t{i}": {"score": value} for i, value in enumerate(values)} for name, values in scores.items()}


def test_scenes_with_the_largest_loss_and_gain_are_shown() -> None:
    plans = scored(imitation=[0.5, 0.5, 0.5, 0.5, 0.5], finetuned=[0.5, 0.9, 0.1, 0.6, 0.4])
    assert show.tokens_to_show(plans, 4) == ["t2", "t4", "t1", "t3"]
    assert show.tokens_to_show(plans, 1) == ["t1"]
    assert show.tokens_to_show(plans, 0) == []
    assert sorted(show.tokens_to_show(plans, 9)) == ["t0", "t1", "t2", "t3", "t4"], "no scene twice"


def test_without_fine_tuning_scenes_are_chosen_evenly() -> None:
    assert show.tokens_to_show(scored(human=[1.0] * 6), 3) == ["t0", "t2", "t4"]
    assert show.tokens_to_show(scored(human=[1.0] * 2), 5) == ["t0", "t1"]
    assert show.tokens_to_show(scored(human=[1.0] * 2), 0) == []


def test_a_sweep_is_a_table_a_picture_and_a_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, picture = show.write_sweep(TRIALS, tmp_path)
    with table.open(newline="") as stream:
        assert [row["trial"] for row in csv.DictReader(stream)] == [str(row["trial"]) for row in TRIALS]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "s2.00-c1.00-e1.00  EPDMS 0.7000  at equal progress -0.0200  NC 1.000  EP 0.500" in capsys.readouterr().out


def test_report_collects_all_seeds(seeds: list[Path], tmp_path: Path) -> None:
    write_table(seeds[0] / "sweep" / "trials.csv", TRIALS)
    (tmp_path / "x" / "seed-2").mkdir()  # not judged yet
    experiment = Experiment(name="x", runs=tmp_path, evaluate={"bootstrap_samples": 100})
    page = show.write_report(experiment, SimpleNamespace(), tmp_path / "x" / "report")
    text = page.read_text()
    assert page == tmp_path / "x" / "report" / "index.html"
    for title in (
        "All 2 seeds",
        "Results, seed-0",
        "Results, seed-1",
        "Sweep, seed-0",
    ):
        assert f"<h2>{title}</h2>" in text
    assert "seed-2" not in text
    assert text.count(str(EVALUATOR)) == 3, "every table of scores tells who judged"
    assert '<img src="sweep-seed-0.png"' in text
    assert (page.parent / "sweep-seed-0.png").exists()
    assert (page.parent / "pooled.csv").exists()
    assert "bootstrap_samples: 100" in text
    assert "Training layouts" not in text
    assert "frontier" not in text, "no slowed plans were judged"


def test_report_shows_training_layouts_and_the_frontier(seeds: list[Path], tmp_path: Path) -> None:
    for seed in seeds:
        points = {name: [0.5] * 4 for name in FRONTIER}
        write_seed(seed, points)
        for name in ("frames", "results"):
            for ending in ("csv", "evaluator.json"):
                text = (seed / "evaluate" / f"{name}.{ending}").read_bytes()
                (seed / "evaluate" / f"training_{name}.{ending}").write_bytes(text)
    experiment = Experiment(name="x", runs=tmp_path, evaluate={"bootstrap_samples": 100})
    page = show.write_report(experiment, SimpleNamespace(), tmp_path / "x" / "report")
    text = page.read_text()
    for title in ("Results, seed-0", "Training layouts, seed-0", "All 2 seeds", "Training layouts, all 2 seeds"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("NOT held out") == 3
    for name in ("frontier.png", "training_frontier.png", "frontier-seed-1.png", "training_frontier-seed-1.png"):
        assert f'<img src="{name}"' in text
        assert (page.parent / name).exists()
    assert (page.parent / "training_pooled.csv").exists()


def write_history(seed: Path, *entries: dict[str, Any]) -> None:
    path = seed / "pretrain" / "ray" / "imitation" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_report_shows_what_perception_sees(seeds: list[Path], tmp_path: Path) -> None:
    """Seed 0 has the tables of the kept policy, seed 1 the validations of its training alone."""
    answer = {"answer_speed": 0.625, "answer_speed_majority": 0.5}
    kept = seeds[0] / "pretrain"
    write_table(kept / "perception_boxes.csv", [{"object": "vehicle", "range_m": "0-15", "objects": 3}])
    write_csv(kept / "perception.csv", perception_rows({"iou_drivable": 0.75, "ade_m": 9.0} | answer))
    metrics = [{f"pretrain/val_{name}": value for name, value in answer.items()} for _ in range(2)]
    for step, iou in enumerate((0.25, 0.375)):
        metrics[step]["pretrain/val_iou_drivable"] = iou
    write_history(seeds[1], *({"step": 10 * step, "metrics": found} for step, found in enumerate(metrics)))
    experiment = Experiment(name="x", runs=tmp_path, evaluate={"bootstrap_samples": 100})
    page = show.write_report(experiment, SimpleNamespace(), tmp_path / "x" / "report")
    first, last = page.read_text().split("<h2>What perception sees, seed-")[1:]
    assert "<td>map classes</td><td>iou_drivable</td><td>0.750</td><td></td>" in first
    assert "<td>answers</td><td>answer_speed</td><td>0.625</td><td>0.500</td>" in first
    assert "ade_m" not in first
    assert "<h2>Boxes by class and range, seed-0</h2>" in first
    assert "<td>vehicle</td><td>0-15</td><td>3</td>" in first
    assert "The last validation, step 10." in last
    assert "<td>iou_drivable</td><td>0.375</td>" in last
    for name in ("perception-map-seed-1.png", "perception-objects-seed-1.png"):
        assert f'<img src="{name}"' in last
        assert (page.parent / name).exists()
    assert "perception-map-seed-0.png" not in first, "without validations there are no curves"


def test_report_shows_the_learned_reward(seeds: list[Path], tmp_path: Path) -> None:
    true = np.random.default_rng(0).choice([0.0, 1.0], size=(20, 4, 9))
    source = np.full((20, 4), SOURCES.index("policy"), np.int8)
    quality_report(true, true, source, groups=2).write(Location.of(seeds[1] / "train_reward" / "validation"))
    experiment = Experiment(name="x", runs=tmp_path, evaluate={"bootstrap_samples": 100})
    page = show.write_report(experiment, SimpleNamespace(), tmp_path / "x" / "report")
    text = page.read_text()
    assert text.count("<h2>The learned reward") == 1, "held-out training layouts were not judged"
    shown = text.partition("<h2>The learned reward, seed-1: validation split</h2>")[2]
    assert "<td>policy</td><td>20</td><td>1.000</td>" in shown
    assert '<img src="reliability-validation-seed-1.png"' in shown
    assert (page.parent / "reliability-validation-seed-1.png").exists()


def test_pictures_are_of_the_split_that_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The split that was judged last need not be the one that the configuration names now."""
    experiment = Experiment(name="x", runs=tmp_path, data={"test": "test"})
    place = experiment.folder / "evaluate" / "plans.json"
    values = {"human": {"t0": {"plan": [[0.0, 0.0, 0.0]] * 8, "score": 1.0}}}
    place.write_text(json.dumps({"split": "navtest", "policies": values}))
    asked: list[tuple[str, str]] = []

    def load_scene(dataset: object, split: str, token: str) -> SimpleNamespace:
        asked.append((split, token))
        return SimpleNamespace(map_name="")

    monkeypatch.setattr(show, "load_scene", load_scene)
    for name in ("load_map", "build_observation", "scene_figure"):
        monkeypatch.setattr(show, name, lambda *arguments: None)
    monkeypatch.setattr(show, "save", lambda figure, path: path)
    pictures = show._scene_pictures(experiment, SimpleNamespace(), tmp_path)
    assert asked == [("navtest", "t0")]
    assert pictures == [tmp_path / "scenes" / "t0.png"]


def test_plans_of_an_unknown_split_are_not_shown(tmp_path: Path) -> None:
    experiment = Experiment(name="x", runs=tmp_path)
    (experiment.folder / "evaluate" / "plans.json").write_text(json.dumps({"human": {}}))
    with pytest.raises(CheckpointError, match=r"plans.json: expected the judged split.*irl-vla evaluate"):
        show._scene_pictures(experiment, SimpleNamespace(), tmp_path)


def test_one_seed_is_not_pooled(seeds: list[Path], tmp_path: Path) -> None:
    (seeds[1] / "evaluate" / "results.csv").unlink()
    experiment = Experiment(name="x", runs=tmp_path, generate=None)
    text = show.write_report(experiment, SimpleNamespace(), tmp_path / "x" / "report").read_text()
    assert "seeds</h2>" not in text
    assert "Results, seed-0" in text
    assert show.GENERATED not in text
