import numpy as np
import pytest

from irl_vla.judge.intervals import group_bootstrap


def test_copies_of_frames_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=30)
    groups = [f"g{i}" for i in range(30)]
    once = group_bootstrap(values, groups, np.random.default_rng(1))
    copied = group_bootstrap(np.repeat(values, 10), np.repeat(groups, 10).tolist(), np.random.default_rng(1))
    assert copied == pytest.approx(once)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        values = np.repeat(rng.normal(size=40), 3) + 0.1 * rng.normal(size=120)
        interval = group_bootstrap(values, np.repeat(np.arange(40), 3).astype(str).tolist(), rng, samples=300)
        hits += interval.low <= 0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_seeds_widen_the_interval() -> None:
    groups = [str(i) for i in range(50)]
    noise = np.random.default_rng(3).normal(size=50)
    alone = group_bootstrap(noise, groups, np.random.default_rng(0))
    seeds = np.stack([noise - 1, noise, noise + 1])
    spread = group_bootstrap(seeds, groups, np.random.default_rng(0))
    assert spread.mean == pytest.approx(alone.mean)
    assert spread.high - spread.low > 1.5 * (alone.high - alone.low)


def test_one_group_gives_no_interval() -> None:
    with pytest.raises(ValueError, match="at least two groups"):
        group_bootstrap(np.ones(3), ["a", "a", "a"], np.random.default_rng(0))
