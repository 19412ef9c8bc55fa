"""Sampling of denoising chains: whole chains at once against the vector environment, step by step.

Run: python benchmarks/chain_sampling.py [--scenes 48] [--chains 8] [--rounds 5]
Uses a bank of random tokens at demo size and a reward that costs nothing, so it measures sampling alone.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from irl_vla.epdms.config import ScorerConfig
from irl_vla.geometry import Floats
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.planner_config import PolicyConfig
from irl_vla.policy.token_bank import BankRows, Encoded, bank_artefact, finish_bank, write_bank_shard
from irl_vla.policy.vla import build_policy, perception_hash, save_policy, token_layout
from irl_vla.rl import task
from irl_vla.rl.config import FinetuneConfig
from irl_vla.rl.env import DenoisingVectorEnv, action_space, observation_space
from irl_vla.rl.module import ChainModule
from irl_vla.rl.sampler import sample_chains
from irl_vla.rl.task import ChainTask, TaskSpec, open_task
from irl_vla.scene import SubScores

ROWS = 400


@dataclass(frozen=True)
class FreeBackend:
    """Pays every plan the same at once."""

    def score(self, rows: np.ndarray, plans: Floats) -> SubScores:
        return SubScores(np.ones((*plans.shape[:2], 9)), np.ones(plans.shape[:2], bool))


def make_task(folder: Path, config: FinetuneConfig) -> tuple[TaskSpec, ChainTask]:
    rng = np.random.default_rng(0)
    plans = np.cumsum(rng.uniform(0.5, 4, (ROWS, 8, 1)) * np.array([1.0, 0.05, 0.01]), axis=1)
    policy_config = PolicyConfig()
    policy = build_policy(policy_config, PlanCodec.fit(plans, 0.03), seed=0)
    save_policy(policy, folder / "policy", policy_config, Provenance(0))
    layout = token_layout(policy_config.encoder)
    names = np.array([f"{index:016x}" for index in range(ROWS)])
    rows = BankRows(
        token=names,
        scene_token=names,
        view=np.full(ROWS, "original"),
        log_name=np.full(ROWS, "log"),
        group=np.full(ROWS, "group"),
        kind=np.full(ROWS, ""),
        timestamp_us=500_000 * np.arange(ROWS),
        ego_history=np.zeros((ROWS, 4, 7), np.float32),
        command=np.ones(ROWS, np.int64),
        plan=plans.astype(np.float32),
        has_plan=np.ones(ROWS, bool),
        has_human=np.ones(ROWS, bool),
    )
    bank = bank_artefact(Location.of(folder / "bank"), layout, perception_hash(policy.encoder), "random")
    tokens = rng.normal(size=(ROWS, layout.total, layout.width)).astype(np.float32)
    unseen = {name: np.zeros((ROWS, *shape), kind) for name, (shape, kind) in layout.sight.stored.items()}
    finish_bank(bank, {"log": write_bank_shard(bank, "log", layout, [Encoded(tokens, rows, unseen)])})
    spec = TaskSpec(folder / "policy", folder / "bank", folder, folder, folder, ScorerConfig(), config, seed=0)
    task.make_backend = lambda *args, **kwargs: FreeBackend()
    return spec, replace(open_task(spec), pair=False)


def step_by_step(env: DenoisingVectorEnv, module: ChainModule) -> None:
    observations, _ = env.reset()
    for _ in range(env.task.steps):
        batch = {Columns.OBS: {name: torch.from_numpy(value) for name, value in observations.items()}}
        with torch.inference_mode():
            actions = module.forward_exploration(batch)[Columns.ACTIONS]
        observations, *_ = env.step(actions.numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = FinetuneConfig(scenes_per_iteration=options.scenes, chains_per_scene=options.chains, pair_frames=False)
    with tempfile.TemporaryDirectory() as name:
        spec, chains = make_task(Path(name), config)
        module = ChainModule(
            observation_space=observation_space(chains),
            action_space=action_space(chains),
            inference_only=True,
            model_config={
                "policy": str(spec.policy),
                "bank": str(spec.bank),
                "sigma_floor_m": None,
                "behaviour_cloning": 0.0,
                "seed": 0,
            },
        )
        env = DenoisingVectorEnv(chains)
        steps = chains.chain_count * chains.steps * options.rounds
        figures = {}
        for label, run in (
            ("whole chains", lambda index: sample_chains(chains, module, index)),
            ("vector environment", lambda index: step_by_step(env, module)),
        ):
            run(0)
            start = time.perf_counter()
            for index in range(options.rounds):
                run(index)
            figures[label] = steps / (time.perf_counter() - start)
            print(f"{label:20s} {figures[label]:10.0f} denoising steps/s")
    print(f"ratio {figures['whole chains'] / figures['vector environment']:.2f} (baseline: vector environment)")


if __name__ == "__main__":
    main()
