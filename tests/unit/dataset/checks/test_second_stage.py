"""Every rule for second stages, broken once by hand, is found where it is broken."""

import copy
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from irl_vla.dataset.checks.dataset import check_dataset, check_log
from irl_vla.dataset.checks.logged_frames import LoggedFrames
from irl_vla.dataset.checks.second_scene import check_scene
from irl_vla.dataset.checks.second_stage import check_second_stage
from irl_vla.dataset.checks.split import check_splits
from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.safe_pickle import write_pickle
from irl_vla.dataset.sensors import write_image
from irl_vla.dataset.splits import MAPPING_KEY, StagePair, read_split, write_split
from irl_vla.errors import ConfigError
from irl_vla.world.config import SplitSizeConfig, TwoStageConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate
from irl_vla.world.second_stage_files import SECOND_STAGE
from irl_vla.world.sensor_config import LidarConfig

from ..example import CITY, LOG, frame, gradient
from ..second_stage_example import (
    NOW,
    PREVIOUS,
    SPLIT,
    drop,
    in_tracks,
    put,
    scene_dict,
    stage_pair,
    write_scene,
    write_two_stage,
)

OTHER_LOG = "2024.01.02.00.00.00_veh-02_0_1"
ASIDES = tuple(0.1 * number for number in range(8))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """One log with one group of eight pairs."""
    return write_two_stage(tmp_path_factory.mktemp("clean"), asides=ASIDES)


@pytest.fixture(scope="module")
def view(clean):
    return load_map(clean, CITY)


