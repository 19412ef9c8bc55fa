"""The whole policy: building, planning, checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch

from irl_vla.errors import CheckpointError
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.policy.batch import collate
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.planner_config import DecoderConfig, PlannerConfig, PolicyConfig
from irl_vla.policy.vla import (
    Policy,
    build_policy,
    load_chain,
    load_policy,
    perception_hash,
    save_finetuned,
    save_policy,
)
from tests.unit.policy import scenes
from tests.unit.policy.test_planner_core import human_plans

DECODER = DecoderConfig(width=16, heads=2, layers=1, feedforward=32, queries=2)
CONFIG = PolicyConfig(encoder=scenes.tiny_config(), planner=PlannerConfig(decoder=DECODER))


def policy(seed: int = 0) -> Policy:
    return build_policy(CONFIG, PlanCodec.fit(human_plans(100), 0.03), seed).eval()


def batch():
    generator = np.random.default_rng(0)
    return collate([scenes.observation(CONFIG.encoder, generator) for _ in range(2)], CONFIG.encoder)


def test_the_seed_decides_the_weights_and_nothing_else() -> None:
    state = torch.random.get_rng_state()
    assert perception_hash(policy().encoder) == perception_hash(policy().encoder)
    assert perception_hash(policy().encoder) != perception_hash(policy(1).encoder)
    torch.testing.assert_close(torch.random.get_rng_state(), state)


def test_plans_from_tokens_are_the_plans() -> None:
    model, seen = policy(), batch()
    with torch.inference_mode():
        plans = model(seen)
        assert plans.shape == (2, 8, 3)
        torch.testing.assert_close(model.plans_from(pack_tokens(model.encoder(seen))), plans)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    model, seen = policy(), batch()
    save_policy(model, tmp_path, CONFIG, Provenance(0))
    loaded, config = load_policy(tmp_path)
    assert config == CONFIG
    with torch.inference_mode():
        torch.testing.assert_close(loaded(seen), model(seen), rtol=0, atol=0)
        tokens = model.encoder(seen)
        chain = load_chain(tmp_path, perception_hash=perception_hash(model.encoder))
        keys = chain.planner.scene_keys(tokens)
        torch.testing.assert_close(chain.plans(keys)[:, 0], model(seen), rtol=0, atol=0)


def test_a_chain_may_explore_with_another_floor(tmp_path: Path) -> None:
    save_policy(policy(), tmp_path, CONFIG, Provenance(0))
    default, wider = load_chain(tmp_path), load_chain(tmp_path, 0.5)
    assert wider.sigma[1].item() == pytest.approx(5 * default.sigma[1].item())


def test_fine_tuning_changes_the_chain_alone(tmp_path: Path) -> None:
    model = policy()
    save_policy(model, tmp_path / "pretrain", CONFIG, Provenance(0))
    chain = load_chain(tmp_path / "pretrain", 0.5)
    with torch.no_grad():
        chain.planner.head[-1].bias += 1
    save_finetuned(chain, tmp_path / "pretrain", tmp_path / "finetune", Provenance(1, extra={"epdms": 0.5}))
    loaded, config = load_policy(tmp_path / "finetune")
    assert perception_hash(loaded.encoder) == perception_hash(model.encoder)
    assert config.planner.chain.sigma_floor_m == 0.5
    torch.testing.assert_close(loaded.chain.planner.head[-1].bias, chain.planner.head[-1].bias)


def test_a_bank_of_another_perception_is_refused(tmp_path: Path) -> None:
    save_policy(policy(), tmp_path, CONFIG, Provenance(0))
    with pytest.raises(CheckpointError, match="expected a policy of perception other"):
        load_chain(tmp_path, perception_hash="other")
