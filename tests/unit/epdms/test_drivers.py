from dataclasses import replace

import numpy as np
import pytest
import shapely

from irl_vla.epdms.drivers import traffic_start
from irl_vla.epdms.tracks import FrameObjects
from irl_vla.scene import MapView

from ..driving.straight_map import straight_map

EGO = np.array([10.0, 0, 0, 8.0, 0, 0, 0, 0, 0, 0, 0])


def objects(*rows, size=(4.0, 2.0), kind=0):
    """Vehicles (token, x, y, heading, speed along the heading)."""
    poses = np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3)
    speeds = np.array([row[4] for row in rows], np.float64)
    return FrameObjects(
        tokens=tuple(row[0] for row in rows),
        kinds=np.full(len(rows), kind),
        sizes=np.tile(size, (len(rows), 1)),
        poses=poses,
        velocities=speeds[:, None] * np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=-1).reshape(-1, 2),
    )


def start(*rows, view=None, ego=EGO, **options):
    now = objects(*rows, **options)
    return traffic_start(view or straight_map(), ego, now, now.tokens)


def with_lane(view: MapView, lane_id: str, **changes) -> MapView:
    lanes = {key: replace(lane, **changes) if key == lane_id else lane for key, lane in view.lanes.items()}
    return replace(view, lanes=lanes, _trees={})


def test_a_vehicle_on_a_lane_drives_from_its_baseline():
    found = start(("car", 25.0, 0.5, 0.1, 6.0))
    assert found.drivers.tolist() == [0]
    assert found.standing.tolist() == []
    np.testing.assert_allclose(found.boxes, [[25.0, 0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(found.motion, [[25.0, 6.0, 10.0]])
    assert found.lane_points[:, 0].tolist() == list(range(0, 41, 2))
    assert found.lane_offsets.tolist() == [0, 21]


def test_vehicles_on_one_lane_share_it():
    found = start(("one", 20.0, 0, 0, 1), ("two", 30.0, 0, 0, 1), ("three", 100.0, 0, 0, 1))
    assert found.lane.tolist() == [0, 0, 1]
    assert found.lane_offsets.tolist() == [0, 21, 42]


def test_off_the_road_only_what_rests_stands():
    found = start(("rests", 25.0, 30.0, 0, 0.05), ("moves", 45.0, 30.0, 0, 0.2), ("drives", 25.0, 0, 0, 5))
    assert found.drivers.tolist() == [2]
    assert found.standing.tolist() == [0]


@pytest.mark.parametrize("x", [12.0, 17.9])
def test_a_vehicle_that_touches_the_ego_vanishes(x):
    """The ego's box ends at x = 10 + 4.049."""
    found = start(("car", x, 0, 0, 5))
    touches = x - 2.0 <= 14.049
    assert found.drivers.tolist() == ([] if touches else [0])
    assert found.standing.tolist() == []


def test_of_two_vehicles_that_overlap_on_the_lane_the_first_drives():
    found = start(("first", 25.0, -1.0, 0, 5), ("second", 28.9, 1.0, 0, 5), ("third", 29.1, 1.0, 0, 5))
    assert found.drivers.tolist() == [0, 2]  # 2 m apart sideways, but not once they are on the baseline


def test_a_vehicle_beside_a_wide_lane_stands_whatever_its_speed():
    view = with_lane(straight_map(), "a0", polygon=shapely.box(0, -10, 40, 10))
    found = start(("near", 25.0, 3.0, 0, 5), ("far", 35.0, 3.1, 0, 5), view=view)
    assert found.drivers.tolist() == [0]
    assert found.standing.tolist() == [1]


def test_the_boundary_of_a_lane_is_outside():
    assert start(("car", 25.0, 2.0, 0, 0.0)).standing.tolist() == [0]
    assert start(("car", 25.0, 1.999, 0, 0.0)).drivers.tolist() == [0]


def test_connectors_count_in_intersections_only():
    """Block ab is no intersection, bc is one."""
    found = start(("link", 60.0, 0, 0, 5), ("junction", 140.0, 0, 0, 5))
    assert found.drivers.tolist() == [1]
    assert found.lane_points[:, 0].min() == 120.0


def test_headings_are_compared_without_wrapping():
    """A vehicle at -3.1 rad is nearly parallel to a lane at +3.1 rad, yet gets the one at 0."""
    view = straight_map()
    back = np.stack([np.linspace(40, 0, 21), np.linspace(0, 1.6, 21)], axis=-1)
    view = replace(view, lanes=view.lanes | {"back": replace(view.lanes["a0"], id="back", baseline=back)}, _trees={})
    found = start(("car", 20.0, 0, -3.1, 5), view=view)
    assert found.lane_points[0].tolist() == [0.0, 0.0]
    assert start(("car", 20.0, 0, 3.0, 5), view=view).lane_points[0].tolist() == [40.0, 0.0]


def test_without_a_limit_the_last_one_seen_is_kept():
    view = with_lane(with_lane(straight_map(2), "a1", speed_limit_mps=None), "b0", speed_limit_mps=7.0)
    rows = (("one", 25.0, 4.0, 0, 5), ("two", 90.0, 0, 0, 5), ("three", 32.0, 4.0, 0, 5))
    assert start(*rows, view=view).motion[:, 2].tolist() == [10.0, 7.0, 7.0]
    zero = with_lane(view, "a1", speed_limit_mps=0.0)
    assert start(*rows, view=zero).motion[:, 2].tolist() == [10.0, 7.0, 7.0]


def test_an_unknown_velocity_is_that_of_the_ego():
    assert start(("car", 25.0, 0, 0, np.nan)).motion[0, 1] == 8.0


def test_only_vehicles_drive_and_rows_are_those_of_the_tracks():
    assert start(("walker", 25.0, 0, 0, 1), kind=1).drivers.tolist() == []
    now = objects(("car", 25.0, 0, 0, 5))
    found = traffic_start(straight_map(), EGO, now, ("later", "car", "other"))
    assert found.drivers.tolist() == [1]
    assert found.seen_now.tolist() == [False, True, False]


def test_nobody_around():
    found = start()
    assert found.boxes.shape == found.motion.shape == (0, 3)
    assert found.lane_points.shape == (0, 2)
    assert found.lane_offsets.tolist() == [0]
