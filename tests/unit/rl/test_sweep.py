"""Trials: their folders, and what they may not use."""

import json
from pathlib import Path
from typing import Any

import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.judge.validation import ValidationSpec
from irl_vla.ledger.storage import Location
from irl_vla.ledger.tracking import TrackingConfig
from irl_vla.reward.config import RewardWeights
from irl_vla.rl import sweep
from irl_vla.rl.config import SweepConfig
from irl_vla.rl.sweep import SweepJob, run_trial, trial_config, trial_name
from irl_vla.rl.task import TaskSpec


@pytest.fixture
def job(spec: TaskSpec, tmp_path: Path) -> SweepJob:
    absent = tmp_path / "absent"
    validation = ValidationSpec(absent, absent, absent, absent, ScorerConfig())
    return SweepJob(
        spec,
        validation,
        SweepConfig(),
        TrackingConfig(enabled=False),
        Location.of(tmp_path / "sweep"),
        Location.of(tmp_path),
        "x",
    )


def settings(safety: float) -> dict[str, float]:
    return {"safety": safety, "comfort": 1.0, "efficiency": 2}


def test_names_tell_the_weights_and_differ_whenever_these_do() -> None:
    assert trial_name(settings(0.001)).startswith("s0.001-c1-e2-")
    assert trial_name(settings(1)) == trial_name(settings(1.0))
    close = [0.001, 0.004, 0.00401, 0.004010000001]
    assert len({trial_name(settings(value)) for value in close}) == len(close)


def test_every_trial_has_its_own_folder_and_a_whole_one_is_not_run_again(
    job: SweepJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[float] = []
    reported: list[float] = []

    def fine_tuned(values: dict[str, float], job: SweepJob, name: str) -> dict[str, Any]:
        ran.append(values["safety"])
        return {"trial": name, "epdms": values["safety"]}

    monkeypatch.setattr(sweep, "_fine_tuned", fine_tuned)
    monkeypatch.setattr(sweep.tune, "report", lambda metrics: reported.append(metrics["epdms"]))
    for safety in (0.001, 0.004, 0.001):
        run_trial(settings(safety), job)
    assert ran == [0.001, 0.004]
    assert reported == [0.001, 0.004, 0.001]
    results = sorted(json.loads(path.read_text())["epdms"] for path in job.folder.path.glob("trials/*/result.json"))
    assert results == [0.001, 0.004]


def test_a_trial_that_tune_forgot_is_named_and_left_out(job: SweepJob, caplog: pytest.LogCaptureFixture) -> None:
    """Begun behind Tune's last snapshot: after a restore another one is run in its place."""
    trials = job.folder / "trials"
    for name, safety in (("s1", 1.0), ("s3", 3.0)):
        (trials / name / "result.json").write_text(json.dumps(settings(safety) | {"trial": name, "epdms": safety}))
    (trials / "s2" / "latest.json").write_text("{}")
    assert [row["trial"] for row in sweep.finished_trials(trials)] == ["s1", "s3"]
    assert "1 trials were begun and not ended; left out: s2" in caplog.text


def test_a_trial_keeps_to_its_own_process(job: SweepJob) -> None:
    """It has one CPU and may wait for no other."""
    config = job.spec.config.with_overrides({"env_runners": 2, "backend": {"kind": "mix", "actors": 2}})
    spec = TaskSpec(**{**vars(job.spec), "config": config})
    trial = trial_config(SweepJob(**{**vars(job), "spec": spec}), RewardWeights(safety=3.0))
    assert (trial.env_runners, trial.backend.scorer_actors, trial.backend.kind) == (0, 0, "mix")
    assert (trial.weights.safety, trial.iterations) == (3.0, job.config.iterations)
