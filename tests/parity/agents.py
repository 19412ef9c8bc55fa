"""A submission and an untrained agent for the devkit, and the plans that it must find in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irl_vla.dataset.features import build_observation
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.navsim.agent import CONFIG_PATH, NAME
from irl_vla.navsim.submission import write_submission
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.config import sensor_config
from irl_vla.policy.deployment import plan_of
from irl_vla.policy.vla import build_policy, load_policy, save_policy
from tests.unit.navsim.files import HEADER
from tests.unit.policy.test_planner_core import human_plans
from tests.unit.policy.test_vla import CONFIG

_SPLIT = "test"


def agent_request(dataset: Dataset, checkouts: Sequence[Path], folder: Path) -> dict[str, Any]:
    """What the devkit's child is asked to do; writes the submission and the checkpoint into ``folder``."""
    plans = {scene.token: scene.human_plan() for scene in iter_scenes(dataset, _SPLIT)}
    write_submission(folder / "submission.pkl", HEADER, plans, two_stage=False)
    policy = build_policy(CONFIG, PlanCodec.fit(human_plans(100), 0.03), seed=0)
    save_policy(policy, folder / "checkpoint", CONFIG, Provenance(0))
    return {
        "checkouts": [str(path) for path in checkouts],
        "submission": str(folder / "submission.pkl"),
        "settings": str(CONFIG_PATH),
        "checkpoint": str(folder / "checkpoint"),
        "file": str(dataset.splits_root / f"{_SPLIT}.yaml"),
        "logs": str(dataset.log_folder(_SPLIT)),
    }


def agent_answer(dataset: Dataset, request: dict[str, Any]) -> dict[str, Any]:
    """The same by this project's own pipeline."""
    policy, config = load_policy(Path(request["checkpoint"]))
    sensors = sensor_config(config.encoder, allow_missing=True)
    submitted, driven = {}, {}
    for scene in iter_scenes(dataset, _SPLIT):
        submitted[scene.token] = scene.human_plan().astype(np.float32).tolist()
        driven[scene.token] = plan_of(policy, build_observation(scene, dataset, sensors)).tolist()
    return {"submitted": submitted, "driven": {"name": NAME, "plans": driven}}
