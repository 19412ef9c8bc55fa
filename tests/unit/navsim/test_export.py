"""``irl-vla export-submission``: plans of a policy and of a file, on two straight logs and without Ray."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irl_vla.cli.main import main
from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.judge.plan_file import write_plans
from irl_vla.navsim.submission import read_submission
from irl_vla.stages import folders, session
from tests.unit.dataset.example import write_example
from tests.unit.epdms.store_record import Store
from tests.unit.epdms.straight_road import scene
from tests.unit.navsim.files import plans

WHO = ("--team-name=Team", "--authors=A. Author", "--email=a@b.org", "--institution=Institute", "--country=Chile")


@pytest.fixture
def tokens(tmp_path: Path) -> list[str]:
    """Scenes of a data set whose folder ``data`` is in the experiment ``x.yaml``."""
    write_example(tmp_path / "data", count=14, sensors=False)
    settings = f"generate: null\nruns: {tmp_path / 'runs'}\ndata: {{root: {tmp_path / 'data'}, test: train}}\n"
    (tmp_path / "x.yaml").write_text(settings)
    return [ref.token for ref in scene_refs(open_dataset(DataConfig(root=tmp_path / "data")), "train")]


def export(folder: Path, *arguments: str) -> int:
    output = folder / "submission.pkl"
    return main(["export-submission", str(folder / "x.yaml"), *arguments, "--output", str(output), *WHO])


def poses(folder: Path) -> dict[str, Any]:
    (found,) = read_submission(folder / "submission.pkl").content["predictions"]
    return {token: trajectory.poses for token, trajectory in found.items()}


def test_plans_of_a_file(tmp_path: Path, tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_plans(tmp_path / "plans.parquet", plans(*tokens))
    assert export(tmp_path, "--plans", str(tmp_path / "plans.parquet")) == 0
    assert "tokens compared with the split; no findings" in " ".join(capsys.readouterr().out.split())
    written = poses(tmp_path)
    assert list(written) == tokens
    for token, plan in plans(*tokens).items():
        np.testing.assert_array_equal(written[token], plan)
    assert read_submission(tmp_path / "submission.pkl").content["country / region"] == "Chile"


def test_a_file_that_lacks_scenes_is_written_and_found_wanting(tmp_path: Path, tokens: list[str]) -> None:
    write_plans(tmp_path / "plans.parquet", plans(*tokens[1:]))
    assert export(tmp_path, "--plans", str(tmp_path / "plans.parquet")) == 1
    assert list(poses(tmp_path)) == tokens[1:]


def test_plans_of_a_policy(tmp_path: Path, tokens: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def prepared(experiment: Any, split: str, source: Any) -> Store:
        asked.append(split)
        found = Store(dict.fromkeys(tokens, scene(10.0)))
        found.folder = tmp_path / "prepared"
        return found

    monkeypatch.setattr(folders, "prepared", prepared)
    monkeypatch.setattr(session, "ray_session", lambda config: nullcontext())
    assert export(tmp_path, "--policy", "constant_velocity") == 0
    assert asked == ["train"]
    for written in poses(tmp_path).values():
        np.testing.assert_allclose(written[:, 0], 5.0 * np.arange(1, 9), rtol=1e-6)
        np.testing.assert_array_equal(written[:, 1:], 0.0)


def test_bad_input_is_refused(tmp_path: Path, tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path, "--policy", "unknown") == 2
    assert export(tmp_path, "--policy", "imitation") == 2, "not trained"
    assert export(tmp_path, "--plans", str(tmp_path / "absent.parquet")) == 2
    with pytest.raises(SystemExit):
        export(tmp_path)
    assert "one of the arguments --policy --plans is required" in capsys.readouterr().err
    assert not (tmp_path / "submission.pkl").exists()
