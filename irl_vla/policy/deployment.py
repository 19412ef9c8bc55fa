"""A trained policy at the wheel: one observation to one plan."""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.checkpoint import KIND
from irl_vla.ledger.storage import Location
from irl_vla.policy.batch import collate
from irl_vla.policy.vla import Policy
from irl_vla.scene import Observation

#: Checkpoints below the folder of a training seed that can drive; the first that is there does.
_BEST_FIRST: Final = ("finetune/checkpoint", "pretrain/policy")


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


def checkpoint_folder(place: Location | Path) -> Location:
    """The checkpoint that a place stands for: itself, the best of a seed's folder, or that of an only seed.

    Raises:
        CheckpointError: if there is none, or an experiment has several seeds.
    """
    root = Location.of(place)
    for folder in (root, *(root / name for name in _BEST_FIRST)):
        record = find_record(folder)
        if record is not None and record.identity.kind == KIND:
            return folder
    seeds = [name for name in root.children() if name.startswith("seed-")]
    if len(seeds) == 1:
        return checkpoint_folder(root / seeds[0])
    if seeds:
        raise CheckpointError(f"{root}: expected one training seed, found {', '.join(seeds)}; name the folder of one")
    raise CheckpointError(
        f"{root}: expected a policy's checkpoint, or the folder of a seed with {' or '.join(_BEST_FIRST)}, found "
        f"{'neither' if root.exists() else 'no such folder'}; run `irl-vla pretrain` or correct the path"
    )
