"""Validation scores a policy beside imitation's slowed plans, which are scored once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.judge import validation
from irl_vla.judge.slowed import STRENGTHS, slowed
from irl_vla.judge.validation import ValidationSpec, open_validator
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank
from tests.unit.reward.roads import write_world


@pytest.fixture
def validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Validates plans by token instead of a policy; imitation keeps its speed and hits what is parked."""
    bank, store = write_world(tmp_path)
    opened = TokenBank.open(bank)
    speeds = opened.ego_history[:, -1, 3].astype(np.float64)
    imitated = {str(token): straight(speed) for token, speed in zip(opened.token, speeds, strict=True)}
    monkeypatch.setattr(validation, "load_chain", lambda place, perception_hash: imitated)
    monkeypatch.setattr(validation, "bank_plans", lambda chain, bank: chain)
    monkeypatch.setattr(validation, "make_backend", lambda *arguments, **named: None)
    monkeypatch.setattr(validation, "mean_rewards", lambda *arguments: (0.5, 0.4))
    absent = Location.of(tmp_path / "absent")
    spec = ValidationSpec(absent, Location.of(bank), Location.of(store), absent, ScorerConfig())
    return open_validator(spec), imitated


def straight(speed_mps: float) -> np.ndarray:
    plan = np.zeros((8, 3))
    plan[:, 0] = 0.5 * speed_mps * np.arange(1, 9)
    return plan


def test_imitation_and_its_slowed_plans_gain_nothing(validate: Any) -> None:
    score, imitated = validate
    found = score(imitated)
    assert found["equal_progress"] == 0.0
    assert found["gap"] == pytest.approx(0.1)
    for strength in STRENGTHS.values():
        slower = score({token: slowed(plan, strength) for token, plan in imitated.items()})
        assert slower["ep"] < found["ep"]
        assert slower["equal_progress"] == pytest.approx(0.0, abs=1e-12)


def test_faster_than_imitation_is_compared_with_imitation(validate: Any) -> None:
    score, imitated = validate
    start, faster = (score({token: plan * pace for token, plan in imitated.items()}) for pace in (1.0, 1.05))
    assert faster["ep"] > start["ep"]
    assert faster["equal_progress"] == pytest.approx(faster["epdms"] - start["epdms"])
