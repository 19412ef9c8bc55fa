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

from irl_vla.dataset import fingerprint as hashing
from irl_vla.dataset.config import SceneFilter, ViewConfig
from irl_vla.dataset.log import LogMeta, write_log
from irl_vla.dataset.maps.content import CITY_EPSG
from irl_vla.dataset.maps.writer import map_path, write_map
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import write_split
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import CheckpointError, ConfigError, LogFormatError, SceneError
from irl_vla.judge import prepare as module
from irl_vla.judge.fingerprint import fingerprint
from irl_vla.judge.for_each import in_processes, one_by_one
from irl_vla.judge.prepare import failed_scenes, prepare_split
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.owner import read_owner
from irl_vla.ledger.storage import RECORD_NAME, Location

from ..dataset.example import CITY, LOG, line, log_frames, map_content, write_example
from ..dataset.second_stage_example import SPLIT, scene_dict, stage_pair, write_scene, write_two_stage

OTHER = LOG.replace("veh-01", "veh-02")
ELSEWHERE = "us-ma-boston"
WINDOWS = 14 - 12 + 1


@pytest.fixture
def dataset(tmp_path):
    return write_example(tmp_path / "data", logs=(LOG, OTHER), count=14, sensors=False)


def write_frames(dataset, name, frames, city=CITY):
    write_log(dataset.root / "navsim_logs/mini" / f"{name}.pkl", frames, LogMeta(name, city))


def write_city(dataset, city, lane_y=-2.0):
    """The example's map, with the lane that the ego is in elsewhere."""
    content = map_content()
    lanes = [replace(row, baseline=line(0, 100, lane_y)) if row.id == 12 else row for row in content.lanes]
    write_map(map_path(dataset.maps_root, city), replace(content, lanes=tuple(lanes)), CITY_EPSG[city])


def written(folder: Path):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def facts(folder: Path):
    return find_record(Location.of(folder)).facts


def interrupt(folder: Path):
    """As a driver leaves the folder that was killed before it was done."""
    (folder / "index.json").unlink()
    record = json.loads((folder / RECORD_NAME).read_text())
    (folder / RECORD_NAME).write_text(json.dumps(record | {"whole": False, "facts": {}}))


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
    with pytest.raises(ConfigError, match=r"schema: 2 then, 4 now.*delete the folder"):
        prepare_split(dataset, "train", None, folder, seed=0)
    assert not (folder / f"{OTHER}.arrow").exists()


def test_a_changed_log_is_prepared_again(dataset, tmp_path):
    before = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    write_frames(dataset, LOG, log_frames(14, log=LOG, speed=5.0))
    after = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    assert before.tokens == after.tokens
    assert after[after.tokens[0]].ego_state[3] == 5.0


def test_a_changed_map_is_prepared_again_for_its_logs_alone(dataset, tmp_path):
    folder = tmp_path / "store"
    write_city(dataset, ELSEWHERE)
    write_frames(dataset, OTHER, log_frames(14, log=OTHER), ELSEWHERE)
    before = prepare_split(dataset, "train", None, folder, seed=0)
    mine, other = before.tokens[0], before.tokens[-1]
    was, content, times = before[mine], facts(folder)["logs"], written(folder)
    prints = before.fingerprint(), fingerprint(ScorerConfig(), [folder], before.tokens).dataset
    write_city(dataset, CITY, lane_y=-1.5)
    after = prepare_split(dataset, "train", None, folder, seed=0)
    assert after[mine].centerline[0, 1] == pytest.approx(was.centerline[0, 1] + 0.5, abs=1e-3)
    np.testing.assert_array_equal(after[other].centerline, before[other].centerline)
    assert written(folder)[f"{LOG}.arrow"] > times[f"{LOG}.arrow"]
    assert written(folder)[f"{OTHER}.arrow"] == times[f"{OTHER}.arrow"]
    now = facts(folder)["logs"]
    assert [name for name in now if now[name] != content[name]] == [LOG]
    assert after.fingerprint() != prints[0]
    assert fingerprint(ScorerConfig(), [folder], after.tokens).dataset != prints[1]


def test_scenes_of_another_scorer_are_refused(dataset, tmp_path, monkeypatch):
    prepare_split(dataset, "train", None, tmp_path / "store", seed=0)
    monkeypatch.setattr(module, "SCORER_VERSION", 99)
    with pytest.raises(ConfigError, match=r"scorer_version: \d+ then, 99 now"):
        prepare_split(dataset, "train", None, tmp_path / "store", seed=0)