@pytest.fixture
def changed(clean, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(clean.root, tmp_path / "data")
    return open_dataset(DataConfig(root=tmp_path / "data"), {})


def found_in(dataset, view, split=SPLIT):
    """Findings of the second stage by rule and key."""
    with LoggedFrames() as logged:
        for path in sorted(dataset.log_folder("mini").glob("*.pkl")):
            facts = check_log(dataset, "mini", {}, False, path.stem)
            logged.take(path.stem, facts.tokens, facts.times_us)
        report = check_second_stage(
            dataset,
            read_split(dataset, split),
            logged,
            map_of=lambda _: view,
            workers=1,
            decode=False,
            done=lambda: None,
        )
    return {name: kind.examples[0] for name, kind in report.gathered.kinds.items()}


def test_what_the_generator_writes_has_no_findings(tmp_path):
    size = SplitSizeConfig(logs=1, layouts=2)
    sensors = WorldSensorConfig(
        cameras=("CAM_F0",), image_height_px=36, image_width_px=64, lidar=LidarConfig(rings=4, azimuths=60)
    )
    config = WorldConfig(
        train=size,
        val=size,
        test=size,
        frames_per_log=13,
        sensors=sensors,
        two_stage=TwoStageConfig(groups=1, pairs_min=8, pairs_max=8),
    )
    generate(config, tmp_path, seed=7)
    report = check_dataset(open_dataset(DataConfig(root=tmp_path), {}), (SECOND_STAGE,), decode=True)
    assert {name: list(part.kinds) for name, part in report.parts.items() if part.kinds} == {}
    (second,) = report.second_stages
    assert (second.split, second.groups, second.pairs, second.scenes, second.frames) == (SECOND_STAGE, 1, 8, 16, 64)
    assert (second.missing.of("CAM_F0"), second.missing.of("LiDAR"), second.missing.absent["CAM_B0"]) == (0, 0, 64)
    folders = [tmp_path / SECOND_STAGE / name for name in ("synthetic_scene_pickles", "sensor_blobs")]
    assert second.size_bytes == sum(
        path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()
    )


def test_the_example_has_no_findings(clean, view):
    assert found_in(clean, view) == {}


def moved(microseconds, first):
    def change(values):
        for item in values["frames"][first:]:
            item["timestamp"] += microseconds

    return change


def upper_case(values):
    values["frames"][1]["camera_dict"] = {key.upper(): item for key, item in values["frames"][1]["camera_dict"].items()}


META = "scene_metadata"
TRACKS, LIGHTS = "extended_detections_tracks", "extended_traffic_light_data"
AWAY = np.array([[1000.0, 0, 0, 4, 2, 1, 0]])
#: Name: the change, rule and key, severity, index of the frame.
BREACHES = {
    "no metadata": (drop(META), f"second.keys {META}", "error", None),
    "no frames": (drop("frames"), "second.keys frames", "error", None),
    "no objects ahead": (drop(TRACKS), f"second.keys {TRACKS}", "error", None),
    "no lights ahead": (drop(LIGHTS), f"second.keys {LIGHTS}", "error", None),
    "log": (drop(META, "log_name"), f"second.metadata {META}.log_name", "error", None),
    "scene token": (put(5, META, "scene_token"), f"second.metadata {META}.scene_token", "error", None),
    "file name": (put("x", META, "scene_token"), f"second.name {META}.scene_token", "note", None),
    "city": (put("paris", META, "map_name"), f"second.metadata {META}.map_name", "error", None),
    "city alias": (put("las_vegas", META, "map_name"), f"second.metadata {META}.map_name", "error", None),
    "no token": (drop(META, "initial_token"), f"second.metadata {META}.initial_token", "error", None),
    "other token": (put("0" * 17, META, "initial_token"), f"second.token {META}.initial_token", "error", None),
    "history": (put(3, META, "num_history_frames"), f"second.metadata {META}.num_history_frames", "error", None),
    "future": (put("x", META, "num_future_frames"), f"second.metadata {META}.num_future_frames", "error", None),
    "original": (
        *(drop(META, "corresponding_original_scene"), f"second.metadata {META}.corresponding_original_scene"),
        *("error", None),
    ),
    "form of the original": (
        put("x", META, "corresponding_original_initial_token"),
        f"second.metadata {META}.corresponding_original_initial_token",
        *("warning", None),
    ),
    "three frames": (drop("frames", 3), "second.frames frames", "error", None),
    "no dict": (put(7, "frames", 1), "second.frames frames", "error", None),
    "frame token": (put("", "frames", 1, "token"), "second.token token", "error", 1),
    "16 digits": (put("0" * 16, "frames", 3, "token"), "second.token token", "error", 3),
    "16 digits before": (put("0" * 16, "frames", 1, "token"), "second.token token", "warning", 1),
    "time": (put(-1, "frames", 1, "timestamp"), "second.timestamp timestamp", "error", 1),
    "backwards": (put(1, "frames", 2, "timestamp"), "second.timestamp timestamp", "error", 2),
    "gap": (moved(-300_000, 3), "second.timestamp timestamp", "warning", 3),
    "route type": (put([5], "frames", 0, "roadblock_ids"), "second.route roadblock_ids", "error", 0),
    "route": (put(["21", "999"], "frames", 2, "roadblock_ids"), "second.route_ids roadblock_ids", "error", 2),
    "lights": (put([(31,)], "frames", 2, "traffic_lights"), "second.lights traffic_lights", "error", 2),
    "light types": (put([("31", "no")], "frames", 2, "traffic_lights"), "second.lights traffic_lights", "error", 2),
    "light": (put([(5, True)], "frames", 2, "traffic_lights"), "second.light_ids traffic_lights", "warning", 2),
    "boxes": (drop("frames", 2, "annotations", "boxes"), "second.annotations annotations.boxes", "error", 2),
    "box shape": (
        *(put(np.zeros((1, 6)), "frames", 2, "annotations", "boxes"), "second.annotations annotations.boxes"),
        *("error", 2),
    ),
    "not finite": (
        *(put(np.full((1, 3), np.nan), "frames", 2, "annotations", "velocity_3d"),),
        *("second.annotations annotations.velocity_3d", "error", 2),
    ),
    "lengths": (put([], "frames", 2, "annotations", "track_tokens"), "second.annotations annotations.*", "error", 2),
    "names": (
        put(np.array(["tank"]), "frames", 2, "annotations", "names"),
        *("second.annotations annotations.names", "error", 2),
    ),
    "flat": (
        put(np.zeros((1, 7)), "frames", 2, "annotations", "boxes"),
        "second.boxes annotations.boxes",
        "warning",
        2,
    ),
    "far": (put(AWAY, "frames", 2, "annotations", "boxes"), "second.boxes annotations.boxes", "warning", 2),
    "instances": (
        put([7], "frames", 2, "annotations", "instance_tokens"),
        *("second.annotations annotations.instance_tokens", "warning", 2),
    ),
    "pose": (put([0.0, 1.0], "frames", 2, "ego_status", "ego_pose"), "second.ego ego_status.ego_pose", "error", 2),
    "elsewhere": (
        put(np.zeros(3), "frames", 2, "ego_status", "ego_pose"),
        "second.place ego_status.ego_pose",
        "error",
        2,
    ),
    "velocity": (
        *(put(np.zeros(3), "frames", 2, "ego_status", "ego_velocity"), "second.ego ego_status.ego_velocity"),
        *("error", 2),
    ),
    "acceleration": (
        *(put([np.inf, 0], "frames", 2, "ego_status", "ego_acceleration"), "second.ego ego_status.ego_acceleration"),
        *("error", 2),
    ),
    "command": (
        *(put(np.zeros(4), "frames", 2, "ego_status", "driving_command"), "second.ego ego_status.driving_command"),
        *("error", 2),
    ),
    "local": (
        *(put(False, "frames", 2, "ego_status", "in_global_frame"), "second.ego ego_status.in_global_frame"),
        *("error", 2),
    ),
    "no sweep key": (drop("frames", 2, "lidar_path"), "second.lidar_path lidar_path", "error", 2),
    "sweep": (put(5, "frames", 2, "lidar_path"), "second.lidar_path lidar_path", "error", 2),
    "climbing sweep": (put("../x.pcd", "frames", 2, "lidar_path"), "second.lidar_path lidar_path", "error", 2),
    "absolute sweep": (put("/x.pcd", "frames", 2, "lidar_path"), "second.lidar_path lidar_path", "error", 2),
    "no cameras": (drop("frames", 2, "camera_dict"), "second.cameras camera_dict", "error", 2),
    "seven cameras": (drop("frames", 2, "camera_dict", "cam_b0"), "second.cameras camera_dict", "error", 2),
    "upper case": (upper_case, "second.cameras camera_dict", "error", 1),
    "camera": (
        *(drop("frames", 2, "camera_dict", "cam_f0", "distortion"), "second.cameras camera_dict.CAM_F0.distortion"),
        *("error", 2),
    ),
    "climbing image": (
        put("../x.jpg", "frames", 2, "camera_dict", "cam_f0", "data_path"),
        *("second.CAM_F0 camera_dict.CAM_F0.data_path", "error", 2),
    ),
    "lens": (
        put(-np.eye(3), "frames", 2, "camera_dict", "cam_f0", "cam_intrinsic"),
        *("second.calibration camera_dict.cam_f0.cam_intrinsic", "error", 2),
    ),
    "image": (
        put("x/CAM_F0/y.jpg", "frames", 2, "camera_dict", "cam_f0", "data_path"),
        "sensor.lost CAM_F0",
        "warning",
        2,
    ),
    "few objects": (drop(TRACKS, 7), f"second.future {TRACKS}", "error", None),
    "few lights": (drop(LIGHTS, 7), f"second.future {LIGHTS}", "warning", None),
    "no record": (put({}, TRACKS, 3), f"second.future {TRACKS}", "error", None),
    "no lights record": (put(None, LIGHTS, 3), f"second.future {LIGHTS}", "error", None),
    "endless box": (
        in_tracks(lambda item: replace(item, box=replace(item.box, length=float("inf")))),
        *(f"second.future {TRACKS}", "error", None),
    ),
    "local box": (
        in_tracks(lambda item: replace(item, box=replace(item.box, center=replace(item.box.center, x=5.0, y=0.0)))),
        *(f"second.boxes {TRACKS}", "warning", None),
    ),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_of_a_scene_is_found_where_it_is(tmp_path, clean, view, name):
    change, rule, severity, index = BREACHES[name]
    dataset = replace(clean, root=tmp_path)
    values = copy.deepcopy(scene_dict(name="a-now", sensors=True))
    for item in values["frames"]:
        image = item["camera_dict"]["cam_f0"]["data_path"]
        write_image(tmp_path / SPLIT / "sensor_blobs" / image, gradient())
    path = write_scene(dataset, values)
    untouched = check_scene(dataset, SPLIT, False, lambda _: view, path.stem)
    assert untouched.findings == ()
    assert (untouched.token, untouched.log_name, untouched.frames) == (path.stem, LOG, 4)
    change(values)
    write_scene(dataset, values, path.stem)
    facts = check_scene(dataset, SPLIT, False, lambda _: view, path.stem)
    found = {(f"{finding.rule} {finding.key}", finding.severity): finding for finding in facts.findings}
    assert (rule, severity) in found, found
    finding = found[rule, severity]
    assert finding.frame == index
    assert finding.file == f"{SPLIT}/synthetic_scene_pickles/{path.stem}.pkl"
    assert "expected" in finding.message
    assert "fetch" not in finding.message
    assert finding.remedy


def test_a_worse_finding_is_not_hidden_by_a_milder_one(tmp_path, clean, view):
    dataset = replace(clean, root=tmp_path)
    values = scene_dict(name="a-now")
    values["frames"][1]["token"] = "0" * 16
    values["frames"][3]["token"] = values["scene_metadata"]["initial_token"] = "1" * 16
    path = write_scene(dataset, values)
    facts = check_scene(dataset, SPLIT, False, lambda _: view, path.stem)
    found = {item.severity: item.count for item in facts.findings if item.rule == "second.token"}
    assert found == {"error": 1, "warning": 1}


def test_files_that_are_no_scenes(changed, view):
    folder = changed.second_stage_folder(SPLIT)
    whole = sorted(folder.glob("*.pkl"))
    whole[0].write_bytes(whole[0].read_bytes()[:100])
    write_pickle(whole[1], [1, 2])
    whole[2].write_bytes(pickle.dumps({"frames": [Path.cwd]}))
    whole[3].write_bytes(b"\x80\x06" + whole[3].read_bytes()[2:])  # a protocol that no Python knows
    (folder / "notes.txt").write_text("x")
    found = found_in(changed, view)
    assert found["second.file "].severity == "error"
    assert found["second.foreign "].file.endswith("notes.txt")
    assert found["second.lost reactive_all_mapping"].count == 4


def change_scene(dataset, change, tokens):
    """Changes scenes that are written anew."""
    for name in "abcdefgh":
        for start, part in ((NOW, "now"), (PREVIOUS, "before")):
            values = scene_dict(start=start, name=f"{name}-{part}", aside_m=ASIDES["abcdefgh".index(name)])
            if values["scene_metadata"]["initial_token"] in tokens:
                change(values)
                write_scene(dataset, values)


FIRST = stage_pair(LOG, "abcdefgh").second[0]
ORIGINS = {
    "another log": (put(OTHER_LOG, META, "log_name"), f"second.origin {META}.log_name", "error"),
    "pair in two logs": (put(OTHER_LOG, META, "log_name"), f"second.pair {META}.log_name", "error"),
    "pair in two cities": (put("us-ma-boston", META, "map_name"), f"second.pair {META}.map_name", "error"),
    "another first scene": (
        put(frame(2).token, META, "corresponding_original_initial_token"),
        *(f"second.origin {META}.corresponding_original_initial_token", "warning"),
    ),
    "the current frame for the last": (
        put(frame(NOW).token, META, "corresponding_original_scene"),
        *(f"second.origin {META}.corresponding_original_scene", "warning"),
    ),
    "pair apart": (moved(60_000, 0), "second.pair timestamp", "error"),
    "pair at once": (moved(-500_000, 0), "second.pair timestamp", "error"),
    "late": (moved(200_000, 0), "second.origin timestamp", "warning"),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_what_does_not_fit_between_files_is_found(changed, view, name):
    change, rule, severity = ORIGINS[name]
    change_scene(changed, change, FIRST[:1])
    found = found_in(changed, view)
    assert (found[rule].severity, found[rule].file) == (severity, f"{SPLIT}/synthetic_scene_pickles/{FIRST[0]}.pkl")
    assert found[rule].count == 1


def write_mapping(dataset, *pairs):
    write_split(dataset.root, SPLIT, "mini", read_split(dataset, SPLIT).scene_filter, pairs)


def test_mappings_of_what_is_not_there(changed, view):
    whole = stage_pair(LOG, "abcdefgh")
    write_mapping(changed, StagePair("f" * 16, whole.previous, (*whole.second[1:], ("e" * 17, "d" * 17))))
    found = found_in(changed, view)
    label = f"train_test_split/{SPLIT}.yaml"
    first, lost = found[f"second.first_stage {MAPPING_KEY}"], found[f"second.lost {MAPPING_KEY}"]
    assert (first.severity, first.file, first.count) == ("error", label, 1)
    assert "f" * 16 in first.message
    assert (lost.severity, lost.file, lost.count) == ("error", label, 2)
    assert found[f"second.unused {META}.initial_token"].severity == "warning"
    write_mapping(changed, StagePair(whole.previous, whole.now, whole.second))
    assert "found -0.50 s" in found_in(changed, view)[f"second.first_stage {MAPPING_KEY}"].message
    write_mapping(changed, replace(whole, second=whole.second[:7]))
    assert found_in(changed, view)[f"second.group_size {MAPPING_KEY}"].severity == "note"


FILTERS = {
    "unknown token": (
        lambda fields: fields.update(synthetic_scene_tokens=[*fields["synthetic_scene_tokens"], "e" * 17]),
        "synthetic_scene_tokens",
    ),
    "scene left out": (
        lambda fields: fields.update(synthetic_scene_tokens=fields["synthetic_scene_tokens"][1:]),
        "synthetic_scene_tokens",
    ),
    "no list": (
        lambda fields: fields.update(reactive_synthetic_initial_tokens="all"),
        "reactive_synthetic_initial_tokens",
    ),
    "unknown traffic": (
        lambda fields: fields.update(non_reactive_synthetic_initial_tokens=["e" * 17]),
        "non_reactive_synthetic_initial_tokens",
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_that_pick_other_scenes(changed, name):
    change, key = FILTERS[name]
    path = changed.splits_root / f"{SPLIT}.yaml"
    values = yaml.safe_load(path.read_text())
    split = read_split(changed, SPLIT)
    scenes = {SPLIT: len(split.scene_filter.tokens)}
    assert list(check_splits(changed, [split], scenes)) == []
    change(values["scene_filter"])
    path.write_text(yaml.safe_dump(values))
    (found,) = [item for item in check_splits(changed, [split], scenes) if item.rule != "split.quotes"]
    assert (found.severity, found.rule, found.key) == ("warning", "split.second_tokens", f"scene_filter.{key}")
    assert (found.file, found.count) == (f"train_test_split/{SPLIT}.yaml", 1)


def test_a_token_in_two_files(changed, view):
    folder = changed.second_stage_folder(SPLIT)
    shutil.copy(folder / f"{FIRST[0]}.pkl", folder / "copy.pkl")
    found = found_in(changed, view)
    assert found[f"second.repeated {META}.initial_token"].severity == "error"
    assert set(found) == {f"second.repeated {META}.initial_token", f"second.name {META}.scene_token"}


def test_second_stages_that_are_not_there_or_not_named(changed, view):
    folder = changed.second_stage_folder(SPLIT)
    folder.rename(folder.parent / "elsewhere")
    assert found_in(changed, view)["second.folder "].severity == "warning"
    (folder.parent / "elsewhere").rename(folder)
    write_split(changed.root, SPLIT, "mini", read_split(changed, SPLIT).scene_filter)
    assert found_in(changed, view)[f"second.mapping {MAPPING_KEY}"].severity == "warning"
    (changed.splits_root / f"{SPLIT}.yaml").unlink()
    report = check_dataset(changed)
    assert list(report.split_files.kinds) == ["second.mapping "]


def test_a_split_file_that_repeats_a_token_is_a_finding(changed):
    pair = stage_pair(LOG, "abcdefgh")
    write_mapping(changed, replace(pair, second=(*pair.second, pair.second[0])))
    report = check_dataset(changed)
    (example,) = report.split_files.kinds["split.file "].examples
    assert f"{MAPPING_KEY}: expected tokens, each of them once, found {pair.second[0][0]!r}" in example.message
    with pytest.raises(ConfigError, match="each of them once"):
        check_dataset(changed, (SPLIT,))


def test_lost_images_are_counted(changed, view):
    for name in ("a-now", "a-before"):
        start = NOW if name == "a-now" else PREVIOUS
        values = scene_dict(start=start, name=name, sensors=True)
        for item in values["frames"][:2]:
            image = item["camera_dict"]["cam_f0"]["data_path"]
            write_image(changed.root / SPLIT / "sensor_blobs" / image, gradient())
        write_scene(changed, values)
    found = found_in(changed, view)
    assert set(found) == {"sensor.lost CAM_F0"}
    assert found["sensor.lost CAM_F0"].count == 2
