"""Follow-up scenes: where they start, what led there, and that their files keep every rule of the layout."""

import csv
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
import yaml

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.log import read_log
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.nuplan_records import SECOND_STAGE_NAMES, Agent, TrackedObjectType
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.second_stage import read_second_stage
from irl_vla.dataset.sensors import load_image, load_sweep
from irl_vla.dataset.splits import read_split
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.scorer import score_plans
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.geometry import relative_to
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.storage import Location
from irl_vla.scene import CAMERA_NAMES, CITIES, OBJECT_NAMES, Area, MapView
from irl_vla.world import generate as module
from irl_vla.world.config import SplitSizeConfig, TwoStageConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.drive import Drive, repeatable_drive
from irl_vla.world.follow_up import FollowUp, draw_follow_ups, draw_group, is_plausible, on_road, preferred_frames
from irl_vla.world.generate import generate
from irl_vla.world.plan import group_plans, log_generator, log_plans, network_of
from irl_vla.world.second_stage_files import SECOND_STAGE
from irl_vla.world.sensor_config import LidarConfig

SEED = 7
TINY = SplitSizeConfig(logs=1, layouts=2)
BARE = WorldConfig(
    train=TINY,
    val=TINY,
    test=SplitSizeConfig(logs=2, layouts=2),
    frames_per_log=15,
    sensors=WorldSensorConfig(
        cameras=("CAM_F0",), image_height_px=54, image_width_px=96, lidar=LidarConfig(rings=4, azimuths=60)
    ),
)
TWO_STAGE = TwoStageConfig(groups=3, pairs_min=2, pairs_max=3)
CONFIG = BARE.model_copy(update={"two_stage": TWO_STAGE})


def with_second_stage(config: WorldConfig, **changes: Any) -> WorldConfig:
    return WorldConfig.model_validate(config.model_dump() | {"two_stage": TWO_STAGE.model_dump() | changes})


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A finished data set to which follow-ups were added later; two of the three groups share a log."""
    root = tmp_path_factory.mktemp("world")
    generate(BARE, root, SEED)
    before = digests(root)
    generate(CONFIG, root, SEED)
    assert {name: digest for name, digest in digests(root).items() if name in before} == before
    return root


@pytest.fixture(scope="module")
def dataset(world) -> Dataset:
    return open_dataset(DataConfig(root=world))


@pytest.fixture(scope="module")
def raw_scenes(world) -> dict[Path, dict[str, Any]]:
    paths = sorted((world / SECOND_STAGE / "synthetic_scene_pickles").iterdir())
    return {path: read_pickle(path, SECOND_STAGE_NAMES) for path in paths}


@pytest.fixture(scope="module")
def mappings(world) -> list[tuple[str, str, list[list[str]]]]:
    values = yaml.safe_load((world / "train_test_split" / f"{SECOND_STAGE}.yaml").read_text())
    return values["reactive_all_mapping"]


@pytest.fixture(scope="module")
def cruise(world, dataset) -> tuple[Drive, MapView]:
    """A drive of the test split that does not stand, with its map."""
    plan = log_plans(CONFIG, SEED)[-1]
    drive = repeatable_drive(network_of(plan.layout, SEED), plan.kind, 28, log_generator(plan, SEED))
    assert drive.moments[12].ego.along_m - drive.moments[4].ego.along_m > 10.0
    return drive, load_map(dataset, plan.layout.city)


def follow_ups(cruise: tuple[Drive, MapView], **bounds: float) -> list[FollowUp]:
    nothing = {"lateral_m": 0.0, "longitudinal_m": 0.0, "heading_rad": 0.0, "speed_mps": 0.0}
    config = TwoStageConfig(groups=1, pairs_min=1, pairs_max=12, **(nothing | bounds))
    return draw_follow_ups(cruise[0], 4, config, cruise[1], np.random.default_rng(3))


def reached(items: list[FollowUp]) -> np.ndarray:
    """(N, 4) lateral, longitudinal, heading and speed deviation of the current frames."""
    return np.array(
        [(d.lateral_m, d.longitudinal_m, d.heading_rad, d.speed_mps) for d in (item.reached[0] for item in items)]
    )


def moments_at(places_m: list[float]) -> Any:
    """Moments of which the ego's place on a straight line is all there is."""
    return [SimpleNamespace(ego=SimpleNamespace(pose=np.array([place, 0.0, 0.0]))) for place in places_m]


