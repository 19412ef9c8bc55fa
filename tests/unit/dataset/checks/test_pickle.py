"""Pickles that the official environment (Python 3.9, numpy 1.23) can read, judged by their opcodes alone."""

import pickle
import pickletools

import numpy as np
import pytest

from irl_vla.dataset.checks.frames import check_frames
from irl_vla.dataset.checks.pickle import check_pickle
from irl_vla.dataset.nuplan_records import NUPLAN_NAMES, write_records
from irl_vla.dataset.safe_pickle import read_pickle, write_pickle

from ...navsim.files import disassembled_names
from ..second_stage_example import scene_dict
from ..tiny_world import write_tiny_world

#: What numpy 1.23 and Python 3.9 have under these names.
OLD_NAMES = {
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
}


def judged(data):
    """Protocol, highest protocol that an opcode needs, and globals of a pickle, without running it."""
    opcodes = list(pickletools.genops(data))
    assert opcodes[0][0].name == "PROTO"
    return opcodes[0][1], max(opcode.proto for opcode, _, _ in opcodes), disassembled_names(data)


def test_generated_logs(tmp_path):
    dataset = write_tiny_world(tmp_path, None)
    paths = sorted(dataset.root.rglob("*.pkl"))
    assert len(paths) == 6
    for path in paths:
        protocol, needed, names = judged(path.read_bytes())
        assert (protocol, needed) == (4, 4)
        assert names == {"numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct"}
        assert check_pickle(path, "label") == []


def test_second_stage_scenes(tmp_path):
    write_records(tmp_path / "scene.pkl", scene_dict())
    protocol, needed, names = judged((tmp_path / "scene.pkl").read_bytes())
    official = {f"{module}.{name}" for module, name in NUPLAN_NAMES}
    assert (protocol, needed) == (4, 4)
    assert names <= OLD_NAMES | official
    assert names & official
    assert check_pickle(tmp_path / "scene.pkl", "label") == []


@pytest.mark.parametrize(
    "value",
    [
        *(np.array([1, 2], kind) for kind in ("f8", "f4", "i8", "u1", "?", ">f8", "<U5", "c16", "M8[s]")),
        *(kind(1) for kind in (np.float64, np.float32, np.int64, np.uint8, np.bool_, np.str_)),
        np.array(["a", None], dtype=object),
        np.asfortranarray(np.ones((2, 3))),
        np.zeros((0, 7)),
    ],
    ids=repr,
)
def test_whatever_is_written_refers_to_old_names(tmp_path, value):
    write_pickle(tmp_path / "log.pkl", [{"a": value, "b": [value]}])
    protocol, needed, names = judged((tmp_path / "log.pkl").read_bytes())
    assert (protocol, needed) == (4, 4)
    assert names <= OLD_NAMES
    np.testing.assert_array_equal(read_pickle(tmp_path / "log.pkl")[0]["a"], value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_of_new_numpy_are_found(tmp_path, protocol):
    path = tmp_path / "log.pkl"
    path.write_bytes(pickle.dumps([{"a": np.ones(2)}], protocol=protocol))
    found = {finding.key: finding for finding in check_pickle(path, "navsim_logs/mini/log.pkl")}
    assert found["numpy"].message.startswith("expected numpy.core")
    assert (found["numpy"].severity, found["numpy"].rule) == ("warning", "log.pickle")
    assert found["numpy"].file == "navsim_logs/mini/log.pkl"
    assert ("protocol" in found) == (protocol < 2)
    kept = check_frames(path, "label", [], True, lambda _: None)
    assert {finding.key for finding in kept if finding.rule == "log.pickle"} == set(found)


def test_protocols_of_later_pythons_are_found(tmp_path):
    data = bytearray(pickle.dumps([], protocol=5))
    data[1] = 6
    (tmp_path / "log.pkl").write_bytes(data)
    (found,) = check_pickle(tmp_path / "log.pkl", "label")
    assert (found.key, found.message) == ("protocol", "expected protocol 2 to 5, found 6")
