import numpy as np
import pytest
import torch
from torch.distributions import Normal

from irl_vla.rl.learner import clip_fraction, clipped_surrogate, step_ratio


def test_the_ratio_is_that_of_torch_normals_within_limits() -> None:
    torch.manual_seed(0)
    mean, other, action = torch.randn(3, 5, 24).unbind(0)
    log_std = torch.full((5, 24), -0.5)
    new, old = Normal(mean * 0.1, log_std.exp()), Normal(other * 0.1, log_std.exp())
    expected = (new.log_prob(action) - old.log_prob(action)).sum(-1).clamp(-8, 8).exp()
    torch.testing.assert_close(step_ratio(mean * 0.1, other * 0.1, log_std, action), expected)
    assert step_ratio(action, other * 9, log_std, action).max() == pytest.approx(np.exp(8))


def test_clipping_stops_the_gain_but_not_the_loss() -> None:
    ratio = torch.tensor([1.5, 0.5])
    assert clipped_surrogate(ratio[:1], torch.ones(1), 0.1).item() == pytest.approx(-1.1)
    assert clipped_surrogate(ratio[:1], -torch.ones(1), 0.1).item() == pytest.approx(1.5)
    assert clip_fraction(torch.tensor([1.0, 1.05, 1.2, 0.8]), 0.1).item() == 0.5
