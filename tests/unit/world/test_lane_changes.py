"""Paths that lead aside and into other lanes, and when drivers take them."""

import numpy as np
import pytest

from irl_vla.geometry import box_corners
from irl_vla.world import interaction
from irl_vla.world.drive import drive
from irl_vla.world.drivers import Still, Walker, speed_caps
from irl_vla.world.interaction import Movers, Obstacles, Passage
from irl_vla.world.places import ego_style, site_before
from irl_vla.world.tracks import PASSING_AIR_M, blended, crossing, detours_on, lane_paths, nudged, project
from irl_vla.world.walkers import walker_poses
from tests.unit.world.test_traffic import network, recorded, straight_path


def curvature(path: np.ndarray) -> np.ndarray:
    return np.asarray(np.gradient(path[:, 2]))


def test_a_nudge_goes_aside_and_comes_back_smoothly() -> None:
    path = nudged(straight_path(), 1.5, (50.0, 70.0), (90.0, 110.0))
    assert path[50, 1] == 0.0
    np.testing.assert_allclose(path[70:91, 1], 1.5)
    np.testing.assert_allclose(path[110:, 1], 0.0, atol=1e-12)
    assert np.abs(curvature(path)).max() < 0.03  # 5.77 * 1.5 / 20^2 is the quintic's largest curvature
    np.testing.assert_allclose(np.interp(60.5, np.arange(200), path[:, 2]), np.arctan(1.5 / 20 * 1.875), atol=0.01)


@pytest.mark.parametrize("ahead", [0.0, 7.4])
def test_a_lane_change_starts_on_one_lane_and_ends_on_the_other(ahead: float) -> None:
    goal = straight_path(220) + np.array([-ahead, 3.5, 0.0])  # its arc lengths are ahead of the old lane's
    path = blended(straight_path(), 60.0, goal, 60.0 + ahead, 40.0)
    start, end = int(np.ceil(60 + ahead)), int(np.ceil(100 + ahead))
    np.testing.assert_allclose(path[start, 1], 0.0, atol=0.02)
    np.testing.assert_allclose(path[end:, 1], 3.5)
    assert np.abs(curvature(path)[start - 5 :]).max() < 0.02
    assert project(path, np.array([60.0, 0.0])) == pytest.approx(60.0 + ahead, abs=0.1)


def test_speeds_allow_for_braking_before_a_bend() -> None:
    path = straight_path(200)
    path[100:, 2] = 0.1 * np.arange(100)
    style = ego_style(np.random.default_rng(0))
    caps = speed_caps(path, np.full(200, 14.0), style)
    assert caps[150] == pytest.approx(np.sqrt(style.lateral_mps2 / 0.1), rel=1e-3)
    assert caps[10] == pytest.approx(14.0 * style.speed_factor)
    assert np.all(np.diff(caps[:100] ** 2) >= -2 * 1.3 - 1e-9)


def test_detours_name_the_offsets_that_pass() -> None:
    car = Still("vehicle", np.array([80.0, -1.2, 0.0]), (4.0, 2.0, 1.5))
    beside = Still("vehicle", np.array([120.0, -3.5, 0.0]), (4.0, 2.0, 1.5))
    (found,) = detours_on(straight_path(), 1.0, [car, beside])
    assert (found.from_m, found.to_m) == pytest.approx((78.0, 82.0))
    assert found.left_m == pytest.approx(-0.2 + 1.0 + PASSING_AIR_M)
    assert found.right_m == pytest.approx(-2.2 - 1.0 - PASSING_AIR_M)


def test_cones_in_a_row_are_one_obstacle() -> None:
    row = [Still("traffic_cone", np.array([x, -1.0, 0.0]), (0.4, 0.4, 0.8)) for x in (60.0, 70.0, 80.0, 120.0)]
    first, second = detours_on(straight_path(), 1.0, row)
    assert (first.from_m, first.to_m) == pytest.approx((59.8, 80.2))
    assert second.from_m == pytest.approx(119.8)


def movers(poses: list[list[float]], speeds: list[float]) -> Movers:
    """The first one is the one that asks; all drive straight on their headings."""
    paths = np.zeros((len(poses), 300, 3))
    for index, (x, y, heading) in enumerate(poses):
        steps = np.arange(300) - 150.0
        paths[index] = np.column_stack(
            [x + steps * np.cos(heading), y + steps * np.sin(heading), np.full(300, heading)]
        )
    count, each = len(poses), np.ones(len(poses))
    return Movers(paths, np.full(count, 300), np.full(count, 150.0), np.array(speeds), 5.0 * each, 2.0 * each, each > 0)


