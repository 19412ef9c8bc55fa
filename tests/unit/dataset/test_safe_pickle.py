import os
import pickle
from pathlib import PurePosixPath

import numpy as np
import pytest

from irl_vla.dataset.safe_pickle import read_pickle, write_pickle
from irl_vla.errors import LogFormatError


class Shell:
    def __reduce__(self):
        return (os.system, ("touch should-not-exist",))


@pytest.mark.parametrize("value", [Shell(), PurePosixPath("a"), np.random.default_rng(0), {1}.union, print, eval])
def test_foreign_names_are_refused_and_named(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.pkl").write_bytes(pickle.dumps([value]))
    with pytest.raises(LogFormatError, match=r"log\.pkl: .*refers to \w+(\.\w+)+, which such files never need"):
        read_pickle(tmp_path / "log.pkl")
    assert not (tmp_path / "should-not-exist").exists()


def test_names_reached_through_attributes_are_refused(tmp_path):
    # protocol 4 resolves dotted names; "numpy" + "ndarray.dump" must not reach the method
    data = b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93."
    (tmp_path / "log.pkl").write_bytes(data)
    with pytest.raises(LogFormatError, match=r"numpy\.ndarray\.dump"):
        read_pickle(tmp_path / "log.pkl")


def test_every_cut_is_an_error(tmp_path):
    write_pickle(tmp_path / "log.pkl", [{"a": np.arange(3.0), "b": ["x", None, True]}])
    data = (tmp_path / "log.pkl").read_bytes()
    for length in range(len(data)):
        (tmp_path / "cut.pkl").write_bytes(data[:length])
        with pytest.raises(LogFormatError, match=r"cut\.pkl"):
            read_pickle(tmp_path / "cut.pkl")


def test_garbage_never_escapes_as_another_error(tmp_path):
    generator = np.random.default_rng(0)
    write_pickle(tmp_path / "log.pkl", [{"a": np.arange(3.0), "b": ["x", None, 1 << 40, 2.5]}])
    data = np.frombuffer((tmp_path / "log.pkl").read_bytes(), np.uint8)
    for _ in range(300):
        broken = data.copy()
        broken[generator.integers(0, len(data), 3)] = generator.integers(0, 256, 3)
        (tmp_path / "broken.pkl").write_bytes(broken.tobytes())
        try:
            read_pickle(tmp_path / "broken.pkl")
        except LogFormatError:
            continue  # anything else fails the test


def test_missing_file(tmp_path):
    with pytest.raises(LogFormatError, match="found no file"):
        read_pickle(tmp_path / "none.pkl")


def test_arrays_survive(tmp_path):
    value = {"f": np.arange(6.0).reshape(2, 3), "s": np.array(["ab", "c"]), "i": np.arange(4), "e": np.zeros((0, 7))}
    write_pickle(tmp_path / "x.pkl", value)
    for found in (read_pickle(tmp_path / "x.pkl"), pickle.loads((tmp_path / "x.pkl").read_bytes())):
        for key, array in value.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].dtype == array.dtype
