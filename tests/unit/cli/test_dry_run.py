"""What a stage would make: numbers of a small configuration by hand, what is there, and nothing written."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from irl_vla.cli.dry_run import DryRun, Row, dry_run, needed_splits, planned_size
from irl_vla.cli.dry_run_table import shown_folder, totals
from irl_vla.cli.main import execute, main
from irl_vla.dataset.split_size import SplitSize
from irl_vla.dataset.splits import WHOLE_FOLDER, write_split
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.ledger.artefact import Artefact, Identity
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.folders import data_root
from irl_vla.stages.run import STAGES
from irl_vla.world.config import TwoStageConfig, WorldConfig
from irl_vla.world.identity import world_artefact
from tests.unit.dataset.example import LOG, write_example

#: 4 windows of 15 frames a log; half of the training scenes have their one view in the samples.
WORLD = {
    "train": {"logs": 10, "layouts": 2},
    "val": {"logs": 2, "layouts": 2},
    "test": {"logs": 3, "layouts": 2},
    "frames_per_log": 15,
}
LOGS = tuple(LOG.replace("veh-01", f"veh-0{number}") for number in (1, 2, 3, 4))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def experiment(folder: Path, **settings: Any) -> Experiment:
    return Experiment(
        name="x", runs=folder / "runs", **{"generate": WORLD, "data": {"root": folder / "data"}, **settings}
    )


def recorded(folder: Path, **settings: Any) -> Experiment:
    """Two logs to train on, one each to validate and to judge; 3 windows each."""
    found = write_example(folder / "data", logs=LOGS, count=14)
    for split, logs in {"train": LOGS[:2], "val": LOGS[2:3], "test": LOGS[3:]}.items():
        write_split(found.root, split, "mini", WHOLE_FOLDER.model_copy(update={"log_names": logs}))
    return experiment(folder, generate=None, **settings)


def figures(found: DryRun) -> dict[str, tuple[int, int]]:
    """Rows and plans by name, of what is estimated."""
    return {row.what: (row.estimate.rows, row.estimate.plans) for row in found.rows if row.estimate is not None}


def finish(row: Row) -> None:
    Artefact(row.folder, Identity("any", 1, {}, {}, {}), "make it").finish()


def test_a_run_makes_each_part_once(tmp_path: Path) -> None:
    found = dry_run(experiment(tmp_path), "run")
    assert figures(found) == {
        "frames of the generated world": (15 * 15, 0),
        "prepared scenes of train": (2 * 40, 0),
        "prepared scenes of val": (8, 0),
        "prepared scenes of test": (12, 0),
        "samples of train": (60, 0),
        "samples of val": (8, 0),
        "token bank of train": (60, 0),
        "token bank of val": (8, 0),
        "labels of train": (60, 60 * 64),
        "labels of val": (8, 8 * 64),
        "samples of test": (12, 0),
        "token bank of test": (12, 0),
    }
    stages = list(dict.fromkeys(row.stage for row in found.rows))
    assert stages == ["generate", "pretrain", "label", "train-reward", "finetune", "evaluate", "report"]
    assert {row.there for row in found.rows} == {"nothing", "made anew"}
    assert found.sizes.are_planned


@pytest.mark.parametrize(
    ("stage", "what"),
    [
        ("pretrain", "policy: 3,000 steps of 16 scenes"),
        ("train-reward", "reward model: 1,500 steps of 16 rows"),
        ("finetune", "fine-tuned policy: 40 iterations of 48 scenes with 8 chains, and its control"),
        ("sweep", "12 trials of 40 iterations of 48 scenes with 8 chains"),
        ("evaluate", "scores of 8 policies on 12 scenes"),
        ("report", "page with tables and pictures"),
    ],
)
def test_trainings_are_named_and_not_estimated(stage: str, what: str, tmp_path: Path) -> None:
    rows = {row.what: row for row in dry_run(experiment(tmp_path), stage).rows}
    assert rows[what].estimate is None
    assert {row.stage for row in rows.values()} == {stage}


def test_what_is_there_is_counted_log_by_log(tmp_path: Path) -> None:
    subject = recorded(tmp_path)
    store, _, labels, _ = dry_run(subject, "label").rows
    assert (store.there, store.done, labels.there) == ("nothing", 0.0, "nothing")
    store.folder.path.mkdir(parents=True)
    for name in (f"{LOGS[0]}.arrow", f".{LOGS[1]}.arrow.unfinished", "index.json"):
        (store.folder.path / name).write_text("")
    half = dry_run(subject, "label").rows[0]
    assert (half.there, half.done) == ("1 of 2 logs", 0.5)
    finish(store)
    assert (dry_run(subject, "label").rows[0].there, dry_run(subject, "label").rows[0].done) == ("whole", 1.0)


def test_stages_tell_how_far_they_are(tmp_path: Path) -> None:
    (row,) = dry_run(experiment(tmp_path), "train-reward").rows
    artefact = Artefact(row.folder, Identity("any", 1, {}, {}, {}), "make it")
    artefact.begin()
    assert dry_run(experiment(tmp_path), "train-reward").rows[0].there == "begun"
    artefact.finish()
    assert dry_run(experiment(tmp_path), "train-reward").rows[0].there == "whole"


def test_logs_of_a_world_that_was_begun_are_counted(tmp_path: Path) -> None:
    subject = experiment(tmp_path)
    assert subject.generate is not None
    world_artefact(subject.generate.world, data_root(subject), subject.data_seed).begin()
    for split, count in {"train": 7, "val": 2}.items():
        folder = data_root(subject) / "navsim_logs" / split
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"log-{number}.pkl").write_bytes(b"")
    assert dry_run(subject, "generate").rows[0].there == "9 of 15 logs"
    other = subject.with_overrides({"data_seed": 1})
    with pytest.raises(CheckpointError, match="of another"):
        dry_run(other, "generate")


def test_recorded_data_is_not_generated(tmp_path: Path) -> None:
    subject = recorded(tmp_path)
    assert dry_run(subject, "generate").rows == ()
    assert figures(dry_run(subject, "run"))["token bank of train"] == (9, 0), "6 scenes and half of their views"


def test_only_the_splits_of_a_stage_are_looked_at(tmp_path: Path) -> None:
    subject = recorded(tmp_path, evaluate={"policies": ("human",), "against": ()})
    alone = subject.with_overrides({"data.train": "none", "data.val": "none"})
    assert figures(dry_run(alone, "evaluate")) == {"prepared scenes of test": (3, 0)}
    fitted = alone.with_overrides({"evaluate.policies": ["constant_acceleration"]})
    assert needed_splits(fitted, "evaluate") == ("test", "none")
    with pytest.raises(ConfigError, match="no such split"):
        dry_run(fitted, "evaluate")


def test_narrowed_splits_are_prepared_in_whole(tmp_path: Path) -> None:
    subject = recorded(tmp_path)
    root = data_root(subject)
    write_split(root, "val_all", "mini", WHOLE_FOLDER)
    generated = subject.with_overrides({"generate": WORLD})
    assert generated.generate is not None
    world_artefact(generated.generate.world, root, 0).finish()
    found = figures(dry_run(generated, "pretrain"))
    assert found["prepared scenes of val"] == (12, 0), "all windows of the four logs"
    assert found["samples of val"] == (3, 0)


def test_splits_of_a_world_to_be_generated() -> None:
    world = WorldConfig(**WORLD)
    assert planned_size(world, "train") == planned_size(world, "train_all") == SplitSize(10, 40)
    with pytest.raises(ConfigError, match="navhard_two_stage"):
        planned_size(world, "navhard_two_stage")
    staged = world.with_overrides({"two_stage": TwoStageConfig(groups=2, pairs_min=3, pairs_max=5).model_dump()})
    assert planned_size(staged, "navhard_two_stage") == SplitSize(2, 2 * 2 + 2 * 8)


def test_follow_ups_are_a_part_of_generating(tmp_path: Path) -> None:
    two_stage = {"groups": 2, "pairs_min": 3, "pairs_max": 5}
    found = dry_run(experiment(tmp_path, generate={**WORLD, "two_stage": two_stage}), "generate")
    assert figures(found)["follow-up scenes"] == (16, 0)


def test_sums_are_of_all_and_of_what_is_left(tmp_path: Path) -> None:
    found = dry_run(recorded(tmp_path), "label")
    store, _, labels, _ = found.rows
    assert store.estimate is not None
    assert labels.estimate is not None
    rows = (
        replace(store, estimate=replace(store.estimate, core_hours=2.0, size_bytes=4_000_000), done=0.5),
        replace(labels, estimate=replace(labels.estimate, core_hours=1.0, size_bytes=1_000_000)),
        replace(labels, estimate=None),
    )
    assert totals(replace(found, rows=rows)) == (
        "In all 3 core hours and 5 MB, of which 2 core hours and 3 MB are still to be made."
    )


def test_folders_are_shown_from_the_working_directory(tmp_path: Path) -> None:
    inside, outside = experiment(tmp_path), experiment(tmp_path.parent / "elsewhere")
    assert shown_folder(inside.folder) == "runs/x/seed-0"
    assert shown_folder(outside.folder) == str(outside.folder)


@pytest.mark.parametrize("stage", [*STAGES])
def test_nothing_is_written_or_started(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path)
    config = tmp_path / "x.yaml"
    config.write_text(f"runs: {tmp_path / 'runs'}\ngenerate: null\ndata: {{root: {tmp_path / 'data'}}}\n")
    monkeypatch.setitem(STAGES, stage, lambda experiment: pytest.fail("the stage was started"))
    before = sorted(tmp_path.rglob("*"))
    assert main([stage.replace("_", "-"), str(config), "seed=3", "--dry-run"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    shown = capsys.readouterr().out
    assert ("nothing to make" if stage == "generate" else "still to be made") in shown


def test_bad_input_ends_with_status_2(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("generate: null\n")
    assert execute("label", config, [f"data.root={tmp_path / 'none'}"], dry_run=True) == 2
    assert "expected a folder, found none" in caplog.text


def test_every_stage_offers_it(capsys: pytest.CaptureFixture[str]) -> None:
    for stage in STAGES:
        with pytest.raises(SystemExit):
            main([stage.replace("_", "-"), "--help"])
        assert "--dry-run" in capsys.readouterr().out


def test_neither_torch_nor_ray_is_loaded() -> None:
    loaded = "import sys, irl_vla.cli.dry_run_table; print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"
