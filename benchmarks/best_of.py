"""Claim: at batch 1, driving the best of 16 plans takes less than twice the time of the deterministic one.

Run: OMP_NUM_THREADS=1 python -m benchmarks.best_of
Prints processor time of a moment on one core, in milliseconds, policy and reward at default sizes with random weights:
perception, the deterministic plan, N sampled plans beside it, what perception says in metres, rollouts and their
relations to it, the reward by three members, and computed comfort; then the whole moment, and its ratio to the
deterministic one. Every object that is seen counts as there, near or far.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from irl_vla.geometry import Floats
from irl_vla.policy.batch import ObservationBatch, observation_batch, stacked
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.encoder import Perception, SceneEncoder, sight_columns
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.planner_config import PolicyConfig
from irl_vla.policy.sample_layout import sample_layout
from irl_vla.policy.sight import Sight, read_sight, sight_layout
from irl_vla.policy.vla import build_policy, token_layout
from irl_vla.reward.candidates import candidate_noise
from irl_vla.reward.comfort import history_comforts, scene_rollouts
from irl_vla.reward.config import CandidateConfig, RewardModelConfig
from irl_vla.reward.model import RewardWorldModel, Views, predict_subscores
from irl_vla.reward.proposals import constant_manoeuvre
from irl_vla.reward.views import relations_of

MEMBERS, REPEATS = 3, 30
TIME_US = np.array([1_620_000_000_000_000])


def blank(config: PolicyConfig) -> ObservationBatch:
    """One black observation, standing still."""
    layout = sample_layout(config.encoder)
    sample = {name: np.zeros(shape, kind) for name, (shape, kind) in layout.items()}
    sample["instruction_mask"][:] = True
    return observation_batch(stacked([sample]))


def fastest_ms(call: Callable[[], object]) -> float:
    """The least processor time of a call: what others do on the machine only adds to it."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def sight_of(encoder: SceneEncoder, perception: Perception) -> Sight:
    """What a policy says in metres. One that was never trained doubts all objects; here each counts as there."""
    columns = sight_columns(encoder, perception)
    columns["object_scores"] = np.maximum(columns["object_scores"], 0.5)
    return read_sight(columns, sight_layout(encoder.config))


def reward_parts(
    models: tuple[RewardWorldModel, ...], sight: Sight, batch: ObservationBatch, tokens: Tensor, plans: Tensor
) -> dict[str, Callable[[], object]]:
    """What the learned reward does with plans (1, P, 8, 3), one after the other."""
    poses: Floats = plans.numpy().astype(np.float64)
    history = batch.history.numpy().astype(np.float64)
    rollouts = scene_rollouts(history, poses, TIME_US)
    views = Views(plans, batch.history, tokens, relations_of(sight, rollouts))
    return {
        "rollouts": lambda: scene_rollouts(history, poses, TIME_US),
        "relations": lambda: relations_of(sight, rollouts),
        "reward": lambda: predict_subscores(models, views),
        "comfort": lambda: history_comforts(history, rollouts),
    }


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    config = PolicyConfig()
    generator = np.random.default_rng(0)
    human = constant_manoeuvre(*(generator.uniform(*ends, 200) for ends in ((1, 12), (-3, 2), (-0.05, 0.05))))
    policy, batch = build_policy(config, PlanCodec.fit(human, 0.03), seed=0).eval(), blank(config)
    models = tuple(RewardWorldModel(token_layout(config.encoder), RewardModelConfig()).eval() for _ in range(MEMBERS))
    chain, encoder, perception = policy.chain, policy.encoder, policy.encoder.perceive(batch)
    tokens, sight = pack_tokens(perception.tokens), sight_of(encoder, perception)
    seeing = fastest_ms(lambda: encoder.perceive(batch))
    planning = fastest_ms(lambda: chain.plans(chain.planner.scene_keys(tokens)))
    print(f"perception {seeing:.1f} ms, deterministic plan {planning:.1f} ms")
    for samples in (4, 16, 64):
        noise = candidate_noise(chain, CandidateConfig(samples=samples))
        plans = chain.candidates(chain.planner.scene_keys(tokens), noise)
        parts = {
            "plans": lambda noise=noise: chain.candidates(chain.planner.scene_keys(tokens), noise),
            "sight": lambda: sight_of(encoder, perception),
            **reward_parts(models, sight, batch, tokens, plans),
        }
        found = {name: fastest_ms(call) for name, call in parts.items()}
        whole = seeing + sum(found.values())
        shown = ", ".join(f"{name} {value:.1f} ms" for name, value in found.items())
        print(f"best of {samples}: {shown}; whole {whole:.1f} ms, {whole / (seeing + planning):.2f} x deterministic")


if __name__ == "__main__":
    main()
