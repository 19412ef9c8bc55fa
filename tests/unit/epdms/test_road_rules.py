import numpy as np
import pytest

from irl_vla.epdms.records import POLYGON_LAYERS
from irl_vla.epdms.road_rules import AREA_NAMES, RoadGeometry, RoadScores, road_geometry, score_road_rules
from irl_vla.geometry import Floats

from .straight_road import CENTRE_M, polygons, rectangle, states

ROAD = rectangle(-50.0, -2.0, 150.0, 2.0)


def roads(*layers: tuple[str, bool, Floats]) -> RoadGeometry:
    return road_geometry(
        polygons([ring for _, _, ring in layers]),
        np.array([POLYGON_LAYERS.index(layer) for layer, _, _ in layers], np.int64),
        np.array([on_route for _, on_route, _ in layers], np.bool_),
        np.array([[-50.0, 0.0], [150.0, 0.0]]),
    )


def score(rollout: Floats, *layers: tuple[str, bool, Floats]) -> RoadScores:
    return score_road_rules(rollout[None], roads(*layers))


def flag(result: RoadScores, name: str) -> list[bool]:
    return [bool(value) for value in result.areas[0, :, AREA_NAMES.index(name)]]


def test_in_its_lane_everything_is_fine() -> None:
    result = score(states(10.0), ("ROADBLOCK", False, ROAD), ("LANE", True, ROAD))
    assert (result.dac[0], result.ddc[0], result.lk[0]) == (1.0, 1.0, 1.0)
    assert not result.areas.any()


def test_one_corner_off_the_road_is_not_drivable() -> None:
    # Half width 1.1485: the box reaches beyond y = 2 from y = 0.8515 on; touching the edge is off the road.
    assert score(states(1.0, y=0.85), ("ROADBLOCK", False, ROAD)).dac[0] == 1.0
    assert score(states(1.0, y=0.86), ("ROADBLOCK", False, ROAD)).dac[0] == 0.0
    assert score(states(1.0), ("LANE", True, ROAD)).dac[0] == 0.0  # lanes alone are no drivable area


def test_two_polygons_may_carry_the_corners_together() -> None:
    near, far = rectangle(-50.0, -2.0, 1.0, 2.0), rectangle(1.0, -2.0, 150.0, 2.0)
    assert score(states(0.0), ("ROADBLOCK", False, near), ("CARPARK_AREA", False, far)).dac[0] == 1.0


def test_multiple_lanes_unless_one_holds_all_corners() -> None:
    left, right = rectangle(-50.0, 0.5, 150.0, 4.0), rectangle(-50.0, -4.0, 150.0, 0.5)
    both = score(states(0.0), ("LANE", True, left), ("LANE", True, right))
    assert all(flag(both, "multiple_lanes"))
    held = score(states(0.0), ("LANE", True, left), ("LANE", True, right), ("LANE_CONNECTOR", False, ROAD))
    assert not any(flag(held, "multiple_lanes"))


@pytest.mark.parametrize(("speed", "ddc"), [(1.7, 1.0), (1.9, 0.5), (5.0, 0.5), (5.6, 0.0)])
def test_driving_direction_sums_eleven_steps(speed: float, ddc: float) -> None:
    """11 displacements of 0.1 s: 2 m are reached at 1.82 m/s and 6 m at 5.45 m/s."""
    assert score(states(speed), ("LANE", False, ROAD)).ddc[0] == ddc


def test_intersections_excuse_the_wrong_direction() -> None:
    assert score(states(10.0), ("LANE", False, ROAD), ("INTERSECTION", False, ROAD)).ddc[0] == 1.0


def test_lane_keeping_fails_at_twenty_states() -> None:
    rollout = states(1.0)
    rollout[5:24, 1] = 0.51
    assert score(rollout, ("LANE", True, ROAD)).lk[0] == 1.0
    rollout[24, 1] = 0.51
    assert score(rollout, ("LANE", True, ROAD)).lk[0] == 0.0


def test_intersections_neither_count_nor_reset_lane_keeping() -> None:
    rollout = states(1.0)
    rollout[:10, 1] = rollout[20:30, 1] = 0.6
    crossing = rectangle(CENTRE_M + 0.95, -3.0, CENTRE_M + 1.95, 3.0)  # holds the centre at steps 10 .. 19
    result = score(rollout, ("LANE", True, ROAD), ("INTERSECTION", False, crossing))
    assert flag(result, "centre_in_intersection") == [10 <= k < 20 for k in range(41)]
    assert result.lk[0] == 0.0
    assert score(rollout, ("LANE", True, ROAD)).lk[0] == 1.0


def test_no_map_at_all() -> None:
    result = score(states(1.0))
    assert (result.dac[0], result.ddc[0]) == (0.0, 1.0)
    assert all(flag(result, "oncoming"))
