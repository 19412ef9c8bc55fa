"""Plan files as a whole: every systematic fault is named by its cure, and no honest plans are, however bad."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from irl_vla.geometry import Floats, compose, relative_to
from irl_vla.judge.plan_checks import PlanFinding
from irl_vla.judge.plan_file import read_plans
from irl_vla.judge.plan_inspection import find_plan_faults
from irl_vla.judge.plan_readings import PlanSample

from .drives import driven, honest_plans, human_drives, sample_of

FILES = Path(__file__).parent / "plan_files"
CENTRE_M = 1.461


def generated() -> tuple[Floats, Floats]:
    """Human plans and velocities of generated scenes."""
    table = pq.read_table(FILES / "human.parquet")
    return np.reshape(table["plan"].to_pylist(), (-1, 8, 3)), np.array(table["velocity"].to_pylist())


def found(plans: Floats, human: Floats | None = None, velocity: Floats | None = None) -> PlanFinding:
    if velocity is None:
        human, velocity = human_drives(60)
    (finding,) = find_plan_faults(sample_of(plans, velocity, human))
    return finding


def from_now(plans: Floats) -> Floats:
    """(N, 9, 3) with the current pose."""
    return np.concatenate([np.zeros((len(plans), 1, 3)), plans], axis=1)


def every(interval_s: float) -> Callable[[Floats], Floats]:
    """Poses closer to each other: still eight."""
    at = interval_s * np.arange(1, 9) / 0.5

    def poses(plans: Floats) -> Floats:
        whole = from_now(plans)
        before = np.minimum(at.astype(int), 7)
        part = (at - before)[:, None]
        return whole[:, before] * (1 - part) + whole[:, before + 1] * part

    return poses


def every_second(plans: Floats) -> Floats:
    """A second apart, the drive going straight on after 4 s."""
    known = plans[:, 1::2]
    return np.concatenate([known, known[:, -1:] + np.arange(1, 5)[:, None] * (known[:, -1:] - known[:, -2:-1])], axis=1)


def ahead(plans: Floats, distance_m: float, origin_m: float = 0.0) -> Floats:
    return compose(plans, np.array([distance_m, 0.0, 0.0])) - [origin_m, 0.0, 0.0]


def chained(plans: Floats) -> Floats:
    return np.concatenate([plans[:, :1], relative_to(plans[:, :-1], plans[:, 1:])], axis=1)


def headings(change: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    return lambda plans: np.concatenate([plans[..., :2], change(plans[..., 2])[..., None]], axis=-1)


def late(values: Floats) -> Floats:
    return np.concatenate([np.zeros((len(values), 1)), values[:, :-1]], axis=1)


def of_steps(plans: Floats) -> Floats:
    steps = np.diff(from_now(plans), axis=1)
    return np.concatenate([plans[..., :2], np.arctan2(steps[..., 1], steps[..., 0])[..., None]], axis=-1)


def elsewhere(values: Floats) -> Floats:
    return values + np.linspace(-3, 3, len(values))[:, None]


POSITIONS: dict[str, Callable[[Floats], Floats]] = {
    "y_right": lambda p: p * [1, -1, -1],
    "x_back": lambda p: p * [-1, 1, 1],
    "turned_round": lambda p: p * [-1, -1, 1],
    "turned_right": lambda p: np.stack([-p[..., 1], p[..., 0], p[..., 2] + np.pi / 2], axis=-1),
    "turned_left": lambda p: np.stack([p[..., 1], -p[..., 0], p[..., 2]], axis=-1),
    "axes_swapped": lambda p: p[..., [1, 0, 2]],
    "current_pose": lambda p: from_now(p)[:, :-1],
    "first_pose_missing": lambda p: np.concatenate([p[:, 1:], 2 * p[:, -1:] - p[:, -2:-1]], axis=1),
    "reversed": lambda p: p[:, ::-1],
    "displacements": lambda p: np.diff(from_now(p), axis=1),
    "chained": chained,
    "interval_0.1s": every(0.1),
    "interval_0.2s": every(0.2),
    "interval_0.25s": every(0.25),
    "interval_0.375s": every(0.375),
    "interval_1s": every_second,
    "box_centre": lambda p: ahead(p, CENTRE_M),
    "box_centre_frame": lambda p: ahead(p, CENTRE_M, CENTRE_M),
    "origin": lambda p: ahead(p, 4.0),
    "far_away": lambda p: (
        p + np.stack([300 + 20 * np.arange(len(p)), -5 * np.arange(len(p)), 0 * p[:, 0, 0]], axis=-1)[:, None]
    ),
}
FACTORS = {100.0: "centimetres", 3.2808: "feet", 0.3048: "feet", 3.6: "km/h", 1 / 3.6: "km/h", 0.02: "normalised"}
HEADINGS: dict[str, Callable[[Floats], Floats]] = {
    "heading_missing": headings(lambda h: 0 * h),
    "heading_degrees": headings(np.degrees),
    "heading_sign": headings(lambda h: -h),
    "heading_from_y": headings(lambda h: h - np.pi / 2),
    "heading_to_y": headings(lambda h: h + np.pi / 2),
    "heading_compass": headings(lambda h: np.pi / 2 - h),
    "heading_back": headings(lambda h: h + np.pi),
    "heading_late": headings(late),
    "heading_early": headings(lambda h: np.concatenate([h[:, 1:], 2 * h[:, -1:] - h[:, -2:-1]], axis=1)),
    "heading_segment": of_steps,
    "heading_steps": headings(lambda h: np.diff(np.concatenate([0 * h[:, :1], h], axis=1), axis=1)),
    "heading_global": headings(elsewhere),
}


@pytest.mark.parametrize("with_human", [True, False])
@pytest.mark.parametrize("count", [8, 60])
def test_honest_plans_are_left_alone(count: int, with_human: bool) -> None:
    for human, velocity in (generated(), human_drives(60)):
        for seed in range(3):
            chosen = np.random.default_rng(seed).choice(len(human), min(count, len(human)), replace=False)
            drives, speeds = human[chosen], velocity[chosen]
            for name, plans in honest_plans(drives, speeds, seed):
                assert find_plan_faults(sample_of(plans, speeds, drives if with_human else None)) == [], name


@pytest.mark.parametrize("side", [-1, 1])
def test_plans_that_all_turn_to_one_side_are_left_alone(side: int) -> None:
    rng = np.random.default_rng(0)
    speed = rng.uniform(4, 10, 30)
    human = driven(speed, rng.normal(0, 0.5, 30), side * rng.uniform(0.01, 0.06, 30))
    velocity = np.stack([speed, 0 * speed], axis=-1)
    for noise in (0.0, 0.3):
        plans = human + rng.normal(size=human.shape) * [noise, noise, noise / 20]
        assert find_plan_faults(sample_of(plans, velocity, human)) == []


@pytest.mark.parametrize("code", [*POSITIONS, *HEADINGS])
def test_faults_are_named_by_their_cure(code: str) -> None:
    fault = (POSITIONS | HEADINGS)[code]
    for human, velocity in (generated(), human_drives(60)):
        finding = found(fault(human), human, velocity)
        assert finding.code == code
        assert finding.share > 0.9
        assert finding.message.endswith("?") or "expected" in finding.message


@pytest.mark.parametrize("code", [code for code in POSITIONS if code not in ("far_away", "box_centre_frame")])
def test_faults_of_plans_that_miss_a_little_are_named_too(code: str) -> None:
    human, velocity = human_drives(60)
    drift = np.cumsum(np.random.default_rng(1).normal(0, 0.05, (60, 8, 1)), axis=1) * [1, 1, 0]
    assert found(POSITIONS[code](human + drift), human, velocity).code == code


@pytest.mark.parametrize(("factor", "word"), FACTORS.items())
def test_factors_are_named_by_the_unit(factor: float, word: str) -> None:
    human, velocity = human_drives(60)
    finding = found(human * [factor, factor, 1], human, velocity)
    assert finding.code == "factor"
    assert word in finding.message
    assert finding.message.startswith(f"divided by {factor:.3g} these plans lie 0.0 m")


WITHOUT_HUMAN = {
    **{code: code for code in POSITIONS if code not in ("y_right", "interval_0.375s", "box_centre_frame")},
    "axes_swapped": "turned_right",
    "turned_round": "x_back",
    "chained": "displacements",
}


@pytest.mark.parametrize(("made", "code"), WITHOUT_HUMAN.items())
def test_the_ego_tells_where_no_human_is_known(made: str, code: str) -> None:
    """Which of two mirror images is meant only a human who turns could tell."""
    _, velocity = human_drives(60)
    straight = driven(velocity[:, 0], np.zeros(60), np.zeros(60))
    assert found(POSITIONS[made](straight), None, velocity).code == code


@pytest.mark.parametrize("code", HEADINGS)
def test_headings_need_no_human(code: str) -> None:
    human, velocity = human_drives(60)
    assert found(HEADINGS[code](human), None, velocity).code == code


def test_the_figures_can_be_worked_out_by_hand() -> None:
    speed = np.linspace(6.0, 9.0, 11)
    velocity = np.stack([speed, 0 * speed], axis=-1)
    human = driven(speed, 0 * speed, np.where(np.arange(11) % 2, 0.03, -0.03))
    finding = found(human * [1, -1, -1], human, velocity)
    beside = 2 * np.mean((1 - np.cos(0.03 * 7.5 * 0.5 * np.arange(1, 9))) / 0.03)  # of the middle speed
    assert finding.numbers == {"after_m": 0.0, "before_m": pytest.approx(beside)}
    assert finding.share == 1.0
    assert f"as given {beside:.1f} m (11 of 11 plans" in finding.message
    early = found(from_now(driven(speed, 0 * speed, 0 * speed))[:, :-1], None, velocity)
    assert early.numbers["before_percent"] == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3)
    assert early.numbers["after_percent"] == 0.0
    away = found(POSITIONS["far_away"](human), human, velocity)
    assert away.numbers["expected_m"] == 3.75


def test_a_few_faulty_plans_are_no_fault_of_the_file() -> None:
    human, velocity = human_drives(60)
    plans = np.concatenate([human[:25] * [1, -1, -1], human[25:]])
    assert find_plan_faults(sample_of(plans, velocity, human)) == []
    assert find_plan_faults(sample_of(human[:3] * [-1, 1, 1], velocity[:3], human[:3])) == []


CASES = {
    "y_right": (
        "mirrored at the x axis these plans lie 0.0 m from the human's, as given 4.1 m",
        "is y to the right?",
    ),
    "offbyone": (
        "taken half a second earlier these plans lie 0.0 m",
        "50 of 50 plans",
        "is the current pose in the plan?",
    ),
    "heading0": ("the heading is 0 in", "turn by up to", "are the headings missing?"),
}


@pytest.mark.parametrize("name", CASES)
def test_files_that_people_sent(name: str) -> None:
    tokens = pq.read_table(FILES / "human.parquet")["token"].to_pylist()
    plans = read_plans(FILES / f"{name}.parquet")
    human, velocity = generated()
    given = np.stack([plans[token] for token in tokens])
    finding = found(given, human, velocity)
    for words in CASES[name]:
        assert words in finding.message
    assert find_plan_faults(PlanSample(human, velocity, human, np.full(len(human), True))) == []
