"""What chains run on, opened once per process from paths that travel to workers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.epdms.config import ScorerConfig
from irl_vla.geometry import Floats
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PLAN_SIZE
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.reward.backends import RewardBackend, make_backend
from irl_vla.reward.config import RewardWeights
from irl_vla.rl.config import FinetuneConfig
from irl_vla.scene import FUTURE_FRAMES


@dataclass(frozen=True)
class TaskSpec:
    """Places and settings of fine-tuning; small, hashable and picklable.

    Attributes:
        policy: checkpoint of the imitation stage.
        bank: token bank of the training split.
        reward: checkpoint of the reward stage.
        labels: label set, for the "vocabulary" backend.
        prepared: prepared scenes, for the "scorer" backend.
        scorer: how that backend scores.
        actors: names of the running scorer actors that score for it; without any, every process scores by itself.
    """

    policy: Location
    bank: Location
    reward: Location
    labels: Location
    prepared: Location
    scorer: ScorerConfig
    config: FinetuneConfig
    seed: int
    actors: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ChainTask:
    """The opened pieces.

    Attributes:
        decode: (B, size) whitened plans to (B, 8, 3).
        steps: K.
        size: length of a whitened plan.
        scenes: S, scenes of an iteration.
        parts: equal slices of them that are sampled apart, one by each env runner.
        chains: G, chains of a scene.
        pair: True adds the predecessor of every frame.
    """

    bank: TokenBank
    backend: RewardBackend
    decode: Callable[[NDArray[np.float32]], Floats]
    steps: int
    size: int
    scenes: int
    parts: int
    chains: int
    pair: bool
    weights: RewardWeights
    seed: int

    def plans(self, codes: NDArray[np.float32]) -> Floats:
        """Plans (..., 8, 3) of whitened plans (..., size)."""
        return self.decode(codes.reshape(-1, self.size)).reshape(*codes.shape[:-1], FUTURE_FRAMES, 3)

    @property
    def chain_count(self) -> int:
        """Chains of one part, which run side by side."""
        return self.scenes // self.parts * self.chains * (2 if self.pair else 1)


@lru_cache(maxsize=2)
def open_task(spec: TaskSpec) -> ChainTask:
    """Opens what a spec names, once per process.

    Raises:
        CheckpointError: if policy, bank and reward model do not belong together.
    """
    config = spec.config
    bank = TokenBank.open(spec.bank)
    chain = load_chain(spec.policy, perception_hash=bank.perception_hash, sigma_floor_m=config.sigma_floor_m)
    backend = make_backend(
        config.backend,
        spec.bank,
        model=spec.reward,
        store=spec.prepared,
        labels=spec.labels,
        scorer=spec.scorer,
        actors=spec.actors,
    )

    def decode(codes: NDArray[np.float32]) -> Floats:
        plans: Floats = chain.codec.decode(torch.from_numpy(codes)).numpy().astype(np.float64)
        return plans

    return ChainTask(
        bank=bank,
        backend=backend,
        decode=decode,
        steps=chain.steps,
        size=PLAN_SIZE,
        scenes=config.scenes_per_iteration,
        parts=max(1, config.env_runners),
        chains=config.chains_per_scene,
        pair=config.pair_frames,
        weights=config.weights,
        seed=spec.seed,
    )
