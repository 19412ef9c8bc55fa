"""Right of way, car following and the expert on cases that can be checked by hand."""

from functools import lru_cache

import numpy as np
import pytest

from irl_vla.geometry import box_corners
from irl_vla.world import drivers, expert, interaction
from irl_vla.world.drive import drive, is_clean
from irl_vla.world.drivers import Scenario, SignalPlan
from irl_vla.world.frames import driving_command
from irl_vla.world.interaction import CLEARANCE, GREEN, RED, JunctionRules, JunctionTraffic, Obstacles, PathDrivers
from irl_vla.world.moments import Moment
from irl_vla.world.roads.layout import FAMILIES
from irl_vla.world.roads.network import Network
from irl_vla.world.scenarios import KINDS, possible_movements
from tests.unit.world.test_roads import make_network


@lru_cache
def network(family: str) -> Network:
    return make_network(family)


@lru_cache
def recorded(kind: str, seed: int = 1) -> tuple[Scenario, list[Moment]]:
    """A drive of a kind on the first family that can show it."""
    shown = next(found for found in map(network, FAMILIES) if possible_movements(found, kind))
    return drive(shown, kind, 28, np.random.default_rng(seed))


def straight_path(length: int = 200) -> np.ndarray:
    return np.column_stack([np.arange(length, dtype=float), np.zeros(length), np.zeros(length)])


def leaders(front_m: float, poses: np.ndarray, speeds: list[float]) -> tuple[np.ndarray, np.ndarray]:
    boxes = box_corners(poses, 4.0, 2.0)
    corners = np.concatenate([boxes, poses[:, None, :2]], axis=1)
    path = PathDrivers(straight_path()[None], np.array([200]), np.array([front_m]), np.array([1.0]))
    return interaction.find_leaders(path, Obstacles(corners, poses, np.array(speeds)), 80.0)


def test_leader_gap_is_bumper_to_bumper():
    poses = np.array([[10.0, 0.0, 0.0], [40.0, 0.0, 0.0], [60.0, 0.0, 0.0]])
    gaps, speeds = leaders(12.0, poses, [5.0, 3.0, 1.0])
    assert gaps[0] == pytest.approx(26.0)  # rear of the nearer one at 38
    assert speeds[0] == pytest.approx(3.0)


@pytest.mark.parametrize("other", [[40.0, 3.5, 0.0], [0.0, 0.0, 0.0], [150.0, 0.0, 0.0]])
def test_no_leader_beside_behind_or_out_of_sight(other):
    gaps, _ = leaders(12.0, np.array([[10.0, 0.0, 0.0], other]), [5.0, 3.0])
    assert gaps[0] == 1e6


def waits(
    to_line: list[float],
    speeds: list[float],
    lights: list[int],
    ranks: list[float],
    must_stop: tuple[bool, bool] = (False, False),
) -> list[bool]:
    """Two vehicles on two movements that cross between 5 and 10 m behind their stop lines."""
    zones = np.full((2, 2, 2), np.nan)
    zones[0, 1] = zones[1, 0] = 5.0, 10.0
    traffic = JunctionTraffic(
        np.array([0, 1]),
        np.array(to_line),
        np.array([5.0, 5.0]),
        np.array(speeds),
        np.array([8.0, 8.0]),
        np.array(ranks),
        np.array(must_stop),
    )
    rules = JunctionRules(np.array(lights), np.zeros((2, 2), dtype=bool), zones)
    return list(interaction.must_wait(traffic, rules))


def test_minor_road_gives_way():
    assert waits([10.0, 20.0], [5.0, 8.0], [GREEN, GREEN], [1.0, 3.0]) == [True, False]


def test_minor_road_goes_when_the_gap_is_long_enough():
    assert waits([3.0, 110.0], [5.0, 8.0], [GREEN, GREEN], [1.0, 3.0]) == [False, False]


def test_red_stops_and_frees_the_others():
    assert waits([20.0, 20.0], [8.0, 8.0], [RED, GREEN], [3.0, 1.0]) == [True, False]


def test_clearance_stops_only_those_who_can():
    assert waits([30.0, 90.0], [8.0, 8.0], [CLEARANCE, RED], [1.0, 1.0])[0]
    assert not waits([8.0, 90.0], [8.0, 8.0], [CLEARANCE, RED], [1.0, 1.0])[0]


