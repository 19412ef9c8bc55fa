"""Every finding of the pre-flight, on files that were fine before one thing was broken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irl_vla.cli.main import main
from irl_vla.dataset.safe_pickle import write_pickle
from irl_vla.navsim.devkit_types import SUBMISSION_CLASSES, Trajectory, TrajectorySampling
from irl_vla.navsim.preflight import SubmissionFinding, check_submission
from irl_vla.navsim.submission import SplitTokens, read_submission, write_submission
from tests.unit.navsim.files import FIRST, HEADER, ONE_STAGE, SECOND, TWO_STAGE, dump, plans

Break = Callable[[dict[Any, Any]], object]


def trajectory(**changes: Any) -> Trajectory:
    values = {"num_poses": 8, "time_horizon": 4.0, "interval_length": 0.5} | changes
    poses = values.pop("poses", np.zeros((8, 3), np.float32))
    return Trajectory(poses, TrajectorySampling(**values))


@pytest.fixture
def content(tmp_path: Path) -> dict[Any, Any]:
    """A fine one-stage submission."""
    write_submission(tmp_path / "fine.pkl", HEADER, plans(*FIRST), two_stage=False)
    return dict(read_submission(tmp_path / "fine.pkl").content)


@pytest.fixture
def findings(content: dict[Any, Any], tmp_path: Path) -> Callable[..., list[SubmissionFinding]]:
    """Breaks the submission, writes it, reads it, checks it."""

    def check(change: Break, expected: SplitTokens | None = ONE_STAGE) -> list[SubmissionFinding]:
        change(content)
        write_pickle(tmp_path / "broken.pkl", content, SUBMISSION_CLASSES)
        return check_submission(read_submission(tmp_path / "broken.pkl"), expected)

    return check


def test_fine_files_have_none(findings: Any, tmp_path: Path) -> None:
    assert findings(lambda content: None) == []
    assert findings(lambda content: None, None) == []
    path = tmp_path / "two.pkl"
    write_submission(path, HEADER, plans(*FIRST, *SECOND), two_stage=True)
    assert check_submission(read_submission(path), TWO_STAGE) == []
    assert check_submission(read_submission(path), replace(TWO_STAGE, second=())) == [], "not listed, not compared"


@pytest.mark.parametrize("fine", [{"num_poses": 40, "interval_length": 0.1}, {"num_poses": 10, "time_horizon": 5}])
def test_other_consistent_samplings_are_fine(findings: Any, fine: dict[str, Any]) -> None:
    whole = trajectory(poses=np.zeros((fine["num_poses"], 3), np.float32), **fine)
    assert findings(lambda content: content["predictions"][0].update({FIRST[0]: whole})) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.pop("email"), SubmissionFinding("header", "email", "the key", "none")),
        (
            lambda c: c.update({"country / region": ""}),
            SubmissionFinding("header", "country / region", "text", "str ''"),
        ),
        (lambda c: c.update(team_name="MUST_SET"), SubmissionFinding("header", "team_name", "text", "str 'MUST_SET'")),
        (lambda c: c.update(authors=3), SubmissionFinding("header", "authors", "text", "int 3")),
        (
            lambda c: c.update(authors=np.zeros(2)),
            SubmissionFinding("header", "authors", "text", "ndarray array([0., 0.])"),
        ),
        (
            lambda c: c.update(extra=1),
            SubmissionFinding("lists", "extra", "keys of the header and of predictions only", "another key"),
        ),
        (
            lambda c: c.update(predictions={}),
            SubmissionFinding("lists", "predictions", "a list", "dict {}"),
        ),
        (
            lambda c: c["predictions"].append({}),
            SubmissionFinding("lists", "predictions", "one element (several seeds are not supported)", "2"),
        ),
        (
            lambda c: c.update(predictions=[[1]]),
            SubmissionFinding("lists", "predictions", "a dictionary of token to trajectory", "list [1]"),
        ),
        (
            lambda c: c.update(predictions=[{}]),
            SubmissionFinding("lists", "predictions", "plans", "an empty dictionary"),
        ),
        (
            lambda c: c.pop("predictions"),
            SubmissionFinding(
                "lists",
                "file",
                "predictions alone, or first_stage_predictions and second_stage_predictions",
                "none of them",
            ),
        ),
        (
            lambda c: c.update(second_stage_predictions=[{SECOND[0]: trajectory()}]),
            SubmissionFinding(
                "lists",
                "file",
                "predictions alone, or first_stage_predictions and second_stage_predictions",
                "predictions and second_stage_predictions",
            ),
        ),
    ],
)
def test_header_and_lists(findings: Any, change: Break, expected: SubmissionFinding) -> None:
    assert expected in findings(change)


def test_tokens_are_compared_with_the_split(findings: Any) -> None:
    def swap(content: dict[Any, Any]) -> None:
        (predictions,) = content["predictions"]
        predictions["f" * 16] = predictions.pop(FIRST[2])

    assert findings(swap) == [
        SubmissionFinding("tokens", "predictions", "every token of the split", "missing tokens", (FIRST[2],), 1),
        SubmissionFinding("tokens", "predictions", "tokens of the split only", "unknown tokens", ("f" * 16,), 1),
    ]


def test_examples_are_the_first_and_all_are_counted(findings: Any) -> None:
    wanted = tuple(f"{number:016x}" for number in range(100))
    missing, unknown = findings(lambda content: None, SplitTokens(wanted, None))
    assert (missing.examples, missing.count) == (wanted[:3], 100)
    assert (unknown.examples, unknown.count) == (FIRST, 3)


def test_duplicates_across_elements_and_stages(findings: Any) -> None:
    again = {FIRST[1]: trajectory()}
    found = findings(lambda content: content["predictions"].append(again))
    twice = SubmissionFinding("tokens", "file", "every token once", "duplicate tokens", (FIRST[1],), 1)
    assert twice in found
    stages = {"first_stage_predictions": [dict(again)], "second_stage_predictions": [dict(again)]}
    assert twice in findings(lambda content: (content.pop("predictions"), content.update(stages)), None)


def test_tokens_are_text(findings: Any) -> None:
    found = findings(lambda content: content["predictions"][0].update({7: trajectory()}))
    assert found == [SubmissionFinding("tokens", "predictions", "text", "another type", ("int 7",), 1)]


def test_the_stages_are_those_of_the_split(findings: Any) -> None:
    found = findings(lambda content: None, TWO_STAGE)
    wanted = "first_stage_predictions and second_stage_predictions: the split is two-stage"
    assert found == [SubmissionFinding("lists", "file", wanted, "predictions")]


def test_second_stage_tokens_are_compared_too(tmp_path: Path) -> None:
    write_submission(tmp_path / "two.pkl", HEADER, plans(*FIRST, SECOND[1], "f" * 17), two_stage=True)
    assert check_submission(read_submission(tmp_path / "two.pkl"), TWO_STAGE) == [
        SubmissionFinding(
            "tokens", "second_stage_predictions", "every token of the split", "missing tokens", SECOND[:1], 1
        ),
        SubmissionFinding(
            "tokens", "second_stage_predictions", "tokens of the split only", "unknown tokens", ("f" * 17,), 1
        ),
    ]


NOT_FINITE = np.full((8, 3), np.inf, np.float32)


@pytest.mark.parametrize(
    ("broken", "check", "expected", "found"),
    [
        ({"poses": np.zeros((7, 3), np.float32)}, "poses", "shape (8, 3)", "shape (7, 3)"),
        ({"poses": np.zeros((8, 2), np.float32)}, "poses", "shape (8, 3)", "shape (8, 2)"),
        ({"poses": np.zeros((8, 3))}, "poses", "float32", "float64"),
        ({"poses": NOT_FINITE}, "poses", "finite numbers", "others"),
        ({"poses": np.full((8, 3), "x")}, "poses", "finite numbers", "others"),
        ({"poses": [1]}, "poses", "an array", "list"),
        ({"num_poses": 40}, "poses", "shape (40, 3)", "shape (8, 3)"),
        ({"interval_length": 0.4}, "sampling", "num_poses * interval_length = time_horizon", "8 * 0.4 != 4"),
        (
            {"interval_length": 0.25, "time_horizon": 2},
            "sampling",
            "a horizon of 4 s (the plan is held beyond it)",
            "2 s",
        ),
    ],
)
def test_poses_and_sampling(findings: Any, broken: Any, check: str, expected: str, found: str) -> None:
    result = findings(lambda content: content["predictions"][0].update({FIRST[1]: trajectory(**broken)}))
    assert SubmissionFinding(check, "predictions", expected, found, (FIRST[1],), 1) in result


@pytest.mark.parametrize("value", [None, "8", float("nan"), 0, 7.5])
def test_samplings_without_numbers(findings: Any, value: Any) -> None:
    (found,) = findings(lambda content: content["predictions"][0].update({FIRST[1]: trajectory(num_poses=value)}))
    assert (found.check, found.expected) == ("sampling", "a TrajectorySampling with numbers in its three fields")


def test_plans_that_are_no_trajectories(findings: Any) -> None:
    found = findings(lambda content: content["predictions"][0].update({token: [0.0] for token in FIRST[:2]}))
    wanted = "navsim.common.dataclasses.Trajectory"
    assert found == [SubmissionFinding("class", "predictions", wanted, "list", FIRST[:2], 2)]


class Trajectory2:
    """A class of somebody's own."""


