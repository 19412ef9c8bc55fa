"""Pieces of a training that need no Ray."""

import pytest
import torch

from irl_vla.train.loop import threads


def test_threads_are_set_for_a_piece_of_work_only() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), threads(before + 2):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
