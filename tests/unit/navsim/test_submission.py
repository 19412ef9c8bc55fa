"""The submission file: what is in it, under which names, and who can read it."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.errors import ConfigError, LogFormatError, SceneError
from irl_vla.navsim.devkit_types import Trajectory
from irl_vla.navsim.submission import (
    OFFICIAL_NAMES,
    Header,
    SplitTokens,
    read_submission,
    split_tokens,
    write_submission,
)
from tests.unit.dataset.example import LOG, write_example
from tests.unit.navsim import stand_in
from tests.unit.navsim.files import FIRST, HEADER, SECOND, disassembled_names, dump, plans

HEADER_CONTENT = {
    "team_name": "Team",
    "authors": "A. Author, B. Author",
    "email": "a@b.org",
    "institution": "Institute",
    "country / region": "Switzerland",
}


def test_one_stage_comes_back(tmp_path: Path) -> None:
    write_submission(tmp_path / "submission.pkl", HEADER, plans(*FIRST), two_stage=False)
    file = read_submission(tmp_path / "submission.pkl")
    assert file.protocol == 4
    assert set(file.names) <= OFFICIAL_NAMES
    assert list(file.content) == [*HEADER_CONTENT, "predictions"]
    assert {key: file.content[key] for key in HEADER_CONTENT} == HEADER_CONTENT
    (predictions,) = file.content["predictions"]
    assert list(predictions) == list(FIRST)
    second = predictions[FIRST[1]]
    assert isinstance(second, Trajectory)
    assert (second.poses.dtype, second.poses.shape) == (np.float32, (8, 3))
    np.testing.assert_array_equal(second.poses[:, 0], [2, 4, 6, 8, 10, 12, 14, 16])
    sampling = second.trajectory_sampling
    assert (sampling.num_poses, sampling.time_horizon, sampling.interval_length) == (8, 4.0, 0.5)


def test_two_stages_are_told_apart_by_their_tokens(tmp_path: Path) -> None:
    write_submission(tmp_path / "submission.pkl", HEADER, plans(SECOND[0], *FIRST, SECOND[1]), two_stage=True)
    content = read_submission(tmp_path / "submission.pkl").content
    assert list(content) == [*HEADER_CONTENT, "first_stage_predictions", "second_stage_predictions"]
    assert [set(item) for item in content["first_stage_predictions"]] == [set(FIRST)]
    assert [set(item) for item in content["second_stage_predictions"]] == [set(SECOND)]


def test_loads_as_the_devkits_own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_submission(tmp_path / "submission.pkl", HEADER, plans(*FIRST), two_stage=False)
    stand_in.install(monkeypatch)
    content = pickle.loads((tmp_path / "submission.pkl").read_bytes())
    (predictions,) = content["predictions"]
    for token, plan in plans(*FIRST).items():
        assert type(predictions[token]) is stand_in.Trajectory
        assert predictions[token].trajectory_sampling == stand_in.TrajectorySampling(8, 4.0, 0.5)
        assert predictions[token].poses.dtype == np.float32
        np.testing.assert_array_equal(predictions[token].poses, plan)


def test_the_stand_ins_answer_to_the_names_that_the_devkit_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.install(monkeypatch)
    sampling = stand_in.TrajectorySampling(time_horizon=4, interval_length=0.5)
    trajectory = stand_in.Trajectory(np.ones((8, 3), np.float32), sampling)
    file = read_submission(dump(tmp_path / "s.pkl", {"predictions": [{FIRST[0]: trajectory}]}))
    found = file.content["predictions"][0][FIRST[0]]
    assert isinstance(found, Trajectory)
    np.testing.assert_array_equal(found.poses, trajectory.poses)
    assert found.trajectory_sampling.num_poses == 8


def test_disassembly_shows_official_names_only(tmp_path: Path) -> None:
    write_submission(tmp_path / "submission.pkl", HEADER, plans(*FIRST, *SECOND), two_stage=True)
    data = (tmp_path / "submission.pkl").read_bytes()
    assert data[:2] == b"\x80\x04"
    assert disassembled_names(data) == {
        "navsim.common.dataclasses.Trajectory",
        "nuplan.planning.simulation.trajectory.trajectory_sampling.TrajectorySampling",
        "numpy.core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
    }
    assert b"irl_vla" not in data


def test_what_cannot_be_submitted_is_named(tmp_path: Path) -> None:
    path = tmp_path / "submission.pkl"
    with pytest.raises(ConfigError, match="expected text for authors, country"):
        write_submission(path, Header("Team", " ", "a@b.org", "Institute", ""), plans(*FIRST), two_stage=False)
    with pytest.raises(SceneError, match=r"submission\.pkl: expected plans to submit, found none"):
        write_submission(path, HEADER, {}, two_stage=False)
    for broken in (np.zeros((7, 3)), np.full((8, 3), np.nan), np.full((8, 3), 1e300)):
        with (
            pytest.raises(SceneError, match=rf"{FIRST[0]}: expected a finite \(8, 3\) plan"),
            np.errstate(over="ignore"),
        ):
            write_submission(path, HEADER, {FIRST[0]: broken}, two_stage=False)
    assert not path.exists()


class Shell:
    def __reduce__(self) -> Any:
        import os

        return (os.system, ("touch should-not-exist",))


def test_foreign_objects_are_noted_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = read_submission(dump(tmp_path / "s.pkl", {"authors": Shell(), "space": SimpleNamespace(a=1), 3: {1}.union}))
    assert {name for module, name in file.names} >= {"system", "SimpleNamespace", "getattr"}
    assert not (tmp_path / "should-not-exist").exists()


def test_a_file_cannot_write_to_the_stand_in_class(tmp_path: Path) -> None:
    data = b"\x80\x04\x8c\x19navsim.common.dataclasses\x8c\nTrajectory\x93}\x8c\x05posesK\x01sb."
    (tmp_path / "s.pkl").write_bytes(data)
    with pytest.raises(LogFormatError, match="positional argument"):
        read_submission(tmp_path / "s.pkl")
    assert Trajectory.poses is None


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2])])
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.pkl").write_bytes(content)
    with pytest.raises(LogFormatError, match=r"s\.pkl: expected a (whole pickle|dictionary)"):
        read_submission(tmp_path / "s.pkl")


def test_protocols_without_a_header_are_zero(tmp_path: Path) -> None:
    assert read_submission(dump(tmp_path / "s.pkl", {}, protocol=0)).protocol == 0
    assert read_submission(dump(tmp_path / "s.pkl", {}, protocol=5)).protocol == 5


def write_split(root: Path, text: str) -> Any:
    for folder in ("maps", "train_test_split"):
        (root / folder).mkdir()
    (root / "train_test_split" / "mine.yaml").write_text(text)
    return open_dataset(DataConfig(root=root), environment={})


def test_tokens_come_from_the_split_file_without_any_log(tmp_path: Path) -> None:
    text = f"data_split: test\nscene_filter: {{tokens: ['{FIRST[0]}', '{FIRST[1]}']}}\n"
    assert split_tokens(write_split(tmp_path, text), "mine") == SplitTokens(FIRST[:2], None)


def test_tokens_of_two_stages_come_from_the_mapping(tmp_path: Path) -> None:
    pairs = f"[['{FIRST[0]}', '{FIRST[1]}', [['{SECOND[0]}', '{SECOND[1]}']]]]"
    text = f"data_split: test\nscene_filter: {{include_synthetic_scenes: true}}\nreactive_all_mapping: {pairs}\n"
    assert split_tokens(write_split(tmp_path, text), "mine") == SplitTokens(FIRST[:2], SECOND)


def test_a_private_split_does_not_list_its_second_stage(tmp_path: Path) -> None:
    text = (
        f"data_split: test\nscene_filter: {{include_synthetic_scenes: true, tokens: ['{FIRST[0]}']}}\n"
        "reactive_all_mapping: null\n"
    )
    assert split_tokens(write_split(tmp_path, text), "mine") == SplitTokens(FIRST[:1], ())


def test_tokens_of_a_split_without_lists_come_from_its_logs(tmp_path: Path) -> None:
    dataset = write_example(tmp_path, count=13, sensors=False)  # two windows of 4 + 8 frames
    frames = read_pickle(dataset.log_folder("mini") / f"{LOG}.pkl")
    assert split_tokens(dataset, "train") == SplitTokens((frames[3]["token"], frames[4]["token"]), None)
