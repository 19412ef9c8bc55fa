"""Disk space that stages will take, and whether runs can be recorded."""

import shutil
import socket
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from irl_vla.cli.doctor import storage
from irl_vla.cli.doctor.storage import Need, disk_findings, needs, tracking_finding
from irl_vla.ledger.storage import Location
from irl_vla.stages.experiment import Experiment

SCENES = {"train": 100, "val": 10, "test": 20}


def experiment(folder: Path, **settings: object) -> Experiment:
    return Experiment(name="x", runs=folder / "runs", data={"root": folder / "data"}, **settings)


def test_every_stage_is_estimated(tmp_path: Path) -> None:
    settings = {"views": {"count": 1}, "pretrain": {"samples": {"view_fraction": 0.5}}}
    found = {need.stage: need for need in needs(experiment(tmp_path, **settings), SCENES)}
    splits = ("train", "val", "test")
    assert list(found) == [
        "frames of the generated world",
        *(f"{what} of {split}" for what in ("prepared scenes", "samples", "token bank") for split in splits),
        *("labels of train", "labels of val", "checkpoints"),
    ]
    prepared = {split: found[f"prepared scenes of {split}"].size_bytes for split in splits}
    assert prepared["train"] == 2 * prepared["val"] * 10, "scenes and their views"
    samples = sum(found[f"samples of {split}"].size_bytes for split in splits)
    assert samples == pytest.approx((150 + 10 + 20) * 0.374e6, rel=0.01), "docs/data.md: 0.37 MB"
    banks = sum(found[f"token bank of {split}"].size_bytes for split in splits)
    assert banks == pytest.approx((150 + 10 + 20) * 47e3, rel=0.02), "docs/data.md: 47 kB"


def test_judging_alone_prepares_alone(tmp_path: Path) -> None:
    found = needs(experiment(tmp_path, generate=None), {"test": 20})
    assert [need.stage for need in found] == ["prepared scenes of test"]


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    place = Location.of(folder)
    assert Need("x", place, 1000.0, whole=False).missing_bytes == 1000
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(b"0" * 400)
    assert Need("x", place, 1000.0, whole=False).missing_bytes == 600
    assert Need("x", place, 100.0, whole=False).missing_bytes == 0
    assert Need("x", place, 1000.0, whole=True).missing_bytes == 0


@pytest.mark.parametrize(("free", "level"), [(10_000, "ok"), (1100, "warning"), (900, "problem")])
def test_free_space_is_held_against_needs(
    free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    first, second = (Need(name, Location.of(tmp_path / name), 500.0, whole=False) for name in "ab")
    (finding,) = disk_findings([first, second])
    assert finding.level == level


def test_an_sqlite_store_is_looked_at(tmp_path: Path) -> None:
    subject = experiment(tmp_path)
    assert tracking_finding(subject).level == "ok"
    assert not (tmp_path / "runs").exists(), "looking makes nothing"
    path = subject.folder.path / "mlflow.db"
    path.parent.mkdir(parents=True)
    path.write_text("no data base, and longer than the hundred bytes of a header" * 10)
    assert tracking_finding(subject).level == "problem"
    path.unlink()
    with sqlite3.connect(path) as base:
        base.execute("create table runs (a text)")
    assert tracking_finding(subject).level == "ok"
    assert tracking_finding(subject.with_overrides({"tracking.enabled": False})).found == "switched off"


def test_a_store_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    finding = tracking_finding(experiment(tmp_path))
    assert finding.level == "problem"
    assert "cannot be written" in finding.found


def test_a_server_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    finding = tracking_finding(experiment(tmp_path, tracking={"uri": f"http://127.0.0.1:{port}"}))
    assert finding.level == "problem"
    assert "tracking.uri" in finding.remedy


def test_results_in_an_object_store_need_no_disk_but_a_place_for_tracking() -> None:
    subject = Experiment(name="x", runs="s3://bucket/runs", tracking={"uri": None})
    assert tracking_finding(subject).level == "problem"
    assert disk_findings([Need("labels", subject.folder, 1e18, whole=True)]) == []
