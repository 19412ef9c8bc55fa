"""The pictures of the generated world, and the arithmetic of the script that compares it with real plans."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from irl_vla.reward.proposals import constant_manoeuvre
from irl_vla.world.scenarios import KINDS

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs/pictures"


@pytest.fixture(scope="module")
def statistics() -> ModuleType:
    spec = importlib.util.spec_from_file_location("world_statistics", ROOT / "benchmarks/world_statistics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_scenario_kind_is_shown_once_and_nothing_else():
    shown = re.findall(r"\(pictures/(\w+)\.jpg\)", (ROOT / "docs/data.md").read_text())
    assert sorted(shown) == sorted(KINDS)
    assert {path.stem for path in PICTURES.iterdir()} == set(KINDS)


def test_pictures_stay_small():
    sizes = [path.stat().st_size for path in PICTURES.iterdir()]
    assert max(sizes) <= 60_000
    assert sum(sizes) <= 2_500_000


def test_nearest_plan_is_measured_by_mean_displacement(statistics: ModuleType):
    plan = constant_manoeuvre(np.array([5.0]), np.zeros(1), np.zeros(1))
    beside = plan + np.array([3.0, 4.0, 1.0])  # headings do not count
    assert statistics.nearest_m(plan, beside) == pytest.approx([5.0])
    assert statistics.nearest_m(plan, np.concatenate([beside, plan])) == pytest.approx([0.0])


def test_manoeuvres_are_told_apart(statistics: ModuleType):
    # standing, 10 m/s straight on, from standing with 1.5 m/s2, from 8 m/s to a stop with 4 m/s2, a sharp turn at 4 m/s
    plans = constant_manoeuvre(
        np.array([0.0, 10.0, 0.0, 8.0, 4.0]), np.array([0.0, 0.0, 1.5, -4.0, 0.0]), np.array([0.0, 0.0, 0.0, 0.0, 0.1])
    )
    groups = {name: members.tolist() for name, members in statistics.manoeuvres(plans).items()}
    assert groups["hardly moving, below 2 m"] == [True, False, False, False, False]
    assert groups["from standing"] == [False, False, True, False, False]
    assert groups["to a stop"] == [False, False, False, True, False]
    assert groups["speeding up, above 1 m/s2"] == [False, False, True, False, False]
    assert groups["braking, above 1 m/s2"] == [False, False, False, True, False]
    assert groups["sharp, above 75 degrees"] == [False, False, False, False, True]


def test_centres_of_few_plans_are_the_plans(statistics: ModuleType):
    plans = constant_manoeuvre(np.array([2.0, 6.0, 12.0]), np.zeros(3), np.array([0.05, 0.0, -0.01]))
    centres = statistics.centres_of(np.repeat(plans, 4, axis=0), 3, np.random.default_rng(0))
    assert np.sort(statistics.nearest_m(plans, centres)) == pytest.approx(np.zeros(3), abs=1e-5)
    assert np.ptp(centres[..., 2]) == pytest.approx(np.ptp(plans[..., 2]))
