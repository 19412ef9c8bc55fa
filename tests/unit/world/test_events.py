"""Events come about: single draws show what their kind promises, ramps let each other in, parked cars pull out."""

import numpy as np
import pytest
import shapely

from irl_vla.geometry import box_corners
from irl_vla.world.drive import is_eventful
from irl_vla.world.drivers import EGO, Driver, Scenario
from irl_vla.world.lane_changes import RAMP
from irl_vla.world.moments import Moment
from irl_vla.world.scenarios import draw_scenario
from irl_vla.world.tracks import lane_paths
from irl_vla.world.traffic import simulate
from tests.unit.world.test_roads import make_network


def scenario_start(driver: Driver) -> np.ndarray:
    index = int(driver.start_m)
    share = driver.start_m - index
    return np.asarray(driver.path[index] * (1 - share) + driver.path[index + 1] * share)


def single_draws(kind: str, families: tuple[str, ...], count: int) -> list[tuple[Scenario, list[Moment]]]:
    found = []
    for seed in range(count):
        generator = np.random.default_rng([5, seed])
        scenario = draw_scenario(make_network(families[seed % len(families)]), kind, generator)
        found.append((scenario, simulate(scenario, 24, generator)))
    return found


@pytest.mark.parametrize(
    ("kind", "families"),
    [
        ("turn_right", ("cross_signal", "cross_priority")),
        ("stop_sign", ("cross_stop", "tee_stop")),
        ("green_light", ("cross_signal",)),
        ("merge", ("merge",)),
    ],
)
def test_most_single_draws_show_their_event(kind: str, families: tuple[str, ...]) -> None:
    drives = single_draws(kind, families, 8)
    assert sum(is_eventful(scenario, moments) for scenario, moments in drives) >= 6


def test_those_on_a_ramp_are_let_in_at_speed() -> None:
    """Nobody waits at the end of the acceleration lane, and there was somebody to give way."""
    drives = single_draws("merge", ("merge",), 8)
    ramps = [item for item in drives if item[0].network.movements[item[0].route.movement].from_arm == RAMP]
    assert len(ramps) >= 4
    assert all(moments[-1].ego.speed_mps > 5.0 for _, moments in ramps)
    assert any(min(moment.ego.acceleration_mps2 for moment in moments) < -1.0 for _, moments in ramps)


def test_a_parked_car_stands_until_it_pulls_out_into_the_lane() -> None:
    drives = [item for item in single_draws("parked", ("cross_signal", "cross_priority"), 12) if item[0].focus > 0]
    assert drives
    for scenario, moments in drives:
        driver = scenario.drivers[scenario.focus]
        leaves_s = driver.slow_downs[0].end_s
        first, last = moments[0].poses[scenario.focus], moments[-1].poses[scenario.focus]
        if leaves_s > 0.5:
            np.testing.assert_allclose(first, scenario_start(driver), atol=0.05)
        if leaves_s < 6.0:
            lane = lane_paths(scenario.network)[driver.movement].path[:, :2]
            assert np.linalg.norm(lane - last[:2], axis=1).min() < 0.8


@pytest.mark.parametrize("kind", ["jaywalker", "occlusion"])
def test_nobody_jaywalks_beside_a_crosswalk(kind: str) -> None:
    network = make_network("cross_priority")
    zebras = shapely.union_all([row.polygon for row in network.content.crosswalks])
    for seed in range(40):
        scenario = draw_scenario(network, kind, np.random.default_rng([5, seed]))
        walk = next(walker for walker in scenario.walkers if walker.jaywalks)
        assert shapely.LineString(walk.line).distance(zebras) > 4.0


def test_people_who_use_a_crosswalk_keep_apart() -> None:
    met = 0
    for scenario, moments in single_draws("pedestrian", ("cross_signal", "cross_priority"), 8):
        here = [k for k, walker in enumerate(scenario.walkers) if not walker.jaywalks]
        for moment in moments:
            places = moment.walkers[here, :2]
            apart = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(len(here), 1)]
            assert (apart > 0.7).all()
        met += len(here) > 1
    assert met >= 3


def test_who_cuts_in_stops_at_the_same_line_as_the_ego() -> None:
    met = 0
    for seed in range(20):
        scenario = draw_scenario(make_network("tee_signal"), "cut_in", np.random.default_rng([5, seed]))
        driver, ego = scenario.drivers[scenario.focus], scenario.drivers[EGO]
        x, y, heading = ego.path[round(ego.enter_m)]
        step = driver.path[round(driver.enter_m), :2] - (x, y)
        if driver.start_m < driver.enter_m:
            met += 1
            assert abs(step @ (np.cos(heading), np.sin(heading))) < 1.1
    assert met >= 5


@pytest.mark.parametrize("kind", ["lead_stop", "hard_brake"])
def test_who_is_to_brake_before_the_ego_does_not_change_lanes(kind: str) -> None:
    """Single draws, on roads where there is a lane to change to."""
    met = 0
    for scenario, moments in single_draws(kind, ("cross_signal", "cross_priority"), 10):
        if scenario.focus > 0:
            lane = lane_paths(scenario.network)[scenario.drivers[scenario.focus].movement].path[:, :2]
            places = np.array([moment.poses[scenario.focus, :2] for moment in moments])
            places = places[~np.isnan(places[:, 0])]
            met += 1
            assert np.linalg.norm(lane - places[:, None], axis=2).min(axis=1).max() < 1.2
    assert met >= 5


def test_a_truck_at_the_corner_hides_the_major_road_and_blocks_no_lane() -> None:
    found = 0
    for scenario, _ in single_draws("crossing", ("cross_priority", "tee_priority"), 8):
        network = scenario.network
        centre = network.layout.centre
        near = [item for item in scenario.still if item.size_m[2] > 2.0 and np.hypot(*item.pose[:2] - centre) < 45.0]
        found += len(near)
        for item in near:
            body = shapely.Polygon(box_corners(item.pose, item.size_m[0], item.size_m[1]))
            assert not any(lane.polygon.intersects(body) for lane in network.content.lanes)
    assert found >= 2