def test_the_first_follow_up_is_the_log(cruise):
    drive, _ = cruise
    first = follow_ups(cruise, lateral_m=2.0)[0]
    assert (first.left_at, first.now) == (4, 12)
    for repeated, logged in zip(first.moments, drive.moments, strict=False):
        assert repeated.ego == logged.ego
        np.testing.assert_array_equal(repeated.poses, logged.poses)


def test_all_follow_ups_share_the_past_and_part_when_the_ego_leaves_the_log(cruise):
    drive, _ = cruise
    items = follow_ups(cruise, longitudinal_m=6.0, speed_mps=2.0)
    assert len(items) > 3
    for item in items:
        for repeated, logged in zip(item.moments[:5], drive.moments, strict=False):
            np.testing.assert_array_equal(repeated.poses, logged.poses)
        assert len(item.moments) == item.now + 9


def test_each_bound_moves_what_it_names(cruise):
    sideways = reached(follow_ups(cruise, lateral_m=1.5))
    assert np.ptp(sideways[:, 0]) > 0.5
    assert np.abs(sideways[:, 0]).max() < 1.7
    assert np.abs(sideways[:, 1]).max() < 1.0
    along = reached(follow_ups(cruise, longitudinal_m=5.0))
    assert np.ptp(along[:, 1]) > 2.0
    assert np.abs(along[:, 0]).max() < 0.2
    turned = reached(follow_ups(cruise, heading_rad=0.12))
    assert np.ptp(turned[:, 2]) > 0.03
    assert np.abs(turned[:, 3]).max() < 0.5
    assert np.ptp(reached(follow_ups(cruise, speed_mps=2.5))[:, 3]) > 0.8


def test_the_history_is_one_that_a_car_can_drive(cruise):
    for item in follow_ups(cruise, lateral_m=2.0, longitudinal_m=6.0, heading_rad=0.12, speed_mps=2.5):
        egos = [moment.ego for moment in item.moments[item.left_at : item.now + 1]]
        speeds, poses = np.array([ego.speed_mps for ego in egos]), np.stack([ego.pose for ego in egos])
        travelled = np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1)
        np.testing.assert_allclose(travelled, 0.25 * (speeds[1:] + speeds[:-1]), atol=0.15)
        assert np.abs(np.diff(speeds) / 0.5).max() < 4.05
        assert np.abs([ego.lateral_acceleration_mps2 for ego in egos]).max() < 4.89
        # it moves where it looks
        step = relative_to(poses[:-1], poses[1:])[travelled > 1.0]
        np.testing.assert_allclose(np.arctan2(step[:, 1], step[:, 0]), step[:, 2] / 2, atol=0.03)


def test_whoever_leaves_the_road_or_touches_somebody_is_refused(cruise):
    drive, map_view = cruise
    item = follow_ups(cruise)[0]
    assert is_plausible(drive, item, map_view)
    now = item.moments[item.now]
    hit = replace(now, poses=np.concatenate([now.poses[:1], now.poses[:1], now.poses[2:]]))
    moments = [*item.moments[: item.now], hit, *item.moments[item.now + 1 :]]
    assert not is_plausible(drive, replace(item, moments=moments), map_view)
    bare = replace(map_view, roadblocks={}, areas={}, _trees={})
    assert not is_plausible(drive, item, bare)


def test_on_road_is_about_all_corners():
    square = {"1": Area("1", shapely.box(0.0, 0.0, 20.0, 20.0))}
    map_view = MapView(CITIES[0], {}, {}, {}, {}, {"INTERSECTION": square})
    assert on_road(np.array([[10.0, 10.0, 0.3]]), map_view)
    assert on_road(np.array([[2.7, 1.2, 0.0]]), map_view)  # half a length of 2.588 m, half a width of 1.149 m
    assert not on_road(np.array([[10.0, 10.0, 0.0], [2.5, 10.0, 0.0]]), map_view)
    assert not on_road(np.array([[10.0, 1.1, 0.0]]), map_view)


def test_pairs_of_a_standing_ego_come_last_and_no_two_share_a_scene():
    # drives 5 m a frame and stands from frame 6 on; the frames of pairs 0 to 2 are 4, 6 and 8
    assert preferred_frames(moments_at([5.0 * min(frame, 6) for frame in range(17)]), [2, 1, 0]) == [4, 8, 6]
    assert preferred_frames(moments_at([5.0 * frame for frame in range(17)]), [2, 1, 0]) == [8, 6, 4]


