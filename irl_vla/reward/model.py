"""The reward world model: (scene tokens, plan) -> sub-scores.

The same kind of decoder as the planner's, with its own weights, over the same frozen tokens: queries made from a plan
attend to meta, BEV, map, object and ego tokens. What a scene contributes (its keys and values) is computed once and
shared by all of its plans.
"""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from irl_vla.config import validated
from irl_vla.errors import CheckpointError
from irl_vla.ledger.checkpoint import load_checkpoint
from irl_vla.ledger.storage import Location
from irl_vla.policy.planner import SceneDecoder, SceneKeys
from irl_vla.policy.token_bank import TokenLayout
from irl_vla.reward.config import RewardModelConfig
from irl_vla.reward.loss import LOGITS, expected_subscores
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S

STAGE: Final = "reward"
#: Scales that bring plan features to about 1: metres, m/s, m/s^2, rad/s.
_POSITION_M: Final = 20.0
_SPEED_MPS: Final = 10.0
_ACCELERATION_MPS2: Final = 3.0
_TURN_RADPS: Final = 0.5
_POSE_FEATURES: Final = 10
_EGO_FEATURES: Final = 4


class RewardWorldModel(nn.Module):
    """Predicts the learned sub-scores of plans, as logits."""

    def __init__(self, layout: TokenLayout, config: RewardModelConfig) -> None:
        super().__init__()
        self.config = config
        width, queries = config.decoder.width, config.decoder.queries
        shared = FUTURE_FRAMES // queries * _POSE_FEATURES + _EGO_FEATURES
        self.pose = nn.Sequential(nn.Linear(shared, width), nn.GELU(), nn.Linear(width, width))
        self.place = nn.Parameter(0.02 * torch.randn(queries, width))
        self.decoder = SceneDecoder(config.decoder, layout)
        self.head = nn.Sequential(nn.Linear(queries * width, 2 * width), nn.GELU(), nn.Linear(2 * width, LOGITS))

    def scene_keys(self, tokens: Tensor) -> SceneKeys:
        """Keys and values of scenes from packed tokens (B, N, D): once a scene, for any number of plans."""
        return self.decoder.scene_keys(tokens)

    def forward(self, plans: Tensor, history: Tensor, keys: SceneKeys) -> Tensor:
        """Logits (B, P, 12) of plans (B, P, 8, 3), given ego histories (B, 4, 7); see ``loss.HEADS``."""
        rows, count = plans.shape[:2]
        poses, ego = plan_features(plans, history)
        grouped = poses.reshape(rows, count, self.config.decoder.queries, -1)
        ego = ego[:, None, None].expand(-1, count, self.config.decoder.queries, -1)
        queries = self.pose(torch.cat([grouped, ego], dim=-1)) + self.place
        logits: Tensor = self.head(self.decoder(queries, keys))
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


def predict_subscores(models: tuple[RewardWorldModel, ...], tokens: Tensor, plans: Tensor, history: Tensor) -> Tensor:
    """Expected sub-scores (B, P, 8), in the order of ``loss.LEARNED``: the mean over the members of an ensemble."""
    parts = [expected_subscores(model(plans, history, model.scene_keys(tokens))) for model in models]
    return torch.stack(parts).mean(dim=0)


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


def _wrapped(angle: Tensor) -> Tensor:
    return torch.atan2(angle.sin(), angle.cos())


def _change(values: Tensor, first: Tensor) -> Tensor:
    """Differences along the last axis of (B, P, 8), the first against ``first`` (B, 1) or (B, P)."""
    first = first.expand(values.shape[:-1])[..., None]
    return torch.diff(values, dim=-1, prepend=first)
