"""The control of fine-tuning, on the micro bank."""

import numpy as np
import pytest
import torch

from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.rl.task import TaskSpec
from irl_vla.train.control import imitate_on


def test_imitating_on_comes_closer_to_the_humans_and_keeps_the_best(spec: TaskSpec) -> None:
    bank = TokenBank.open(spec.bank)
    seen: list[float] = []

    def validate(chain: DenoisingChain) -> dict[str, float]:
        with torch.no_grad():
            keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(np.arange(len(bank)))))
            gap = chain.plans(keys)[:, 0, :, :2].numpy() - bank.human_plan[..., :2]
        seen.append(float(-np.linalg.norm(gap, axis=-1).mean()))
        return {"epdms": seen[-1]}

    def run(seed: int, average: float = 0.5) -> DenoisingChain:
        seen.clear()
        folder = imitate_on(
            spec.policy,
            spec.bank,
            spec.policy.parent / "control",
            steps=60,
            scenes=8,
            draws=4,
            learning_rate=3e-3,
            grad_norm=1.0,
            seed=seed,
            average=average,
            validate_every=20,
            validate=validate,
        )
        return load_chain(folder)

    first = run(0)
    assert len(seen) == 4
    assert max(seen) > seen[0] + 1.0
    kept = max(seen)
    assert validate(first)["epdms"] == pytest.approx(kept, abs=1e-5)
    again = run(0)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    at_once = run(0, average=0.0)  # the same training, whose last weights are kept
    assert any((a != b).any() for a, b in zip(first.planner.parameters(), at_once.planner.parameters(), strict=True))
