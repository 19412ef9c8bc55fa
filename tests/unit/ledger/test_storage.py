import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from irl_vla.errors import StorageError
from irl_vla.ledger.storage import Location

PATIENCE_S = 60.0


def test_text_comes_back_and_listing_names_it(place):
    (place / "b" / "c.txt").write_text("hello")
    (place / "a.txt").write_text("x")
    assert (place / "b" / "c.txt").read_text() == "hello"
    assert place.children() == ["a.txt", "b"]
    assert place.exists()
    assert not (place / "d").exists()
    assert (place / "d").children() == []
    assert place.size_bytes() == 6


def test_what_is_not_there_is_told_as_by_python(place):
    with pytest.raises(FileNotFoundError):
        (place / "nothing").read_bytes()


def test_a_writer_that_fails_leaves_nothing(place):
    with pytest.raises(RuntimeError), (place / "a.txt").writing() as path:
        path.write_text("half")
        raise RuntimeError
    assert not (place / "a.txt").exists()
    assert place.children() == []


def test_a_local_copy_follows_the_store(place):
    (place / "x" / "a.txt").write_text("1")
    (place / "x" / "b.txt").write_text("2")
    folder = (place / "x").local()
    assert (folder / "a.txt").read_text() == "1"
    (place / "x" / "a.txt").write_text("changed")
    (place / "x" / "b.txt").delete()
    folder = (place / "x").local()
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert (folder / "a.txt").read_text() == "changed"
    assert (place / "x" / "a.txt").local().read_text() == "changed"


def test_a_folder_is_uploaded_whole_and_deleted_whole(place, tmp_path):
    source = tmp_path / "made"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "data").write_bytes(b"123")
    (source / "artefact.json").write_text("{}")
    (place / "kept").write_text("y")
    (place / "up").upload(source)
    assert (place / "up" / "sub" / "data").read_bytes() == b"123"
    (place / "up").delete()
    assert not (place / "up").exists()
    assert (place / "kept").exists()
    (place / "up").delete()


@pytest.mark.parametrize("last", ["artefact.json", "b.csv"])
def test_the_file_by_which_a_folder_is_known_as_whole_is_uploaded_last(bucket, monkeypatch, last):
    uploaded, copy = [], pafs.copy_files

    def copy_files(source, target, **options):
        uploaded.append(target.rpartition("/")[2])
        copy(source, target, **options)

    monkeypatch.setattr(pafs, "copy_files", copy_files)
    with (bucket / "ordered").filling(last) as folder:
        for name in ("a.csv", "artefact.json", "b.csv", "c.csv"):
            (folder / name).write_text("x")
    assert len(uploaded) == 4
    assert uploaded[-1] == last


def test_it_travels_and_joins(place):
    again = pickle.loads(pickle.dumps(place / "a"))
    assert again == place / "a"
    assert again.parent == place
    assert again.name == "a"


def test_relative_paths_become_absolute_and_uris_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Location.of("runs").path == tmp_path / "runs"
    assert Location.of(f"file://{tmp_path}/runs/") == Location.of("runs")
    remote = Location.of("s3://bucket/runs/?endpoint_override=localhost:1")
    assert (remote / "demo").uri == "s3://bucket/runs/demo?endpoint_override=localhost:1"
    with pytest.raises(StorageError, match="expected a local path"):
        _ = remote.path


def test_a_store_that_does_not_take_it_is_named(bucket):
    missing = Location.of("s3://no-such-bucket/x")
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/x: .*check the address"):
        missing.write_text("a")


def test_an_unknown_scheme_is_named():
    with pytest.raises(StorageError, match="ftp://host/x"):
        Location.of("ftp://host/x").exists()


def test_parts_of_a_file_are_read_without_the_rest(place):
    (place / "a.txt").write_text("0123456789")
    with (place / "a.txt").reading() as stream:
        stream.seek(6)
        assert bytes(stream.read(2)) == b"67"
    with pytest.raises(FileNotFoundError), (place / "b.txt").reading():
        pass


def test_threads_may_fetch_one_folder_at_the_same_time(bucket, monkeypatch):
    place = bucket / "at-once"
    (place / "a.txt").write_text("whole")
    begun, go_on, copy = threading.Event(), threading.Event(), pafs.copy_files

    def copy_files(*args, **options):
        copy(*args, **options)
        if not begun.is_set():  # the first one is slow to give its copy the name
            begun.set()
            assert go_on.wait(PATIENCE_S)

    monkeypatch.setattr(pafs, "copy_files", copy_files)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(place.local)
        assert begun.wait(PATIENCE_S)
        folder = pool.submit(place.local).result(PATIENCE_S)
        go_on.set()
        assert slow.result(PATIENCE_S) == folder
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert (folder / "a.txt").read_text() == "whole"


def test_a_copy_may_be_removed_by_somebody_else(bucket, monkeypatch):
    place = bucket / "removed"
    (place / "a.txt").write_text("1")
    (place / "b.txt").write_text("2")
    place.local()
    (place / "b.txt").delete()
    unlink = Path.unlink

    def unlink_as_the_second(path, missing_ok=False):
        unlink(path, missing_ok=True)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_as_the_second)
    assert [path.name for path in place.local().iterdir()] == ["a.txt"]


def test_a_store_that_falls_silent_while_it_is_read_is_named(bucket):
    place = bucket / "silent"
    (place / "a.txt").write_text("0123456789")
    with (
        pytest.raises(StorageError, match=r"silent/a\.txt: the line is cut.*check the address"),
        (place / "a.txt").reading(),
    ):
        raise OSError("the line is cut")
    with pytest.raises(pa.ArrowInvalid), (place / "a.txt").reading() as stream:
        pa.ipc.open_file(stream)
    with pytest.raises(StorageError, match="ftp://host/x"), Location.of("ftp://host/x").reading():
        pass