def test_names_and_protocol(content: dict[Any, Any], tmp_path: Path) -> None:
    """The plain pickler writes what it finds: numpy 2's names, our own module's classes, protocol 5."""
    content["predictions"][0][FIRST[1]] = Trajectory2()
    found = check_submission(read_submission(dump(tmp_path / "s.pkl", content, protocol=5)), ONE_STAGE)
    assert SubmissionFinding("protocol", "file", "pickle protocol 4", "protocol 5") in found
    names = {finding.found: finding.expected for finding in found if finding.check == "names"}
    own = "names of the official environment only"
    assert names == {
        "irl_vla.navsim.devkit_types.Trajectory": own,
        "irl_vla.navsim.devkit_types.TrajectorySampling": own,
        f"{__name__}.Trajectory2": own,
        "numpy._core.numeric._frombuffer": "numpy.core.numeric._frombuffer, which numpy 1.23 knows",
    }
    classes = [finding for finding in found if finding.check == "class"]
    assert [(finding.found, finding.count) for finding in classes] == [
        ("irl_vla.navsim.devkit_types.Trajectory", 2),
        (f"{__name__}.Trajectory2", 1),
    ]


def test_command_exit_statuses_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("maps", "train_test_split"):
        (tmp_path / folder).mkdir()
    listed = "\n".join(f"  - '{token}'" for token in FIRST)
    (tmp_path / "train_test_split/mine.yaml").write_text(f"data_split: test\nscene_filter:\n  tokens:\n{listed}\n")
    fine, other = tmp_path / "submission.pkl", tmp_path / "other.pkl"
    write_submission(fine, HEADER, plans(*FIRST), two_stage=False)
    write_submission(other, HEADER, plans(*FIRST[:2]), two_stage=False)
    split = ["--data", str(tmp_path), "--split", "mine"]
    assert main(["check-submission", str(fine), *split]) == 0
    assert "3 predictions; tokens compared with the split; no findings" in " ".join(capsys.readouterr().out.split())
    assert main(["check-submission", str(other)]) == 0
    assert "tokens not compared" in " ".join(capsys.readouterr().out.split())
    assert main(["check-submission", str(other), *split]) == 1
    shown = capsys.readouterr().out
    assert "missing tokens: 1" in " ".join(shown.replace("│", " ").split())
    assert main(["check-submission", str(tmp_path / "none.pkl")]) == 2
    (tmp_path / "cut.pkl").write_bytes(fine.read_bytes()[:-40])
    assert main(["check-submission", str(tmp_path / "cut.pkl")]) == 2
    assert main(["check-submission", str(fine), "--data", str(tmp_path)]) == 2
