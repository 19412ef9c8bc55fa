"""The scene encoder as a whole: shapes, independence, learning, determinism."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from irl_vla.errors import ConfigError
from irl_vla.policy.batch import ObservationBatch, PerceptionTargets, collate
from irl_vla.policy.config import MAX_SCENE_TOKENS, EncoderConfig
from irl_vla.policy.encoder import SceneEncoder, parameter_groups, weighted_loss
from tests.unit.policy import scenes

CONFIG = scenes.tiny_config()


def make_encoder(seed: int) -> SceneEncoder:
    torch.manual_seed(seed)
    return SceneEncoder(CONFIG)


def make_batch(count: int) -> ObservationBatch:
    generator = np.random.default_rng(0)
    return collate([scenes.observation(CONFIG, generator, command=index % 3) for index in range(count)], CONFIG)


def make_targets(count: int) -> PerceptionTargets:
    return scenes.targets(CONFIG, np.random.default_rng(1), count)


def rows(record, index: slice):
    return type(record)(*(getattr(record, item.name)[index] for item in fields(record)))


@pytest.fixture(scope="module")
def encoder() -> SceneEncoder:
    return make_encoder(seed=0).eval()


def test_tokens_have_the_configured_counts(encoder):
    tokens = encoder(make_batch(2))
    assert {name: tuple(value.shape) for name, value in tokens._asdict().items()} == {
        name: (2, count, 32) for name, count in CONFIG.token_counts.items()
    }
    assert sum(CONFIG.token_counts.values()) == 4 + 16 + 8 + 6 + 2


def test_default_encoder_fits_the_token_bank():
    assert EncoderConfig().token_counts == {"meta": 8, "bev": 64, "map": 32, "object": 30, "ego": 2}
    assert sum(EncoderConfig().token_counts.values()) <= MAX_SCENE_TOKENS
    with pytest.raises(ConfigError, match="at most 192 fit"):
        EncoderConfig().with_overrides({"perception.bev_tokens": (16, 16)})


def test_tokens_survive_half_precision(encoder):
    for tokens in encoder(make_batch(2)):
        assert tokens.abs().max() < 100
        torch.testing.assert_close(tokens.half().float(), tokens, rtol=1e-2, atol=1e-3)


def test_a_scene_does_not_depend_on_the_rest_of_the_batch(encoder):
    batch = make_batch(3)
    together, alone = encoder(batch), encoder(rows(batch, slice(1, 2)))
    for one, many in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], many[1], rtol=1e-3, atol=1e-4)


def test_missing_camera_has_no_influence(encoder):
    batch = replace(make_batch(2), camera_valid=torch.tensor([[True, False]] * 2))
    images = batch.images.clone()
    images[:, 1] = torch.rand(images[:, 1].shape)
    for before, after in zip(encoder(batch), encoder(replace(batch, images=images)), strict=True):
        torch.testing.assert_close(before, after)


@pytest.mark.parametrize(
    ("field", "kinds"),
    [
        ("images", {"meta", "bev", "map", "object"}),
        ("lidar", {"bev", "map", "object"}),
        ("history", {"bev", "map", "object", "ego"}),
        ("command", {"bev", "map", "object", "ego"}),
    ],
)
def test_every_input_reaches_its_tokens(encoder, field, kinds):
    batch = make_batch(2)
    value = getattr(batch, field)
    changed = replace(batch, **{field: (value + 1) % 3 if field == "command" else value * 0.5})
    pairs = zip(encoder(batch)._asdict().items(), encoder(changed), strict=True)
    assert {name for (name, before), after in pairs if not torch.allclose(before, after, atol=1e-5)} == kinds


def test_no_token_sees_the_targets(encoder):
    batch, targets = make_batch(3), make_targets(3)
    other = PerceptionTargets(
        boxes=targets.boxes + 1,
        box_classes=targets.box_classes.flip(0),
        futures=targets.futures + 1,
        future_known=~targets.future_known,
        raster=1 - targets.raster,
        fields=-targets.fields,
        has_fields=~targets.has_fields,
        meta_action=targets.meta_action.flip(0),
    )
    for first, second in zip(
        encoder.perceive(batch, targets).tokens, encoder.perceive(batch, other).tokens, strict=True
    ):
        assert torch.equal(first, second)


def test_losses_need_the_answer(encoder):
    with pytest.raises(ValueError, match="perceive"):
        encoder.losses(encoder.perceive(make_batch(1)), make_targets(1))


def train(encoder: SceneEncoder, batch: ObservationBatch, targets: PerceptionTargets, steps: int) -> list[dict]:
    optimiser = torch.optim.AdamW(parameter_groups(encoder, nn.Identity(), 6e-3, 1e-4))
    history = []
    for _ in range(steps):
        losses = encoder.losses(encoder.perceive(batch, targets), targets)
        history.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        weighted_loss(losses, CONFIG.loss_weights).backward()
        optimiser.step()
    return history


def test_a_small_batch_is_learned_by_heart():
    encoder, batch, targets = make_encoder(seed=0), make_batch(4), make_targets(4)
    history = train(encoder, batch, targets, steps=120)
    first, last = history[0], history[-1]
    assert last["heatmap"] < first["heatmap"] / 5
    assert last["box"] < first["box"] / 3
    assert last["map"] < first["map"] * 0.8
    assert last["fields"] < first["fields"] * 0.8
    assert last["motion"] < first["motion"] / 2
    assert last["answer"] < first["answer"] / 5
    encoder.eval()
    assert torch.equal(encoder.predict_meta_actions(batch), targets.meta_action)
    found = encoder.perceive(batch).detections
    distance = torch.cdist(targets.boxes[:, :3, :2], found.boxes[:, :3, :2])
    assert distance.min(dim=2).values.median() < 0.5


def test_every_weight_is_trained():
    encoder, batch, targets = make_encoder(seed=0), make_batch(2), make_targets(2)
    perception = encoder.perceive(batch, targets)
    planning = sum(tokens[..., 0].sum() for tokens in perception.tokens)  # stands for the planner's loss
    (planning + weighted_loss(encoder.losses(perception, targets), CONFIG.loss_weights)).backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []


def test_same_seed_same_numbers():
    first = train(make_encoder(seed=3), make_batch(2), make_targets(2), steps=2)
    assert train(make_encoder(seed=3), make_batch(2), make_targets(2), steps=2) == first
    assert train(make_encoder(seed=4), make_batch(2), make_targets(2), steps=2) != first


def test_weights_load_back(encoder):
    other = make_encoder(seed=9).eval()
    other.load_state_dict(encoder.state_dict())
    for first, second in zip(encoder(make_batch(1)), other(make_batch(1)), strict=True):
        assert torch.equal(first, second)


def test_parameter_groups_halve_the_encoder_and_spare_vectors():
    encoder, planner = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), nn.Linear(4, 2)
    encoder[0].bias.requires_grad_(False)
    groups = parameter_groups(encoder, planner, learning_rate=0.1, weight_decay=0.01)
    described = [(sum(p.numel() for p in group["params"]), group["lr"], group["weight_decay"]) for group in groups]
    assert described == [(12, 0.05, 0.01), (8, 0.05, 0.0), (8, 0.1, 0.01), (2, 0.1, 0.0)]
