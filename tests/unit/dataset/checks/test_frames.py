"""Every rule on frames, broken alone in a generated log that has no findings otherwise."""

import numpy as np
import pytest

from irl_vla.dataset.checks.dataset import check_log
from irl_vla.dataset.checks.frames import check_frames
from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.safe_pickle import read_pickle, write_pickle

from ..tiny_world import SENSORS, write_tiny_world

SCENE = "0" * 16


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated world, and the log in it with the most observed objects."""
    dataset = write_tiny_world(tmp_path_factory.mktemp("world"), SENSORS)
    logs = {path: read_pickle(path) for path in sorted(dataset.log_folder("train").glob("*.pkl"))}
    path = max(logs, key=lambda key: sum(len(frame["anns"]["gt_boxes"]) for frame in logs[key]))
    return dataset.root, path, path.read_bytes()


@pytest.fixture
def findings(world):
    """Changes the log's frames by a function and gives the findings by rule and key."""
    root, path, data = world

    def check(apply):
        frames = read_pickle(path)
        apply(frames)
        write_pickle(path, frames)
        facts = check_log(open_dataset(DataConfig(root=root), {}), "train", {}, False, path.stem)
        assert all(finding.file == f"navsim_logs/train/{path.name}" for finding in facts.findings)
        return {f"{finding.rule} {finding.key}": finding for finding in facts.findings}

    yield check
    path.write_bytes(data)


def change(key, make, index=2):
    """Replaces a value of one frame by a function of it; keys may lead into inner dicts."""

    def apply(frames):
        *outer, last = key.split(".")
        inner = frames[index]
        for name in outer:
            inner = inner[name]
        inner[last] = make(inner[last]) if last in inner else make(None)

    return apply


def put(key, value, index=2):
    return change(key, lambda _: value, index)


def edit(key, where, value, index=2):
    """Replaces numbers inside of an array."""

    def make(array):
        array = np.array(array)
        array[where] = value
        return array

    return change(key, make, index)


def drop(key):
    return lambda frames: frames[2]["cams"].pop(key)


def everywhere(make):
    def apply(frames):
        for frame in frames:
            make(frame)

    return apply


def copy_instance(frames):
    frames[2]["anns"]["instance_tokens"][0] = frames[1]["anns"]["instance_tokens"][0]


def repeat_instance(frames):
    frames[2]["anns"]["instance_tokens"][1] = frames[2]["anns"]["instance_tokens"][0]


def rename_track(frames):
    token = frames[1]["anns"]["track_tokens"][0]
    row = frames[2]["anns"]["track_tokens"].index(token)
    names = frames[2]["anns"]["gt_names"].astype("U20")
    names[row] = "barrier" if names[row] != "barrier" else "vehicle"
    frames[2]["anns"]["gt_names"] = names


def in_milliseconds(frame):
    frame["timestamp"] //= 1000


def shorten_first(tokens):
    return [tokens[0][:1], *tokens[1:]]


def swap_bus(bus):
    """x, y, z, w for w, x, y, z."""
    return np.concatenate([bus[:3], np.roll(bus[3:7], -1), bus[7:]])


