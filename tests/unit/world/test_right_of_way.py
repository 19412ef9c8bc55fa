"""Who goes first: gaps at junctions, merging, all-way stops, people who cross."""

import numpy as np
import pytest

from irl_vla.world import drivers, interaction
from irl_vla.world.clock import STEP_S
from irl_vla.world.drivers import Driver, DriverStyle, Scenario, Walker
from irl_vla.world.interaction import FAR_M, GREEN, RED, JunctionRules, JunctionTraffic
from irl_vla.world.roads.network import make_route
from irl_vla.world.tracks import crossing
from irl_vla.world.walkers import walk, yield_gaps
from tests.unit.world.test_traffic import network, straight_path

STYLE = DriverStyle(1.0, 1.5, 2.0, 1.5, 2.0, 2.0)


def waits(
    to_line: tuple[float, float],
    speeds: tuple[float, float],
    ranks: tuple[float, float],
    *,
    merging: bool = False,
    lights: tuple[int, int] = (GREEN, GREEN),
) -> bool:
    """Whether the first of two cars, 5 m long, waits; their ways meet between 5 and 10 m behind their lines."""
    zones = np.full((2, 2, 2), np.nan)
    zones[0, 1] = zones[1, 0] = 5.0, 10.0
    traffic = JunctionTraffic(
        np.array([0, 1]), np.array(to_line), np.full(2, 5.0), np.array(speeds), np.full(2, 8.0), np.array(ranks),
        np.zeros(2, dtype=bool),
    )  # fmt: skip
    rules = JunctionRules(np.array(lights), np.array([[False, merging], [merging, False]]), zones)
    return bool(interaction.must_wait(traffic, rules)[0])


@pytest.mark.parametrize("speed", [3.0, 6.0, 9.0])
@pytest.mark.parametrize("merging", [False, True])
def test_one_stretch_of_distances_of_the_other_makes_one_wait(speed: float, merging: bool) -> None:
    """Whoever is still further away, or already through, is no reason to wait: gaps are accepted monotonically."""
    found = [waits((12.0, float(other)), (speed, 8.0), (1.0, 3.0), merging=merging) for other in range(-15, 130)]
    switches = np.flatnonzero(np.diff(found))
    assert any(found)
    assert len(switches) <= 2
    assert not found[0]  # its rear has left the common stretch
    assert not found[-1]  # 130 m at 8 m/s are 16 s


def test_a_longer_gap_is_wanted_before_somebody_faster() -> None:
    """At 14 m/s a car 60 m away is at the junction in time, at 5 m/s it is not."""
    assert waits((12.0, 60.0), (6.0, 14.0), (1.0, 3.0))
    assert not waits((12.0, 60.0), (6.0, 5.0), (1.0, 3.0))


def test_who_is_in_the_junction_goes_first_whatever_the_ranks() -> None:
    assert waits((12.0, -2.0), (6.0, 3.0), (3.0, 1.0))
    assert not waits((12.0, 2.0), (6.0, 3.0), (3.0, 1.0))


def test_who_faces_red_is_no_reason_to_wait_unless_it_is_inside() -> None:
    assert not waits((12.0, 6.0), (6.0, 8.0), (1.0, 3.0), lights=(GREEN, RED))
    assert waits((12.0, -1.0), (6.0, 3.0), (1.0, 3.0), lights=(GREEN, RED))


def test_at_an_all_way_stop_who_halted_first_goes_first() -> None:
    """Ranks are there the negative times of the halts."""
    assert waits((1.0, 1.0), (0.0, 0.0), (-5.0, -3.0))
    assert not waits((1.0, 1.0), (0.0, 0.0), (-3.0, -5.0))


