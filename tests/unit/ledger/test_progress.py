"""Progress without a terminal: when a line is logged, and its rate and time left."""

import logging
from collections.abc import Iterator

import pytest

from irl_vla.ledger import progress as module
from irl_vla.ledger.progress import followed, progress


class Clock:
    """Stands still but where it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO):
        yield caplog


def test_a_line_now_and_then_with_rate_and_time_left(told: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with progress("labels", "rows", 100, clock) as shown:
        for seconds, count in ((10, 10), (30, 20), (1, 5), (49, 10)):
            clock.now += seconds
            shown.advance(count)
    assert told.messages == [
        "labels: 30 of 100 rows, 0.75 a second, 93 s left",  # 30 in 40 s
        "labels: 45 of 100 rows, 0.50 a second, 110 s left",  # 45 in 90 s
    ]


def test_what_was_done_before_does_not_count_for_the_rate(told: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with progress("pretrain", "steps", 400, clock) as shown:
        clock.now += 60
        shown.start_from(200)
        clock.now += 50
        shown.reach(200)
        shown.reach(300, "loss 0.25")
    assert told.messages == ["pretrain: 300 of 400 steps, loss 0.25, 2.00 a second, 50 s left"]


def test_items_pass_in_order_and_are_counted(told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAY_EVERY_S", 0.0)
    assert list(followed(iter("abc"), "logs read", "logs", 3)) == ["a", "b", "c"]
    assert [message.split(",")[0] for message in told.messages] == [
        "logs read: 1 of 3 logs",
        "logs read: 2 of 3 logs",
        "logs read: 3 of 3 logs",
    ]


def test_what_the_work_raises_comes_out(told: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(followed(broken(), "logs", "logs", 2))
    assert not told.messages
