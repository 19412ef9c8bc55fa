import os
import pickle
from dataclasses import replace

import numpy as np
import pytest

from irl_vla.dataset.config import SceneFilter, SensorConfig, TargetConfig
from irl_vla.dataset.features import build_observation
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.nuplan_records import StaticObject
from irl_vla.dataset.scenes import iter_scenes, load_scene, scene_refs
from irl_vla.dataset.second_stage import read_second_stage
from irl_vla.dataset.sensors import write_image
from irl_vla.dataset.splits import StagePair, read_split, write_split
from irl_vla.dataset.targets import build_targets
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.errors import ConfigError, LogFormatError, SceneError

from .example import CITY, LOG, ORIGIN, frame, gradient
from .second_stage_example import (
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


@pytest.fixture(scope="module")
def two_stage(tmp_path_factory):
    """Two logs with one pair of first-stage scenes each and four second-stage scenes a pair."""
    return write_two_stage(tmp_path_factory.mktemp("two_stage"), logs=(LOG, OTHER_LOG))


def test_a_scene_is_read_as_it_was_written(two_stage):
    token = stage_pair(LOG).second[1][0]  # 0.4 m to the left
    scene = load_scene(two_stage, SPLIT, token)
    assert (scene.token, scene.is_synthetic, scene.kind, scene.num_history) == (token, True, "", 4)
    assert (scene.log_name, scene.map_name, scene.group, scene.data_split) == (LOG, CITY, "straight-1", SPLIT)
    logged = frame(NOW + 8)
    np.testing.assert_allclose(scene.current.ego.pose_global, logged.ego.pose_global + np.array([0.0, 0.4, 0.0]))
    np.testing.assert_allclose(scene.current.objects.boxes[0, 1], logged.objects.boxes[0, 1] - 0.4)
    assert scene.current.roadblock_ids == logged.roadblock_ids
    assert scene.current.timestamp_us == logged.timestamp_us
    assert [frame.timestamp_us - logged.timestamp_us for frame in scene.future] == [500_000 * k for k in range(1, 9)]
    assert [frame.traffic_lights[0] for frame in scene.future] == [(31, True)] * 2 + [(31, False)] * 6


def test_prepared_as_the_official_cache_does(two_stage):
    scene = load_scene(two_stage, SPLIT, stage_pair(LOG).second[0][0])
    prepared = prepare_scene(scene, load_map(two_stage, scene.map_name))
    assert prepared.is_synthetic
    assert prepared.human_plan is None
    tracks = dict(zip(prepared.tracks.tokens, range(2), strict=True))
    coming = tracks["00000000000000bb"]  # not annotated now, so first seen after half a second
    assert not prepared.tracks.present[coming, :5].any()
    assert prepared.tracks.present[coming, 5:].all()
    steps = np.arange(5, 41)
    np.testing.assert_allclose(prepared.tracks.poses[coming, 5:, 0], ORIGIN[0] + 90.0 - 0.5 * steps, rtol=0, atol=1e-6)
    np.testing.assert_allclose(prepared.tracks.velocities[coming, 5:], [[-5.0, 0.0]] * 36)
    standing = tracks["00000000000000aa"]
    np.testing.assert_allclose(
        prepared.tracks.poses[standing, :, :2], np.tile(ORIGIN + np.array([30.0, 2.0]), (41, 1)), atol=1e-6
    )
    assert prepared.red_active[0].tolist() == [True] * 15 + [False] * 26  # frames 0 to 2 hold for five steps each


def test_a_split_streams_second_stage_scenes_behind_those_of_their_log(two_stage):
    refs = scene_refs(two_stage, SPLIT)
    expected = []
    for log in (LOG, OTHER_LOG):
        pair = stage_pair(log)
        expected += [(log, token) for token in (pair.previous, pair.now, *pair.second_tokens)]
    assert [(ref.log_name, ref.token) for ref in refs] == expected
    scenes = list(iter_scenes(two_stage, SPLIT))
    assert [scene.token for scene in scenes] == [ref.token for ref in refs]
    for ref, scene in zip(refs, scenes, strict=True):
        assert (scene.group, scene.kind, scene.map_name) == (ref.group, ref.kind, ref.map_name)
        assert scene.current.token == load_scene(two_stage, SPLIT, ref.token).current.token
    assert [scene.token for scene in iter_scenes(two_stage, SPLIT, logs=[OTHER_LOG])] == [t for _, t in expected[6:]]
    last = expected[-1][1]
    assert [scene.token for scene in iter_scenes(two_stage, SPLIT, tokens=[last])] == [last]


def test_a_limit_counts_logged_scenes(tmp_path):
    dataset = write_two_stage(tmp_path, logs=(LOG, OTHER_LOG))
    pairs = read_split(dataset, SPLIT).stage_pairs
    rule = read_split(dataset, SPLIT).scene_filter.with_overrides({"max_scenes": 2})
    write_split(dataset.root, SPLIT, "mini", rule, pairs)
    assert [ref.log_name for ref in scene_refs(dataset, SPLIT)] == [LOG] * 6


def test_mappings_round_trip_and_are_checked(tmp_path):
    dataset = write_two_stage(tmp_path)
    assert read_split(dataset, SPLIT).stage_pairs == (stage_pair(LOG),)
    rule = SceneFilter(num_future_frames=8, frame_interval=1)
    twice = [StagePair("a", "b", (("c", "d"),)), StagePair("e", "f", (("c", "g"),))]
    write_split(dataset.root, "twice", "mini", rule, twice)
    with pytest.raises(ConfigError, match=r"twice\.yaml: reactive_all_mapping: .*each of them once, found 'c'"):
        read_split(dataset, "twice")
    path = dataset.splits_root / "torn.yaml"
    text = (dataset.splits_root / f"{SPLIT}.yaml").read_text()
    path.write_text(text.split("reactive_all_mapping:")[0] + "reactive_all_mapping: [[a, b]]\n")
    with pytest.raises(ConfigError, match=r"torn\.yaml: reactive_all_mapping: expected \[now, previous"):
        read_split(dataset, "torn")


def test_tokens_that_look_like_numbers_are_quoted(tmp_path):
    dataset = write_two_stage(tmp_path)
    pair = StagePair("12345678901e1234", "1234567890123456", (("1_2", "1.5"),))
    rule = SceneFilter(num_future_frames=8, tokens=(pair.now, pair.previous), include_synthetic_scenes=True)
    text = write_split(dataset.root, "numbers", "mini", rule, [pair]).read_text()
    assert text.count("'12345678901e1234'") == 2
    found = read_split(dataset, "numbers")
    assert (found.stage_pairs, found.scene_filter.tokens) == ((pair,), rule.tokens)


def test_files_may_have_other_names(tmp_path):
    dataset = write_two_stage(tmp_path)
    pair = stage_pair(LOG)
    folder = dataset.second_stage_folder(SPLIT)
    (folder / f"{pair.second[0][0]}.pkl").rename(folder / "named_otherwise.pkl")
    assert load_scene(dataset, SPLIT, pair.second[0][0]).token == pair.second[0][0]
    (folder / f"{pair.second[0][1]}.pkl").unlink()
    with pytest.raises(SceneError, match=f"{pair.second[0][1]}: expected a second-stage scene in"):
        load_scene(dataset, SPLIT, pair.second[0][1])


def test_sensors_lie_beside_the_scenes(tmp_path):
    dataset = write_two_stage(tmp_path)
    values = scene_dict(name="a-now", sensors=True)
    write_scene(dataset, values)
    token = values["scene_metadata"]["scene_token"]
    write_image(dataset.root / SPLIT / "sensor_blobs" / LOG / "CAM_F0" / f"{token}.jpg", gradient())
    config = SensorConfig(cameras=("CAM_F0",), lidar_history=(3,), allow_missing=True)
    scene = load_scene(dataset, SPLIT, token)
    observation = build_observation(scene, dataset, config)
    assert observation.camera_valid.all()
    assert observation.sweeps[-1].shape == (0, 4)
    assert build_targets(scene, load_map(dataset, CITY), TargetConfig()).meta_action.speed == -1  # nobody drove it


def damaged(change):
    values = scene_dict()
    change(values)
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("scene_metadata"), "scene_metadata: expected the key"),
        (drop("scene_metadata", "initial_token"), r"scene_metadata\.initial_token: expected the key"),
        (put("0" * 16, "scene_metadata", "initial_token"), r"scene_metadata\.initial_token: .* of 17 characters"),
        (put(9, "scene_metadata", "num_history_frames"), r"num_history_frames: expected 1 to 4"),
        (put("nowhere", "scene_metadata", "map_name"), r"scene_metadata\.map_name: expected one of"),
        (put([1, 1, 1, 1], "frames"), "frame 0: expected a dict"),
        (drop("frames", 2, "annotations", "names"), r"frame 2: annotations\.names: expected the key"),
        (put(["tree"], "frames", 2, "annotations", "names"), r"frame 2: annotations\.names: expected names out of"),
        (put([1.0], "frames", 3, "ego_status", "ego_pose"), r"frame 3: ego_status\.ego_pose: expected shape \(3\)"),
        (put([0, 0, 0, 0], "frames", 3, "ego_status", "driving_command"), "driving_command: expected a one-hot"),
        (put({"cam_x": {}}, "frames", 0, "camera_dict"), r"camera_dict\.CAM_X: expected cameras out of"),
        (put([{}], "extended_detections_tracks"), r"extended_detections_tracks\[0\]: expected DetectionsTracks"),
        (put([None], "extended_traffic_light_data"), r"traffic_light_data\[0\]: expected TrafficLightStatuses"),
        (in_tracks(lambda item: item.box), r"tracks\[2\]\.tracked_objects\[1\]: expected an Agent or"),
        (in_tracks(lambda item: replace(item, box=7)), r"\[1\]\._box: expected an OrientedBox"),
        (
            in_tracks(lambda item: replace(item, box=replace(item.box, length=float("nan")))),
            r"\[1\]\._box: expected a finite number",
        ),
        (
            in_tracks(lambda item: replace(item, metadata=replace(item.metadata, track_token=None))),
            r"\[1\]\._metadata\.track_token: expected a non-empty string",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    dataset = write_two_stage(tmp_path)
    path = write_scene(dataset, damaged(change), name="damaged")
    with pytest.raises(LogFormatError, match=f"damaged\\.pkl: .*{message}"):
        read_second_stage(path, SPLIT)


def test_a_scene_of_another_log_is_refused(tmp_path):
    dataset = write_two_stage(tmp_path)
    values = scene_dict(start=PREVIOUS, name="a-before")
    values["scene_metadata"]["log_name"] = OTHER_LOG
    write_scene(dataset, values)
    with pytest.raises(LogFormatError, match=rf"expected token, log and map of the split's mapping .* {OTHER_LOG}"):
        list(iter_scenes(dataset, SPLIT))


def test_a_short_future_names_the_scene(tmp_path):
    dataset = write_two_stage(tmp_path)
    scene = read_second_stage(write_scene(dataset, scene_dict(future=7), name="short"), SPLIT)
    with pytest.raises(SceneError, match=f"{scene.token}.*found 4 and 7"):
        prepare_scene(scene, load_map(dataset, CITY))


def test_static_objects_have_no_velocity(tmp_path):
    dataset = write_two_stage(tmp_path)

    def standing(item):
        return StaticObject(item.tracked_object_type, item.box, item.metadata)

    path = write_scene(dataset, damaged(in_tracks(standing)), name="static")
    np.testing.assert_array_equal(read_second_stage(path, SPLIT).future[2].objects.velocity_mps[1], np.zeros(3))


def test_foreign_classes_are_refused(tmp_path):
    dataset = write_two_stage(tmp_path)
    path = dataset.second_stage_folder(SPLIT) / "foreign.pkl"
    path.write_bytes(pickle.dumps({"frames": [os.getcwd]}))
    with pytest.raises(LogFormatError, match=r"foreign\.pkl: .*refers to posix\.getcwd"):
        read_second_stage(path, SPLIT)
