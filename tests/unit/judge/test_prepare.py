"""Preparing splits: failures are named, finished logs are kept, changed ones are made again."""

import json
import logging
import os
import pickle
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irl_vla.dataset.config import SceneFilter, ViewConfig
from irl_vla.dataset.log import LogMeta, write_log
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import write_split
from irl_vla.epdms.scorer import scoring_context
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import CheckpointError, ConfigError, LogFormatError, SceneError
from irl_vla.judge import prepare
from irl_vla.judge.for_each import in_processes, one_by_one
from irl_vla.judge.prepare import failed_scenes, prepare_log, prepare_split
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.owner import read_owner
from irl_vla.ledger.storage import RECORD_NAME, Location

from ..dataset.example import CITY, LOG, log_frames, write_example
from ..dataset.second_stage_example import SPLIT, scene_dict, stage_pair, write_scene, write_two_stage

OTHER = LOG.replace("veh-01", "veh-02")
WINDOWS = 14 - 12 + 1


@pytest.fixture
def dataset(tmp_path):
    return write_example(tmp_path / "data", logs=(LOG, OTHER), count=14, sensors=False)


def write_frames(dataset, name, frames):
    write_log(dataset.root / "navsim_logs/mini" / f"{name}.pkl", frames, LogMeta(name, CITY))


def facts(folder: Path):
    return find_record(Location.of(folder)).facts


def interrupt(folder: Path):
    """As a driver leaves the folder that was killed before it was done."""
    (folder / "index.json").unlink()
    record = json.loads((folder / RECORD_NAME).read_text())
    (folder / RECORD_NAME).write_text(json.dumps(record | {"whole": False, "facts": {}}))


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


def test_a_split_is_prepared_once(dataset, tmp_path):
    folder = tmp_path / "store"
    store = prepare_split(dataset, "train", None, folder, seed=0)
    assert store.tokens == tuple(ref.token for ref in scene_refs(dataset, "train"))
    assert failed_scenes(folder) == []
    first = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    interrupt(folder)
    (folder / f"{OTHER}.arrow").unlink()
    (folder / f".{OTHER}.arrow.x.arrow").write_bytes(b"half")
    assert prepare_split(dataset, "train", None, folder, seed=0).tokens == store.tokens
    second = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    assert second[f"{LOG}.arrow"] == first[f"{LOG}.arrow"]
    assert second[f"{OTHER}.arrow"] > first[f"{OTHER}.arrow"]
    assert not list(folder.glob(".*"))
    with pytest.raises(ConfigError, match="data_seed: 0 then, 1 now"):
        prepare_split(dataset, "train", None, folder, seed=1)


def test_a_whole_store_is_left_alone(dataset, tmp_path):
    folder = tmp_path / "store"
    store = prepare_split(dataset, "train", ViewConfig(count=1), folder, seed=0)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = prepare_split(dataset, "train", ViewConfig(count=1), folder, seed=0)
    assert (again.tokens, again.fingerprint()) == (store.tokens, store.fingerprint())
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / f"{OTHER}.arrow").unlink()
    prepare_split(dataset, "train", ViewConfig(count=1), folder, seed=0)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [name for name in before if after[name] == before[name]] == [f"{LOG}.arrow"]


def test_a_store_of_an_older_schema_is_refused_before_any_work(dataset, tmp_path):
    folder = tmp_path / "store"
    prepare_split(dataset, "train", None, folder, seed=0)
    (folder / f"{OTHER}.arrow").unlink()
    record = json.loads((folder / RECORD_NAME).read_text())
    record["identity"]["schema"] = 2
    (folder / RECORD_NAME).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"schema: 2 then, 3 now.*delete the folder"):
        prepare_split(dataset, "train", None, folder, seed=0)
    assert not (folder / f"{OTHER}.arrow").exists()


def test_a_changed_log_is_prepared_again(dataset, tmp_path):
    before = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    write_frames(dataset, LOG, log_frames(14, log=LOG, speed=5.0))
    after = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    assert before.tokens == after.tokens
    assert after[after.tokens[0]].ego_state[3] == 5.0


def test_a_changed_second_stage_is_prepared_again(tmp_path):
    dataset = write_two_stage(tmp_path / "data", logs=(LOG, OTHER))
    before = prepare_split(dataset, SPLIT, None, tmp_path / "store", seed=0)
    changed = stage_pair(LOG).second[0][0]
    old_y = before[changed].ego_state[1]
    assert before.tokens == tuple(ref.token for ref in scene_refs(dataset, SPLIT))
    inputs = facts(tmp_path / "store")["logs"]
    synthetic = [token for token in before.tokens if before[token].is_synthetic]
    assert len(synthetic) == 8
    assert all(before[token].human_plan is None for token in synthetic)
    write_scene(dataset, scene_dict(LOG, name="a-now", aside_m=-0.5))
    after = prepare_split(dataset, SPLIT, None, tmp_path / "store", seed=0)
    assert after[changed].ego_state[1] == pytest.approx(old_y - 0.5)
    renewed = facts(tmp_path / "store")["logs"]
    assert renewed[LOG] != inputs[LOG]
    assert renewed[OTHER] == inputs[OTHER]


def test_second_stage_scenes_have_no_views(tmp_path):
    dataset = write_two_stage(tmp_path)
    prepared, failed = prepare_log(dataset, SPLIT, LOG, None, ViewConfig(count=1), seed=0)
    assert not failed
    assert [scene.token[16:] for scene in prepared] == ["", "-s1", "", "-s1"] + ["0"] * 4


