"""When drivers change lanes of their own accord, by hand: MOBIL's incentive, its safety, its politeness."""

from dataclasses import replace

import numpy as np
import pytest

from irl_vla.geometry import box_corners
from irl_vla.world.drivers import EGO, Driver, DriverStyle, Scenario, speed_caps
from irl_vla.world.interaction import Obstacles
from irl_vla.world.lane_changes import Change, Situation, reconsider
from irl_vla.world.roads.network import Network, make_route
from irl_vla.world.tracks import lane_paths, make_tracks
from tests.unit.world.test_roads import make_network

SIZE = (4.6, 1.9, 1.5)
STYLE = DriverStyle(1.0, 1.2, 2.0, 1.5, 2.0, 2.5, politeness=0.3, impatience_mps2=0.5)
#: Vehicle 1 decides at this time; drivers take turns.
ITS_TURN_S = 0.8
HELD_UP = 1


@pytest.fixture(scope="module")
def highway() -> Network:
    """Two lanes a direction at 17 to 22 m/s."""
    network = make_network("highway", index=16)
    assert len(network.inbound[0]) == 2
    return network


def on(network: Network, lane: int, along_m: float, speed_mps: float, style: DriverStyle = STYLE) -> Driver:
    movement = next(k for k, move in enumerate(network.movements) if (move.from_arm, move.from_lane) == (0, lane))
    way = lane_paths(network)[movement]
    caps = speed_caps(way.path, way.limits_mps, style)
    return Driver(way.path, caps, along_m, speed_mps, SIZE, style, movement, way.enter_m)


def wishes(network: Network, *others: Driver, ego: Driver | None = None, braking: float = 0.0) -> list[Change]:
    """Changes of the vehicles; the ego stands far behind unless given, all others drive at constant speed.

    Args:
        braking: acceleration of vehicle 1, m/s^2.
    """
    drivers = (ego or on(network, 0, 10.0, 0.0), *others)
    scenario = Scenario("cruise", network, make_route(network, 0), drivers)
    along = np.array([item.start_m for item in drivers])
    poses = np.array([item.path[int(item.start_m)] for item in drivers])
    lengths, widths = np.full(len(drivers), SIZE[0]), np.full(len(drivers), SIZE[1])
    speeds = np.array([item.speed_mps for item in drivers])
    corners = np.concatenate([box_corners(poses, lengths, widths), poses[:, None, :2]], axis=1)
    accelerations = np.zeros(len(drivers))
    accelerations[HELD_UP] = braking
    now = Situation(
        along=along,
        speeds=speeds,
        accelerations=accelerations,
        present=np.ones(len(drivers), bool),
        changed=np.full(len(drivers), -100.0),
        obstacles=Obstacles(corners, poses, speeds),
        lengths=lengths,
        widths=widths,
        time_s=ITS_TURN_S,
    )
    return reconsider(scenario, make_tracks(scenario), now)[1]


def held_up(network: Network, style: DriverStyle = STYLE) -> tuple[Driver, Driver]:
    """Somebody at 10 m/s, 14 m behind somebody as fast, where 17 m/s and more are allowed."""
    return on(network, 1, 150.0, 10.0, style), on(network, 1, 170.0, 10.0)


def test_who_is_held_up_changes_into_a_free_lane(highway: Network) -> None:
    (change,) = wishes(highway, *held_up(highway))
    assert (change.driver, change.to_lane) == (HELD_UP, True)
    assert highway.movements[change.row.movement].from_lane == 0
    there = lane_paths(highway)[change.row.movement].path
    assert np.linalg.norm(change.row.path[200, :2] - there[200, :2]) < 0.01


def test_nobody_changes_without_a_reason(highway: Network) -> None:
    fast = on(highway, 1, 150.0, 40.0)
    at_its_limit = replace(fast, speed_mps=float(fast.caps_mps[150]))
    assert wishes(highway, at_its_limit) == []


def test_who_speeds_up_anyway_stays(highway: Network) -> None:
    assert wishes(highway, *held_up(highway), braking=1.0) == []


def test_patient_drivers_stay(highway: Network) -> None:
    assert wishes(highway, *held_up(highway, replace(STYLE, impatience_mps2=np.inf))) == []


@pytest.mark.parametrize("along", [146.0, 150.0, 154.0])
def test_nobody_changes_into_somebody_beside(highway: Network, along: float) -> None:
    assert wishes(highway, *held_up(highway), on(highway, 0, along, 10.0)) == []


def test_nobody_cuts_in_before_somebody_much_faster(highway: Network) -> None:
    """10 m before somebody at 17 m/s would make that one brake at more than 2.4 m/s2; 60 m before it would not."""
    selfish = held_up(highway, replace(STYLE, politeness=0.0))  # or it would be the incentive that forbids
    assert wishes(highway, *selfish, on(highway, 0, 135.0, 17.0)) == []
    assert len(wishes(highway, *selfish, on(highway, 0, 80.0, 17.0))) == 1


def test_a_lane_that_is_as_slow_gains_nothing(highway: Network) -> None:
    assert wishes(highway, *held_up(highway), on(highway, 0, 162.0, 6.0)) == []


def test_politeness_weighs_what_others_lose(highway: Network) -> None:
    """The new follower has to ease off a little; only who does not care goes."""
    follower = on(highway, 0, 130.0, 11.0)
    selfish, polite = (held_up(highway, replace(STYLE, politeness=value)) for value in (0.0, 5.0))
    assert len(wishes(highway, *selfish, follower)) == 1
    assert wishes(highway, *polite, follower) == []


def test_the_ego_is_spared_what_others_must_bear(highway: Network) -> None:
    """Somewhere between the two limits of safety a change is fine before another driver and not before the ego."""
    pair = held_up(highway, replace(STYLE, politeness=0.0))
    behind = [on(highway, 0, along, 13.0) for along in np.arange(118.0, 140.0, 1.0)]
    before_other = [len(wishes(highway, *pair, item)) for item in behind]
    before_ego = [len([c for c in wishes(highway, *pair, ego=item) if c.driver != EGO]) for item in behind]
    assert sum(before_ego) < sum(before_other) < len(behind)
    assert all(ego <= other for ego, other in zip(before_ego, before_other, strict=True))
