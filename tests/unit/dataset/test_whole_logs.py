"""Missing and broken logs: all of them are named before any work, and left out only on request."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irl_vla.dataset import scenes as module
from irl_vla.dataset import whole_logs as whole
from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.log import LogMeta, write_log
from irl_vla.dataset.scenes import scene_refs, split_logs
from irl_vla.dataset.second_stage import scene_path
from irl_vla.dataset.splits import write_split
from irl_vla.dataset.whole_logs import whole_logs
from irl_vla.errors import LogFormatError
from irl_vla.scene import Frame

from .example import CITY, LOG, log_frames, write_example
from .second_stage_example import SPLIT, stage_pair, write_two_stage

LOGS = tuple(LOG.replace("veh-01", f"veh-0{number}") for number in range(1, 7))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    found: Dataset = write_example(tmp_path, logs=LOGS, count=14, sensors=False)
    return found


def path_of(dataset: Dataset, name: str) -> Path:
    return dataset.log_folder("mini") / f"{name}.pkl"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_finite(path: Path) -> None:
    def broken(frame: Frame) -> Frame:
        return replace(frame, ego=replace(frame.ego, velocity_mps=np.array([np.nan, 0.0])))

    frames = log_frames(14, log=path.stem)
    write_log(path, [*frames[:5], broken(frames[5]), *frames[6:]], LogMeta(path.stem, CITY))


def no_list(path: Path) -> None:
    path.write_bytes(b"N.")


def copied(path: Path) -> None:
    shutil.copy(path.with_name(f"{LOGS[0]}.pkl"), path)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    LOGS[1]: (empty, f"{LOGS[1]}.pkl: "),
    LOGS[2]: (cut, f"{LOGS[2]}.pkl: "),
    LOGS[3]: (not_finite, f"{LOGS[3]}.pkl: frame 5: ego_dynamic_state: expected finite numbers"),
    LOGS[4]: (no_list, f"{LOGS[4]}.pkl: expected a non-empty list of frames, found NoneType None; fetch it again"),
    LOGS[5]: (copied, f"in {LOGS[0]} too; remove one of them"),
}


def damage(dataset: Dataset) -> None:
    for name, (fault, _) in FAULTS.items():
        fault(path_of(dataset, name))


def test_a_whole_split_stays_as_it_is(dataset: Dataset) -> None:
    assert whole_logs(dataset, "train", skip="--skip-broken") is dataset


def test_all_broken_logs_are_named_at_once(dataset: Dataset) -> None:
    damage(dataset)
    with pytest.raises(LogFormatError) as caught:
        whole_logs(dataset, "train", skip="--skip-broken")
    message = str(caught.value)
    assert message.startswith("split 'train': 5 of 6 logs are missing or broken: ")
    assert message.endswith("; or judge what is whole with --skip-broken")
    for name, (_, words) in FAULTS.items():
        assert f"{name}: " in message
        assert words in message


def test_what_is_whole_is_left_on_request(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    damage(dataset)
    left = whole_logs(dataset, "train", skip=None)
    assert left.left_out == set(FAULTS)
    assert split_logs(left, "train") == [LOGS[0]]
    assert {ref.log_name for ref in scene_refs(left, "train")} == {LOGS[0]}
    said = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert len(said) == len(FAULTS) + 1
    assert said[-1] == "split 'train': 5 of 6 logs are missing or broken and left out; the others are judged"
    for name in FAULTS:
        assert any(line.startswith(f"left out: {name}: ") for line in said)


def test_missing_logs_are_counted_and_the_first_are_named(dataset: Dataset) -> None:
    absent = [f"absent-{number}" for number in range(7)]
    write_split(dataset.root, "part", "mini", SceneFilter(num_future_frames=8, log_names=(*LOGS[:2], *absent)))
    empty(path_of(dataset, LOGS[1]))
    with pytest.raises(LogFormatError) as caught:
        whole_logs(dataset, "part", skip="data.skip_broken=true")
    message = str(caught.value)
    assert message.startswith(f"split 'part': 8 of 9 logs are missing or broken: {LOGS[1]}: ")
    shown = ", ".join(absent[:5])
    assert f"7 missing in {dataset.log_folder('mini')}: {shown} and 2 more; fetch them" in message
    left = whole_logs(dataset, "part", skip=None)
    assert split_logs(left, "part") == [LOGS[0]]
    assert whole_logs(left, "part", skip="--skip-broken") is left


@pytest.mark.parametrize("skip", [None, "--skip-broken"])
def test_nothing_whole_is_an_error_in_any_case(dataset: Dataset, skip: str | None) -> None:
    for name in LOGS:
        empty(path_of(dataset, name))
    with pytest.raises(LogFormatError, match="6 of 6 logs are missing or broken") as caught:
        whole_logs(dataset, "train", skip=skip)
    assert "judge what is whole" not in str(caught.value)


def test_a_broken_second_stage_breaks_its_log(tmp_path: Path) -> None:
    other = LOG.replace("veh-01", "veh-02")
    dataset = write_two_stage(tmp_path, logs=(LOG, other))
    broken = scene_path(dataset, SPLIT, stage_pair(other).second[0][0])
    broken.write_bytes(b"")
    with pytest.raises(LogFormatError, match=rf"1 of 2 logs .*: {other}: {broken}: "):
        whole_logs(dataset, SPLIT, skip="--skip-broken")
    assert split_logs(whole_logs(dataset, SPLIT, skip=None), SPLIT) == [LOG]


def test_a_limit_of_scenes_opens_no_more_logs_than_needed(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(dataset.root, "few", "mini", SceneFilter(num_future_frames=8, frame_interval=1, max_scenes=4))
    empty(path_of(dataset, LOGS[0]))
    empty(path_of(dataset, LOGS[5]))
    opened: list[str] = []
    original = module.read_log
    monkeypatch.setattr(
        module, "read_log", lambda path, annotated: opened.append(path.stem) or original(path, annotated)
    )
    left = whole_logs(dataset, "few", skip=None)
    assert left.left_out == {LOGS[0]}
    assert opened == list(LOGS[:3])  # three scenes a log
    assert len(scene_refs(left, "few")) == 4


def test_processes_find_the_same(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(dataset)
    here = list(whole.find_broken_logs(dataset, "train", LOGS, 1))
    monkeypatch.setattr(whole, "_LOGS_A_PROCESS", 2)
    assert list(whole.find_broken_logs(dataset, "train", LOGS, 2)) == here
    assert [item.name for item in here] == list(FAULTS)
