import io
import pickle
import pickletools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from irl_vla.dataset.log import LogMeta, heading_of, read_log, write_log
from irl_vla.dataset.safe_pickle import write_pickle
from irl_vla.errors import LogFormatError
from irl_vla.scene import OBJECT_NAMES, Boxes, EgoStatus

from .example import CITY, LOG, frame, log_frames


@pytest.fixture
def raw(tmp_path):
    """The official dicts of a short log."""
    path = tmp_path / f"{LOG}.pkl"
    write_log(path, log_frames(3), LogMeta(LOG, CITY))
    return pickle.loads(path.read_bytes())


def reading(tmp_path, frames, index=1, annotated=True):
    path = tmp_path / "changed.pkl"
    write_pickle(path, frames)
    return read_log(path, annotated).frame(index)


def assert_same_frame(found, expected):
    assert (found.token, found.timestamp_us) == (expected.token, expected.timestamp_us)
    assert (found.roadblock_ids, found.traffic_lights) == (expected.roadblock_ids, expected.traffic_lights)
    assert found.lidar_path == (expected.lidar_path or f"{LOG}/MergedPointCloud/{expected.token}.pcd")
    np.testing.assert_allclose(found.ego.pose_global, expected.ego.pose_global, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.ego.velocity_mps, expected.ego.velocity_mps.astype(np.float32))
    np.testing.assert_array_equal(found.ego.acceleration_mps2, expected.ego.acceleration_mps2.astype(np.float32))
    assert found.ego.command == expected.ego.command
    np.testing.assert_array_equal(found.objects.boxes, expected.objects.boxes)
    np.testing.assert_array_equal(found.objects.velocity_mps, expected.objects.velocity_mps)
    assert found.objects.names == expected.objects.names
    assert found.objects.track_tokens == expected.objects.track_tokens
    assert found.cameras.keys() == expected.cameras.keys()
    for name, camera in expected.cameras.items():
        assert found.cameras[name].path == camera.path
        for field in ("rotation", "translation_m", "intrinsic", "distortion"):
            np.testing.assert_array_equal(getattr(found.cameras[name], field), getattr(camera, field))


def test_round_trip(tmp_path):
    frames = [*log_frames(3), frame(3, cameras=False, lidar=False)]
    write_log(tmp_path / "log.pkl", frames, LogMeta(LOG, CITY))
    log = read_log(tmp_path / "log.pkl")
    assert len(log) == 4
    assert log.map_name(0) == CITY
    for index, expected in enumerate(frames):
        assert log.token(index) == expected.token
        assert log.has_route(index)
        assert_same_frame(log.frame(index), expected)


finite = st.floats(-1e6, 1e6, width=64)


@st.composite
def frames_of_any_kind(draw):
    count = draw(st.integers(0, 4))
    base = frame(draw(st.integers(0, 99)), cameras=draw(st.booleans()), lidar=draw(st.booleans()))
    heading = draw(st.floats(-3.1415, 3.1415))
    return replace(
        base,
        ego=EgoStatus(
            pose_global=np.array([draw(finite), draw(finite), heading]),
            velocity_mps=draw(arrays(np.float64, 2, elements=finite)),
            acceleration_mps2=draw(arrays(np.float64, 2, elements=finite)),
            command=draw(st.integers(0, 3)),
        ),
        objects=Boxes(
            boxes=draw(arrays(np.float64, (count, 7), elements=finite)),
            names=tuple(draw(st.lists(st.sampled_from(OBJECT_NAMES), min_size=count, max_size=count))),
            velocity_mps=draw(arrays(np.float64, (count, 3), elements=finite)),
            track_tokens=tuple(draw(st.lists(st.text("0123456789abcdef", min_size=1), min_size=count, max_size=count))),
        ),
        traffic_lights=tuple(draw(st.lists(st.tuples(st.integers(1, 10**6), st.booleans()), max_size=3))),
        roadblock_ids=tuple(draw(st.lists(st.text("0123456789", min_size=1), max_size=4))),
    )


