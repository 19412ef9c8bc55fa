"""Preparing splits: failures are named, finished logs are kept, changed ones are made again. One small Ray instance."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import ray

from irl_vla.dataset.config import SceneFilter, ViewConfig
from irl_vla.dataset.log import LogMeta, write_log
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import write_split
from irl_vla.epdms.scorer import scoring_context
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import CheckpointError, LogFormatError, SceneError
from irl_vla.judge.prepare import failed_scenes, prepare_log, prepare_split
from irl_vla.ledger.files import MANIFEST_NAME
from irl_vla.stages.session import RayConfig, ray_session

from ..dataset.example import CITY, LOG, log_frames, write_example
from ..dataset.second_stage_example import SPLIT, scene_dict, stage_pair, write_scene, write_two_stage

OTHER = LOG.replace("veh-01", "veh-02")
WINDOWS = 14 - 12 + 1


@pytest.fixture(scope="module")
def session():
    with ray_session(RayConfig(cpus=1, object_store_mb=80)):
        yield


@pytest.fixture
def dataset(tmp_path):
    return write_example(tmp_path / "data", logs=(LOG, OTHER), count=14, sensors=False)


def write_frames(dataset, name, frames):
    write_log(dataset.root / "navsim_logs/mini" / f"{name}.pkl", frames, LogMeta(name, CITY))


def test_views_follow_their_scene(dataset):
    prepared, failed = prepare_log(dataset, "train", LOG, None, ViewConfig(count=2), seed=3)
    assert not failed
    tokens = [scene.token for scene in prepared]
    assert tokens == [
        f"{ref.token}{view}" for ref in scene_refs(dataset, "train", [LOG]) for view in ("", "-s1", "-s2")
    ]
    original, view = prepared[0], prepared[1]
    assert original.red_active.all()  # the log names the connector by number, the map by text
    assert len(original.red_lights) == 1
    assert 0 < np.hypot(*(view.ego_state[:2] - original.ego_state[:2])) < 2.0
    assert original.human_plan is not None
    assert view.human_plan is None, "nobody drove from there: no human filter"
    assert scoring_context(view).human is None
    np.testing.assert_allclose(view.tracks.poses, original.tracks.poses, atol=1e-6)  # the world stays where it was


def test_a_split_is_prepared_once(session, dataset, tmp_path):
    folder = tmp_path / "store"
    store = prepare_split(dataset, "train", None, folder, seed=0)
    assert store.tokens == tuple(ref.token for ref in scene_refs(dataset, "train"))
    assert failed_scenes(folder) == []
    first = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    (folder / MANIFEST_NAME).unlink()
    (folder / f"{OTHER}.arrow").unlink()  # as if the run had been interrupted
    assert prepare_split(dataset, "train", None, folder, seed=0).tokens == store.tokens
    second = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    assert second[f"{LOG}.arrow"] == first[f"{LOG}.arrow"]
    assert second[f"{OTHER}.arrow"] > first[f"{OTHER}.arrow"]
    with pytest.raises(CheckpointError, match="another folder"):
        prepare_split(dataset, "train", None, folder, seed=1)


def test_a_store_of_an_older_schema_is_refused_before_any_work(session, dataset, tmp_path):
    folder = tmp_path / "store"
    prepare_split(dataset, "train", None, folder, seed=0)
    (folder / f"{OTHER}.arrow").unlink()
    job = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({"fingerprint": job["fingerprint"]}))  # as schema 1 wrote it
    with pytest.raises(CheckpointError, match=rf"schema 3, found those of schema 1; remove it \(`rm -r {folder}`\)"):
        prepare_split(dataset, "train", None, folder, seed=0)
    assert not (folder / f"{OTHER}.arrow").exists()


def test_a_changed_log_is_prepared_again(session, dataset, tmp_path):
    before = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    write_frames(dataset, LOG, log_frames(14, log=LOG, speed=5.0))
    after = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    assert before.tokens == after.tokens
    assert after[after.tokens[0]].ego_state[3] == 5.0


def test_a_changed_second_stage_is_prepared_again(session, tmp_path):
    dataset = write_two_stage(tmp_path / "data", logs=(LOG, OTHER))
    before = prepare_split(dataset, SPLIT, None, tmp_path / "store", seed=0)
    changed = stage_pair(LOG).second[0][0]
    old_y = before[changed].ego_state[1]
    assert before.tokens == tuple(ref.token for ref in scene_refs(dataset, SPLIT))
    inputs = json.loads((tmp_path / "store" / MANIFEST_NAME).read_text())["inputs"]
    synthetic = [token for token in before.tokens if before[token].is_synthetic]
    assert len(synthetic) == 8
    assert all(before[token].human_plan is None for token in synthetic)
    write_scene(dataset, scene_dict(LOG, name="a-now", aside_m=-0.5))
    after = prepare_split(dataset, SPLIT, None, tmp_path / "store", seed=0)
    assert after[changed].ego_state[1] == pytest.approx(old_y - 0.5)
    renewed = json.loads((tmp_path / "store" / MANIFEST_NAME).read_text())["inputs"]
    assert renewed[LOG] != inputs[LOG]
    assert renewed[OTHER] == inputs[OTHER]


def test_second_stage_scenes_have_no_views(tmp_path):
    dataset = write_two_stage(tmp_path)
    prepared, failed = prepare_log(dataset, SPLIT, LOG, None, ViewConfig(count=1), seed=0)
    assert not failed
    assert [scene.token[16:] for scene in prepared] == ["", "-s1", "", "-s1"] + ["0"] * 4


def test_a_failing_scene_is_named_and_the_others_go_on(session, dataset, tmp_path, caplog):
    frames = log_frames(14, log=LOG)
    frames[4] = replace(frames[4], roadblock_ids=("21", "999"))
    write_frames(dataset, LOG, frames)
    with caplog.at_level(logging.WARNING, "irl_vla.judge.prepare"):
        store = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    assert len(store) == 2 * WINDOWS - 1
    (failure,) = failed_scenes(tmp_path / "store")
    assert (failure.token, failure.log_name) == (frames[4].token, LOG)
    assert "'999'" in failure.reason
    assert frames[4].token in caplog.text
    manifest = json.loads((tmp_path / "store" / MANIFEST_NAME).read_text())
    assert manifest["extra"]["scenes"] == 2 * WINDOWS - 1


def test_a_limit_of_scenes_holds_over_all_logs(session, dataset, tmp_path):
    write_split(dataset.root, "few", "mini", SceneFilter(num_future_frames=8, frame_interval=1, max_scenes=WINDOWS + 1))
    store = prepare_split(dataset, "few", None, tmp_path / "store", seed=0)
    assert store.tokens == tuple(ref.token for ref in scene_refs(dataset, "few"))
    assert len(store) == WINDOWS + 1


def test_errors_of_tasks_come_back_as_what_they_are(session, dataset, tmp_path):
    (dataset.root / "navsim_logs/mini" / f"{OTHER}.pkl").write_bytes(b"no pickle")
    with pytest.raises(LogFormatError, match="veh-02"):
        prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    # What was finished stays, but the store is not whole.
    assert not (tmp_path / "store" / MANIFEST_NAME).exists()


def test_a_split_without_any_usable_scene_is_an_error(session, dataset, tmp_path):
    for name in (LOG, OTHER):
        write_frames(dataset, name, [replace(f, roadblock_ids=("999",)) for f in log_frames(14, log=name)])
    with pytest.raises(SceneError, match="none could be prepared"):
        prepare_split(dataset, "train", None, tmp_path / "store", seed=0)


def test_the_store_can_be_opened_elsewhere(session, dataset, tmp_path):
    prepare_split(dataset, "train", ViewConfig(count=1), tmp_path / "store", seed=0)
    store = PreparedStore.open(tmp_path / "store")
    read = ray.get(ray.remote(lambda token: store[token]).remote(store.tokens[1]))
    assert read.token.endswith("-s1")
    assert read.reference_poses.shape == (51, 3)
