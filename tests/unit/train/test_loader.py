"""Batches: which rows, in which order, and how they are read ahead."""

import threading

import numpy as np
import pytest
import torch

from irl_vla.train.loader import batch_rows, prefetched, step_generator, step_seed


def test_every_epoch_visits_every_row_once_whatever_the_workers() -> None:
    for workers in (1, 2):
        drawn = [
            batch_rows(12, 6 // workers, step, worker=worker, workers=workers, seed=3)
            for step in range(4)
            for worker in range(workers)
        ]
        first, second = np.concatenate(drawn).reshape(2, 12)
        assert sorted(first) == sorted(second) == list(range(12))
        assert list(first) != list(second)


def test_a_batch_may_be_larger_than_the_data() -> None:
    rows = batch_rows(3, 8, 0, worker=0, workers=1, seed=0)
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


def test_random_numbers_follow_from_the_step() -> None:
    def draw(step: int, worker: int) -> float:
        return float(torch.rand((), generator=step_generator(7, step, worker)))

    assert draw(3, 0) == draw(3, 0)
    assert len({draw(3, 0), draw(4, 0), draw(3, 1)}) == 3


def test_a_step_has_one_seed_for_batch_and_model() -> None:
    torch.manual_seed(step_seed(7, 3, 0))
    assert float(torch.rand(())) == float(torch.rand((), generator=step_generator(7, 3, 0)))


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_however_many_threads(threads: int) -> None:
    made = [batch for _, batch in prefetched(lambda step: step**2, range(4, 20), threads)]
    assert made == [step**2 for step in range(4, 20)]
    assert [step for step, _ in prefetched(str, range(3, 5), threads)] == [3, 4]
    assert list(prefetched(str, range(0), threads)) == []


def test_the_next_batch_is_made_while_the_model_computes() -> None:
    made = [threading.Event() for _ in range(6)]
    batches = prefetched(lambda step: made[step].set(), range(6))
    assert next(batches)[0] == 0
    assert made[1].wait(10)
    assert made[2].wait(10)
    assert not made[4].is_set(), "but not the whole training"
    batches.close()


def test_an_error_comes_at_its_step() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("broken row")
        return step

    batches = prefetched(make, range(5))
    assert [next(batches)[1] for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="broken row"):
        next(batches)
