"""Which world a folder holds: versions are told, and nothing that others were made from goes without being asked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from irl_vla.dataset.fingerprint import DatasetFingerprint, generator_identity
from irl_vla.errors import CheckpointError
from irl_vla.world import identity
from irl_vla.world.config import SplitSizeConfig, TwoStageConfig, WorldConfig
from irl_vla.world.generate import generate
from irl_vla.world.identity import (
    BEGUN_NAME,
    is_finished,
    require_replaceable,
    will_generate,
    world_manifest,
)

ONE = SplitSizeConfig(logs=1, layouts=2)
CONFIG = WorldConfig(train=ONE, val=ONE, test=ONE, frames_per_log=13, sensors=None)
MANIFEST = world_manifest(CONFIG, 7)
MADE = DatasetFingerprint("generated", 3, "a", "b", "c", "d", generator_identity(MANIFEST))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    generate(CONFIG, tmp_path / "world", seed=7)
    return tmp_path / "world"


def logs(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in root.glob("navsim_logs/*/*.pkl")}


def test_the_manifest_names_generator_and_package(world: Path) -> None:
    values = json.loads((world / "manifest.json").read_text())
    assert values["inputs"] == {"generator": str(identity.GENERATOR_VERSION)}
    assert values["extra"]["package"]


def test_another_generator_version_is_told_and_kept(
    world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = logs(world)
    monkeypatch.setattr(identity, "GENERATOR_VERSION", 99)
    generate(CONFIG, world, seed=7)
    assert logs(world) == before
    assert "this is version 99, which would give other scenes" in caplog.text
    with pytest.raises(CheckpointError, match="whose drives cannot be repeated"):
        generate(CONFIG.with_overrides({"two_stage": TwoStageConfig(groups=1).model_dump()}), world, seed=7)
    generate(CONFIG, world, seed=7, replace=True)
    assert all(logs(world)[name] != time for name, time in before.items())
    assert is_finished(world, world_manifest(CONFIG, 7))


def test_other_settings_are_named_and_replaced_on_request_only(world: Path) -> None:
    other = CONFIG.with_overrides({"weights.cut_in": 5.0})
    before = logs(world)
    with pytest.raises(CheckpointError, match=r"weights\.cut_in: 1\.0 there, 5\.0 asked for.*generate\.replace=true"):
        generate(other, world, seed=7)
    assert logs(world) == before
    (world / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"found notes\.txt beside it"):
        generate(other, world, seed=7, replace=True)
    assert logs(world) == before
    (world / "notes.txt").unlink()
    generate(other, world, seed=7, replace=True)
    assert is_finished(world, world_manifest(other, 7))


def test_replacing_leaves_the_very_same_data_set_alone(world: Path) -> None:
    before = logs(world)
    generate(CONFIG, world, seed=7, replace=True)
    assert logs(world) == before
    assert not will_generate(world, MANIFEST, replace=True)


def test_what_was_not_generated_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    with pytest.raises(CheckpointError, match="not generated here"):
        generate(CONFIG, tmp_path, seed=7, replace=True)
    assert (tmp_path / "maps").is_dir()


def test_generating_is_foreseen(world: Path, tmp_path: Path) -> None:
    other = world_manifest(CONFIG, 8)
    assert will_generate(tmp_path / "new", MANIFEST, replace=False)
    assert not will_generate(world, MANIFEST, replace=False)
    assert will_generate(world, other, replace=True)
    with pytest.raises(CheckpointError, match="seed: 7 there, 8 asked for"):
        will_generate(world, other, replace=False)
    (world / "manifest.json").unlink()
    assert will_generate(world, MANIFEST, replace=False), "begun and not whole"
    assert json.loads((world / BEGUN_NAME).read_text())["world"] == generator_identity(MANIFEST)


@pytest.mark.parametrize(
    "planned",
    [
        world_manifest(CONFIG, 8),
        world_manifest(CONFIG.with_overrides({"frames_per_log": 14}), 7),
        replace(MANIFEST, inputs={"generator": "99"}),
    ],
)
def test_results_are_not_orphaned_unless_asked_for(planned, caplog: pytest.LogCaptureFixture) -> None:
    recorded = {"seed-0/pretrain": MADE, "shared/prepared/train": MADE}
    require_replaceable(recorded, MANIFEST, replace=False)
    require_replaceable({}, planned, replace=False)
    with pytest.raises(CheckpointError, match=r"found 2 of another one .*: seed-0/pretrain, shared/prepared/train; "):
        require_replaceable(recorded, planned, replace=False)
    require_replaceable(recorded, planned, replace=True)
    assert "2 results were made from other data" in caplog.text


def test_results_of_recorded_data_do_not_fit_a_generated_world() -> None:
    recorded = {"seed-0/pretrain": replace(MADE, kind="recorded", generator=None)}
    with pytest.raises(CheckpointError, match=r"seed-0/pretrain"):
        require_replaceable(recorded, MANIFEST, replace=False)