def test_finished_logs_are_not_read_to_see_that_they_have_not_changed(dataset, tmp_path, monkeypatch):
    for path in dataset.root.rglob("*"):  # written long ago
        os.utime(path, (1.6e9, 1.6e9))
    folder, cache = tmp_path / "store", tmp_path / "cache"
    prepare_split(dataset, "train", None, folder, seed=0, cache=cache)
    prepare_split(dataset, "train", None, folder, seed=0, cache=cache)  # reads once more, and remembers
    times = written(folder)

    def refuse(path):
        raise AssertionError(path)

    monkeypatch.setattr(hashing, "file_hash", refuse)
    prepare_split(dataset, "train", None, folder, seed=0, cache=cache)
    assert written(folder) == times
    os.utime(dataset.root / "navsim_logs/mini" / f"{LOG}.pkl")
    with pytest.raises(AssertionError, match=LOG):
        prepare_split(dataset, "train", None, folder, seed=0, cache=cache)


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


def test_the_scenes_of_a_log_may_change_with_another_log(dataset, tmp_path):
    write_split(dataset.root, "few", "mini", SceneFilter(num_future_frames=8, frame_interval=1, max_scenes=WINDOWS + 1))
    folder = tmp_path / "store"
    prepare_split(dataset, "few", None, folder, seed=0)
    write_frames(dataset, LOG, log_frames(13, log=LOG))  # one scene less, so that one more of the other is taken
    store = prepare_split(dataset, "few", None, folder, seed=0)
    assert store.tokens == tuple(ref.token for ref in scene_refs(dataset, "few"))
    assert len(store) == WINDOWS + 1
    left = replace(dataset, left_out=frozenset([LOG]))
    assert len(prepare_split(left, "few", None, folder, seed=0)) == WINDOWS


def test_a_log_that_lacked_its_map_is_tried_again(dataset, tmp_path):
    write_frames(dataset, OTHER, log_frames(14, log=OTHER), ELSEWHERE)
    folder = tmp_path / "store"
    store = prepare_split(dataset, "train", None, folder, seed=0, skip_broken=True)
    assert len(store) == WINDOWS
    content, times = facts(folder)["logs"], written(folder)
    assert len(prepare_split(dataset, "train", None, folder, seed=0, skip_broken=True)) == WINDOWS
    again = written(folder)
    assert [name for name in times if again[name] != times[name]] == [f"{OTHER}.arrow"], (
        "whole for others all the while"
    )
    write_city(dataset, ELSEWHERE)
    assert len(prepare_split(dataset, "train", None, folder, seed=0, skip_broken=True)) == 2 * WINDOWS
    assert facts(folder)["broken_logs"] == {}
    assert facts(folder)["logs"][OTHER] != content[OTHER]
    assert len(PreparedStore.open(folder)) == 2 * WINDOWS


def test_a_second_stage_scene_that_is_lost_breaks_its_log_until_it_is_back(tmp_path):
    dataset, folder = write_two_stage(tmp_path / "data", logs=(LOG, OTHER)), tmp_path / "store"
    whole = prepare_split(dataset, SPLIT, None, folder, seed=0)
    kept = len([token for token, (name, _) in whole.places.items() if name.startswith(OTHER)])
    path = dataset.second_stage_folder(SPLIT) / f"{stage_pair(LOG).second[0][0]}.pkl"
    path.rename(tmp_path / "elsewhere")
    assert len(prepare_split(dataset, SPLIT, None, folder, seed=0, skip_broken=True)) == kept
    (tmp_path / "elsewhere").rename(path)
    assert prepare_split(dataset, SPLIT, None, folder, seed=0, skip_broken=True).tokens == whole.tokens


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
    folder, holders, mine = tmp_path / "store", [], module.owned

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
            monkeypatch.setattr(module, "owned", mine)
            prepare_split(dataset, "train", None, folder, seed=0)
            yield

    monkeypatch.setattr(module, "owned", behind_another)
    assert prepare_split(dataset, "train", None, folder, seed=0, for_each=watched).tokens == store.tokens
    assert len(holders) == 2, "made again what another one had made"


def test_a_whole_store_is_not_written_to(dataset, tmp_path, monkeypatch):
    """So that it may lie on a disk that can only be read."""
    store = prepare_split(dataset, "train", None, tmp_path / "store", seed=0)

    def refused(*args, **options):
        raise PermissionError

    monkeypatch.setattr(module, "owned", refused)
    assert prepare_split(dataset, "train", None, tmp_path / "store", seed=0).tokens == store.tokens
