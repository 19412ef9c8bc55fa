import pytest

from irl_vla.judge.estimate import prepared_estimate
from irl_vla.reward.config import ProposalConfig
from irl_vla.reward.estimate import labels_estimate

CONFIG = ProposalConfig()


def test_labels_of_navtrain():
    """docs/data.md: 103,288 scenes, half of whose shifted views are bank rows."""
    found = labels_estimate(154_932, CONFIG, policy=True, generated=False)
    assert found.plans == 154_932 * 64
    assert found.core_hours == pytest.approx(1.0, abs=0.1)
    assert found.size_bytes == pytest.approx(0.33e9, rel=0.05)


def test_a_vocabulary_is_cheaper_than_a_policy():
    chains, entries = (labels_estimate(1000, CONFIG, policy=policy, generated=True) for policy in (True, False))
    assert entries.plans == chains.plans
    assert entries.size_bytes == chains.size_bytes - 1000 * 20 * (40 - 12)
    assert (
        entries.core_hours < chains.core_hours < labels_estimate(1000, CONFIG, policy=True, generated=False).core_hours
    )
    few = CONFIG.with_overrides({"policy": 0, "denoising": 0})
    assert labels_estimate(10, few, policy=True, generated=True) == labels_estimate(
        10, few, policy=False, generated=True
    )


def test_prepared_scenes_grow_with_their_views():
    once, twice = (prepared_estimate(10_000, views, generated=False) for views in (0, 1))
    assert (once.rows, twice.rows) == (10_000, 20_000)
    assert twice.size_bytes == 2 * once.size_bytes == 9_200_000_000
    assert once.core_hours == pytest.approx(200 / 3600)
    assert prepared_estimate(10, 0, generated=True).size_bytes < prepared_estimate(10, 0, generated=False).size_bytes
