"""A split is divided by whole drives or layouts, the same way every time."""

from collections.abc import Sequence

import numpy as np
import pytest

from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.hold_out import Part, divide, hold_out, read_refs
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.split_guard import require_disjoint
from irl_vla.dataset.splits import LogLayout, SceneRef, StagePair, read_layouts, read_split, write_split
from irl_vla.errors import ConfigError

from .example import write_example
from .tiny_world import write_tiny_world

#: Eight drives with 10 to 80 scenes, 360 in all, each in two logs.
DRIVES = {f"2021.06.{day:02d}.10.00.00_veh-01": 10 * day for day in range(1, 9)}


def refs() -> list[SceneRef]:
    found = []
    for drive, count in DRIVES.items():
        for index in range(count):
            log = f"{drive}_{100 * (index % 2):05d}_{100 * (index % 2) + 50:05d}"
            found.append(SceneRef(f"{drive}-{index}", log, 3 + index // 2, "city", log, ""))
    return found


def divided(share: float, seed: int = 0, scenes: Sequence[SceneRef] | None = None) -> tuple[Part, Part]:
    return hold_out(refs() if scenes is None else scenes, {}, share, np.random.default_rng(seed), "some")


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_whole_drives_come_near_the_share(share: float, seed: int) -> None:
    train, val = divided(share, seed)
    assert (train.name, val.name) == ("some_train", "some_val")
    assert train.units | val.units == DRIVES.keys()
    assert not train.units & val.units
    for part in (train, val):
        assert len(part.refs) == sum(DRIVES[drive] for drive in part.units)
        assert len(part.logs) == 2 * len(part.units)
        assert [ref for ref in refs() if ref in part.refs] == list(part.refs), "in the order of the source"
    assert 0 < len(val.refs) <= share * 360 + 80, "off by less than a drive"


def test_the_seed_decides() -> None:
    assert divided(0.3)[1].units == divided(0.3)[1].units
    assert len({divided(0.3, seed)[1].units for seed in range(6)}) > 3


def test_a_share_below_every_drive_takes_the_smallest() -> None:
    assert divided(0.01)[1].units == {"2021.06.01.10.00.00_veh-01"}


def test_layouts_are_units_of_generated_logs() -> None:
    layouts = {ref.log_name: LogLayout(f"layout-{ref.log_name[9] in '1234'}", "follow") for ref in refs()}
    train, val = hold_out(refs(), layouts, 0.3, np.random.default_rng(0), "some")
    assert (val.units, len(val.refs)) == ({"layout-True"}, 100)
    assert train.units == {"layout-False"}


def test_scenes_with_a_neighbour_before_them_are_counted() -> None:
    """The first scene of each log has none."""
    train, val = divided(0.3)
    assert train.paired == len(train.refs) - len(train.logs)
    assert val.paired == len(val.refs) - len(val.logs)


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, 1.0, float("nan")])
def test_shares_that_divide_nothing_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most"):
        divided(share)


def test_one_drive_cannot_be_divided() -> None:
    with pytest.raises(ConfigError, match="two drives or layouts at least, found 10 scenes of 1"):
        divided(0.3, scenes=refs()[:10])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_tiny_world(tmp_path_factory.mktemp("divided"), None)


def test_the_files_hold_all_scenes_of_the_split_once(world: Dataset) -> None:
    found = divide(world, "train", 0.5, np.random.default_rng(0), "own", workers=1)
    refs = scene_refs(world, "train")
    parts = {part.name: scene_refs(world, part.name) for part in found}
    assert sorted(ref.token for part in parts.values() for ref in part) == sorted(ref.token for ref in refs)
    layouts = read_layouts(world)
    units = [{layouts[ref.log_name].layout for ref in part} for part in parts.values()]
    assert all(units)
    assert not units[0] & units[1]
    require_disjoint(world, {"train": "own_train", "val": "own_val", "test": "test"})
    rule = read_split(world, "own_val").scene_filter
    assert (rule.frame_interval, rule.num_future_frames, rule.max_scenes) == (1, 8, None)
    assert rule.log_names == found[1].logs
    assert found[1].paired > 0


def test_a_folder_of_logs_and_a_narrowed_split_can_be_divided(world: Dataset) -> None:
    (world.root / "navsim_logs" / "raw").symlink_to(world.root / "navsim_logs" / "test")
    divide(world, "raw", 0.5, np.random.default_rng(0), "raw", workers=1)
    assert {ref.token for name in ("raw_train", "raw_val") for ref in scene_refs(world, name)} == {
        ref.token for ref in scene_refs(world, "test")
    }
    kept = [ref.token for ref in scene_refs(world, "test")][::2]
    write_split(world.root, "few", "test", SceneFilter(num_future_frames=8, frame_interval=1, tokens=tuple(kept)))
    parts = divide(world, "few", 0.5, np.random.default_rng(0), "few", workers=1)
    assert sorted(ref.token for part in parts for ref in scene_refs(world, part.name)) == sorted(kept)
    assert parts[0].paired == 0


def test_nothing_else_is_overwritten(world: Dataset) -> None:
    first = divide(world, "val", 0.5, np.random.default_rng(0), "again", workers=1)
    assert divide(world, "val", 0.5, np.random.default_rng(0), "again", workers=1)[1].refs == first[1].refs
    before = (world.splits_root / "again_train.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"again_train\.yaml: expected no such split yet"):
        divide(world, "test", 0.5, np.random.default_rng(0), "again", workers=1)
    assert (world.splits_root / "again_train.yaml").read_bytes() == before


def test_a_limit_on_scenes_is_kept(world: Dataset) -> None:
    write_split(world.root, "three", "val", SceneFilter(num_future_frames=8, frame_interval=1, max_scenes=3))
    assert len(read_refs(world, read_split(world, "three"), workers=1)) == 3


def test_processes_give_the_order_of_the_source(world: Dataset) -> None:
    assert read_refs(world, read_split(world, "train"), workers=2) == scene_refs(world, "train")


def test_second_stages_are_for_judging(tmp_path) -> None:
    dataset = write_example(tmp_path, sensors=False)
    now, previous = (ref.token for ref in scene_refs(dataset, "train")[:2])
    rule = SceneFilter(num_future_frames=8, frame_interval=1)
    write_split(dataset.root, "two", "mini", rule, [StagePair(now, previous, (("a" * 17, "b" * 17),))])
    with pytest.raises(ConfigError, match="found second stages"):
        read_refs(dataset, read_split(dataset, "two"), workers=1)
