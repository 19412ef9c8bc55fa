"""Which world a folder holds: versions are told, and nothing that others were made from goes without being asked."""

from dataclasses import replace
from pathlib import Path

import pytest

from irl_vla.dataset.fingerprint import DatasetFingerprint
from irl_vla.errors import CheckpointError
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.storage import Location
from irl_vla.world import identity
from irl_vla.world.config import SplitSizeConfig, TwoStageConfig, WorldConfig
from irl_vla.world.generate import generate
from irl_vla.world.identity import is_finished, require_replaceable, will_generate, world_artefact

ONE = SplitSizeConfig(logs=1, layouts=2)
CONFIG = WorldConfig(train=ONE, val=ONE, test=ONE, frames_per_log=13, sensors=None)
WORLD = world_artefact(CONFIG, Path("anywhere"), 7)
MADE = DatasetFingerprint("generated", 3, "a", "b", "c", "d", WORLD.fingerprint)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    generate(CONFIG, tmp_path / "world", seed=7)
    return tmp_path / "world"


def logs(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in root.glob("navsim_logs/*/*.pkl")}


def test_the_record_names_generator_and_code(world: Path) -> None:
    record = find_record(Location.of(world))
    assert record is not None
    assert record.identity.inputs == {"generator": str(identity.GENERATOR_VERSION)}
    assert record.code


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
    assert is_finished(world_artefact(CONFIG, world, 7))


def test_other_settings_are_named_and_replaced_on_request_only(world: Path) -> None:
    other = CONFIG.with_overrides({"weights.cut_in": 5.0})
    before = logs(world)
    with pytest.raises(CheckpointError, match=r"weights\.cut_in: 1\.0 then, 5\.0 now.*generate\.replace=true"):
        generate(other, world, seed=7)
    assert logs(world) == before
    (world / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"found notes\.txt beside it"):
        generate(other, world, seed=7, replace=True)
    assert logs(world) == before
    (world / "notes.txt").unlink()
    generate(other, world, seed=7, replace=True)
    assert is_finished(world_artefact(other, world, 7))


def test_replacing_leaves_the_very_same_data_set_alone(world: Path) -> None:
    before = logs(world)
    generate(CONFIG, world, seed=7, replace=True)
    assert logs(world) == before
    assert not will_generate(replace(WORLD, folder=Location.of(world)), replace=True)


def test_what_was_not_generated_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    with pytest.raises(CheckpointError, match="not generated here"):
        generate(CONFIG, tmp_path, seed=7, replace=True)
    assert (tmp_path / "maps").is_dir()


def test_generating_is_foreseen(world: Path, tmp_path: Path) -> None:
    same, other = world_artefact(CONFIG, world, 7), world_artefact(CONFIG, world, 8)
    assert will_generate(world_artefact(CONFIG, tmp_path / "new", 7), replace=False)
    assert not will_generate(same, replace=False)
    assert will_generate(other, replace=True)
    with pytest.raises(CheckpointError, match="seed: 7 then, 8 now"):
        will_generate(other, replace=False)
    same.reopen()
    assert will_generate(same, replace=False), "begun and not whole"


@pytest.mark.parametrize(
    "planned",
    [
        world_artefact(CONFIG, Path("anywhere"), 8),
        world_artefact(CONFIG.with_overrides({"frames_per_log": 14}), Path("anywhere"), 7),
        replace(WORLD, identity=replace(WORLD.identity, inputs={"generator": "99"})),
    ],
)
def test_results_are_not_orphaned_unless_asked_for(planned, caplog: pytest.LogCaptureFixture) -> None:
    recorded = {"seed-0/pretrain": MADE, "shared/prepared/train": MADE}
    require_replaceable(recorded, WORLD, replace=False)
    require_replaceable({}, planned, replace=False)
    with pytest.raises(CheckpointError, match=r"found 2 of another one .*: seed-0/pretrain, shared/prepared/train; "):
        require_replaceable(recorded, planned, replace=False)
    require_replaceable(recorded, planned, replace=True)
    assert "2 results were made from other data" in caplog.text


def test_results_of_recorded_data_do_not_fit_a_generated_world() -> None:
    recorded = {"seed-0/pretrain": replace(MADE, kind="recorded", generator=None)}
    with pytest.raises(CheckpointError, match=r"seed-0/pretrain"):
        require_replaceable(recorded, WORLD, replace=False)
