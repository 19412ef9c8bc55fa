import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.layout import DEVKIT_SPLITS, below, open_dataset
from irl_vla.dataset.log import LogMeta, write_log
from irl_vla.dataset.scenes import iter_scenes, load_scene, scene_refs, split_logs
from irl_vla.dataset.splits import StagePair, read_split, write_split
from irl_vla.errors import ConfigError, LogFormatError, SceneError

from .example import CITY, LOG, log_frames, write_example

OTHER_LOG = "2024.01.02.00.00.00_veh-02_0_1"


@pytest.fixture
def own(tmp_path):
    """A data set of two logs of 16 frames, to be changed by the test."""
    return write_example(tmp_path, logs=(LOG, OTHER_LOG), sensors=False)


def tokens_of(dataset, **fields):
    write_split(dataset.root, "probe", "mini", SceneFilter(**fields))
    return [(ref.log_name, ref.index) for ref in scene_refs(dataset, "probe")]


def test_window_rule(own):
    both = (LOG, OTHER_LOG)
    assert tokens_of(own) == [(log, 3) for log in both]  # 14 frames, not overlapping: one window, then too short
    assert tokens_of(own, frame_interval=1) == [(log, index) for log in both for index in (3, 4, 5)]
    assert tokens_of(own, frame_interval=2) == [(log, index) for log in both for index in (3, 5)]
    assert tokens_of(own, num_future_frames=4) == [(log, index) for log in both for index in (3, 11)]
    assert tokens_of(own, num_history_frames=1, num_future_frames=0, max_scenes=2) == [(LOG, 0), (LOG, 1)]
    assert tokens_of(own, num_future_frames=13) == []
    assert tokens_of(own, frame_interval=1, max_scenes=4) == [(LOG, 3), (LOG, 4), (LOG, 5), (OTHER_LOG, 3)]
    assert tokens_of(own, log_names=(OTHER_LOG,)) == [(OTHER_LOG, 3)]
    wanted = log_frames(5, log=OTHER_LOG)[4].token
    assert tokens_of(own, frame_interval=1, tokens=(wanted, "unknown")) == [(OTHER_LOG, 4)]


def test_scenes_without_a_route_are_dropped_by_their_current_frame(own):
    frames = log_frames(16)
    frames[4] = replace(frames[4], roadblock_ids=())
    write_log(own.log_folder("mini") / f"{LOG}.pkl", frames, LogMeta(LOG, CITY))
    assert tokens_of(own, frame_interval=1, log_names=(LOG,)) == [(LOG, 3), (LOG, 5)]
    assert tokens_of(own, frame_interval=1, log_names=(LOG,), has_route=False) == [(LOG, 3), (LOG, 4), (LOG, 5)]


def test_refs_stream_and_single_loading_agree(own):
    refs = scene_refs(own, "train")
    scenes = list(iter_scenes(own, "train"))
    assert [scene.token for scene in scenes] == [ref.token for ref in refs]
    assert len(refs) == 10
    for ref, scene in zip(refs, scenes, strict=True):
        single = load_scene(own, "train", ref.token)
        assert scene.current.token == single.current.token == ref.token
        assert [frame.token for frame in scene.frames] == [frame.token for frame in single.frames]
        assert (scene.map_name, scene.data_split, len(scene.frames), scene.num_history) == (CITY, "mini", 12, 4)
        assert (scene.group, scene.kind) == (ref.group, ref.kind)


def test_group_is_the_layout_or_else_the_log(own):
    groups = {scene.log_name: (scene.group, scene.kind) for scene in iter_scenes(own, "train")}
    assert groups == {LOG: ("straight-1", "follow"), OTHER_LOG: (OTHER_LOG, "")}


def test_frames_are_shared_between_windows(own):
    first, second = list(iter_scenes(own, "train", logs=[LOG]))[:2]
    assert first.frames[1] is second.frames[0]


def test_human_plan_is_the_logged_future(own):
    scene = next(iter_scenes(own, "train"))
    np.testing.assert_allclose(scene.human_plan()[:, 0], 5.0 * np.arange(1, 9), atol=1e-6)
    np.testing.assert_allclose(scene.human_plan()[:, 1:], 0, atol=1e-9)


def test_tokens_and_logs_narrow_the_stream(own):
    refs = scene_refs(own, "train")
    wanted = [refs[7].token, refs[2].token]
    assert [scene.token for scene in iter_scenes(own, "train", tokens=wanted)] == [refs[2].token, refs[7].token]
    assert {scene.log_name for scene in iter_scenes(own, "train", logs=[OTHER_LOG])} == {OTHER_LOG}
    with pytest.raises(SceneError, match="nowhere: expected in split 'train', not found"):
        list(iter_scenes(own, "train", tokens=["nowhere"]))
    with pytest.raises(SceneError, match="nowhere"):
        load_scene(own, "train", "nowhere")


def test_single_loading_notices_new_logs(own):
    assert load_scene(own, "train", log_frames(5)[4].token).log_name == LOG
    third = "2024.01.03.00.00.00_veh-03_0_1"
    write_log(own.log_folder("mini") / f"{third}.pkl", log_frames(12, log=third), LogMeta(third, CITY))
    assert load_scene(own, "train", log_frames(5, log=third)[3].token).log_name == third


def test_one_log_in_memory_at_a_time(own, monkeypatch):
    opened = []
    import irl_vla.dataset.scenes as module

    original = module.read_log
    monkeypatch.setattr(
        module, "read_log", lambda path, annotated: opened.append(path.stem) or original(path, annotated)
    )
    stream = iter_scenes(own, "train")
    next(stream)
    assert opened == [LOG]


