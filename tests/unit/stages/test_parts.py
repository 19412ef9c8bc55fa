"""What stages make in parts: one folder each, rows out of the sizes of splits."""

from pathlib import Path

from irl_vla.stages import folders
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.parts import bank_part, bank_rows, labels_part, prepared_part, samples_part, world_parts


def experiment(folder: Path, **settings: object) -> Experiment:
    return Experiment(name="x", runs=folder / "runs", data={"root": folder / "data"}, **settings)


def test_training_alone_sees_shifted_views(tmp_path: Path) -> None:
    subject = experiment(tmp_path, views={"count": 2}, pretrain={"samples": {"view_fraction": 0.25}})
    assert [bank_rows(subject, role, 100) for role in ("train", "val", "test")] == [150, 100, 100]
    assert [prepared_part(subject, split, 100).estimate.rows for split in ("train", "val")] == [300, 100]
    plans = [labels_part(subject, name, 100).estimate.plans for name in ("train", "val")]
    assert plans == [150 * subject.label.proposals.count, 100 * subject.label.proposals.count]


def test_every_part_lies_where_its_stage_puts_it(tmp_path: Path) -> None:
    subject = experiment(tmp_path)
    assert bank_part(subject, "test", 1).folder == folders.bank_path(subject, "test")
    assert [labels_part(subject, name, 1).folder for name in ("train", "val")] == [
        folders.labels_path(subject, "train"),
        folders.labels_path(subject, "val"),
    ]
    assert samples_part(subject, "val", 1).folder == subject.shared / "samples" / "val"
    assert prepared_part(subject, "val", 1).folder == subject.shared / "prepared" / "val"
    assert world_parts(subject)[0].folder.path == folders.data_root(subject)
    assert world_parts(experiment(tmp_path, generate=None)) == []


def test_painted_views_take_more_than_recorded_ones(tmp_path: Path) -> None:
    generated = experiment(tmp_path, views={"count": 1}, pretrain={"samples": {"view_fraction": 1.0}})
    bare = generated.with_overrides({"views.count": 0})
    recorded = experiment(tmp_path, generate=None)
    hours = [samples_part(subject, "train", 100).estimate.core_hours for subject in (generated, bare)]
    assert hours[0] > 3 * hours[1], "benchmarks/encoding.py: a painted view is three logged rows"
    val = [samples_part(subject, "val", 100).estimate.core_hours for subject in (generated, recorded)]
    assert val[1] > 3 * val[0], "large images are opened"
