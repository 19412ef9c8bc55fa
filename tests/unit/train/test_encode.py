"""Samples where sensor files lack: stop and count, leave out, or blank; images fetched later are another data set."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.errors import CheckpointError, SceneError
from irl_vla.ledger.arrays import write_rows
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.storage import Location
from irl_vla.policy.config import EncoderConfig
from irl_vla.train.config import SampleConfig
from irl_vla.train.encode import SampleJob, write_samples
from irl_vla.train.samples import open_samples, sample_columns
from tests.unit.dataset.example import LOG, write_example

OTHER = LOG.replace("veh-01", "veh-02")
ENCODER = EncoderConfig().with_overrides({"cameras.names": ["CAM_F0"]})
SCENES = 5  # of each log: 16 frames hold five windows of 4 + 8
LACKING = (2, SCENES, SCENES + 1)  # the sweep is also the one before, of the scene behind


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two logs; an image of the first is gone, and a sweep of the second."""
    found: Dataset = write_example(tmp_path / "data", logs=(LOG, OTHER))
    scenes = list(iter_scenes(found, "train"))
    blobs = found.sensor_folder("mini")
    (blobs / scenes[2].current.cameras["CAM_F0"].path).unlink()
    sweep = scenes[SCENES].current.lidar_path
    assert sweep is not None
    (blobs / sweep).unlink()
    return found


def job(dataset: Dataset, folder: Path, **settings: Any) -> SampleJob:
    return SampleJob(
        dataset=dataset,
        dataset_fingerprint="d",
        split="train",
        encoder=ENCODER,
        samples=SampleConfig(workers=0, **settings),
        views=None,
        view_sensors=None,
        seed=0,
        folder=Location.of(folder),
    )


def test_by_default_one_error_counts_what_lacks(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SceneError) as caught:
        write_samples({"train": job(dataset, tmp_path / "samples")})["train"]
    told = str(caught.value)
    assert f"3 of {2 * SCENES} scenes lack sensors (CAM_F0 1, sweep 2 1, sweep 3 1)" in told
    assert "pretrain.samples.incomplete" in told
    assert find_record(Location.of(tmp_path / "samples")) is None, "nothing was begun"


def test_scenes_that_lack_sensors_are_left_out_and_counted(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        samples = write_samples({"train": job(dataset, tmp_path / "samples", incomplete="leave_out")})["train"]
    tokens = [scene.token for scene in iter_scenes(dataset, "train")]
    assert samples.rows.token.tolist() == [token for index, token in enumerate(tokens) if index not in LACKING]
    assert "these scenes are left out" in caplog.text
    record = find_record(samples.place)
    assert record is not None
    assert record.facts["missing_sensors"] == {LOG: {"CAM_F0": 1}, OTHER: {"sweep 2": 1, "sweep 3": 1}}
    assert samples.take(np.arange(len(samples)))["camera_valid"].all()


def test_blank_sensors_are_counted_too(dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        samples = write_samples({"train": job(dataset, tmp_path / "samples", incomplete="blank")})["train"]
    assert len(samples) == 2 * SCENES
    taken = samples.take(np.arange(len(samples)))
    assert np.flatnonzero(~taken["camera_valid"][:, 0]).tolist() == [2]
    assert not taken["images"][2].any()
    before, now = slice(0, 3), slice(3, 6)  # channels of the raster
    assert [bool(taken["lidar"][row, now].any()) for row in (SCENES, SCENES + 1)] == [False, True]
    assert [bool(taken["lidar"][row, before].any()) for row in (SCENES, SCENES + 1)] == [True, False]
    assert "3 of 10 scenes lack sensors" in caplog.text
    assert "see black images" in caplog.text


def test_nothing_left_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    for path in dataset.sensor_folder("mini").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(SceneError, match="10 of 10 scenes lack sensors"):
        write_samples({"train": job(dataset, tmp_path / "samples", incomplete="leave_out")})["train"]


def test_a_shard_of_other_samples_names_the_command_that_makes_these(dataset: Dataset, tmp_path: Path) -> None:
    """Not every split is encoded by imitation: the one that is judged on is by judging."""
    wanted = replace(job(dataset, tmp_path, incomplete="leave_out"), remedy="run `irl-vla evaluate`")
    write_rows(tmp_path / f"{LOG}.arrow", sample_columns(ENCODER), [], "another")
    with pytest.raises(CheckpointError, match=r"expected a shard of .*delete it and run `irl-vla evaluate` again"):
        write_samples({"train": wanted})
    with pytest.raises(CheckpointError, match="half-written; run `irl-vla evaluate`"):
        open_samples(wanted.folder, wanted.remedy)


@pytest.mark.parametrize(
    "other", [{"incomplete": "leave_out"}, {"view_fraction": 0.25}], ids=["incomplete", "view_fraction"]
)
def test_what_shapes_samples_is_their_identity_and_how_fast_is_not(
    dataset: Dataset, tmp_path: Path, other: dict[str, Any]
) -> None:
    one = job(dataset, tmp_path).artefact.fingerprint
    assert job(dataset, tmp_path, **other).artefact.fingerprint != one
    faster = job(dataset, tmp_path).samples.with_overrides({"workers": 7})
    assert SampleJob(**{**vars(job(dataset, tmp_path)), "samples": faster}).artefact.fingerprint == one


def test_what_a_killed_writer_left_is_removed_before_samples_are_made(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / f".{LOG}.arrow.x1y2.arrow").write_bytes(b"half")
    write_samples({"train": job(dataset, folder, incomplete="blank")})
    assert not list(folder.glob(".*"))