def swap_all(frames):
    """x, y, z, w in all copies of a pose with a heading of 90 degrees, so that they agree with each other."""
    turned = np.array([0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    matrix = np.eye(4)
    matrix[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, 1, 0]]
    matrix[:3, 3] = frames[2]["ego2global_translation"]
    frames[2] |= {"ego2global_rotation": turned, "ego2global": matrix, "lidar2global": matrix}
    frames[2]["can_bus"][3:7] = turned


def lift_lidar(frames):
    """In all copies, so that they agree with each other."""
    frames[2]["lidar2ego_translation"] = np.array([0.0, 0.0, 1.8])
    frames[2]["lidar2ego"][2, 3] = 1.8
    frames[2]["lidar2global"] = frames[2]["ego2global"] @ frames[2]["lidar2ego"]


def turn_lidar(frames):
    frames[2]["lidar2ego_rotation"] = [0.0, 0.0, 0.0, 1.0]
    frames[2]["lidar2ego"][:2, :2] = -np.eye(2)
    frames[2]["lidar2global"] = frames[2]["ego2global"] @ frames[2]["lidar2ego"]


def pitched(rotation):
    """The camera's own axes turned about x by 20 degrees."""
    sine, cosine = np.sin(np.radians(20)), np.cos(np.radians(20))
    return rotation @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def relative_velocities(frame):
    frame["anns"]["gt_velocity_3d"] = frame["anns"]["gt_velocity_3d"] - [*frame["ego_dynamic_state"][:2], 0]


def global_positions(frame):
    frame["anns"]["gt_boxes"][:, :3] += frame["ego2global_translation"]


def headings_off(frame):
    frame["anns"]["gt_boxes"][:, 6] += 1.0


def accelerations_in_g(frame):
    frame["ego_dynamic_state"][2:] = [8.0, 0.0]
    frame["can_bus"][7:9] = [8.0, 0.0]


def global_velocity(frame):
    frame["ego_dynamic_state"][:2] = frame["ego_dynamic_state"][1::-1]
    frame["can_bus"][10:12] = frame["can_bus"][11:9:-1]


BREACHES = {
    # types
    "frame_idx is a text": (put("frame_idx", "2"), "frame.type frame_idx"),
    "log_token is a number": (put("log_token", 5), "frame.type log_token"),
    "scene_token is None": (put("scene_token", None), "frame.type scene_token"),
    "scene_name is None": (put("scene_name", None), "frame.type scene_name"),
    "vehicle_name is empty": (put("vehicle_name", ""), "frame.type vehicle_name"),
    "sample_prev is a number": (put("sample_prev", 1), "frame.type sample_prev"),
    "sample_next is an array": (put("sample_next", np.zeros(2)), "frame.type sample_next"),
    "can_bus is a list": (change("can_bus", list), "frame.type can_bus"),
    "can_bus in float32": (change("can_bus", np.float32), "frame.type can_bus"),
    "ego2global in float32": (change("ego2global", np.float32), "frame.type ego2global"),
    "lidar2ego in integers": (change("lidar2ego", np.int64), "frame.type lidar2ego"),
    "lidar2global is a list": (change("lidar2global", np.ndarray.tolist), "frame.type lidar2global"),
    "translation in float32": (change("ego2global_translation", np.float32), "frame.type ego2global_translation"),
    "rotation in float32": (change("ego2global_rotation", np.float32), "frame.type ego2global_rotation"),
    "LiDAR translation in float32": (change("lidar2ego_translation", np.float32), "frame.type lidar2ego_translation"),
    "LiDAR rotation in float32": (change("lidar2ego_rotation", np.float32), "frame.type lidar2ego_rotation"),
    "state is an array": (change("ego_dynamic_state", np.array), "frame.type ego_dynamic_state"),
    "command of floats": (change("driving_command", np.float64), "frame.type driving_command"),
    "route is a tuple": (change("roadblock_ids", tuple), "frame.type roadblock_ids"),
    "lights are a tuple": (change("traffic_lights", tuple), "frame.type traffic_lights"),
    "light id is a text": (put("traffic_lights", [("5", True)]), "frame.type traffic_lights"),
    "light state is a text": (put("traffic_lights", [(5, "False")]), "frame.type traffic_lights"),
    "boxes in float32": (change("anns.gt_boxes", np.float32), "frame.type anns.gt_boxes"),
    "velocities in float32": (change("anns.gt_velocity_3d", np.float32), "frame.type anns.gt_velocity_3d"),
    "names are a list": (change("anns.gt_names", list), "frame.type anns.gt_names"),
    "instances are an array": (change("anns.instance_tokens", np.array), "frame.type anns.instance_tokens"),
    "tracks are a tuple": (change("anns.track_tokens", tuple), "frame.type anns.track_tokens"),
    # tokens and names
    "token of the second stage": (put("token", "a" * 17), "frame.token token"),
    "token in upper case": (change("token", lambda _: "A" * 16), "frame.token token"),
    "log_token": (put("log_token", "x"), "frame.token log_token"),
    "scene_token": (put("scene_token", "x"), "frame.token scene_token"),
    "scene_name": (put("scene_name", "x"), "frame.scene_name scene_name"),
    "alias of a city": (put("map_location", "las_vegas"), "frame.map map_location"),
    "image elsewhere": (put("cams.CAM_F0.data_path", "CAM_F0/1.jpg"), "frame.paths cams.CAM_F0.data_path"),
    "image of another camera": (
        change("cams.CAM_F0.data_path", lambda path: path.replace("CAM_F0", "CAM_L0")),
        "frame.paths cams.CAM_F0.data_path",
    ),
    "image of another kind": (
        change("cams.CAM_F0.data_path", lambda path: path.replace(".jpg", ".png")),
        "frame.paths cams.CAM_F0.data_path",
    ),
    "sweep of another frame": (put("lidar_path", "a/MergedPointCloud/b.pcd"), "frame.paths lidar_path"),
    "seven cameras": (drop("CAM_B0"), "frame.cameras cams"),
    # objects
    "instance twice in a frame": (repeat_instance, "frame.tracks anns.instance_tokens"),
    "instance of an earlier frame": (copy_instance, "frame.tracks anns.instance_tokens"),
    "short instance": (change("anns.instance_tokens", shorten_first), "frame.tracks anns.instance_tokens"),
    "short track": (change("anns.track_tokens", shorten_first), "frame.tracks anns.track_tokens"),
    "track changes its kind": (rename_track, "frame.tracks anns.gt_names"),
    "box far away": (edit("anns.gt_boxes", (0, 0), 501.0), "frame.boxes anns.gt_boxes"),
    # poses
    "order of the quaternion": (swap_all, "frame.pose ego2global_rotation"),
    "last row of the matrix": (edit("ego2global", (3, 3), 2.0), "frame.pose ego2global"),
    "LiDAR quaternion": (put("lidar2ego_rotation", [2.0, 0, 0, 0]), "frame.pose lidar2ego_rotation"),
    "LiDAR matrix": (put("lidar2ego_translation", np.array([0.01, 0, 0])), "frame.pose lidar2ego"),
    "LiDAR on the roof": (lift_lidar, "frame.pose lidar2ego"),
    "LiDAR turned": (turn_lidar, "frame.pose lidar2ego"),
    "can_bus position": (edit("can_bus", 0, 0.0), "frame.can_bus can_bus"),
    "can_bus quaternion": (change("can_bus", swap_bus), "frame.can_bus can_bus"),
    "can_bus acceleration": (edit("can_bus", 7, 30.0), "frame.can_bus can_bus"),
    "can_bus velocity": (edit("can_bus", 10, -30.0), "frame.can_bus can_bus"),
    "can_bus end": (edit("can_bus", 17, 1.0), "frame.can_bus can_bus"),
    "can_bus length": (change("can_bus", lambda bus: bus[:16]), "frame.pose can_bus"),
    # cameras
    "mirrored camera": (
        change("cams.CAM_F0.sensor2lidar_rotation", lambda matrix: matrix * [-1, 1, 1]),
        "frame.calibration cams.CAM_F0.sensor2lidar_rotation",
    ),
    "ego to camera": (
        change("cams.CAM_F0.sensor2lidar_rotation", np.transpose),
        "frame.calibration cams.CAM_F0.sensor2lidar_rotation",
    ),
    "upside down": (
        change("cams.CAM_F0.sensor2lidar_rotation", lambda matrix: matrix * [-1, -1, 1]),
        "frame.calibration cams.CAM_F0.sensor2lidar_rotation",
    ),
    "pitched camera": (
        change("cams.CAM_F0.sensor2lidar_rotation", pitched),
        "frame.calibration cams.CAM_F0.sensor2lidar_rotation",
    ),
    "camera elsewhere": (
        edit("cams.CAM_F0.sensor2lidar_translation", 2, 3.0),
        "frame.calibration cams.CAM_F0.sensor2lidar_translation",
    ),
    "skewed pixels": (edit("cams.CAM_F0.cam_intrinsic", (0, 1), 1.0), "frame.calibration cams.CAM_F0.cam_intrinsic"),
    "oblong pixels": (edit("cams.CAM_F0.cam_intrinsic", (0, 0), 70.0), "frame.calibration cams.CAM_F0.cam_intrinsic"),
    "another lens": (edit("cams.CAM_L0.cam_intrinsic", (0, 2), 30.0), "frame.calibration cams.CAM_L0.cam_intrinsic"),
    # between frames
    "scene changes, number stays": (put("scene_token", SCENE), "frame.links frame_idx"),
    "number jumps": (put("frame_idx", 7), "frame.links frame_idx"),
    "next": (put("sample_next", SCENE, index=1), "frame.links sample_next"),
    "log_token changes": (put("log_token", SCENE), "frame.links log_token"),
    "vehicle changes": (put("vehicle_name", "veh-99"), "frame.links vehicle_name"),
    "city changes": (put("map_location", "us-pa-pittsburgh-hazelwood"), "frame.map map_location"),
    "scene_name changes": (put("scene_name", "log-0002-x"), "frame.links scene_name"),
    "milliseconds": (everywhere(in_milliseconds), "frame.step timestamp"),
    # motion
    "velocity in km/h": (
        change("ego_dynamic_state", lambda state: [state[0] * 3.6 + 3, *state[1:]]),
        "frame.motion ego_dynamic_state",
    ),
    "velocity in other axes": (everywhere(global_velocity), "frame.motion ego_dynamic_state"),
    "accelerations in other units": (everywhere(accelerations_in_g), "frame.motion ego_dynamic_state"),
    "relative velocities": (everywhere(relative_velocities), "frame.motion anns.gt_velocity_3d"),
    "global positions": (everywhere(global_positions), "frame.motion anns.gt_velocity_3d"),
    "headings elsewhere": (everywhere(headings_off), "frame.motion anns.gt_boxes"),
}


def test_the_log_has_no_findings_as_it_was_written(findings):
    assert findings(lambda frames: None) == {}


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_found_and_named(findings, name):
    apply, rule = BREACHES[name]
    found = findings(apply)
    assert rule in found, found
    example = found[rule]
    assert example.frame in (1, 2, 0)
    assert example.message.startswith("expected ")
    assert "found " in example.message
    assert example.remedy


def test_names_of_logs(world, tmp_path):
    _, path, _ = world
    frames = read_pickle(path)
    write_pickle(tmp_path / "drive.pkl", frames)
    found = {
        finding.rule: finding for finding in check_frames(tmp_path / "drive.pkl", "x", frames, True, lambda _: None)
    }
    assert found["log.name"].message == "expected YYYY.MM.DD.hh.mm.ss_veh-NAME_START_END, found 'drive'"
    assert found["frame.log_name"].count == 1


def test_a_scene_begins_with_number_zero(findings):
    example = findings(put("frame_idx", 3, index=0))["frame.links frame_idx"]
    assert (example.frame, example.message) == (0, "expected 0 where a scene begins, found int 3")


def test_new_scenes_may_begin_within_a_log(findings):
    def apply(frames):
        for index, frame in enumerate(frames[5:]):
            frame |= {"scene_token": SCENE, "scene_name": "log-0002-x", "frame_idx": index}

    assert findings(apply) == {}


def test_frames_behind_a_gap_may_keep_their_numbers(findings):
    def apply(frames):
        del frames[5]

    assert set(findings(apply)) == {"frame.gap timestamp", "frame.links sample_prev", "frame.links sample_next"}


def test_numbers_out_of_all_proportion_are_findings_without_warnings(findings):
    def apply(frames):
        frames[2]["lidar2ego"] = np.full((4, 4), 1e300)
        frames[2]["ego2global_translation"] = np.full(3, 1e300)
        frames[2]["lidar2ego_rotation"] = [1e300] * 4
        frames[2]["anns"]["gt_boxes"][:] = 1e300
        frames[3]["lidar2ego_rotation"] = [0.0] * 4
        frames[4]["can_bus"] = np.full(18, -1e300)

    found = findings(apply)
    assert {"frame.pose lidar2ego", "frame.motion ego_dynamic_state", "frame.boxes anns.gt_boxes"} <= set(found)
