"""The doctor's look at a data set: splits that are there and apart, maps, and the sensors of all scenes."""

from pathlib import Path

import pytest

from irl_vla.cli.doctor.data import data_findings, roles, sample
from irl_vla.dataset import inventory as module
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import city_path
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.splits import WHOLE_FOLDER, write_split
from irl_vla.errors import LogFormatError
from irl_vla.stages.experiment import Experiment
from tests.unit.dataset.example import CITY, LOG, write_example

LOGS = tuple(LOG.replace("veh-01", f"veh-0{number}") for number in (1, 2, 3, 4))
#: Two logs to train on, one each for validation and test.
OF = {"train": LOGS[:2], "val": LOGS[2:3], "test": LOGS[3:]}
TRAINED = {"train": "train", "val": "val", "test": "test"}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    found: Dataset = write_example(tmp_path / "data", logs=LOGS, count=14)
    for split, logs in OF.items():
        write_split(found.root, split, "mini", WHOLE_FOLDER.model_copy(update={"log_names": logs}))
    return found


def experiment(folder: Path, policies: tuple[str, ...] = ("imitation",), **settings: object) -> Experiment:
    """Of a policy that sees the front camera."""
    found = Experiment(
        name="x",
        generate=None,
        data={"root": folder / "data", **TRAINED},
        evaluate={"policies": policies, "against": ()},
        **settings,
    )
    return found.with_overrides({"model.encoder.cameras.names": ["CAM_F0"]})


def levels(subject: Experiment) -> dict[str, str]:
    return {finding.check: finding.level for finding in data_findings(subject)[0]}


def test_only_the_splits_of_the_configured_policies_are_needed(tmp_path: Path) -> None:
    assert roles(experiment(tmp_path)) == TRAINED
    assert roles(experiment(tmp_path, ("human", "constant_velocity"))) == {"test": "test"}
    assert roles(experiment(tmp_path, ("constant_acceleration",))) == {"train": "train", "test": "test"}


def test_a_log_tells_the_scenes_of_its_split(dataset: Dataset) -> None:
    found = sample(dataset, "train")
    assert (found.logs, found.scenes) == (2, 6), "14 frames are 3 windows, and the other log is as large"
    assert found.first is not None
    with pytest.raises(LogFormatError):
        sample(Dataset(dataset.root / "empty", dataset.maps_root, dataset.splits_root), "train")


def test_a_whole_data_set_is_fine(dataset: Dataset, tmp_path: Path) -> None:
    findings, scenes = data_findings(experiment(tmp_path))
    assert {finding.level for finding in findings} == {"ok"}
    assert [finding.check for finding in findings] == [
        *(part for split in TRAINED for part in (f"split {split}", f"sensors of {split}")),
        "splits",
    ]
    assert "all sensor files of 6 scenes" in findings[1].found
    assert scenes == {"train": 6, "val": 3, "test": 3}


def test_splits_that_share_scenes_are_a_problem(dataset: Dataset, tmp_path: Path) -> None:
    leaking = experiment(tmp_path).with_overrides({"data.val": "mini"})
    (finding,) = (item for item in data_findings(leaking)[0] if item.check == "splits")
    assert finding.level == "problem"
    assert "data.train (train) and data.val (mini) share 2 logs" in finding.found
    assert "irl-vla split" in finding.remedy
    assert "splits" not in levels(experiment(tmp_path, ("human",))), "judging alone needs one split"


def test_all_scenes_are_looked_at(dataset: Dataset, tmp_path: Path) -> None:
    """One image of ten is missing, in a log that no sample would take."""
    scene = next(iter(iter_scenes(dataset, "train", logs=[LOGS[1]])))
    (dataset.root / "sensor_blobs/mini" / scene.current.cameras["CAM_F0"].path).unlink()
    (finding,) = (item for item in data_findings(experiment(tmp_path))[0] if item.check == "sensors of train")
    assert finding.level == "problem"
    assert "1 of 6 scenes lack sensors (CAM_F0 1)" in finding.found
    assert LOGS[1] in finding.found


def test_many_large_logs_are_looked_at_by_several_processes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = data_findings(experiment(tmp_path))
    monkeypatch.setattr(module, "_SPREAD_BYTES", 0)
    monkeypatch.setattr(module, "spread", lambda work, items, workers: map(work, items))
    assert data_findings(experiment(tmp_path)) == alone


def test_missing_sensors_matter_where_policies_are_trained(dataset: Dataset, tmp_path: Path) -> None:
    for path in (dataset.root / "sensor_blobs").rglob("*.jpg"):
        path.unlink()
    assert levels(experiment(tmp_path))["sensors of train"] == "problem"
    tolerant = experiment(tmp_path, pretrain={"samples": {"incomplete": "blank"}})
    assert levels(tolerant)["sensors of train"] == "warning"
    assert levels(experiment(tmp_path, ("human",))) == {"split test": "ok"}
    unseen = experiment(tmp_path).with_overrides({"model.encoder.cameras.names": ["CAM_B0"]})
    (finding,) = (item for item in data_findings(unseen)[0] if item.check == "sensors of train")
    assert "CAM_B0: not in the log" in finding.found


def test_missing_maps_and_splits_are_problems(dataset: Dataset, tmp_path: Path) -> None:
    city_path(dataset.maps_root, CITY).unlink()
    assert levels(experiment(tmp_path))["map of train"] == "problem"
    assert levels(experiment(tmp_path).with_overrides({"data.train": "absent"}))["split absent"] == "problem"


def test_a_missing_root_is_a_problem(tmp_path: Path) -> None:
    findings, scenes = data_findings(experiment(tmp_path))
    assert [(finding.check, finding.level) for finding in findings] == [("data", "problem")]
    assert scenes == {}


def test_a_world_that_is_not_generated_yet_is_none(tmp_path: Path) -> None:
    subject = Experiment(name="x", data={"root": tmp_path / "data"})
    (finding,), scenes = data_findings(subject)
    assert finding.level == "ok"
    assert "irl-vla generate" in finding.remedy
    world = subject.generate
    assert world is not None
    assert scenes["test"] == world.test.logs * (world.frames_per_log - 11)