def test_too_few_follow_ups_are_named(cruise):
    drive, map_view = cruise
    bare = replace(map_view, roadblocks={}, areas={}, _trees={})
    with pytest.raises(ConfigError, match="pairs_min"):
        draw_group(drive, [4], TWO_STAGE, bare, np.random.default_rng(0))


def test_scene_files_keep_the_layout(world, dataset, raw_scenes, mappings):
    logs = {path.stem: read_log(path) for path in (world / "navsim_logs/test").iterdir()}
    originals = {
        token: original
        for now, previous, pairs in mappings
        for pair in pairs
        for token, original in zip(pair, (now, previous), strict=True)
    }
    assert len(raw_scenes) == len(originals)
    for path, scene in raw_scenes.items():
        data = path.read_bytes()
        assert data[:2] == b"\x80\x04"
        assert b"numpy._core" not in data
        assert b"pathlib" not in data
        assert set(scene) == {
            "scene_metadata", "frames", "extended_traffic_light_data", "extended_detections_tracks",
        }  # fmt: skip
        meta, frames = scene["scene_metadata"], scene["frames"]
        token = meta["initial_token"]
        assert path.stem == meta["scene_token"]
        assert len(token) == 17
        assert frames[3]["token"] == token
        assert (meta["num_history_frames"], len(frames)) == (4, 4)
        assert meta["map_name"] in CITIES
        assert all(type(value) in (str, int) for value in meta.values())
        log = logs[meta["log_name"]]
        index = [log.token(k) for k in range(len(log))].index(originals[token])
        assert meta["corresponding_original_initial_token"] == log.token(index)
        assert meta["corresponding_original_scene"] == log.token(index + 8)
        assert 3 <= index <= len(log) - 9
        assert log.map_name(index) == meta["map_name"]
        for back, frame in enumerate(reversed(frames)):
            assert frame["timestamp"] == log.frame(index + 8 - back).timestamp_us
            check_frame(world, frame)
        check_future(scene, frames[3]["timestamp"])


def check_frame(world: Path, frame: dict[str, Any]) -> None:
    assert set(frame) == {
        "token", "timestamp", "roadblock_ids", "traffic_lights", "annotations", "ego_status", "lidar_path",
        "camera_dict",
    }  # fmt: skip
    assert type(frame["token"]) is str
    assert len(frame["token"]) == 17
    assert type(frame["timestamp"]) is int
    assert frame["roadblock_ids"]
    assert all(type(block) is str for block in frame["roadblock_ids"])
    assert all(type(lane) is int and type(red) is bool for lane, red in frame["traffic_lights"])
    objects = frame["annotations"]
    count = len(objects["names"])
    assert set(objects) == {"boxes", "names", "velocity_3d", "instance_tokens", "track_tokens"}
    assert objects["boxes"].shape == (count, 7)
    assert objects["velocity_3d"].shape == (count, 3)
    assert objects["boxes"].dtype == np.float64
    assert set(objects["names"].tolist()) <= set(OBJECT_NAMES)
    assert len(objects["instance_tokens"]) == len(objects["track_tokens"]) == len(set(objects["track_tokens"])) == count
    ego = frame["ego_status"]
    assert set(ego) == {"ego_pose", "ego_velocity", "ego_acceleration", "driving_command", "in_global_frame"}
    assert [ego[key].shape for key in ("ego_pose", "ego_velocity", "ego_acceleration")] == [(3,), (2,), (2,)]
    assert ego["in_global_frame"] is True
    assert ego["driving_command"].shape == (4,)
    assert ego["driving_command"].sum() == 1
    assert set(frame["camera_dict"]) == {name.lower() for name in CAMERA_NAMES}
    blobs = world / SECOND_STAGE / "sensor_blobs"
    for name, camera in frame["camera_dict"].items():
        if name != "cam_f0":
            assert camera == {}
            continue
        assert (blobs / camera["data_path"]).is_file()
        shapes = {key: np.shape(value) for key, value in camera.items() if key != "data_path"}
        assert shapes == {
            "sensor2lidar_rotation": (3, 3), "sensor2lidar_translation": (3,), "cam_intrinsic": (3, 3),
            "distortion": (5,),
        }  # fmt: skip
    assert not isinstance(frame["lidar_path"], PurePath)
    assert (blobs / frame["lidar_path"]).is_file()


