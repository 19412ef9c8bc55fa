"""The order of the stages, and one Ray session for all of them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from irl_vla.dataset.fingerprint import DatasetFingerprint
from irl_vla.errors import IrlVlaError
from irl_vla.stages import folders
from irl_vla.stages import run as stages
from irl_vla.stages.experiment import Experiment, load_experiment
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
    data = DatasetFingerprint("generated", 3, "logs", "maps", "splits", "sensors", "world")
    monkeypatch.setattr(folders, "training_dataset", lambda experiment: None)
    monkeypatch.setattr(folders, "fingerprint", lambda dataset, *splits: data)
    monkeypatch.setattr(stages, "_session", fails_with(AssertionError("connected to Ray")))
    for name in ("pretrain", "label", "train_reward", "finetune"):
        stage = getattr(folders, name)(experiment)
        stage.begin()
        stage.finish()
        getattr(stages, name)(experiment)


def test_real_data_is_not_generated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stages.generate(Experiment(name="x", runs=tmp_path, generate=None, data={"root": tmp_path / "data"}))
    assert "data is read as it is" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_splits_that_share_scenes_are_refused_before_anything_is_made(config: Path, tmp_path: Path) -> None:
    write_example(tmp_path / "data", sensors=False)
    settings = ["generate=null", f"data.root={tmp_path / 'data'}", "data.val=mini", "data.test=mini"]
    with pytest.raises(IrlVlaError) as caught:
        stages.pretrain(load_experiment(config, settings))
    assert "data.train (train) and data.val (mini) share 1 logs" in str(caught.value)
    assert "data.val (mini) and data.test (mini) are the same split" in str(caught.value)
    assert not (tmp_path / "runs").exists()
