"""Stages from the command line and from `pipelines/`: exit statuses, overrides, and one table of stages."""

import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from irl_vla.cli.main import _STAGES, execute, main
from irl_vla.errors import IrlVlaError, LogFormatError, SceneError
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.run import STAGES

ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(f"runs: {tmp_path / 'runs'}\ntracking: {{enabled: false}}\n")
    return path


def fails_with(error: BaseException) -> Callable[[Experiment], None]:
    def stage(experiment: Experiment) -> None:
        raise error

    return stage


def run_entry(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str | Path) -> int:
    """Starts a file of `pipelines/` as a cluster job does; returns its exit status."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"pipelines.{name}", run_name="__main__")
    return int(end.value.code or 0)


def test_every_stage_has_a_word_a_function_and_a_cluster_entry() -> None:
    words = {stage.replace("-", "_") for stage in _STAGES}
    assert words == set(STAGES)
    assert words == {path.stem for path in (ROOT / "pipelines").glob("[!_]*.py")}


@pytest.mark.parametrize("stage", _STAGES)
def test_a_cluster_entry_starts_its_own_stage(stage: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Experiment] = []
    name = stage.replace("-", "_")
    monkeypatch.setitem(STAGES, name, seen.append)
    assert run_entry(monkeypatch, name, config, "seed=4") == 0
    assert [experiment.seed for experiment in seen] == [4]


def test_importing_a_cluster_entry_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "label", fails_with(AssertionError("ran")))
    runpy.run_module("pipelines.label", run_name="pipelines.label")


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
    monkeypatch.setitem(STAGES, "label", stage)
    with caplog.at_level(logging.INFO):
        assert execute("label", config, []) == status
        assert main(["label", str(config)]) == status
        assert run_entry(monkeypatch, "label", config) == status
    assert message in caplog.text
    assert "Traceback" not in caplog.text


def test_errors_of_ray_tasks_read_like_those_of_the_driver(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cause = LogFormatError("a.pkl: frame 3: anns: expected the key")
    remote = RayTaskError("encode_log", "Traceback (most recent call last): ...", cause).as_instanceof_cause()
    monkeypatch.setitem(STAGES, "pretrain", fails_with(remote))
    assert execute("pretrain", config, []) == 2
    assert "LogFormatError: a.pkl: frame 3: anns: expected the key" in caplog.text
    assert "Traceback" not in caplog.text


def test_programming_errors_are_not_hidden(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "label", fails_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        execute("label", config, [])


def test_overrides_reach_the_stage(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Experiment] = []
    monkeypatch.setitem(STAGES, "finetune", seen.append)
    assert main(["finetune", str(config), "finetune.weights.safety=2", "seed=4"]) == 0
    assert (seen[0].finetune.weights.safety, seen[0].seed, seen[0].name) == (2.0, 4, "x")


def test_printing_the_configuration_runs_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STAGES, "run", fails_with(IrlVlaError("ran")))
    assert execute("run", config, ["seed=9"], print_config=True) == 0
    assert "seed: 9\n" in capsys.readouterr().out
