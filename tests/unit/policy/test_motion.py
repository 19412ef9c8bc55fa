"""Futures of objects and their loss, by hand."""

import math

import pytest
import torch

from irl_vla.policy.perception.bev import BevFeatures
from irl_vla.policy.perception.motion import Futures, MotionHead, motion_loss
from tests.unit.policy import scenes

CONFIG = scenes.tiny_config()


def test_a_head_that_says_nothing_drives_straight_on():
    torch.manual_seed(0)
    head = MotionHead(CONFIG)
    torch.nn.init.zeros_(head.net[-1].weight)
    torch.nn.init.zeros_(head.net[-1].bias)
    boxes = torch.tensor([[[4.0, 1.0, 0, 4, 2, 1.5, 1.0, 2.0, -1.0], [0.0, 0, 0, 4, 2, 1.5, 0, 0, 0]]])
    features = BevFeatures(torch.randn(1, 16, 16, 16), torch.randn(1, 24, 8, 8))
    found = head(features, boxes, torch.rand(1, 2, 7), torch.tensor([[5, 200]]))
    assert found.positions.shape == (1, 2, 3, 8, 2)
    times = 0.5 * torch.arange(1, 9)
    for mode in range(3):
        torch.testing.assert_close(found.positions[0, 0, mode], torch.stack([4 + 2 * times, 1 - times], dim=-1))
        torch.testing.assert_close(found.positions[0, 1, mode], torch.zeros(8, 2))
    assert (found.spread_m > 0).all()


def test_the_best_mode_learns_and_unknown_times_do_not_count():
    straight = torch.stack([torch.arange(1.0, 9), torch.zeros(8)], dim=-1)
    positions = torch.stack([straight + torch.tensor([0.0, 3.0]), straight + torch.tensor([0.0, 0.5])])[None, None]
    positions.requires_grad_(True)
    futures = Futures(positions, torch.zeros(1, 1, 2), torch.ones(1, 1, 8))
    known = torch.tensor([[[True] * 4 + [False] * 4]])
    true = straight[None, None].clone()
    true[..., 4:, :] = 1e6  # never looked at
    loss = motion_loss(futures, true, known)
    assert loss.item() == pytest.approx(0.5 + 0.3 * math.log(2) + 0.15 * 0.5, rel=1e-5)
    loss.backward()
    touched = positions.grad.abs().sum(-1)[0, 0] > 0
    assert touched.tolist() == [[False] * 8, [True] * 4 + [False] * 4]


def test_without_objects_the_loss_is_zero():
    futures = Futures(torch.zeros(2, 3, 2, 8, 2), torch.zeros(2, 3, 2), torch.ones(2, 3, 8))
    assert motion_loss(futures, torch.zeros(2, 3, 8, 2), torch.zeros(2, 3, 8, dtype=torch.bool)).item() == 0
