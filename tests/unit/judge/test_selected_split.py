"""A generated split is narrowed in its own file; windows that left keep a reason, and the choice can be repeated."""

import json
from pathlib import Path

import numpy as np
import pytest

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes, scene_refs
from irl_vla.dataset.splits import all_windows, read_split
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.store import PreparedStore, write_shard
from irl_vla.errors import CheckpointError, SceneError
from irl_vla.judge.selected_split import NarrowedSplit, begin_selection, is_selected, narrow_split, write_selection
from irl_vla.judge.selection_config import SelectionConfig
from irl_vla.world.config import SplitSizeConfig, WorldConfig
from irl_vla.world.generate import generate

FEW = SplitSizeConfig(logs=2, layouts=2)
CONFIG = SelectionConfig(trivial_share=0.0, least_share=0.0)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    root = tmp_path / "world"
    generate(WorldConfig(train=FEW, val=FEW, test=FEW, frames_per_log=16, sensors=None), root, seed=5)
    return open_dataset(DataConfig(root=root))


@pytest.fixture
def store(dataset: Dataset, tmp_path: Path) -> PreparedStore:
    """All windows of the split but the last one, which could not be prepared."""
    begin_selection(dataset, "test")
    scenes = [prepare_scene(scene, load_map(dataset, scene.map_name)) for scene in iter_scenes(dataset, "test_all")]
    write_shard(tmp_path / "prepared.arrow", scenes[:-1])
    return PreparedStore.open(tmp_path)


def narrowed(dataset: Dataset, store: PreparedStore, config: SelectionConfig = CONFIG) -> NarrowedSplit:
    return narrow_split(dataset, "test", store, config, np.random.default_rng(0))


def text(dataset: Dataset, name: str) -> str:
    return (dataset.splits_root / f"{name}.yaml").read_text()


def test_readers_see_the_scenes_that_stay_and_the_other_split_sees_all(dataset: Dataset, store: PreparedStore) -> None:
    before = text(dataset, "test")
    tokens = narrowed(dataset, store).selection.tokens
    assert 0 < len(tokens) < 10
    assert tuple(ref.token for ref in scene_refs(dataset, "test")) == tokens
    assert read_split(dataset, "test").scene_filter.tokens == tokens
    assert len(scene_refs(dataset, all_windows("test"))) == 10
    assert text(dataset, "test_all") == before


def test_every_window_has_a_reason(dataset: Dataset, store: PreparedStore) -> None:
    split = narrowed(dataset, store)
    record = split.record()
    refs = scene_refs(dataset, "test_all")
    assert list(record["reasons"]) == [ref.token for ref in refs]
    assert record["reasons"][refs[-1].token] == "unprepared"
    assert sum(record["counts"].values()) == 10
    assert record["counts"]["unprepared"] == 1
    assert sum(kind["kept"] for kind in record["kinds"].values()) == len(split.selection.tokens)
    path = write_selection(dataset, "abc", {"test": split})
    assert json.loads(path.read_text()) == {"fingerprint": "abc", "splits": {"test": record}}


def test_choosing_again_gives_the_same_file_and_other_settings_another(dataset: Dataset, store: PreparedStore) -> None:
    narrowed(dataset, store)
    first = text(dataset, "test")
    begin_selection(dataset, "test")
    narrowed(dataset, store)
    assert text(dataset, "test") == first
    assert len(narrowed(dataset, store, SelectionConfig(trivial_above=1.0)).selection.tokens) == 9
    assert text(dataset, "test") != first


def test_a_split_of_which_nothing_stays_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    begin_selection(dataset, "test")
    with pytest.raises(SceneError, match=r"split 'test': expected scenes worth judging, found none among 10"):
        narrowed(dataset, PreparedStore(tmp_path, {}))


def test_the_record_tells_other_selections_apart(dataset: Dataset) -> None:
    assert not is_selected(dataset, "abc")
    assert not is_selected(dataset, None)
    write_selection(dataset, "abc", {})
    assert is_selected(dataset, "abc")
    with pytest.raises(CheckpointError, match="expected selection def of scenes, found abc"):
        is_selected(dataset, "def")
    with pytest.raises(CheckpointError, match="expected no selection of scenes, found abc"):
        is_selected(dataset, None)
