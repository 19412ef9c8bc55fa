"""The loop that fine-tuning and its control share, on a training that costs nothing."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.vla import load_chain
from irl_vla.rl.job import FinetuneJob, best_row, choice, is_stale, pareto_set, read_choice, read_history, run_job
from irl_vla.rl.task import TaskSpec


def row(epdms: float, ep: float = 0.85) -> dict[str, float]:
    return {"finetune/val_epdms": epdms, "finetune/val_ep": ep}


def test_slower_policies_are_not_kept() -> None:
    start, slow, fair = row(0.7), row(0.9, 0.82), row(0.8, 0.84)
    assert best_row([start], 0.02) is start
    assert best_row([start, slow], 0.02) is start
    assert best_row([start, slow], 0.05) is slow
    assert best_row([start, slow, fair], 0.02) is fair
    assert best_row([start, dict(start)], 0.02) is start


def test_of_equal_scores_the_one_with_more_progress_is_kept() -> None:
    start, slow, fast = row(0.7), row(0.8, 0.84), row(0.8, 0.86)
    assert best_row([start, slow, fast], 0.02) is fast


def test_the_pareto_set_has_every_trade_of_score_for_progress() -> None:
    start, worse, slow, fair, copy = row(0.7), row(0.69), row(0.9, 0.5), row(0.8, 0.84), row(0.8, 0.84)
    assert pareto_set([start]) == [start]
    assert [id(point) for point in pareto_set([start, worse, slow, fair, copy])] == [id(start), id(slow), id(fair)]
    best = row(0.9, 0.9)
    assert pareto_set([start, worse, slow, fair, best]) == [best]


def test_the_choice_says_its_rule_and_what_there_was() -> None:
    history = [{"iteration": 5.0 * i} | point for i, point in enumerate([row(0.7), row(0.9, 0.5), row(0.8, 0.84)])]
    assert choice(history, 0.01) == (
        "kept: iteration 10 (EPDMS 80.0, EP 84.0), the highest EPDMS whose EP is at most 1.0 below imitation's; "
        "on the Pareto set: iteration 0 (EPDMS 70.0, EP 85.0); iteration 5 (EPDMS 90.0, EP 50.0); "
        "iteration 10 (EPDMS 80.0, EP 84.0)"
    )


def test_patience_counts_states_that_may_be_kept() -> None:
    slow = row(0.90, 0.5)
    history = [row(0.65), slow, row(0.70), row(0.75), row(0.80)]
    assert not is_stale(history, 2, 0.02), "one lucky slow state must not stop a run that still rises"
    assert is_stale(history, 2, 1.0), "where it may be kept, it is the best"
    still = [row(0.8), row(0.7), slow, slow]
    assert not is_stale(still, 2, 0.02)
    assert is_stale([*still, row(0.8)], 2, 0.02), "as good as the best is no new best"


@dataclass
class Counting:
    """Does nothing but count; its state is a file with the number."""

    chain: DenoisingChain
    iteration: int = 0
    done: list[int] = field(default_factory=list)

    def train(self) -> dict[str, float]:
        self.iteration += 1
        self.done.append(self.iteration)
        return {"finetune/loss": 1.0}

    def policy(self) -> DenoisingChain:
        return self.chain

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "number").write_text(str(self.iteration))

    def restore(self, folder: Path) -> None:
        self.iteration = int((folder / "number").read_text())


def make_job(spec: TaskSpec, scores: list[float], **overrides: int) -> FinetuneJob:
    settings = {"iterations": 6, "validate_every": 2, "checkpoint_every": 3, **overrides}
    spec = replace(spec, config=spec.config.with_overrides(settings))
    coming = iter(scores)
    return FinetuneJob(
        spec, spec.policy.parent / "job", lambda chain: {"epdms": next(coming), "ep": 1.0}, lambda metrics, step: None
    )


def test_validated_at_the_start_then_regularly_and_at_the_end(spec: TaskSpec) -> None:
    job = make_job(spec, [0.1, 0.2, 0.3, 0.4], iterations=5)
    run_job(job, Counting(load_chain(spec.policy)))
    assert [(entry["iteration"], entry["finetune/val_epdms"]) for entry in read_history(job.folder)] == [
        (0, 0.1),
        (2, 0.2),
        (4, 0.3),
        (5, 0.4),
    ]


def test_the_choice_is_in_the_record_and_in_the_log(spec: TaskSpec, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    job = make_job(spec, [0.1, 0.3, 0.2], iterations=4)
    assert read_choice(job.folder) == ""
    run_job(job, Counting(load_chain(spec.policy)))
    said = choice(read_history(job.folder), job.spec.config.max_progress_loss)
    assert "kept: iteration 2 (EPDMS 30.0" in said
    assert read_choice(job.folder) == said
    assert f"job: {said}" in caplog.text
    assert json.loads((job.folder / "latest.json").read_text())["pareto_iterations"] == [2]


def test_patience_stops_the_run_and_a_repeated_call_leaves_it_stopped(spec: TaskSpec) -> None:
    first, again = Counting(load_chain(spec.policy)), Counting(load_chain(spec.policy))
    job = make_job(spec, [0.5, 0.4, 0.3], patience=2)
    run_job(job, first)
    assert first.done == [1, 2, 3, 4]
    run_job(job, again)
    assert again.done == []


def test_a_run_goes_on_from_its_last_state(spec: TaskSpec) -> None:
    job = make_job(spec, [0.1, 0.2, 0.2, 0.3, 0.4])
    broken = Counting(load_chain(spec.policy))

    def stop(metrics: object, step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(replace(job, report=stop), broken)
    resumed = Counting(load_chain(spec.policy))
    run_job(job, resumed)
    assert resumed.done == [4, 5, 6]
    assert [entry["iteration"] for entry in read_history(job.folder)] == [0, 2, 4, 6]
    assert [path.name for path in job.folder.path.glob("state-*")] == ["state-000006"]