@pytest.mark.parametrize(
    ("other", "speed", "free"),
    [
        ([60.0, 3.2, np.pi], 10.0, False),  # comes towards, on the other side of the line
        ([60.0, 5.5, np.pi], 10.0, True),  # far enough aside
        ([30.0, 0.0, 0.0], 10.0, True),  # leads
        ([-12.0, 3.2, 0.0], 14.0, False),  # catches up in the next lane
        ([-40.0, 3.2, 0.0], 8.0, True),
    ],
)
def test_passing_needs_room_beside(other: list[float], speed: float, free: bool) -> None:
    found = movers([[0.0, 0.0, 0.0], other], [9.0, speed])
    path = straight_path(200)
    path[:, 1] = 1.2  # moved aside
    assert interaction.is_free(Passage(path, 200, 2.0, 9.0, 4.0, 2.5, 1.0), found, 0) is free


def test_neighbours_on_a_lane() -> None:
    poses = np.array([[50.0, 0.0, 0.0], [70.0, 3.5, 0.0], [30.0, 3.5, 0.0], [120.0, 3.5, 0.0]])
    corners = np.concatenate([box_corners(poses, 4.0, 2.0), poses[:, None, :2]], axis=1)
    lane = straight_path() + np.array([0.0, 3.5, 0.0])
    obstacles = Obstacles(corners, poses, np.array([9.0, 8.0, 7.0, 6.0]))
    found = interaction.lane_neighbours(Passage(lane, 200, 50.0, 9.0, 0.0, 2.0, 1.0), obstacles, 0)
    assert (found.ahead, found.behind, found.beside) == (1, 2, False)
    assert (found.ahead_gap, found.behind_gap) == pytest.approx((16.0, 16.0))
    assert (found.ahead_speed, found.behind_speed) == pytest.approx((8.0, 7.0))
    level = interaction.lane_neighbours(Passage(lane, 200, 68.0, 9.0, 0.0, 2.0, 1.0), obstacles, 0)
    assert level.beside


def test_walkers_go_from_edge_to_edge() -> None:
    walker = Walker(np.array([[30.0, -4.0], [30.0, 4.0]]), 1.5, 5.0, 0.0, 9.0)
    assert crossing(straight_path(), walker) == pytest.approx((30.0, 4.0))
    waiting, walking, gone = (walker_poses((walker,), np.array([walked])) for walked in (-1.0, 4.9, 99.0))
    np.testing.assert_allclose(waiting[0][0, :2], [30.0, -4.9])
    np.testing.assert_allclose(walking[0][0], [30.0, 0.0, np.pi / 2])
    assert (waiting[1][0], walking[1][0], gone[1][0]) == (0.0, 1.5, 0.0)


def test_the_expert_goes_around_a_double_parked_car_and_returns() -> None:
    scenario, moments = recorded("double_parked")
    base = scenario.drivers[0].path
    aside = []
    for moment in moments:
        nearest = int(np.argmin(np.linalg.norm(base[:, :2] - moment.ego.pose[:2], axis=1)))
        x, y, heading = base[nearest]
        aside.append((moment.ego.y - y) * np.cos(heading) - (moment.ego.x - x) * np.sin(heading))
    assert np.abs(aside).max() > 0.7
    assert abs(aside[0]) < 0.5


def test_the_expert_leaves_a_closed_lane() -> None:
    works = network("works")
    for seed in range(8):
        scenario, moments = drive(works, "construction", 28, np.random.default_rng(seed))
        if site_before(works, scenario.route.movement) is not None:
            break
    assert site_before(works, scenario.route.movement) is not None
    assert not np.array_equal(moments[-1].ego_path, scenario.drivers[0].path)
    others = [lane.path for lane in lane_paths(works)]
    ends = [float(np.linalg.norm(path[:, :2] - moments[-1].ego.pose[:2], axis=1).min()) for path in others]
    assert int(np.argmin(ends)) != scenario.route.movement


def test_drivers_change_lanes_of_their_own_accord() -> None:
    """In dense flow on wide roads somebody does."""
    changes = 0
    for seed in range(3):
        _, moments = recorded("follow", seed)
        changes += int(np.sum(moments[-1].state.changed > -50.0))
    assert changes > 0
