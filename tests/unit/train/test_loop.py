"""What the driver hears of a training and keeps; learning rates."""

import logging
import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import RayActorError

from irl_vla.errors import ClusterError
from irl_vla.ledger import progress
from irl_vla.ledger.storage import Location
from irl_vla.train.loop import (
    HISTORY_NAME,
    Entry,
    RunSpec,
    averaged,
    following,
    history_path,
    one_cycle,
    read_history,
    threads,
    write_history,
)


class LocalQueue(queue.Queue[Any]):
    """As Ray's queue, in this process."""

    ended = False

    def shutdown(self) -> None:
        self.ended = True


def spec_of(folder: Path | Location, steps: int = 4) -> RunSpec:
    return RunSpec("pretrain", "run", Location.of(folder), steps, 1, use_gpu=False, max_failures=0)


def test_entries_are_passed_on_and_kept_a_line_a_step(tmp_path: Path) -> None:
    heard: list[tuple[dict[str, float], int]] = []
    entries, spec = LocalQueue(), spec_of(tmp_path)
    with following(entries, lambda metrics, step: heard.append((dict(metrics), step)), spec):
        entries.put(([Entry(1, {"loss": 2.0})], False))
        entries.put(([Entry(2, {"loss": 3.0}), Entry(2, {"val": 0.5})], True))
        entries.put(([Entry(3, {"loss": 1.0})], False))
    assert heard == [({"loss": 2.0}, 1), ({"loss": 3.0}, 2), ({"val": 0.5}, 2), ({"loss": 1.0}, 3)]
    assert entries.ended
    kept = (tmp_path / "run" / HISTORY_NAME).read_text().splitlines()
    assert kept[1] == '{"step": 2, "metrics": {"loss": 3.0, "val": 0.5}}'
    assert len(kept) == 3


def test_a_resumed_run_repeats_no_step_in_the_history(tmp_path: Path) -> None:
    entries, spec = LocalQueue(), spec_of(tmp_path)
    write_history(history_path(spec.folder, spec.name), {1: {"loss": 9.0}, 2: {"loss": 8.0, "val": 0.1}})
    with following(entries, lambda metrics, step: None, spec):
        entries.put(([Entry(2, {"loss": 8.5}), Entry(3, {"loss": 7.0})], False))
    assert read_history(history_path(spec.folder, spec.name)) == {
        1: {"loss": 9.0},
        2: {"loss": 8.5, "val": 0.1},
        3: {"loss": 7.0},
    }


def test_history_lies_in_an_object_store_too(bucket: Location) -> None:
    entries, spec = LocalQueue(), spec_of(bucket / "ray")
    with following(entries, lambda metrics, step: None, spec):
        entries.put(([Entry(1, {"loss": 2.0})], True))
    assert read_history(bucket / "ray" / "run" / HISTORY_NAME) == {1: {"loss": 2.0}}


def test_what_the_report_raises_is_not_hidden(tmp_path: Path) -> None:
    def report(metrics: Any, step: int) -> None:
        raise ClusterError("tracking is gone")

    entries = LocalQueue()
    with pytest.raises(ClusterError, match="tracking is gone"), following(entries, report, spec_of(tmp_path)):
        entries.put(([Entry(1, {"loss": 2.0})], True))


def test_metrics_are_means_over_workers() -> None:
    parts = [
        [(2, {"loss": 1.0, "rate": 0.1}), (4, {"loss": 3.0})],
        [(2, {"loss": 2.0, "rate": 0.1}), (4, {"loss": 5.0})],
    ]
    assert averaged(parts) == [Entry(2, {"loss": 1.5, "rate": 0.1}), Entry(4, {"loss": 4.0})]
    assert averaged([[], []]) == []


def test_progress_is_told_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SAY_EVERY_S", 0.0)
    entries = LocalQueue()
    with caplog.at_level(logging.INFO), following(entries, lambda metrics, step: None, spec_of(tmp_path, steps=40)):
        for step in (10, 20):
            entries.put(([Entry(step, {"pretrain/loss_total": 0.25})], False))
    assert "pretrain: 20 of 40 steps, pretrain/loss_total 0.25" in caplog.text
    assert "left" in caplog.text


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0.05), (1, 0.05), (2, 0.5), (4, 0.25), (100, 0.01), (300, 0.05)])
def test_the_rate_rises_to_each_groups_own_and_falls_again_with_constant_momentum(steps: int, warmup: float) -> None:
    """Also where the rise would be of a single step (steps * warmup = 1), which torch's schedule divides by."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimiser = torch.optim.AdamW([{"params": [w], "lr": lr} for w, lr in zip(weights, (1e-2, 1e-3), strict=True)])
    schedule = one_cycle(optimiser, steps, warmup)
    rates, betas = [], set()
    for _ in range(steps):
        optimiser.step()
        rates.append(schedule.get_last_lr())
        betas |= {group["betas"] for group in optimiser.param_groups}
        schedule.step()
    assert betas == {(0.9, 0.999)}
    np.testing.assert_allclose(np.array(rates)[:, 0], 10 * np.array(rates)[:, 1])
    assert rates[0][0] == pytest.approx(1e-2 / 25)
    if steps >= 4:
        peak = max(range(steps), key=lambda step: rates[step][0])
        assert peak == max(round(steps * warmup), 2) - 1
        assert rates[peak][0] == pytest.approx(1e-2)
        assert rates[-1][0] < 0.6 * rates[peak][0], "on its way down"


def test_threads_are_set_for_a_piece_of_work_only() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), threads(before + 2):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_the_queue_is_ended_whatever_ends_the_training(tmp_path: Path) -> None:
    def report(metrics: Any, step: int) -> None:
        raise ClusterError("tracking is gone")

    entries = LocalQueue()
    with pytest.raises(ZeroDivisionError), following(entries, lambda metrics, step: None, spec_of(tmp_path)):
        raise ZeroDivisionError
    assert entries.ended
    entries = LocalQueue()
    with pytest.raises(ClusterError), following(entries, report, spec_of(tmp_path)):
        entries.put(([Entry(1, {"loss": 2.0})], True))
    assert entries.ended


def test_a_queue_that_is_gone_hides_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class GoneQueue(LocalQueue):
        def shutdown(self) -> None:
            raise RayActorError

    with pytest.raises(ZeroDivisionError), following(GoneQueue(), lambda metrics, step: None, spec_of(tmp_path)):
        raise ZeroDivisionError
    assert "could not be ended" in caplog.text
