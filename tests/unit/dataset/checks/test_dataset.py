import json
import pickle
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from irl_vla.cli.main import main
from irl_vla.dataset.checks.dataset import check_dataset, check_log, stage_needs
from irl_vla.dataset.checks.findings import KEPT, KINDS, Finding, Gathered, merged
from irl_vla.dataset.checks.maps import check_maps
from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.maps.reader import city_path
from irl_vla.dataset.safe_pickle import write_pickle
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import write_split
from irl_vla.errors import ConfigError
from irl_vla.scene import CITIES

from ..example import CITY, LOG, write_example
from ..tiny_world import SENSORS, write_tiny_world

DRIVES = Path(__file__).parents[5] / "shared" / "real_drives"
OTHER = "2024.01.01.00.00.00_veh-02_0_1"


def kinds_of(report):
    """Rule and key of all findings, with the numbers of files and occurrences."""
    parts = [report.maps, *(folder.gathered for folder in report.folders)]
    return {name: (kind.files, kind.occurrences) for part in parts for name, kind in part.kinds.items()}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The example with all four cities, two logs."""
    root = tmp_path_factory.mktemp("clean")
    dataset = write_example(root, logs=(LOG, OTHER))
    source = city_path(dataset.maps_root, CITY)
    for city in CITIES:
        target = city_path(dataset.maps_root, city)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target != source:
            shutil.copy(source, target)
    return root


@pytest.fixture
def root(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "data")


@pytest.fixture(scope="module")
def shared(clean, tmp_path_factory):
    """A copy in which tests change one log, and write it anew."""
    return shutil.copytree(clean, tmp_path_factory.mktemp("shared") / "data")


def check(root, *splits, **options):
    return check_dataset(open_dataset(DataConfig(root=root), {}), splits, **options)


def frames_of(root, log=LOG):
    path = root / "navsim_logs/mini" / f"{log}.pkl"
    return path, pickle.loads(path.read_bytes())


@pytest.mark.parametrize("sensors", [SENSORS, None], ids=["with sensors", "without"])
def test_what_the_generator_writes_has_no_findings(tmp_path, sensors):
    dataset = write_tiny_world(tmp_path / "world", sensors)
    report = check_dataset(dataset, decode=True)
    assert kinds_of(report) == {}
    for folder in report.folders:
        assert (folder.logs, folder.frames, folder.splits) == (2, 26, {folder.data_split: 4})
        assert folder.missing.of("CAM_B0") == 26
        assert folder.missing.of("CAM_F0") == folder.missing.of("LiDAR") == (26 if sensors is None else 0)
        needs = stage_needs(folder, ("CAM_F0",), lidar=True)
        assert needs["prepare, label, evaluate"] == ()
        lacks = ("26 of 26 frames lack CAM_F0", "26 of 26 frames lack LiDAR")
        assert needs["imitation"] == (lacks if sensors is None else ())


@pytest.mark.skipif(not DRIVES.is_dir(), reason="../shared/real_drives is not here")
def test_real_drives_have_the_known_findings_alone():
    report = check(DRIVES)
    assert kinds_of(report) == {
        "map.column stop_polygons.lane_fids": (4, 4),
        "map.unread_layers traffic_lights": (4, 4),
        "log.pickle numpy": (2, 2),  # converted with numpy 2; the rest are names of the conversion
        "log.name ": (2, 2),
        "frame.scene_name scene_name": (2, 64),
        "frame.paths lidar_path": (2, 64),
    }
    (folder,) = report.folders
    assert (folder.logs, folder.frames, folder.splits, folder.gaps) == (2, 64, {"mini": 42}, 0)
    assert (folder.missing.absent["CAM_F0"], folder.missing.lost["LiDAR"]) == (64, 64)


def test_a_map_in_another_projection_is_named(root):
    assert kinds_of(check(root)) == {"map.projection projectedCoordSystem": (3, 3)}  # copies of one city's file


def change(key, value):
    def apply(frames):
        frames[1][key] = value

    return apply


def change_annotation(key, value):
    def apply(frames):
        frames[1]["anns"][key] = value

    return apply


def later(frames):
    for frame in frames[5:]:
        frame["timestamp"] += 300_000


def repeat_token(frames):
    frames[2]["token"] = frames[1]["token"]


BREACHES = {
    "no dict": (lambda frames: frames.__setitem__(1, 7), "frame ", 1),
    "token": (change("token", "not hex"), "frame.token token", 1),
    "token twice": (repeat_token, "frame.token token", 1),
    "time": (change("timestamp", -1), "frame.timestamp timestamp", 1),
    "order": (change("timestamp", 10**15), "frame.timestamp timestamp", 1),
    "gap": (later, "frame.gap timestamp", 1),
    "log name": (change("log_name", "other"), "frame.log_name log_name", 1),
    "city": (change("map_location", "paris"), "frame.map map_location", 1),
    "route": (change("roadblock_ids", ["21", "999"]), "map.route_ids roadblock_ids", 1),
    "route type": (change("roadblock_ids", [21]), "frame.route roadblock_ids", 1),
    "light": (change("traffic_lights", [(5, True)]), "map.light_ids traffic_lights", 1),
    "quaternion": (change("ego2global_rotation", [1.1, 0, 0, 0]), "frame.pose ego2global_rotation", 1),
    "matrix": (change("ego2global", np.eye(4)), "frame.pose ego2global", 1),
    "state": (change("ego_dynamic_state", [1, 2, 3]), "frame.ego ego_dynamic_state", 1),
    "command": (change("driving_command", [0, 0, 0, 0]), "frame.ego driving_command", 1),
    "no path": (change("lidar_path", None), "frame.lidar_path lidar_path", 1),
    "climbing path": (change("lidar_path", "../x.pcd"), "frame.lidar_path lidar_path", 1),
    "link": (change("sample_prev", "0" * 16), "frame.links sample_prev", 1),
    "size": (change_annotation("gt_boxes", np.zeros((1, 7))), "frame.boxes anns.gt_boxes", 1),
    "lengths": (change_annotation("track_tokens", []), "frame.anns anns.*", 1),
    "names": (change_annotation("gt_names", ["tank"]), "frame.anns anns.gt_names", 1),
    "camera": (
        lambda frames: frames[1]["cams"]["CAM_F0"].update(cam_intrinsic=np.eye(2)),
        "frame.cameras cams.CAM_F0.cam_intrinsic",
        1,
    ),
    "lens": (
        lambda frames: frames[1]["cams"]["CAM_F0"].update(cam_intrinsic=-np.eye(3)),
        "frame.calibration cams.CAM_F0.cam_intrinsic",
        1,
    ),
    "unread": (lambda frames: [frame.pop("can_bus") for frame in frames], "frame.unread_keys can_bus", 16),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_found_where_it_is(clean, shared, name):
    apply, rule, times = BREACHES[name]
    path, frames = frames_of(shared)
    _, frames = frames_of(clean)
    apply(frames)
    write_pickle(path, frames)
    facts = check_log(open_dataset(DataConfig(root=shared), {}), "mini", {}, False, LOG)
    found = {f"{finding.rule} {finding.key}": finding for finding in facts.findings}
    example = found[rule]
    assert example.count == times
    assert facts.gaps == (name in {"gap", "order"})
    assert example.file == f"navsim_logs/mini/{LOG}.pkl"
    assert example.frame == {"gap": 5, "order": 2, "token twice": 2, "unread": 0}.get(name, 1)
    assert example.remedy


def test_breaches_of_one_frame_are_all_found(root):
    path, frames = frames_of(root)
    frames[1] |= {"token": 5, "cams": None, "anns": None, "traffic_lights": 3}
    write_pickle(path, frames)
    rules = {name.split()[0] for name in kinds_of(check(root))}
    assert {"frame.token", "frame.cameras", "frame.anns", "frame.lights"} <= rules


def test_files_that_are_not_logs(root):
    folder = root / "navsim_logs/mini"
    (folder / "notes.txt").write_text("x")
    (folder / "sub").mkdir()
    (folder / f"{OTHER}.pkl").write_bytes(b"garbage")
    found = kinds_of(check(root))
    assert found["folder.foreign "] == (2, 2)
    assert found["log "] == (1, 1)


def test_a_token_in_two_logs(root):
    _, frames = frames_of(root)
    path, others = frames_of(root, OTHER)
    others[3]["token"] = frames[3]["token"]
    write_pickle(path, others)
    assert kinds_of(check(root))["log.token token"] == (1, 1)


def test_lost_and_broken_sensor_files(root):
    folder = root / "sensor_blobs/mini" / LOG
    images = sorted((folder / "CAM_F0").iterdir())
    images[0].unlink()
    images[1].write_bytes(b"")
    images[2].write_bytes(images[2].read_bytes()[:300])
    sweeps = sorted((folder / "MergedPointCloud").iterdir())
    sweeps[0].write_bytes(sweeps[0].read_bytes()[:-3])
    report = check(root, decode=True)
    found = kinds_of(report)
    assert found["sensor.lost CAM_F0"] == (1, 1)
    assert found["sensor.content CAM_F0"] == (1, 2)
    assert found["sensor.content LiDAR"] == (1, 1)
    assert report.folders[0].missing.lost == {"CAM_F0": 1}
    assert stage_needs(report.folders[0], ("CAM_F0",), lidar=False)["imitation"][-1] == "1 of 32 frames lack CAM_F0"


MAP_BREACHES = {
    "update lanes_polygons set lane_group_fid = 99 where fid = 11": "map.reference lanes_polygons.lane_group_fid",
    "update lanes_polygons set lane_fid = 5 where fid = 11": "map.lane_fid lanes_polygons.lane_fid",
    "update lanes_polygons set lane_index = 7 where fid = 12": "map.lane_index lanes_polygons.lane_index",
    "update lanes_polygons set left_boundary_fid = null": "map.reference lanes_polygons.left_boundary_fid",
    "update lane_connectors set entry_lane_fid = 11": "map.graph lane_connectors",
    "update lane_connectors set exit_lane_fid = 77": "map.reference lane_connectors.exit_lane_fid",
    "update lane_connectors set fid = 12": "map.id_space lane_connectors",
    "update lane_connectors set traffic_light_stop_line_fids = '61,62'": (
        "map.reference lane_connectors.traffic_light_stop_line_fids"
    ),
    "update intersections set intersection_type_fid = 9": "map.reference intersections.intersection_type_fid",
    "delete from baseline_paths where lane_fid = 11": "map.one_each baseline_paths.lane_fid",
    "alter table boundaries drop column boundary_type_fid": "map.column boundaries.boundary_type_fid",
    "update meta set value = 'EPSG:32612'": "map.projection projectedCoordSystem",
    "update meta set value = 'EPSG:4326'": f"map.file {CITY}",
    "update carpark_areas set geom = null": "map.geometry carpark_areas",
}


@pytest.mark.parametrize("statement", MAP_BREACHES)
def test_each_breach_of_a_map_is_found(clean, tmp_path, statement):
    shutil.copy(clean / "maps/nuplan-maps-v1.0.json", tmp_path)
    path = city_path(tmp_path, CITY)
    path.parent.mkdir(parents=True)
    shutil.copy(city_path(clean / "maps", CITY), path)
    with sqlite3.connect(path) as connection:
        for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            connection.execute(f'drop trigger "{name}"')
        connection.execute(statement)
    found = {f"{finding.rule} {finding.key}" for finding in check_maps(tmp_path) if CITY in finding.file}
    assert MAP_BREACHES[statement] in found, found


def test_missing_city_and_missing_index(root):
    city_path(root / "maps", CITIES[0]).unlink()
    assert kinds_of(check(root))[f"map.file {CITIES[0]}"] == (1, 1)
    (root / "maps/nuplan-maps-v1.0.json").unlink()
    assert len([name for name in kinds_of(check(root)) if name.startswith("map.index")]) == 4


def test_scenes_are_counted_as_they_are_read(root):
    path, frames = frames_of(root)
    frames[4]["roadblock_ids"] = []
    write_pickle(path, frames)
    tokens = tuple(frame["token"] for frame in frames[3:6])
    rules = {
        "all": SceneFilter(num_future_frames=8, frame_interval=1),
        "steps": SceneFilter(num_future_frames=8, frame_interval=2, has_route=False),
        "few": SceneFilter(num_future_frames=8, frame_interval=1, max_scenes=3),
        "named": SceneFilter(num_future_frames=8, frame_interval=1, tokens=tokens, log_names=(LOG,)),
        "long": SceneFilter(num_future_frames=20, frame_interval=1),
    }
    for name, rule in rules.items():
        write_split(root, name, "mini", rule)
    dataset = open_dataset(DataConfig(root=root), {})
    (folder,) = check_dataset(dataset, tuple(rules)).folders
    assert folder.splits == {name: len(scene_refs(dataset, name)) for name in rules}
    assert folder.splits["named"] == 2


def test_named_splits_alone(root):
    write_split(root, "absent", "nowhere", SceneFilter())
    write_split(root, "one", "mini", SceneFilter(log_names=(LOG, "gone")))
    report = check(root, "one")
    assert report.folders[0].logs == 1
    assert kinds_of(report)["split.logs log_names"] == (1, 1)
    assert [folder.data_split for folder in check(root).folders] == ["mini"]  # without a name, absent data is left out
    with pytest.raises(ConfigError, match="split 'absent' needs this folder of logs"):
        check(root, "absent")


def test_processes_give_the_same_report(root):
    one, two = check(root, workers=1), check(root, workers=2)
    assert kinds_of(one) == kinds_of(two)
    assert one.folders[0].size_bytes == two.folders[0].size_bytes > 10_000


def test_findings_are_bounded():
    gathered = Gathered()
    for index in range(1000):
        gathered.add([Finding("error", "r", f"file {index}", 0, "k", "m", "do", count=2)])
        gathered.add([Finding("note", "s", "file", 0, f"key {index}", "m", "do")])
    assert gathered.totals == {"error": 2000, "warning": 0, "note": 1000}
    assert len(gathered.kinds["r k"].examples) == KEPT
    assert (gathered.kinds["r k"].files, gathered.kinds["r k"].occurrences) == (1000, 2000)
    assert len(gathered.kinds) <= KINDS + 1


def test_findings_of_a_file_are_merged():
    findings = [Finding("error", "r", "a", index, "k", "m", "do") for index in (3, 4)]
    (found,) = merged(findings)
    assert (found.frame, found.count) == (3, 2)


def test_command(root, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main(["check-data", str(root), "--json", str(report)]) == 0
    assert "imitation: 32 of 32 frames lack CAM_L0" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads(report.read_text())["folders"][0]["logs"] == 2
    (root / "navsim_logs/mini/broken.pkl").write_bytes(b"x")
    assert main(["check-data", str(root), "--split", "train"]) == 1
    assert main(["check-data", str(tmp_path / "nowhere")]) == 2
    shutil.rmtree(root / "navsim_logs")
    assert main(["check-data", str(root)]) == 2
