"""Exit statuses, the order of the stages, and one Ray session for all of them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from irl_vla.errors import IrlVlaError, LogFormatError, SceneError
from irl_vla.stages import folders
from irl_vla.stages import run as stages
from irl_vla.stages.experiment import Experiment
from tests.unit.dataset.example import write_example


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(f"runs: {tmp_path / 'runs'}\ntracking: {{enabled: false}}\n")
    return path


def fails_with(error: BaseException) -> Callable[[Experiment], None]:
    def stage(experiment: Experiment) -> None:
        raise error

    return stage


@pytest.mark.parametrize(
    ("stage", "status", "message"),
    [
        (lambda experiment: None, 0, ""),
        (fails_with(SceneError("scene abc: expected a route")), 2, "SceneError: scene abc: expected a route"),
        (fails_with(KeyboardInterrupt()), 130, "interrupted; the same command resumes"),
    ],
)
def test_exit_status(
    config: Path, stage: Any, status: int, message: str, *, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(stages.STAGES, "label", stage)
    with caplog.at_level(logging.INFO):
        assert stages.execute("label", config, []) == status
        assert stages.main("label", [str(config)]) == status
    assert message in caplog.text
    assert "Traceback" not in caplog.text


def test_errors_of_ray_tasks_read_like_those_of_the_driver(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cause = LogFormatError("a.pkl: frame 3: anns: expected the key")
    remote = RayTaskError("encode_log", "Traceback (most recent call last): ...", cause).as_instanceof_cause()
    monkeypatch.setitem(stages.STAGES, "pretrain", fails_with(remote))
    assert stages.execute("pretrain", config, []) == 2
    assert "LogFormatError: a.pkl: frame 3: anns: expected the key" in caplog.text
    assert "Traceback" not in caplog.text


def test_programming_errors_are_not_hidden(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stages.STAGES, "label", fails_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        stages.execute("label", config, [])


def test_overrides_reach_the_stage(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Experiment] = []
    monkeypatch.setitem(stages.STAGES, "finetune", seen.append)
    assert stages.main("finetune", [str(config), "finetune.weights.safety=2", "seed=4"]) == 0
    assert (seen[0].finetune.weights.safety, seen[0].seed, seen[0].name) == (2.0, 4, "x")


def test_printing_the_configuration_runs_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(stages.STAGES, "run", fails_with(IrlVlaError("ran")))
    assert stages.execute("run", config, ["seed=9"], print_config=True) == 0
    assert "seed: 9\n" in capsys.readouterr().out


def test_all_stages_run_in_order_within_one_session(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    @contextmanager
    def session(experiment: Experiment) -> Iterator[None]:
        calls.append("session")
        yield
        calls.append("end")

    monkeypatch.setattr(stages, "_session", session)
    chain = ("generate", "pretrain", "label", "train_reward", "finetune", "evaluate", "report")
    for name in chain:
        monkeypatch.setattr(stages, name, lambda experiment, name=name: calls.append(name))
    stages.run(Experiment(name="x", runs=config.parent))
    assert calls == ["session", *chain, "end"]
    assert set(stages.STAGES) == {*chain, "sweep", "run"}


def test_whole_stages_need_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(name="x", runs=tmp_path)
    monkeypatch.setattr(stages, "_session", fails_with(AssertionError("connected to Ray")))
    for name in ("pretrain", "label", "train_reward", "finetune"):
        stage = getattr(folders, name)(experiment)
        (stage.begin() / "result").touch()
        stage.finish()
        getattr(stages, name)(experiment)


def test_real_data_is_not_generated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stages.generate(Experiment(name="x", runs=tmp_path, generate=None, data={"root": tmp_path / "data"}))
    assert "data is read as it is" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_splits_that_share_scenes_are_refused_before_anything_is_made(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_example(tmp_path / "data", sensors=False)
    settings = ["generate=null", f"data.root={tmp_path / 'data'}", "data.val=mini", "data.test=mini"]
    assert stages.execute("pretrain", config, settings) == 2
    assert "data.train (train) and data.val (mini) share 1 logs" in caplog.text
    assert "data.val (mini) and data.test (mini) are the same split" in caplog.text
    assert not (tmp_path / "runs").exists()
