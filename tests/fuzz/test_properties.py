"""Properties that hold for whatever hypothesis comes up with."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from irl_vla.dataset.layout import below
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.dataset.sensors import parse_sweep, write_sweep
from irl_vla.errors import LogFormatError

ROOT = Path("/data/root")
PARTS = st.sampled_from(["..", ".", "", "/", "//", "a", "b.pkl", "\\", "\0", "~", "x" * 300, "ü", "\udc80", "C:", " "])
PATHS = st.one_of(st.text(), st.lists(PARTS, max_size=6).map("/".join))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.just(10**400), st.complex_numbers()
)
VALUES = st.recursive(
    st.one_of(SCALARS, arrays(np.float32, st.integers(0, 4)), arrays(np.int8, (2, 2)), arrays("U3", 2)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(PATHS)
def test_paths_of_data_stay_below_the_root(relative):
    try:
        found = below(ROOT, relative, "key")
    except LogFormatError:
        return
    assert found != ROOT
    assert Path("/data/root") in Path(*found.parts).parents
    assert ".." not in found.parts
    found.is_file()  # the system takes the name


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_typed_access_gives_the_type_or_an_error(value):
    raw = RawFrame(Path("log.pkl"), 3, {"key": value})
    checks = {
        "text": lambda found: isinstance(found, str) and found.encode(),
        "integer": lambda found: 0 <= found < 2**63,
        "texts": lambda found: all(isinstance(item, str) for item in found),
        "sequence": lambda found: len(found) >= 0,
        "inner": lambda found: isinstance(found, RawFrame),
    }
    for name, holds in checks.items():
        try:
            assert holds(getattr(raw, name)("key"))
        except LogFormatError as error:
            assert str(error).startswith("log.pkl: frame 3: key: expected")  # noqa: PT017
    for shape in ((3,), (None, 7), (3, 3), (None,)):
        try:
            array = raw.floats("key", shape)
        except LogFormatError:
            continue
        assert array.dtype == np.float64
        assert np.isfinite(array).all()
        assert all(want in {None, have} for want, have in zip(shape, array.shape, strict=True))


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_descriptions_are_short(value):
    assert len(describe(value)) < 1000


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_sweep_or_an_error(data):
    try:
        assert parse_sweep(data, Path("x.pcd")).shape[0] == 6
    except LogFormatError:
        return


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.data())
def test_sweeps_survive_writing(tmp_path_factory, points, data):
    path = tmp_path_factory.mktemp("sweep") / "x.pcd"
    sweep = np.zeros((6, points), np.float32)
    sweep[:3] = data.draw(arrays(np.float32, (3, points), elements=st.floats(-500, 500, width=32)))
    sweep[3:] = data.draw(arrays(np.uint8, (3, points)))
    write_sweep(path, sweep)
    np.testing.assert_array_equal(parse_sweep(path.read_bytes(), path), sweep)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_plain_data_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("pickle") / "x.pkl"
    path.write_bytes(data)
    try:
        read_pickle(path)
    except LogFormatError:
        return


def test_folders_are_no_files(tmp_path):
    with pytest.raises(LogFormatError, match="expected a pickle that can be read, found Is a directory"):
        read_pickle(tmp_path)
