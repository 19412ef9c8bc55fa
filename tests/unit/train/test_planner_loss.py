"""The planner's loss against values computed by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from irl_vla.train.planner_loss import planner_loss


def chain_that_predicts(value: float, clip: float) -> Any:
    """A code is the plan's 24 numbers; noise is not added; every clean plan is predicted as ``value`` everywhere."""
    return SimpleNamespace(
        config=SimpleNamespace(clip=clip),
        codec=SimpleNamespace(encode=lambda plans: plans.flatten(-2), decode=lambda codes: codes.unflatten(-1, (8, 3))),
        noised=lambda clean, step, noise: clean,
        planner=SimpleNamespace(predict=lambda noised, step, keys: torch.full_like(noised, value)),
    )


def loss(value: float, clip: float) -> tuple[float, float]:
    plans = torch.tensor([3.0, 4.0, 0.0]).expand(2, 8, 3)
    found = planner_loss(chain_that_predicts(value, clip), None, plans, torch.ones(2, 5).long(), torch.ones(2, 5, 24))
    return found.diffusion.item(), found.displacement_m.item()


def test_squared_error_of_the_code_and_metres_of_the_plan() -> None:
    assert loss(0.0, 10.0) == pytest.approx(((9 + 16 + 0) / 3, 5.0))


def test_codes_beyond_the_reach_of_the_chain_are_clamped() -> None:
    """The displacement is still measured from the plan itself."""
    assert loss(0.0, 3.5) == pytest.approx(((9 + 3.5**2) / 3, 5.0))