def test_signal_phases():
    plan = SignalPlan(start_s=0.0, green_s=(10.0, 8.0), clearance_s=4.0)  # cycle of 26 s
    assert [plan.light(0, t) for t in (5.0, 12.0, 20.0, 27.0)] == [GREEN, CLEARANCE, RED, GREEN]
    assert [plan.light(1, t) for t in (5.0, 12.0, 15.0, 23.0)] == [RED, RED, GREEN, CLEARANCE]
    assert all(RED in (plan.light(0, t), plan.light(1, t)) for t in np.arange(0.0, 30.0, 0.1))


def test_command_follows_the_route_20_m_ahead():
    pose = np.zeros(3)
    left = np.column_stack([np.arange(40.0), np.linspace(0.0, 8.0, 40), np.zeros(40)])
    assert driving_command(left, 0.0, pose) == 0
    assert driving_command(straight_path(), 0.0, pose) == 1
    assert driving_command(left * [1, -1, 1], 0.0, pose) == 2


def test_a_stop_sign_stops_on_an_empty_road_and_gives_no_claim():
    assert waits([20.0, 200.0], [6.0, 8.0], [GREEN, GREEN], [3.0, 1.0], (True, False)) == [True, False]
    # the other one has halted: it goes, although it ranks lower
    assert waits([12.0, 1.0], [4.0, 0.0], [GREEN, GREEN], [3.0, 1.0], (True, False)) == [True, False]


def test_expert_stops_without_reversing_and_within_comfort():
    route = straight_path(300)
    style = drivers.DriverStyle(1.0, 1.5, 2.0, 1.5, 2.0, 2.0)
    driver = drivers.Driver(route, np.full(300, 10.0), 10.0, 10.0, drivers.ego_size(), style)
    state, generator = expert.initial_state(driver), np.random.default_rng(0)
    speeds, accelerations = [state.speed_mps], [state.acceleration_mps2]
    for _ in range(80):
        state = expert.step(route, state, -3.0, generator)
        speeds.append(state.speed_mps)
        accelerations.append(state.acceleration_mps2)
    assert speeds[-1] == 0.0
    assert min(speeds) == 0.0
    assert min(accelerations) > -4.05
    assert np.abs(np.diff(accelerations)[:-45]).max() / 0.1 < 4.13
    assert abs(state.y) < 0.4


def test_expert_answers_after_its_reaction_time():
    route = straight_path(300)
    style = drivers.DriverStyle(1.0, 1.5, 2.0, 1.5, 2.0, 2.0)
    driver = drivers.Driver(route, np.full(300, 10.0), 10.0, 10.0, drivers.ego_size(), style)
    state, generator = expert.initial_state(driver), np.random.default_rng(0)
    for _ in range(10):
        state = expert.step(route, state, 0.0, generator)
    after = []
    for _ in range(4):
        state = expert.step(route, state, -3.0, generator)
        after.append(state.acceleration_mps2)
    assert after[:3] == [0.0, 0.0, 0.0]
    assert after[3] < 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_expert_keeps_to_its_path_and_touches_nobody(kind):
    scenario, moments = recorded(kind)
    assert is_clean(scenario, moments)
    for moment in moments:
        ego = moment.ego
        gap = np.linalg.norm(moment.ego_path[:, :2] - ego.pose[:2], axis=1).min()
        assert gap < 0.75  # half a metre of vertex spacing, then what it wanders
        assert -4.05 < ego.acceleration_mps2 < 2.4
        assert abs(ego.lateral_acceleration_mps2) < 4.0
    assert moments[-1].ego.along_m > moments[0].ego.along_m + 10.0


def test_drives_are_a_function_of_the_generator():
    shown = network("cross_signal")
    first, second = (drive(shown, "red_light", 12, np.random.default_rng(4))[1] for _ in range(2))
    np.testing.assert_array_equal(first[-1].poses, second[-1].poses)


def test_green_and_red_are_met_from_the_same_approach():
    """The start alone must not tell the light: speeds of both kinds overlap."""
    starts = {
        kind: [drive(network("cross_signal"), kind, 12, np.random.default_rng(seed))[1][0].ego for seed in range(5)]
        for kind in ("red_light", "green_light")
    }
    speeds = {kind: sorted(ego.speed_mps for ego in egos) for kind, egos in starts.items()}
    assert speeds["red_light"][0] < speeds["green_light"][-1]
    assert speeds["green_light"][0] < speeds["red_light"][-1]