def test_one_of_two_equals_goes() -> None:
    """Else both would stand for ever."""
    traffic = JunctionTraffic(
        np.array([0, 1]), np.ones(2), np.full(2, 5.0), np.zeros(2), np.full(2, 8.0), np.zeros(2), np.zeros(2, bool)
    )
    zones = np.full((2, 2, 2), np.nan)
    zones[0, 1] = zones[1, 0] = 5.0, 10.0
    found = interaction.must_wait(traffic, JunctionRules(np.array([GREEN, GREEN]), np.zeros((2, 2), bool), zones))
    assert found.tolist() == [False, True]


def crossing_scene(*, jaywalks: bool, goes: bool = True, margin_m: float = 2.0) -> Scenario:
    """A car on the x axis, somebody on the kerb at x = 60 who wants to cross 8 m of road."""
    walker = Walker(
        np.array([[60.0, -4.0], [60.0, 4.0]]), 1.5, margin_m, earliest_s=0.0, latest_s=9.0, goes=goes, jaywalks=jaywalks
    )
    shown = network("cross_signal")
    driver = Driver(straight_path(), np.full(200, 10.0), 10.0, 10.0, drivers.ego_size(), STYLE)
    return Scenario("jaywalker", shown, make_route(shown, 0), (driver,), (walker,))


def yielding(scenario: Scenario, walked: float, front: float, speed: float) -> float:
    crossings = np.array([[crossing(scenario.drivers[0].path, scenario.walkers[0])]])
    return float(yield_gaps(scenario, crossings, np.array([walked]), np.array([front]), np.array([speed]))[0])


def test_drivers_stop_before_the_line_of_somebody_who_walks() -> None:
    scene = crossing_scene(jaywalks=False)
    assert yielding(scene, 0.0, 35.0, 8.0) == pytest.approx(60.0 - 2.8 - 35.0)
    assert yielding(scene, -1.0, 35.0, 8.0) == FAR_M  # waits at the kerb
    assert yielding(scene, 8.0, 35.0, 8.0) == FAR_M  # past the lane
    assert yielding(scene, 0.0, 61.0, 8.0) == FAR_M  # the car is past
    assert yielding(scene, 0.0, 54.0, 10.0) == FAR_M  # nobody could stop within 3.2 m


def test_a_jaywalker_is_noticed_on_the_road() -> None:
    scene = crossing_scene(jaywalks=True)
    assert yielding(scene, 0.4, 35.0, 8.0) == FAR_M
    assert yielding(scene, 0.6, 35.0, 8.0) < FAR_M


def walked_after(scenario: Scenario, front: float, speed: float, time_s: float = 1.0) -> float:
    crossings = np.array([[crossing(scenario.drivers[0].path, scenario.walkers[0])]])
    state = (np.array([front]), np.array([speed]), np.array([True]))
    return float(walk(scenario, crossings, np.array([-1.0]), state, time_s)[0])


def test_pedestrians_set_off_when_the_car_is_near_but_can_stop() -> None:
    """At 8 m/s a car stops within 8^2 / (2 * 1.9) + 1 = 17.8 m of 57.2 m; they go within 2 m of that."""
    scene = crossing_scene(jaywalks=False)
    assert walked_after(scene, 57.2 - 30.0, 8.0) == -1.0  # still far: waits for the ego to come
    assert walked_after(scene, 57.2 - 19.0, 8.0) == 0.0
    assert walked_after(scene, 57.2 - 17.0, 8.0) == -1.0  # too late to stop
    assert walked_after(scene, 57.2 - 30.0, 8.0, time_s=9.5) == 0.0  # has waited long enough
    assert walked_after(crossing_scene(jaywalks=False, goes=False), 57.2 - 19.0, 8.0) == -1.0


def test_walkers_walk_at_their_speed() -> None:
    scene = crossing_scene(jaywalks=False)
    crossings = np.array([[crossing(scene.drivers[0].path, scene.walkers[0])]])
    state = (np.array([0.0]), np.array([8.0]), np.array([True]))
    assert walk(scene, crossings, np.array([2.0]), state, 1.0)[0] == pytest.approx(2.0 + 1.5 * STEP_S)
