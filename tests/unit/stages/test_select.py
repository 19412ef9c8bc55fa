"""The selection behind the generated world: done once, taken up after an interruption, refused with other settings."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes, scene_refs
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.store import PreparedStore, write_shard
from irl_vla.errors import CheckpointError
from irl_vla.judge.for_each import ForEach
from irl_vla.stages import folders
from irl_vla.stages import run as stages
from irl_vla.stages import select as module
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.session import RayConfig

FEW = {"logs": 1, "layouts": 2}


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    world = {"train": FEW, "val": FEW, "test": FEW, "frames_per_log": 14, "sensors": None}
    world["selection"] = {"trivial_above": 1.0}
    return Experiment(name="x", runs=tmp_path / "runs", data={"root": tmp_path / "data"}, generate=world)


@pytest.fixture(autouse=True)
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Splits that were prepared, here in this process and without Ray."""
    asked: list[str] = []

    def prepare_split(
        dataset: Any,
        split: str,
        views: Any,
        folder: Any,
        seed: int,
        *,
        skip_broken: bool,
        cache: Any,
        for_each: ForEach,
    ) -> PreparedStore:
        asked.append(split)
        scenes = [prepare_scene(scene, load_map(dataset, scene.map_name)) for scene in iter_scenes(dataset, split)]
        write_shard(folder / "all.arrow", scenes)
        return PreparedStore.open(folder)

    @contextmanager
    def session(config: RayConfig) -> Iterator[None]:
        yield

    monkeypatch.setattr("irl_vla.judge.prepare.prepare_split", prepare_split)
    monkeypatch.setattr(module, "ray_session", session)
    return asked


def files(experiment: Experiment) -> dict[str, str]:
    root = folders.data_root(experiment)
    return {path.name: path.read_text() for path in [*(root / "train_test_split").iterdir(), root / "selection.json"]}


def test_all_splits_are_narrowed_once(experiment: Experiment, prepared: list[str]) -> None:
    stages.generate(experiment)
    assert prepared == ["train_all", "val_all", "test_all"]
    record = json.loads(files(experiment)["selection.json"])["splits"]
    for split in ("train", "val", "test"):
        kept = [token for token, reason in record[split]["reasons"].items() if reason == "kept"]
        assert [ref.token for ref in scene_refs(folders.dataset(experiment), split)] == kept
    before = files(experiment)
    stages.generate(experiment)
    assert len(prepared) == 3
    assert files(experiment) == before


def test_an_interrupted_selection_is_taken_up(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.generate(experiment)
    whole = files(experiment)
    (folders.data_root(experiment) / "selection.json").unlink()
    with monkeypatch.context() as context:
        context.setattr(module, "write_selection", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stages.generate(experiment)
    stages.generate(experiment)
    assert files(experiment) == whole


def test_other_settings_are_refused_for_the_same_data(experiment: Experiment) -> None:
    stages.generate(experiment)
    for other in (None, {"trivial_above": 0.5}):
        with pytest.raises(CheckpointError, match=r"selection\.json: expected .* found"):
            stages.generate(experiment.with_overrides({"generate.selection": other}))


def test_nothing_is_left_out_without_a_selection(experiment: Experiment, prepared: list[str]) -> None:
    stages.generate(experiment.with_overrides({"generate.selection": None}))
    assert prepared == []
    assert not (folders.data_root(experiment) / "selection.json").exists()
    assert len(scene_refs(folders.dataset(experiment), "train")) == 3
