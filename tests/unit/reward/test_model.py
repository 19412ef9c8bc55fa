import numpy as np
import pytest
import torch

from irl_vla.errors import ConfigError
from irl_vla.ledger.checkpoint import Provenance, save_checkpoint
from irl_vla.reward.config import RewardModelConfig
from irl_vla.reward.loss import LEARNED, LOGITS
from irl_vla.reward.model import (
    STAGE,
    RewardWorldModel,
    Views,
    plan_features,
    predict_subscores,
    require_enrichment,
)
from irl_vla.reward.relations import RELATIONS, STEPS

from .roads import LAYOUT, history, straight


def model(queries=4, seed=0):
    torch.manual_seed(seed)
    return RewardWorldModel(LAYOUT, RewardModelConfig().with_overrides({"decoder.queries": queries})).eval()


def inputs(scenes=3, plans=5):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(scenes, LAYOUT.total, LAYOUT.width, generator=generator)
    relations = torch.randn(scenes, plans, STEPS, len(RELATIONS), generator=generator)
    speeds = 4.0 + torch.arange(scenes)
    histories = torch.from_numpy(np.stack([history(float(speed)) for speed in speeds])).float()
    curves = np.linspace(-0.05, 0.05, plans)
    each = np.stack([[straight(float(speed), -0.5, curve) for curve in curves] for speed in speeds])
    return Views(torch.from_numpy(each).float(), histories, tokens, relations)


def features_of(plan, speed):
    poses, ego = plan_features(
        torch.from_numpy(plan).float()[None, None], torch.from_numpy(history(speed)).float()[None]
    )
    return poses[0, 0].numpy(), ego[0].numpy()


def test_features_of_constant_speed_are_constant():
    poses, ego = features_of(straight(10.0), 10.0)
    np.testing.assert_allclose(poses[:, 0], 5.0 * np.arange(1, 9) / 20.0, rtol=1e-6)
    np.testing.assert_allclose(poses[:, 3:5], 1.0, rtol=1e-5)  # cos of heading, 10 m/s
    np.testing.assert_allclose(poses[:, [1, 2, 5, 6, 7, 8, 9]], 0.0, atol=1e-5)
    np.testing.assert_allclose(ego, [1.0, 0, 0, 0])


def test_features_of_braking_show_the_deceleration():
    poses, _ = features_of(straight(12.0, -3.0), 12.0)
    np.testing.assert_allclose(poses[1:, 6], -1.0, atol=1e-4)  # -3 m/s^2 in units of 3
    np.testing.assert_allclose(poses[0, 6], -0.5, atol=1e-4)  # mean speed of the first half second


def test_features_of_a_circle_show_its_turn_rate_and_no_lateral_speed():
    poses, _ = features_of(straight(5.0, 0.0, 0.1), 5.0)
    np.testing.assert_allclose(poses[:, 8], 1.0, rtol=1e-4)  # 0.5 rad/s in units of 0.5
    np.testing.assert_allclose(poses[:, 5], 0.0, atol=1e-3)


def test_features_do_not_jump_where_the_heading_wraps():
    poses, _ = features_of(straight(5.0, 0.0, 0.2), 5.0)  # turns by 4 rad
    np.testing.assert_allclose(poses[:, 8], 2.0, rtol=1e-4)
    assert np.abs(poses).max() < 5.0


@pytest.mark.parametrize("queries", [1, 2, 4, 8])
def test_logits_of_a_plan_do_not_depend_on_the_other_plans_or_scenes(queries):
    net, views = model(queries), inputs()
    one = Views(views.plans[1:2, 3:4], views.history[1:2], views.tokens[1:2], views.relations[1:2, 3:4])
    with torch.inference_mode():
        together, alone = net(views), net(one)
    assert together.shape == (3, 5, LOGITS)
    torch.testing.assert_close(together[1:2, 3:4], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": inputs().tokens.flip(0)},
        {"relations": inputs().relations.flip(0)},
        {"plans": inputs().plans + 0.5},
        {"history": inputs().history * 0.5},
    ],
)
def test_scene_plan_and_speed_all_matter(changed):
    net, views = model(), inputs()
    with torch.inference_mode():
        assert not torch.allclose(net(views), net(views._replace(**changed)), atol=1e-4)


@pytest.mark.parametrize(("branch", "unread"), [("tokens", "relations"), ("relations", "tokens")])
def test_a_branch_alone_needs_no_more_than_it_reads(branch, unread):
    config = RewardModelConfig().with_overrides({unread: False})
    net, views = RewardWorldModel(LAYOUT, config).eval(), inputs()
    with torch.inference_mode():
        assert torch.equal(net(views), net(views._replace(**{unread: None})))
        assert not torch.allclose(net(views), net(views._replace(**{branch: getattr(views, branch).flip(0)})))


def test_a_model_that_sees_nothing_is_refused():
    with pytest.raises(ConfigError, match="tokens or relations"):
        RewardModelConfig().with_overrides({"tokens": False, "relations": False})


def test_every_kind_of_token_is_attended_to():
    net, views = model(), inputs()
    views.tokens.requires_grad_(True)
    net(views).square().sum().backward()
    assert (views.tokens.grad.abs().sum((0, 2)) > 0).all()


def test_an_ensemble_predicts_the_mean_of_its_members_and_pessimism_takes_off_their_spread():
    members, views = (model(seed=0), model(seed=1)), inputs()
    with torch.inference_mode():
        each = [predict_subscores((member,), views) for member in members]
        both, wary = predict_subscores(members, views), predict_subscores(members, views, pessimism=2.0)
    assert both.shape == (3, 5, len(LEARNED))
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)
    torch.testing.assert_close(wary, (both - 2.0 * torch.stack(each).std(0)).clamp_min(0))
    assert both.min() >= 0.0
    assert both.max() <= 1.0


@pytest.mark.parametrize(
    ("enrichment", "force", "stops"), [(0.02, False, False), (-0.01, False, True), (-0.01, True, False)]
)
def test_a_reward_that_cannot_tell_plans_apart_stops_who_would_learn_from_it(
    enrichment, force, stops, tmp_path, caplog
):
    config = RewardModelConfig()
    quality = {"quality": {"train_reward/val_enrichment": enrichment}}
    save_checkpoint(tmp_path, STAGE, {"member_0": model().state_dict()}, config, Provenance(0, {}, quality))
    if stops:
        with pytest.raises(ConfigError, match=r"finetune\.force=true"):
            require_enrichment(tmp_path, force=force)
    else:
        require_enrichment(tmp_path, force=force)
        assert ("finetune.force is set" in caplog.text) == (enrichment < 0)