@settings(max_examples=40, deadline=None)
@given(frames_of_any_kind())
def test_any_frame_survives_writing_and_reading(tmp_path_factory, expected):
    path = tmp_path_factory.mktemp("round") / "log.pkl"
    write_log(path, [expected], LogMeta(LOG, CITY))
    found = read_log(path).frame(0)
    assert abs(np.angle(np.exp(1j * (found.ego.pose_global[2] - expected.ego.pose_global[2])))) < 1e-9
    assert_same_frame(replace(found, ego=replace(found.ego, pose_global=expected.ego.pose_global)), expected)


def test_same_frames_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_log(tmp_path / name, log_frames(2), LogMeta(LOG, CITY))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_written_pickle_is_for_old_numpy(tmp_path):
    write_log(tmp_path / "log.pkl", log_frames(2), LogMeta(LOG, CITY))
    data = (tmp_path / "log.pkl").read_bytes()
    assert b"numpy._core" not in data
    assert next(pickletools.genops(data))[1] == 4
    named = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            named.add((module, name))
            return super().find_class(module, name)

    Recorder(io.BytesIO(data)).load()
    assert named == {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


def test_official_keys(raw):
    assert len(raw[0]) == 26
    assert raw[0]["sample_prev"] is None
    assert raw[0]["sample_next"] == raw[1]["token"]
    assert raw[2]["sample_prev"] == raw[1]["token"]
    assert set(raw[1]["cams"]) == {f"CAM_{name}" for name in ("F0", "L0", "L1", "L2", "R0", "R1", "R2", "B0")}
    assert raw[1]["cams"]["CAM_B0"] == {}
    np.testing.assert_allclose(raw[1]["ego2global"][:2, 3], raw[1]["can_bus"][:2])
    assert raw[1]["driving_command"].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_reads_every_protocol_of_this_numpy(tmp_path, raw, protocol):
    (tmp_path / "log.pkl").write_bytes(pickle.dumps(raw, protocol=protocol))
    assert read_log(tmp_path / "log.pkl").frame(1).token == raw[1]["token"]


def test_heading_is_the_official_one():
    # z-y'-x'' yaw 0.7 with small pitch and roll: pyquaternion's formula is about pitch * roll away from 0.7
    yaw, pitch, roll = 0.7, 0.02, -0.03
    cy, sy, cp, sp, cr, sr = (f(a / 2) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    w, x = cr * cp * cy + sr * sp * sy, sr * cp * cy - cr * sp * sy
    y, z = cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy
    rotation = np.array([w, x, y, z])
    expected = np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z))
    assert heading_of(rotation) == pytest.approx(expected, abs=1e-15)
    assert heading_of(rotation) != pytest.approx(0.7, abs=1e-5)
    assert heading_of(3.0 * rotation) == pytest.approx(expected, abs=1e-12)  # normalised first
    assert heading_of(np.array([np.cos(0.6), 0, 0, np.sin(0.6)])) == pytest.approx(1.2, abs=1e-15)


BAD_VALUES = {
    "token": (5, "string, found int 5"),
    "timestamp": (1.5, "whole number"),
    "roadblock_ids": ([1, 2], "list of strings, found int 1"),
    "traffic_lights": ([(1, True, 3)], "pairs of lane connector id"),
    "driving_command": (np.array([1, 1, 0, 0]), "one-hot"),
    "ego2global_translation": (np.array([0.0, np.nan, 0.0]), "nan"),
    "ego2global_rotation": (np.zeros(4), "unit quaternion"),
    "ego_dynamic_state": ([1.0, 2.0], r"shape \(4\)"),
    "lidar_path": (3, "string"),
    "cams": ([], "a dict"),
    "anns": (None, "a dict, found NoneType"),
}