def test_a_failing_scene_is_named_and_the_others_go_on(dataset, tmp_path, caplog):
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
    assert facts(tmp_path / "store")["scenes"] == 2 * WINDOWS - 1
    interrupt(tmp_path / "store")
    (tmp_path / "store" / f"{OTHER}.arrow").unlink()
    prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    assert failed_scenes(tmp_path / "store") == [failure], "forgotten by the run that took it up"


def test_a_limit_of_scenes_holds_over_all_logs(dataset, tmp_path):
    write_split(dataset.root, "few", "mini", SceneFilter(num_future_frames=8, frame_interval=1, max_scenes=WINDOWS + 1))
    store = prepare_split(dataset, "few", None, tmp_path / "store", seed=0)
    assert store.tokens == tuple(ref.token for ref in scene_refs(dataset, "few"))
    assert len(store) == WINDOWS + 1


def test_a_log_that_cannot_be_read_stops_the_work(dataset, tmp_path):
    (dataset.root / "navsim_logs/mini" / f"{OTHER}.pkl").write_bytes(b"no pickle")
    with pytest.raises(LogFormatError, match="veh-02"):
        prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    # What was finished stays, but the store is not whole.
    assert (tmp_path / "store" / f"{LOG}.arrow").exists()
    assert not find_record(Location.of(tmp_path / "store")).whole
    with pytest.raises(CheckpointError, match="half-written"):
        PreparedStore.open(tmp_path / "store")


def test_all_broken_logs_are_named_at_once_or_left_out(dataset, tmp_path, caplog):
    for name in (LOG, OTHER):
        write_frames(dataset, name.replace("veh", "car"), log_frames(14, log=name.replace("veh", "car")))
    folder, logs = tmp_path / "store", dataset.root / "navsim_logs/mini"
    for name in (LOG, OTHER):
        (logs / f"{name}.pkl").write_bytes(b"no pickle")
    with pytest.raises(
        LogFormatError, match=r"4 logs, found 2 that cannot be read: .*veh-01.*veh-02.*skip_broken=true"
    ):
        prepare_split(dataset, "train", None, folder, seed=0)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*car*.arrow")}
    with caplog.at_level(logging.WARNING, "irl_vla.judge.prepare"):
        store = prepare_split(dataset, "train", None, folder, seed=0, skip_broken=True)
    assert "2 of 4 logs left out" in caplog.text
    assert len(store) == 2 * WINDOWS
    assert sorted(facts(folder)["broken_logs"]) == [LOG, OTHER]
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*car*.arrow")} == kept
    write_frames(dataset, LOG, log_frames(14, log=LOG))  # mended
    assert len(prepare_split(dataset, "train", None, folder, seed=0, skip_broken=True)) == 3 * WINDOWS
    with pytest.raises(LogFormatError, match="4 logs, found 1"):
        prepare_split(dataset, "train", None, folder, seed=0)


def test_logs_that_leave_the_split_leave_the_store(dataset, tmp_path):
    prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    (dataset.root / "navsim_logs/mini" / f"{OTHER}.pkl").unlink()
    store = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    assert len(store) == WINDOWS
    assert sorted(facts(tmp_path / "store")["logs"]) == [LOG]


def test_a_split_without_any_usable_scene_is_an_error(dataset, tmp_path):
    for name in (LOG, OTHER):
        write_frames(dataset, name, [replace(f, roadblock_ids=("999",)) for f in log_frames(14, log=name)])
    with pytest.raises(SceneError, match="none could be prepared"):
        prepare_split(dataset, "train", None, tmp_path / "store", seed=0)


def test_the_store_can_be_opened_elsewhere(dataset, tmp_path):
    prepare_split(dataset, "train", ViewConfig(count=1), tmp_path / "store", seed=0)
    store = PreparedStore.open(tmp_path / "store")
    read = pickle.loads(pickle.dumps(store))[store.tokens[1]]
    assert read.token.endswith("-s1")
    assert read.reference_poses.shape == (51, 3)


def test_logs_are_prepared_in_other_processes_as_here(dataset, tmp_path):
    here = prepare_split(dataset, "train", None, tmp_path / "here", seed=0)
    there = prepare_split(dataset, "train", None, tmp_path / "there", seed=0, for_each=in_processes(2))
    assert there.tokens == here.tokens
    for token in here.tokens:
        np.testing.assert_array_equal(there[token].reference_poses, here[token].reference_poses)


def test_one_process_prepares_for_all_who_ask(dataset, tmp_path, monkeypatch):
    folder, holders, mine = tmp_path / "store", [], prepare.owned

    def watched(label, work, items):
        holders.append(read_owner(folder).process)
        yield from one_by_one(label, work, items)

    store = prepare_split(dataset, "train", None, folder, seed=0, for_each=watched)
    write_frames(dataset, LOG, log_frames(14, log=LOG, speed=5.0))  # a whole store with something to do
    prepare_split(dataset, "train", None, folder, seed=0, for_each=watched)
    assert holders == [os.getpid()] * 2
    shutil.rmtree(folder)

    @contextmanager
    def behind_another(*args, **options):
        with mine(*args, **options):
            monkeypatch.setattr(prepare, "owned", mine)
            prepare_split(dataset, "train", None, folder, seed=0)
            yield

    monkeypatch.setattr(prepare, "owned", behind_another)
    assert prepare_split(dataset, "train", None, folder, seed=0, for_each=watched).tokens == store.tokens
    assert len(holders) == 2, "made again what another one had made"


def test_a_whole_store_is_not_written_to(dataset, tmp_path, monkeypatch):
    """So that it may lie on a disk that can only be read."""
    store = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)

    def refused(*args, **options):
        raise PermissionError

    monkeypatch.setattr(prepare, "owned", refused)
    assert prepare_split(dataset, "train", None, tmp_path / "store", seed=0).tokens == store.tokens
