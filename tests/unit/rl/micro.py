"""A micro bank and policy for the tests of this folder: random tokens, real formats."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from irl_vla.epdms.config import ScorerConfig
from irl_vla.geometry import Floats
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.planner_config import PolicyConfig
from irl_vla.policy.token_bank import BankRows
from irl_vla.policy.vla import build_policy, perception_hash, save_policy, token_layout
from irl_vla.rl.config import FinetuneConfig
from irl_vla.rl.task import TaskSpec
from irl_vla.scene import SubScores
from tests.unit.policy.banks import store_bank
from tests.unit.reward.roads import write_world

ROWS = 12
CONFIG = PolicyConfig().with_overrides(
    {
        "encoder.width": 16,
        "encoder.semantic.language.layers": 1,
        "planner.decoder.width": 16,
        "planner.decoder.heads": 2,
        "planner.decoder.layers": 1,
        "planner.decoder.feedforward": 32,
        "planner.chain.sigma_floor_m": 0.5,
    }
)


def human_plans(rng: np.random.Generator, count: int) -> Floats:
    """Straight and slightly curved drives at different speeds."""
    times = 0.5 * np.arange(1, 9)
    speed, turn = rng.uniform(2, 12, count)[:, None], rng.normal(0, 0.05, count)[:, None]
    return np.stack([speed * times, 0.5 * speed * turn * times**2, turn * times], axis=-1)


def make_micro(folder: Path, config: FinetuneConfig, has_plan: np.ndarray | None = None) -> TaskSpec:
    """Writes a policy and a bank of two logs of six frames; returns a task without a reward model.

    Args:
        has_plan: (12,) bool, all by default.
    """
    rng = np.random.default_rng(0)
    plans = human_plans(rng, ROWS)
    policy = build_policy(CONFIG, PlanCodec.fit(plans, 0.03), seed=0)
    save_policy(policy, folder / "policy", CONFIG, Provenance(0))
    layout = token_layout(CONFIG.encoder)
    names = np.array([f"{index:016x}" for index in range(ROWS)])
    history = np.zeros((ROWS, 4, 7), np.float32)
    history[:, :, 3] = plans[:, :1, 0] / 0.5
    rows = BankRows(
        token=names,
        scene_token=names,
        view=np.full(ROWS, "original"),
        log_name=np.repeat(["log-a", "log-b"], ROWS // 2),
        group=np.repeat(["a", "b"], ROWS // 2),
        kind=np.full(ROWS, ""),
        timestamp_us=1_600_000_000_000_000 + 500_000 * np.arange(ROWS),
        ego_history=history,
        command=np.ones(ROWS, np.int64),
        plan=plans.astype(np.float32),
        has_plan=np.ones(ROWS, bool) if has_plan is None else has_plan,
        has_human=np.ones(ROWS, bool),
    )
    tokens = rng.normal(size=(ROWS, layout.total, layout.width)).astype(np.float32)
    store_bank(folder / "bank", layout, perception_hash(policy.encoder), tokens, rows)
    place = Location.of(folder)
    absent = place / "absent"
    return TaskSpec(place / "policy", place / "bank", absent, absent, absent, ScorerConfig(), config, seed=0)


def make_scored(folder: Path, config: FinetuneConfig) -> TaskSpec:
    """As :func:`make_micro`, with prepared scenes for the true scorer: any process can open it, nothing is replaced."""
    spec = make_micro(folder, config.with_overrides({"backend.kind": "scorer"}))
    _, store = write_world(folder / "roads", rows=ROWS)  # of the same tokens
    return replace(spec, prepared=Location.of(store))


@dataclass(frozen=True)
class SpeedBackend:
    """Rewards progress: EP falls with the distance of the plan's end from 30 m; everything else is perfect."""

    def score(self, rows: np.ndarray, plans: Floats) -> SubScores:
        values = np.ones((*plans.shape[:2], 9))
        values[..., 4] = np.exp(-np.abs(plans[:, :, -1, 0] - 30.0) / 10.0)
        return SubScores(values, np.ones(plans.shape[:2], bool))


def deterministic_end(chain: torch.nn.Module, tokens: np.ndarray) -> float:
    """Mean end distance of the deterministic plans."""
    with torch.no_grad():
        plans = chain.plans(chain.planner.scene_keys(torch.from_numpy(tokens)))
    return float(plans[:, 0, -1, 0].mean())