@pytest.mark.parametrize("key", BAD_VALUES)
def test_bad_value_names_file_frame_and_key(tmp_path, raw, key):
    value, hint = BAD_VALUES[key]
    raw[1][key] = value
    with pytest.raises(LogFormatError, match=rf"changed\.pkl: frame 1: {key}: expected .*{hint}"):
        reading(tmp_path, raw)


@pytest.mark.parametrize("key", [*BAD_VALUES, "log_name", "map_location"])
def test_missing_key(tmp_path, raw, key):
    del raw[1][key]
    with pytest.raises(LogFormatError, match=f"frame 1: {key}: expected the key"):
        reading(tmp_path, raw)


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("gt_boxes", np.zeros((2, 7)), "equal length"),
        ("track_tokens", [], "equal length"),
        ("gt_boxes", np.zeros((1, 6)), r"shape \(N, 7\)"),
        ("gt_boxes", np.full((1, 7), np.inf), r"finite numbers, found inf at \(0, 0\)"),
        ("gt_velocity_3d", np.array([[0.0, np.nan, 0.0]]), r"anns.gt_velocity_3d: .*nan at \(0, 1\)"),
        ("gt_names", np.array(["tank"]), "tank"),
        ("gt_boxes", 7, "anns.gt_boxes"),
    ],
)
def test_bad_annotations(tmp_path, raw, key, value, hint):
    raw[1]["anns"][key] = value
    with pytest.raises(LogFormatError, match=hint):
        reading(tmp_path, raw)


@pytest.mark.parametrize("key", ["gt_boxes", "gt_names", "gt_velocity_3d", "instance_tokens", "track_tokens"])
def test_missing_annotation(tmp_path, raw, key):
    del raw[1]["anns"][key]
    with pytest.raises(LogFormatError, match=f"frame 1: anns.{key}: expected the key"):
        reading(tmp_path, raw)


def test_bad_cameras(tmp_path, raw):
    raw[1]["cams"]["CAM_F0"]["cam_intrinsic"] = np.eye(2)
    with pytest.raises(LogFormatError, match=r"cams\.CAM_F0\.cam_intrinsic: expected shape \(3, 3\)"):
        reading(tmp_path, raw)
    raw[1]["cams"] = {"cam_f0": {}}
    with pytest.raises(LogFormatError, match=r"cams\.cam_f0: expected cameras out of CAM_F0"):
        reading(tmp_path, raw)


def test_other_frames_of_a_broken_log_stay_readable(tmp_path, raw):
    raw[1]["driving_command"] = np.zeros(4)
    assert reading(tmp_path, raw, index=2).token == raw[2]["token"]


def test_private_test_logs_have_no_annotations(tmp_path, raw):
    del raw[1]["anns"]
    assert len(reading(tmp_path, raw, annotated=False).objects) == 0


def test_empty_annotations_may_be_empty_lists(tmp_path, raw):
    raw[1]["anns"] = {key: [] for key in raw[1]["anns"]}
    assert reading(tmp_path, raw).objects.boxes.shape == (0, 7)


def test_city_alias_and_unknown_city(tmp_path, raw):
    raw[0]["map_location"] = "las_vegas"
    raw[1]["map_location"] = "berlin"
    write_pickle(tmp_path / "log.pkl", raw)
    log = read_log(tmp_path / "log.pkl")
    assert log.map_name(0) == "us-nv-las-vegas-strip"
    with pytest.raises(LogFormatError, match=r"frame 1: map_location: .*'berlin'"):
        log.map_name(1)


def test_order_and_repeats(tmp_path, raw):
    with pytest.raises(LogFormatError, match="frame 1: timestamp"):
        reading(tmp_path, raw[::-1])
    raw[2]["token"] = raw[0]["token"]
    with pytest.raises(LogFormatError, match="frame 2: token: expected a token used once"):
        reading(tmp_path, raw)


@pytest.mark.parametrize("content", [{}, [], [1], "text"])
def test_not_a_list_of_frames(tmp_path, content):
    with pytest.raises(LogFormatError, match="expected a"):
        reading(tmp_path, content)
