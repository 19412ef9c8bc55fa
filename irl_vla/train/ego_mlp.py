"""The ego-status baseline: velocity, acceleration and command to a plan (NAVSIM's ``EgoStatusMLPAgent``).

It sees nothing of the world. A policy that does not beat it has learned nothing from its sensors.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from irl_vla.config import validated
from irl_vla.geometry import Floats
from irl_vla.ledger.checkpoint import Provenance, load_checkpoint, save_checkpoint
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PLAN_SIZE, PlanCodec
from irl_vla.scene import COMMAND_NAMES
from irl_vla.train.config import EgoMlpConfig

STAGE: Final = "pretrain.ego_mlp"
_STATUS_SCALE: Final = (10.0, 10.0, 3.0, 3.0)
_MODE_FLOOR: Final = 0.03


class EgoMlp(nn.Module):
    """Eight inputs: vx, vy, ax, ay in the ego frame and the command, one-hot."""

    scale: Tensor

    def __init__(self, config: EgoMlpConfig, codec: PlanCodec) -> None:
        super().__init__()
        hidden = config.hidden
        self.codec = codec
        self.register_buffer("scale", torch.tensor(_STATUS_SCALE), persistent=False)
        self.net = nn.Sequential(
            nn.Linear(len(_STATUS_SCALE) + len(COMMAND_NAMES), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, PLAN_SIZE),
        )

    def forward(self, status: Tensor, command: Tensor) -> Tensor:
        """Status (B, 4) vx, vy, ax, ay and command (B,) to plans (B, 8, 3)."""
        one_hot = functional.one_hot(command, len(COMMAND_NAMES)).to(status.dtype)
        return self.codec.decode(self.net(torch.cat([status / self.scale, one_hot], dim=-1)))


def train_ego_mlp(
    history: NDArray[np.float32],
    command: NDArray[np.int64],
    plans: NDArray[np.float32],
    config: EgoMlpConfig,
    seed: int,
) -> EgoMlp:
    """Fits the mean displacement and heading error of the human plans.

    Args:
        history: (R, 4, 7) ego histories.
        command: (R,).
        plans: (R, 8, 3) human plans.

    Raises:
        SceneError: if there are fewer than two plans or one is not finite.
    """
    codec = PlanCodec.fit(plans.astype(np.float64), _MODE_FLOOR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EgoMlp(config, codec)
    generator = torch.Generator().manual_seed(seed)
    status, target = torch.from_numpy(history[:, -1, 3:]), torch.from_numpy(plans)
    commands = torch.from_numpy(command)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for _ in range(config.steps):
        rows = torch.randint(len(plans), (config.batch_size,), generator=generator)
        planned = model(status[rows], commands[rows])
        gap = planned - target[rows]
        turn = torch.atan2(gap[..., 2].sin(), gap[..., 2].cos())
        loss = gap[..., :2].abs().mean() + turn.abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def ego_mlp_plans(model: EgoMlp, history: NDArray[np.float32], command: NDArray[np.int64]) -> Floats:
    """(R, 8, 3) plans for ego histories (R, 4, 7) and commands (R,)."""
    with torch.inference_mode():
        plans: Tensor = model(torch.from_numpy(np.asarray(history[:, -1, 3:], np.float32)), torch.from_numpy(command))
    return plans.numpy().astype(np.float64)


def save_ego_mlp(model: EgoMlp, folder: Location | Path, config: EgoMlpConfig, provenance: Provenance) -> None:
    """Writes the baseline's checkpoint."""
    save_checkpoint(folder, STAGE, {"ego_mlp": model.state_dict()}, config, provenance)


def load_ego_mlp(folder: Location | Path) -> EgoMlp:
    """Reads the baseline.

    Raises:
        CheckpointError: if it is missing or not whole.
    """
    checkpoint = load_checkpoint(folder, STAGE)
    model = EgoMlp(validated(EgoMlpConfig, checkpoint.config, source=str(folder)), PlanCodec())
    model.load_state_dict(checkpoint.state_dicts["ego_mlp"])
    return model.eval()
