import errno
import pickle
import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from irl_vla.epdms.records import PreparedScene, TrafficStart
from irl_vla.epdms.store import (
    INDEX_NAME,
    KIND,
    SCHEMA_VERSION,
    PreparedStore,
    ShardEntry,
    read_entry,
    read_index,
    write_index,
    write_shard,
)
from irl_vla.errors import CheckpointError, SceneError, StorageError
from irl_vla.ledger.artefact import Artefact, Identity
from irl_vla.ledger.storage import Location

from .store_record import finish_store
from .straight_road import plan, rectangle, scene, tracks


def assert_equal(left: Any, right: Any) -> None:
    if is_dataclass(left):
        for field in fields(left):
            assert_equal(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right


def example(token: str, *, full: bool) -> PreparedScene:
    if not full:
        return replace(scene(), token=token)
    objects = tracks(("vehicle", 20.0, 0.0, 3.0, 0), ("pedestrian", 5.0, 4.0, 0.0, 7))
    ready = scene(objects=objects, red=(rectangle(9, -2, 19, 2),), human=plan(10.0))
    traffic = TrafficStart(
        seen_now=np.array([True, False]),
        drivers=np.array([0]),
        boxes=np.array([[20.0, 0.0, 0.0]]),
        motion=np.array([[20.0, 3.0, 10.0]]),
        lane=np.array([0]),
        lane_points=np.array([[0.0, 0.0], [30.0, 0.0], [60.0, 0.0]]),
        lane_offsets=np.array([0, 3]),
        standing=np.zeros(0, np.int64),
    )
    return replace(ready, token=token, traffic=traffic)


def test_round_trip(tmp_path: Path) -> None:
    scenes = [example(f"scene{i}", full=bool(i % 2)) for i in range(4)]
    write_shard(tmp_path / "b.arrow", scenes[:1])
    write_shard(tmp_path / "a.arrow", scenes[1:])
    store = PreparedStore.open(tmp_path)
    assert store.tokens == ("scene1", "scene2", "scene3", "scene0")
    assert len(store) == 4
    for item in scenes:
        assert item.token in store
        assert_equal(store[item.token], item)


def test_a_store_travels_to_other_processes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.arrow", [example("one", full=True)])
    copy = pickle.loads(pickle.dumps(PreparedStore.open(tmp_path)))
    assert_equal(copy["one"], example("one", full=True))


def test_scenes_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.arrow", [example("one", full=True), example("two", full=False)])
    write_shard(tmp_path / "b.arrow", [example("three", full=True)])
    store = PreparedStore.open(tmp_path)
    asked = ["two", "three", "one", "two"]
    assert [scene.token for scene in store.scenes(asked)] == asked
    with pytest.raises(SceneError, match="four"):
        list(store.scenes(["one", "four"]))


def test_a_finished_store_is_opened_by_its_index_alone(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.arrow", [example("one", full=True)])
    finish_store(tmp_path, {"a": "1234"})
    (tmp_path / "a.arrow").rename(tmp_path / "elsewhere")
    assert PreparedStore.open(tmp_path).tokens == ("one",)
    (tmp_path / "elsewhere").rename(tmp_path / "a.arrow")
    assert_equal(PreparedStore.open(tmp_path)["one"], example("one", full=True))
    (tmp_path / INDEX_NAME).write_text("{")
    with pytest.raises(CheckpointError, match=r"index\.json: expected the index.*rm -r"):
        PreparedStore.open(tmp_path)


def test_a_store_is_told_apart_by_the_logs_it_was_made_from(tmp_path: Path) -> None:
    for name, logs in (("a", {"log": "1"}), ("b", {"log": "1"}), ("c", {"log": "2"})):
        write_shard(tmp_path / name / "log.arrow", [example("one", full=False)])
        finish_store(tmp_path / name, logs)
    prints = [PreparedStore.open(tmp_path / name).fingerprint() for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_a_half_written_store_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.arrow", [example("one", full=False)])
    Artefact(Location.of(tmp_path), Identity(KIND, SCHEMA_VERSION, {}, {}, {}), "-").begin()
    with pytest.raises(CheckpointError, match="half-written"):
        PreparedStore.open(tmp_path)


def test_notes_stand_in_the_shard_and_in_the_index(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    write_shard(tmp_path / "a.arrow", [example("one", full=False)], {"failed": ["two"]})
    entry = read_entry(place / "a.arrow")
    assert entry == ShardEntry(("one",), {"failed": ["two"]})
    write_index(place, {"a.arrow": entry})
    assert read_index(place) == {"a.arrow": entry}


def test_a_store_may_lie_in_an_object_store(bucket: Location) -> None:
    place = bucket / "prepared"
    scenes = [example("one", full=True), example("two", full=False)]
    write_shard(place / "a.arrow", scenes, {"failed": []})
    assert read_entry(place / "a.arrow").tokens == ("one", "two")
    store = pickle.loads(pickle.dumps(PreparedStore.open(place)))
    for item in scenes:
        assert_equal(store[item.token], item)


def test_an_empty_shard_is_legal(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.arrow", [])
    assert PreparedStore.open(tmp_path).tokens == ()


def test_unknown_token(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.arrow", [example("one", full=False)])
    with pytest.raises(SceneError, match="two"):
        PreparedStore.open(tmp_path)["two"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        PreparedStore.open(tmp_path)


def test_the_same_token_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.arrow", [example("one", full=False)])
    with pytest.raises(CheckpointError, match=r"one.*a\.arrow"):
        PreparedStore.open(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_damaged_shards_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.arrow"
    write_shard(path, [example("one", full=True)])
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "noise": b"\x00" * len(data)}[damage])
    with pytest.raises(CheckpointError, match=r"a\.arrow"):
        PreparedStore.open(tmp_path)


def test_other_arrow_files_are_refused(tmp_path: Path) -> None:
    table = pa.table({"token": ["one"]})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(CheckpointError, match="schema"):
        PreparedStore.open(tmp_path)


def test_a_store_of_an_older_schema_is_refused_with_the_way_to_rebuild_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "new.arrow", [example("one", full=True)])
    with pa.ipc.open_file(str(tmp_path / "new.arrow")) as reader:
        schema, batch = reader.schema, reader.get_batch(0)
    old = schema.with_metadata({**schema.metadata, b"prepared_scene_schema": b"1"})
    (tmp_path / "new.arrow").unlink()
    with pa.ipc.new_file(str(tmp_path / "old.arrow"), old) as writer:
        writer.write_batch(batch.cast(old))
    with pytest.raises(CheckpointError, match="schema 4, found schema 1") as error:
        PreparedStore.open(tmp_path)
    assert f"rm -r {tmp_path}" in str(error.value)
    assert "irl-vla" in str(error.value)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    broken = replace(example("one", full=False), polygon_on_route=np.array(["no"]))
    with pytest.raises(pa.ArrowException):
        write_shard(tmp_path / "a.arrow", [broken])
    assert list(tmp_path.iterdir()) == []


def test_what_was_fetched_stays_on_this_machine(
    bucket: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRL_VLA_CACHE", str(tmp_path / "here"))
    place = bucket / "travels"
    write_shard(place / "a.arrow", [example("one", full=True)])
    store = PreparedStore.open(place)
    assert_equal(store["one"], example("one", full=True))
    there = pickle.loads(pickle.dumps(store))
    assert there == store
    monkeypatch.setenv("IRL_VLA_CACHE", str(tmp_path / "there"))
    shutil.rmtree(tmp_path / "here")
    assert_equal(there["one"], example("one", full=True))


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.arrow", [example("one", full=True)])
    store = PreparedStore.open(tmp_path)
    (tmp_path / "a.arrow").unlink()
    with pytest.raises(CheckpointError, match=r"a\.arrow: .*found no file; prepare the split again"):
        store["one"]


def test_damage_within_a_shard_is_named(tmp_path: Path) -> None:
    """Arrow says it by an OSError."""
    path = tmp_path / "a.arrow"
    write_shard(path, [example("one", full=True)])
    data, start = path.read_bytes(), path.stat().st_size // 2
    path.write_bytes(data[:start] + b"\xff" * 1000 + data[start + 1000 :])
    store = PreparedStore.open(tmp_path)
    with pytest.raises(CheckpointError, match=r"a\.arrow: .*found damage"):
        store["one"]


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "a.arrow", [example("one", full=True)])

    def fails(path: str) -> Any:
        raise PermissionError(errno.EACCES, "no", path)

    monkeypatch.setattr(pa, "memory_map", fails)
    with pytest.raises(PermissionError):
        PreparedStore.open(tmp_path)


def test_a_store_that_does_not_answer_is_no_damage(bucket: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    place = bucket / "silent"
    write_shard(place / "a.arrow", [example("one", full=True)])

    def cut(source: Any, **options: Any) -> Any:
        raise OSError("AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(pa.ipc, "open_file", cut)
    with pytest.raises(StorageError, match=r"silent/a\.arrow: AWS Error NETWORK_CONNECTION"):
        PreparedStore.open(place)
