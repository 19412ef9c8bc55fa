"""The reward world model: (what perception says, plan) -> sub-scores.

Two branches. One reads geometry: how the rolled-out plan relates to fields and objects (``reward.relations``). The
other is the same kind of decoder as the planner's, over the same frozen tokens: queries made from a plan attend to
meta, BEV, map, object and ego tokens. What a scene contributes is computed once and shared by all of its plans.
"""

import logging
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from irl_vla.config import validated
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.ledger.checkpoint import load_checkpoint
from irl_vla.ledger.storage import Location
from irl_vla.policy.planner import SceneDecoder, SceneKeys
from irl_vla.policy.token_bank import TokenLayout
from irl_vla.reward.config import RewardModelConfig
from irl_vla.reward.loss import LOGITS, expected_subscores
from irl_vla.reward.relations import RELATIONS, STEPS
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S

STAGE: Final = "reward"

log = logging.getLogger(__name__)

#: Scales that bring plan features to about 1: metres, m/s, m/s^2, rad/s.
_POSITION_M: Final = 20.0
_SPEED_MPS: Final = 10.0
_ACCELERATION_MPS2: Final = 3.0
_TURN_RADPS: Final = 0.5
_POSE_FEATURES: Final = 10
_EGO_FEATURES: Final = 4
_STEP_WIDTH: Final = 32
_THIN: Final = 8
_OFFSET: Final = RELATIONS.index("lane_offset_m")
#: Of each relation: what counts as 1, the limit that matters, and how sharply it is told apart (1 over its unit).
_READ: Final = {
    "drivable_m": (4.0, 0.0, 4.0),
    "on_route_m": (4.0, 0.0, 4.0),
    "intersection_m": (4.0, 0.0, 4.0),
    "rear_intersection_m": (4.0, 0.0, 4.0),
    "lane_offset_m": (4.0, 0.5, 4.0),
    "progress_m": (30.0, 0.0, 4.0),
    "red_light_m": (4.0, 0.0, 4.0),
    "off_lane_s": (2.0, 2.0, 3.0),
    "wrong_way_m": (6.0, 2.0, 1.0),
    "speed_mps": (10.0, 0.0, 1.0),
    "fault_gap_m": (6.0, 0.0, 4.0),
    "gap_m": (6.0, 0.0, 4.0),
    "ttc_gap_m": (6.0, 0.0, 4.0),
    "ttc_beside_gap_m": (6.0, 0.0, 4.0),
    "fault_chance": (1.0, 0.5, 8.0),
    "ttc_chance": (1.0, 0.5, 8.0),
}


class Views(NamedTuple):
    """What a model sees of B scenes and P plans in each.

    Attributes:
        plans: (B, P, 8, 3).
        history: (B, 4, 7) ego history; the last row is now.
        tokens: (B, N, D) packed tokens; None for models that do not attend to them.
        relations: (B, P, 21, 16) in the order of ``RELATIONS``; None for models that do not read them.
    """

    plans: Tensor
    history: Tensor
    tokens: Tensor | None
    relations: Tensor | None

    def to(self, device: torch.device | str) -> "Views":
        """The same on another device."""
        tokens, relations = (None if part is None else part.to(device) for part in (self.tokens, self.relations))
        return Views(self.plans.to(device), self.history.to(device), tokens, relations)