def check_future(scene: dict[str, Any], now_us: int) -> None:
    tracks, lights = scene["extended_detections_tracks"], scene["extended_traffic_light_data"]
    assert len(tracks) == len(lights) == 8
    for step, (detections, statuses) in enumerate(zip(tracks, lights, strict=True), start=1):
        items = detections.tracked_objects.tracked_objects
        kinds = [item.tracked_object_type.value for item in items]
        assert kinds == sorted(kinds)
        assert TrackedObjectType.EGO.value not in kinds
        assert {item.metadata.timestamp_us for item in items} == {now_us + step * 500_000}
        assert all(isinstance(item, Agent) == (item.tracked_object_type.value < 3) for item in items)
        assert {light.timestamp for light in statuses.traffic_lights} <= {now_us + step * 500_000}
    assert any(light.traffic_lights for light in lights) == bool(scene["frames"][3]["traffic_lights"])


def test_members_of_a_pair_are_half_a_second_of_one_drive(raw_scenes, mappings):
    by_token = {path.stem: scene for path, scene in raw_scenes.items()}
    for _, _, pairs in mappings:
        for now, previous in pairs:
            late, early = by_token[now]["frames"], by_token[previous]["frames"]
            assert [frame["token"] for frame in late[:3]] == [frame["token"] for frame in early[1:]]
            assert late[3]["timestamp"] - early[3]["timestamp"] == 500_000


def test_traffic_goes_on_from_where_it_is_seen(raw_scenes):
    """Global boxes of the future continue the boxes that the ego sees now: nobody jumps."""
    compared = 0
    for scene in raw_scenes.values():
        frame = scene["frames"][3]
        pose, objects = frame["ego_status"]["ego_pose"], frame["annotations"]
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        seen = {
            token: (np.array([pose[0] + cos * box[0] - sin * box[1], pose[1] + sin * box[0] + cos * box[1]]), speed)
            for token, box, speed in zip(
                objects["track_tokens"], objects["boxes"], np.linalg.norm(objects["velocity_3d"], axis=1), strict=True
            )
        }
        for item in scene["extended_detections_tracks"][0].tracked_objects.tracked_objects:
            if item.metadata.track_token in seen:
                place, speed = seen[item.metadata.track_token]
                moved = np.hypot(item.box.center.x - place[0], item.box.center.y - place[1])
                assert moved < 0.5 * (speed + 1.7) + 0.05
                compared += 1
    assert compared > 100


def test_split_file_and_table(world, dataset, raw_scenes, mappings):
    text = (world / "train_test_split" / f"{SECOND_STAGE}.yaml").read_text()
    values = yaml.safe_load(text)
    assert all(f"'{pair[0]}'" in text for _, _, pairs in mappings for pair in pairs)  # 12e4567890123456 is no number
    rule = values["scene_filter"]
    second = [token for _, _, pairs in mappings for pair in pairs for token in pair]
    assert values["data_split"] == "test"
    assert (rule["num_history_frames"], rule["num_future_frames"], rule["frame_interval"]) == (4, 8, 1)
    assert rule["include_synthetic_scenes"] is True
    assert sorted(rule["synthetic_scene_tokens"]) == sorted(second) == sorted(path.stem for path in raw_scenes)
    assert sorted(rule["reactive_synthetic_initial_tokens"]) == sorted(second)
    assert rule["tokens"] == [token for now, previous, _ in mappings for token in (now, previous)]
    assert len(mappings) == TWO_STAGE.groups
    assert all(TWO_STAGE.pairs_min <= len(pairs) <= TWO_STAGE.pairs_max for _, _, pairs in mappings)
    assert len(read_split(dataset, SECOND_STAGE).stage_pairs) == TWO_STAGE.groups
    rows = list(csv.DictReader((world / SECOND_STAGE / "synthetic_scenes_attributes.csv").open()))
    assert [row["token"] for row in rows] == second
    for row in rows:
        meta = raw_scenes[world / SECOND_STAGE / "synthetic_scene_pickles" / f"{row['token']}.pkl"]["scene_metadata"]
        assert row["corresponding_original_scene"] == meta["corresponding_original_scene"]
        assert abs(float(row["lateral_m"])) < 2.5


def test_log_style_files_hold_both_windows_of_a_pair(world, mappings):
    folder = world / SECOND_STAGE / "openscene_meta_datas"
    pairs = [pair for _, _, pairs in mappings for pair in pairs]
    assert sorted(path.stem for path in folder.iterdir()) == sorted(now for now, _ in pairs)
    for now, previous in pairs:
        log = read_log(folder / f"{now}.pkl")
        assert len(log) == 5
        assert (log.token(3), log.token(4)) == (previous, now)
        scene = read_second_stage(world / SECOND_STAGE / "synthetic_scene_pickles" / f"{now}.pkl", SECOND_STAGE)
        np.testing.assert_allclose(log.frame(4).ego.pose_global, scene.current.ego.pose_global, atol=1e-8)
        np.testing.assert_allclose(log.frame(4).objects.boxes, scene.current.objects.boxes)