def test_a_token_in_two_logs_is_an_error(own):
    write_log(own.log_folder("mini") / "copy.pkl", log_frames(16), LogMeta("copy", CITY))
    with pytest.raises(LogFormatError, match=r"expected a token once, found .* and copy"):
        scene_refs(own, "train")


def test_missing_logs(own):
    write_split(own.root, "probe", "mini", SceneFilter(log_names=(LOG, "b", "a")))
    with pytest.raises(LogFormatError, match="'probe' names 2 logs that are missing: a, b; fetch them"):
        split_logs(own, "probe")
    write_split(own.root, "probe", "test", SceneFilter())
    with pytest.raises(LogFormatError, match=r"navsim_logs/test: expected <log>\.pkl files, found none"):
        split_logs(own, "probe")


def test_split_round_trip(own):
    rule = SceneFilter(num_future_frames=8, frame_interval=3, log_names=("a",), tokens=("0123", "1e5"), max_scenes=7)
    write_split(own.root, "probe", "mini", rule)
    split = read_split(own, "probe")
    assert (split.name, split.data_split, split.scene_filter, split.stage_pairs) == ("probe", "mini", rule, ())


def test_official_split_files(own):
    folder = own.splits_root
    (folder / "scene_filter").mkdir()
    (folder / "navhard.yaml").write_text(
        "defaults:\n  - scene_filter: hard\n  - _self_\ndata_split: test\nreactive_all_mapping: [[a, b, [[c, d]]]]\n"
    )
    (folder / "scene_filter/hard.yaml").write_text(
        "_target_: navsim.common.dataclasses.SceneFilter\n_convert_: 'all'\n"
        "num_history_frames: 4\nnum_future_frames: 8\n"
        "frame_interval: 1\nhas_route: true\nmax_scenes: null\nlog_names: null\ntokens: [aa, bb]\n"
        "include_synthetic_scenes: true\nsynthetic_scene_tokens: [s]\nall_mapping: null\n"
    )
    split = read_split(own, "navhard")
    assert split.data_split == "test"
    assert split.scene_filter.tokens == ("aa", "bb")
    assert split.scene_filter.include_synthetic_scenes
    assert split.stage_pairs == (StagePair("a", "b", (("c", "d"),)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a mapping, found list"),
        ("a: [", "not valid YAML"),
        ("scene_filter: {}", "data_split: expected a folder name, found None"),
        ("data_split: mini", "scene_filter: expected an embedded mapping or a hydra default"),
        ("{data_split: mini, scene_filter: 3}", "scene_filter: expected a mapping, found int"),
        ("{data_split: mini, scene_filter: {frame_intervall: 1}}", "did you mean 'frame_interval'"),
        ("{data_split: mini, scene_filter: {frame_interval: 0}}", "frame_interval"),
        ("{data_split: mini, defaults: [{scene_filter: none}]}", "no such split"),
    ],
)
def test_broken_splits(own, text, message):
    (own.splits_root / "probe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_split(own, "probe")


def test_unknown_split_names_the_known_ones(own):
    with pytest.raises(ConfigError, match="no such split; there are: train"):
        read_split(own, "navtrain")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd"])
def test_splits_stay_below_the_root(own, name):
    with pytest.raises(LogFormatError, match="expected a path below"):
        read_split(own, name)
    (own.splits_root / "probe.yaml").write_text(yaml.safe_dump({"data_split": name, "scene_filter": {}}))
    with pytest.raises(LogFormatError, match="data_split: expected a path below"):
        read_split(own, "probe")
    with pytest.raises(LogFormatError):
        below(own.root, name, "key")


@pytest.mark.parametrize("content", ["[]", "{", json.dumps({LOG: {"layout": "x"}}), json.dumps({LOG: 3})])
def test_broken_layouts(own, content):
    (own.root / "layouts.json").write_text(content)
    with pytest.raises(LogFormatError, match=r"layouts\.json"):
        scene_refs(own, "train")


def test_environment_variables(own, tmp_path):
    devkit = tmp_path / "devkit"
    elsewhere = tmp_path / "elsewhere"
    (devkit / DEVKIT_SPLITS).mkdir(parents=True)
    elsewhere.mkdir()
    variables = {
        "OPENSCENE_DATA_ROOT": str(own.root),
        "NUPLAN_MAPS_ROOT": str(elsewhere),
        "NAVSIM_DEVKIT_ROOT": str(devkit),
    }
    found = open_dataset(DataConfig(), variables)
    assert (found.root, found.maps_root, found.splits_root) == (own.root, elsewhere, own.root / "train_test_split")
    # an explicit root does not take the maps of another data set
    assert open_dataset(DataConfig(root=own.root), variables).maps_root == own.root / "maps"
    (elsewhere / "maps").mkdir()
    found = open_dataset(DataConfig(root=elsewhere), variables)
    assert found.splits_root == devkit / DEVKIT_SPLITS
    with pytest.raises(ConfigError, match="OPENSCENE_DATA_ROOT"):
        open_dataset(DataConfig(), {})
    with pytest.raises(ConfigError, match=r"data\.maps_root: expected a folder, found none at .*/none"):
        open_dataset(DataConfig(root=own.root, maps_root=tmp_path / "none"), {})


def test_a_folder_of_logs_is_a_split_of_its_own_name(own):
    folders = [path.name for path in (own.root / "navsim_logs").iterdir()]
    split = read_split(own, folders[0])
    assert split.data_split == folders[0]
    assert (split.scene_filter.num_future_frames, split.scene_filter.frame_interval) == (8, 1)
