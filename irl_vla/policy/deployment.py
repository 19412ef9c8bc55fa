"""A trained policy at the wheel: the sensors that it takes, and one observation to one plan."""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from irl_vla.dataset.config import SensorConfig
from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats
from irl_vla.ledger.files import MANIFEST_NAME
from irl_vla.policy.batch import collate
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.vla import Policy
from irl_vla.scene import Observation

#: Checkpoints below the folder of a training seed that can drive; the first that is there does.
_BEST_FIRST: Final = ("finetune/checkpoint", "pretrain/policy")


def sensor_config(encoder: EncoderConfig, allow_missing: bool) -> SensorConfig:
    """The sensors that an encoder takes, at its sizes."""
    return SensorConfig(
        cameras=encoder.cameras.names,
        image_height_px=encoder.cameras.height_px,
        image_width_px=encoder.cameras.width_px,
        lidar_history=encoder.lidar.sweep_indices,
        allow_missing=allow_missing,
    )


def plan_of(policy: Policy, observation: Observation) -> Floats:
    """(8, 3) the policy's deterministic plan in the ego frame, computed where its weights are.

    Raises:
        ConfigError, SceneError: if the observation is not what the policy was built for, naming its token.
    """
    batch = collate([observation], policy.encoder.config)
    with torch.inference_mode():
        plans = policy(batch.to(next(policy.parameters()).device))
    plan: Floats = plans[0].cpu().numpy().astype(np.float64)
    return plan


def checkpoint_folder(path: Path) -> Path:
    """The checkpoint that a path stands for: itself, the best of a seed's folder, or that of an only seed.

    Raises:
        CheckpointError: if there is none, or an experiment has several seeds.
    """
    for folder in (path, *(path / name for name in _BEST_FIRST)):
        if (folder / MANIFEST_NAME).is_file():
            return folder
    seeds = sorted(path.glob("seed-*"))
    if len(seeds) == 1:
        return checkpoint_folder(seeds[0])
    if seeds:
        names = ", ".join(seed.name for seed in seeds)
        raise CheckpointError(f"{path}: expected one training seed, found {names}; name the folder of one")
    raise CheckpointError(
        f"{path}: expected a policy's checkpoint, or the folder of a seed with {' or '.join(_BEST_FIRST)}, found "
        f"{'no such folder' if not path.is_dir() else 'neither'}; run `irl-vla pretrain` or correct the path"
    )