def test_readers_and_the_score_take_both_stages(dataset, mappings):
    scenes = {scene.token: scene for scene in iter_scenes(dataset, SECOND_STAGE)}
    second = {token for _, _, pairs in mappings for pair in pairs for token in pair}
    assert set(scenes) == second | {token for now, previous, _ in mappings for token in (now, previous)}
    references = []
    for token in second:
        scene = scenes[token]
        assert scene.is_synthetic
        assert scene.kind == ""
        assert load_image(dataset, SECOND_STAGE, scene.current.cameras["CAM_F0"]).shape == (54, 96, 3)
        assert scene.current.lidar_path is not None
        assert load_sweep(dataset, SECOND_STAGE, scene.current.lidar_path).shape[0] == 6
        prepared = prepare_scene(scene, load_map(dataset, scene.map_name))
        assert prepared.human_plan is None
        steady = np.zeros((8, 3))
        steady[:, 0] = scene.current.ego.velocity_mps[0] * 0.5 * np.arange(1, 9)
        reference = relative_to(scene.current.ego.pose_global, prepared.reference_poses[5:41:5])
        scores = score_plans(prepared, np.stack([reference, steady]), ScorerConfig()).score
        assert np.isfinite(scores).all()
        references.append(scores[0])
    assert np.mean(references) > 0.3  # few and moderate; a scene file that misleads the planner gives zeros


def test_the_first_follow_up_of_a_group_starts_where_the_human_is(dataset, mappings):
    scenes = {scene.token: scene for scene in iter_scenes(dataset, SECOND_STAGE)}
    for now, previous, pairs in mappings:
        for first, token in zip((now, previous), pairs[0], strict=True):
            end = scenes[first].future[7]
            np.testing.assert_allclose(scenes[token].current.ego.pose_global, end.ego.pose_global, atol=1e-9)
            assert scenes[token].current.objects.track_tokens == end.objects.track_tokens


def test_groups_depend_on_nothing_but_the_seed(world, tmp_path):
    """Neither on their order, nor on what is there already."""
    bare = digests(world)
    shutil.copytree(world / "maps", tmp_path / "maps")
    for plan in reversed(group_plans(CONFIG, SEED)):
        module.generate_group(CONFIG, tmp_path, SEED, plan)
    made = digests(tmp_path / SECOND_STAGE)
    assert len(made) > 50
    assert made == {name: bare[f"{SECOND_STAGE}/{name}"] for name in made}


def test_resumes_after_an_interruption(world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path, ignore=shutil.ignore_patterns(f"{SECOND_STAGE}*"), dirs_exist_ok=True)
    write, made = module.write_group_record, []

    def interrupted(path, origin, pairs):
        if made:
            raise KeyboardInterrupt
        made.append(path)
        write(path, origin, pairs)

    monkeypatch.setattr(module, "write_group_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(CONFIG, tmp_path, SEED)
    assert not find_record(Location.of(tmp_path / SECOND_STAGE)).whole
    time = made[0].stat().st_mtime_ns
    monkeypatch.setattr(module, "write_group_record", write)
    generate(CONFIG, tmp_path, SEED)
    assert made[0].stat().st_mtime_ns == time
    assert digests(tmp_path) == digests(world)


def test_other_follow_ups_are_not_mixed_in(world):
    with pytest.raises(CheckpointError, match="another folder"):
        generate(with_second_stage(BARE, lateral_m=1.0), world, SEED)


def test_the_world_is_the_same_with_and_without_follow_ups(world):
    assert "two_stage" not in find_record(Location.of(world)).identity.settings
    second = find_record(Location.of(world / SECOND_STAGE))
    assert second.identity.settings["two_stage"]["groups"] == TWO_STAGE.groups


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"groups": 5}, "two_stage.groups"), ({"pairs_min": 4}, "pairs_min"), ({"groups": 0}, "groups")],
)
def test_impossible_settings_are_refused(changes, key):
    with pytest.raises((ConfigError, ValueError), match=key):
        with_second_stage(BARE, **changes)
    assert BARE.pairs_per_log == 2  # 15 frames: current frames 4 and 6
