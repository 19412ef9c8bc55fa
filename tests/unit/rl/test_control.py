"""The control of fine-tuning, on the micro bank."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import BankRows, TokenBank, TokenBankWriter
from irl_vla.policy.vla import load_chain
from irl_vla.rl.task import TaskSpec
from irl_vla.train.control import imitate_on


def test_shifted_views_are_imitated_too(spec: TaskSpec, tmp_path: Path) -> None:
    """A bank of shifted views alone: no human, but plans to imitate."""
    bank = TokenBank.open(spec.bank)
    columns = {item.name: getattr(bank, item.name) for item in fields(BankRows)}
    views = BankRows(**columns | {"view": np.full(len(bank), "s1"), "has_human": np.zeros(len(bank), bool)})
    with TokenBankWriter(tmp_path / "bank", bank.layout, bank.perception_hash, 0, {}) as writer:
        writer.append(bank.tokens(np.arange(len(bank))), views)
    scores = iter([0.0, 1.0])
    folder = imitate_on(
        spec.policy,
        tmp_path / "bank",
        tmp_path / "control",
        steps=1,
        scenes=4,
        draws=2,
        learning_rate=1e-3,
        grad_norm=1.0,
        seed=0,
        average=0.0,
        validate_every=1,
        validate=lambda chain: {"epdms": next(scores)},
    )
    before, after = (load_chain(path).planner.parameters() for path in (spec.policy, folder))
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def test_imitating_on_comes_closer_to_the_humans_and_keeps_the_best(spec: TaskSpec) -> None:
    bank = TokenBank.open(spec.bank)
    seen: list[float] = []

    def validate(chain: DenoisingChain) -> dict[str, float]:
        with torch.no_grad():
            keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(np.arange(len(bank)))))
            gap = chain.plans(keys)[:, 0, :, :2].numpy() - bank.plan[..., :2]
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