class RewardWorldModel(nn.Module):
    """Predicts the learned sub-scores of plans, as logits: the sum of what its branches say."""

    def __init__(self, layout: TokenLayout, config: RewardModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = TokenBranch(layout, config) if config.tokens else None
        self.relations = RelationBranch(config.width) if config.relations else None

    def forward(self, views: Views) -> Tensor:
        """Logits (B, P, 12); see ``loss.HEADS``."""
        parts = []
        if self.tokens is not None and views.tokens is not None:
            parts.append(self.tokens(views.plans, views.history, self.tokens.decoder.scene_keys(views.tokens)))
        if self.relations is not None and views.relations is not None:
            parts.append(self.relations(views.plans, views.history, views.relations))
        return torch.stack(parts).sum(dim=0)


class TokenBranch(nn.Module):
    """Queries made from a plan attend to the scene's tokens."""

    def __init__(self, layout: TokenLayout, config: RewardModelConfig) -> None:
        super().__init__()
        width, self.queries = config.decoder.width, config.decoder.queries
        shared = FUTURE_FRAMES // self.queries * _POSE_FEATURES + _EGO_FEATURES
        self.pose = nn.Sequential(nn.Linear(shared, width), nn.GELU(), nn.Linear(width, width))
        self.place = nn.Parameter(0.02 * torch.randn(self.queries, width))
        self.decoder = SceneDecoder(config.decoder, layout)
        self.head = nn.Sequential(nn.Linear(self.queries * width, 2 * width), nn.GELU(), nn.Linear(2 * width, LOGITS))

    def forward(self, plans: Tensor, history: Tensor, keys: SceneKeys) -> Tensor:
        """Logits (B, P, 12); keys and values of a scene are shared by its plans."""
        rows, count = plans.shape[:2]
        poses, ego = plan_features(plans, history)
        grouped = poses.reshape(rows, count, self.queries, -1)
        ego = ego[:, None, None].expand(-1, count, self.queries, -1)
        queries = self.pose(torch.cat([grouped, ego], dim=-1)) + self.place
        logits: Tensor = self.head(self.decoder(queries, keys))
        return logits


class RelationBranch(nn.Module):
    """Reads how a plan relates to map and objects, step by step: each value as it is, and softly against its limit."""

    scale: Tensor
    limit: Tensor
    sharpness: Tensor
    time: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, column in (("scale", 0), ("limit", 1), ("sharpness", 2)):
            values = torch.tensor([_READ[relation][column] for relation in RELATIONS])
            self.register_buffer(name, values, persistent=False)
        self.register_buffer("time", torch.linspace(0, 1, STEPS)[:, None], persistent=False)
        count = len(RELATIONS)
        self.step = nn.Sequential(
            nn.Linear(2 * count + 1 + _EGO_FEATURES, 64), nn.GELU(), nn.Linear(64, _STEP_WIDTH), nn.GELU()
        )
        self.thin = nn.Linear(_STEP_WIDTH, _THIN)
        self.plan = nn.Sequential(nn.Linear(FUTURE_FRAMES * _POSE_FEATURES + _EGO_FEATURES, 64), nn.GELU())
        read = 4 * _STEP_WIDTH + STEPS * _THIN + 64 + 4 * count
        self.head = nn.Sequential(
            nn.Linear(read, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, LOGITS)
        )

    def forward(self, plans: Tensor, history: Tensor, relations: Tensor) -> Tensor:
        """Logits (B, P, 12)."""
        values = torch.cat(
            [relations[..., :_OFFSET], relations[..., _OFFSET : _OFFSET + 1].abs(), relations[..., _OFFSET + 1 :]], -1
        )
        poses, ego = plan_features(plans, history)
        shape = (*values.shape[:3], -1)
        soft, scaled = ((values - self.limit) * self.sharpness).sigmoid(), values / self.scale
        now = ego[:, None, None].expand(shape)
        steps = self.step(torch.cat([scaled, soft, self.time.expand(shape), now], dim=-1))
        whole = torch.cat([poses.flatten(2), ego[:, None].expand(*values.shape[:2], -1)], dim=-1)
        read = [part for each in (steps, scaled) for part in (each.amax(2), each.mean(2), each.amin(2), each[:, :, -1])]
        logits: Tensor = self.head(torch.cat([*read, self.thin(steps).flatten(2), self.plan(whole)], dim=-1))
        return logits


def plan_features(plans: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
    """Kinematics that a plan implies, each about 1 in size.

    Args:
        plans: (B, P, 8, 3).
        history: (B, 4, 7) ego history; the last row is now.

    Returns:
        (B, P, 8, 10) x, y, sin and cos of heading, forward and lateral speed, their changes, turn rate and its change
        of every pose; (B, 4) current vx, vy, ax, ay.
    """
    start = torch.zeros_like(plans[..., :1, :])
    before = torch.cat([start, plans[..., :-1, :]], dim=-2)
    step = plans - before
    middle = before[..., 2] + 0.5 * _wrapped(step[..., 2])
    forward = (step[..., 0] * middle.cos() + step[..., 1] * middle.sin()) / PLAN_INTERVAL_S
    lateral = (step[..., 1] * middle.cos() - step[..., 0] * middle.sin()) / PLAN_INTERVAL_S
    turn = _wrapped(step[..., 2]) / PLAN_INTERVAL_S
    now = history[:, None, -1]
    forward_change = _change(forward, now[..., 3]) / PLAN_INTERVAL_S
    lateral_change = _change(lateral, now[..., 4]) / PLAN_INTERVAL_S
    turn_change = _change(turn, turn[..., 0])
    features = (
        plans[..., 0] / _POSITION_M,
        plans[..., 1] / _POSITION_M,
        plans[..., 2].sin(),
        plans[..., 2].cos(),
        forward / _SPEED_MPS,
        lateral / _SPEED_MPS,
        forward_change / _ACCELERATION_MPS2,
        lateral_change / _ACCELERATION_MPS2,
        turn / _TURN_RADPS,
        turn_change / _TURN_RADPS,
    )
    scale = history.new_tensor([_SPEED_MPS, _SPEED_MPS, _ACCELERATION_MPS2, _ACCELERATION_MPS2])
    return torch.stack(features, dim=-1), history[:, -1, 3:] / scale


def predict_subscores(models: tuple[RewardWorldModel, ...], views: Views, pessimism: float = 0.0) -> Tensor:
    """Expected sub-scores (B, P, 8), in the order of ``loss.LEARNED``: the mean over the members of an ensemble.

    Args:
        pessimism: standard deviations over the members that are taken off.
    """
    parts = torch.stack([expected_subscores(model(views)) for model in models])
    if not pessimism or len(models) == 1:
        return parts.mean(dim=0)
    return (parts.mean(dim=0) - pessimism * parts.std(dim=0)).clamp_min(0)


def load_reward_model(
    folder: Location | Path, perception_hash: str, layout: TokenLayout
) -> tuple[RewardWorldModel, ...]:
    """Loads the members of a reward checkpoint, ready to score.

    Args:
        perception_hash: of the encoder whose tokens are scored.
        layout: of these tokens.

    Raises:
        CheckpointError: if the checkpoint is of another stage or was fitted to tokens of other perception weights.
    """
    checkpoint = load_checkpoint(folder, STAGE)
    found = checkpoint.provenance.inputs["perception"]
    if found != perception_hash:
        raise CheckpointError(
            f"{folder}: expected a reward model for perception {perception_hash}, found one for {found}; "
            "fit it to labels of this token bank with `irl-vla train-reward`"
        )
    config = validated(RewardModelConfig, checkpoint.config, source=str(folder))
    models = []
    for member in range(config.members):
        model = RewardWorldModel(layout, config)
        model.load_state_dict(checkpoint.state_dicts[f"member_{member}"])
        models.append(model.eval().requires_grad_(False))
    return tuple(models)


def require_enrichment(folder: Location | Path, *, force: bool) -> None:
    """Stops whoever would learn from a reward that cannot tell a policy's own plans apart.

    Args:
        folder: reward checkpoint.
        force: only warns.

    Raises:
        ConfigError: if the plans that it likes best are no better than random ones on the validation split.
    """
    quality = load_checkpoint(folder, STAGE, modules=()).provenance.extra["quality"]
    enrichment = quality.get("train_reward/val_enrichment", 0.0)
    if enrichment > 0.0:
        return
    told = (
        f"{folder}: expected a reward model whose favourites among the policy's own plans are better than random ones "
        f"on the validation split, found a gain of {enrichment:.4f}; label more layouts, fit longer, or look at what "
        "perception misses"
    )
    if not force:
        raise ConfigError(f"{told}; finetune.force=true fine-tunes all the same")
    log.warning("%s; goes on, since finetune.force is set", told)


def _wrapped(angle: Tensor) -> Tensor:
    return torch.atan2(angle.sin(), angle.cos())


def _change(values: Tensor, first: Tensor) -> Tensor:
    """Differences along the last axis of (B, P, 8), the first against ``first`` (B, 1) or (B, P)."""
    first = first.expand(values.shape[:-1])[..., None]
    return torch.diff(values, dim=-1, prepend=first)
