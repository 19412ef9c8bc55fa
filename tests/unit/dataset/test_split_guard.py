"""Splits that share scenes, logs, drives or layouts are found, mostly without opening a log."""

from pathlib import Path

import pytest

from irl_vla.dataset import scenes as reading
from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.log import LogMeta, write_log
from irl_vla.dataset.split_guard import SharedScenes, overlap, require_disjoint
from irl_vla.dataset.splits import LogLayout, StagePair, write_layouts, write_split
from irl_vla.errors import ConfigError

from .example import CITY, log_frames

DRIVES = ("2021.06.01.10.00.00_veh-01", "2021.06.02.10.00.00_veh-02", "2021.06.03.10.00.00_veh-03")
LOGS = tuple(f"{drive}_{start:05d}_{start + 8:05d}" for drive in DRIVES for start in (0, 100))
ROLES = {"train": "a", "val": "b"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two logs of each of three drives, of 14 frames: six scenes each from frame 3 on, at 10 frames a window."""
    root = tmp_path_factory.mktemp("drives")
    for log in LOGS:
        write_log(root / "navsim_logs/mini" / f"{log}.pkl", log_frames(14, log=log), LogMeta(log, CITY))
    return Dataset(root, root / "maps", root / "train_test_split")


@pytest.fixture
def dataset(whole: Dataset, tmp_path: Path) -> Dataset:
    """The same logs beside split files of the test's own."""
    (tmp_path / "navsim_logs").symlink_to(whole.root / "navsim_logs")
    return Dataset(tmp_path, tmp_path / "maps", tmp_path / "train_test_split")


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the logs that are opened."""
    opened: list[str] = []
    original = reading.read_log

    def noted(path: Path, annotated: bool = True) -> object:
        opened.append(path.stem)
        return original(path, annotated)

    monkeypatch.setattr(reading, "read_log", noted)
    return opened


def tokens(log: str, *frames: int) -> tuple[str, ...]:
    return tuple(log_frames(14, log=log)[index].token for index in frames)


def write(dataset: Dataset, name: str, **rule: object) -> None:
    write_split(dataset.root, name, "mini", SceneFilter(num_future_frames=6, frame_interval=1, **rule))


def shared(dataset: Dataset, names: dict[str, str] = ROLES) -> SharedScenes | None:
    found = overlap(dataset, names).pairs
    assert len(found) <= 1
    return found[0] if found else None


def test_splits_of_different_drives_are_apart(dataset: Dataset, unopened: list[str]) -> None:
    write(dataset, "a", log_names=LOGS[:2])
    write(dataset, "b", log_names=LOGS[2:4])
    write(dataset, "c", log_names=LOGS[4:], tokens=tokens(LOGS[4], 3, 4))
    names = {**ROLES, "test": "c"}
    assert shared(dataset, names) is None
    require_disjoint(dataset, names)
    assert not unopened


def test_shared_logs_are_found_by_their_names(dataset: Dataset, unopened: list[str]) -> None:
    write(dataset, "a", log_names=LOGS[:3])
    write(dataset, "b", log_names=LOGS[2:4])
    found = shared(dataset)
    assert found is not None
    assert (found.tokens, found.logs, found.units) == ((), (LOGS[2],), (DRIVES[1],))
    assert not unopened


def test_shared_scenes_are_counted(dataset: Dataset, unopened: list[str]) -> None:
    write(dataset, "a", log_names=LOGS[:1], tokens=tokens(LOGS[0], 3, 4, 5))
    write(dataset, "b", log_names=LOGS[:1], tokens=tokens(LOGS[0], 4, 5, 6))
    found = shared(dataset)
    assert found is not None
    assert found.tokens == tuple(sorted(tokens(LOGS[0], 4, 5)))
    assert not unopened


def test_other_pieces_of_one_drive_overlap(dataset: Dataset) -> None:
    write(dataset, "a", log_names=LOGS[:1])
    write(dataset, "b", log_names=LOGS[1:2])
    found = shared(dataset)
    assert found is not None
    assert (found.logs, found.units) == ((), (DRIVES[0],))


def test_other_logs_of_one_layout_overlap(dataset: Dataset) -> None:
    write(dataset, "a", log_names=LOGS[:1])
    write(dataset, "b", log_names=LOGS[2:3])
    write_layouts(dataset.root, {log: LogLayout(f"layout-{log in LOGS[3:]}", "follow") for log in LOGS})
    found = shared(dataset)
    assert found is not None
    assert (found.logs, found.units) == ((), ("layout-False",))


def test_tokens_alone_are_looked_up_where_they_may_meet(dataset: Dataset, unopened: list[str]) -> None:
    """Both draw on the folder; which logs the tokens are of stands in the logs, of which the contested are opened."""
    write(dataset, "a", tokens=tokens(LOGS[0], 3, 4))
    write(dataset, "b", tokens=tokens(LOGS[2], 3, 4))
    assert shared(dataset) is None
    write(dataset, "b", tokens=tokens(LOGS[1], 3, 4))
    found = shared(dataset)
    assert found is not None
    assert (found.tokens, found.logs, found.units) == ((), (), (DRIVES[0],))
    unopened.clear()
    write(dataset, "b", log_names=LOGS[2:4])
    assert shared(dataset) is None
    assert sorted(unopened) == list(LOGS[2:4]), "only where the other split is"


def test_a_limit_on_scenes_is_looked_up(dataset: Dataset) -> None:
    write(dataset, "a", max_scenes=1)
    write(dataset, "b", log_names=LOGS[2:])
    assert shared(dataset) is None
    write(dataset, "a", max_scenes=40)
    assert shared(dataset) is not None


def test_second_stage_scenes_belong_to_the_log_of_their_first(dataset: Dataset) -> None:
    now, previous = tokens(LOGS[0], 4, 3)
    pair = StagePair(now, previous, (("a" * 17, "b" * 17),))
    rule = SceneFilter(num_future_frames=6, frame_interval=1, log_names=LOGS[:1], tokens=(now, previous))
    write_split(dataset.root, "b", "mini", rule, [pair])
    write(dataset, "a", log_names=LOGS[:1], tokens=tokens(LOGS[0], 5))
    found = shared(dataset)
    assert found is not None
    assert (found.tokens, found.logs) == ((), (LOGS[0],))
    write_split(dataset.root, "a", "mini", rule, [pair])
    found = shared(dataset)
    assert found is not None
    assert set(found.tokens) == {now, previous, "a" * 17, "b" * 17}


def test_the_error_counts_names_and_says_what_to_do(dataset: Dataset) -> None:
    write(dataset, "a", log_names=LOGS[:5], tokens=tokens(LOGS[0], 3, 4, 5, 6, 7))
    write(dataset, "b", log_names=LOGS[:5], tokens=tokens(LOGS[0], 3, 4, 5, 6))
    write(dataset, "c", log_names=LOGS[5:])
    with pytest.raises(ConfigError) as caught:
        require_disjoint(dataset, {**ROLES, "test": "c"})
    text = str(caught.value)
    first = ", ".join(sorted(tokens(LOGS[0], 3, 4, 5, 6))[:3])
    assert f"data.train (a) and data.val (b) share 4 scenes ({first}, ...), 5 logs ({', '.join(LOGS[:3])}, ...)" in text
    assert "data.val (b) and data.test (c) share 1 drives or layouts" in text
    assert f"`irl-vla split {dataset.root} --from a --hold-out 0.05`" in text
    assert "\n" not in text


def test_one_split_in_two_roles_is_refused(dataset: Dataset) -> None:
    write(dataset, "a", log_names=LOGS[:2])
    write(dataset, "b", log_names=LOGS[2:4])
    with pytest.raises(ConfigError, match=r"data\.val \(b\) and data\.test \(b\) are the same split"):
        require_disjoint(dataset, {**ROLES, "test": "b"})
    require_disjoint(dataset, {"test": "b"})


def test_a_split_that_is_not_there_is_named(dataset: Dataset) -> None:
    write(dataset, "a")
    with pytest.raises(ConfigError, match=r"b\.yaml: no such split"):
        overlap(dataset, ROLES)
