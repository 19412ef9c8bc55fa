"""Fields of a straight road and of a bend, by hand."""

import numpy as np
import pytest

from irl_vla.epdms.records import POLYGON_LAYERS, Polygons
from irl_vla.epdms.road_fields import PROGRESS_M, REACH_M, FieldGrid, JudgedRoads, road_fields
from irl_vla.geometry import PACIFICA, compose
from irl_vla.scene import ROAD_FIELDS

GRID = FieldGrid(x_min_m=-8.0, y_min_m=-8.0, cell_m=1.0, rows=32, columns=16)
HALF_A_FINE_CELL_M = 0.13
NOTHING = Polygons(np.zeros((0, 2)), np.zeros(1, np.int64))


def polygons(*boxes):
    rings = [np.array([(a, c), (b, c), (b, d), (a, d), (a, c)], float) for a, b, c, d in boxes]
    return Polygons(np.concatenate(rings), np.arange(len(rings) + 1) * 5)


def roads(pose=(0.0, 0.0, 0.0), red=NOTHING, line=((-50.0, 0.0), (100.0, 0.0))):
    """Two lanes along x, 4 m wide, the right one the route's; from x = 15 on an intersection."""
    names = ("ROADBLOCK", "LANE", "LANE", "INTERSECTION")
    areas = polygons((-50, 100, -2, 6), (-50, 100, -2, 2), (-50, 100, 2, 6), (15, 30, -20, 20))
    layer = np.array([POLYGON_LAYERS.index(name) for name in names])
    return JudgedRoads(np.array(pose), areas, layer, np.array([False, True, False, False]), np.array(line), red)


def at(fields, name, x, y):
    """Value of the cell whose centre is (x, y)."""
    row, column = int(x - GRID.x_min_m), int(y - GRID.y_min_m)
    assert (x, y) == (GRID.x_min_m + row + 0.5, GRID.y_min_m + column + 0.5)
    return fields[ROAD_FIELDS.index(name), row, column]


def test_a_straight_road_has_values_that_can_be_told_by_hand():
    fields = road_fields(roads(), GRID)
    assert fields.shape == (6, 32, 16)
    assert at(fields, "drivable", 0.5, -0.5) == pytest.approx(1.5, abs=HALF_A_FINE_CELL_M)
    assert at(fields, "drivable", 0.5, -3.5) == pytest.approx(-1.5, abs=HALF_A_FINE_CELL_M)
    assert at(fields, "drivable", 0.5, -7.5) == -REACH_M
    assert at(fields, "drivable", 20.5, -3.5) == REACH_M  # the intersection is drivable, too
    assert at(fields, "on_route", 0.5, 3.5) == pytest.approx(-1.5, abs=HALF_A_FINE_CELL_M)
    assert at(fields, "intersection", 13.5, 0.5) == pytest.approx(-1.5, abs=HALF_A_FINE_CELL_M)
    assert at(fields, "intersection", 17.5, 0.5) == pytest.approx(2.5, abs=HALF_A_FINE_CELL_M)
    assert at(fields, "lane_offset", 5.5, 1.5) == pytest.approx(1.5)  # left is positive
    assert at(fields, "lane_offset", 5.5, -2.5) == pytest.approx(-2.5)
    assert at(fields, "lane_offset", 5.5, 6.5) == REACH_M
    assert at(fields, "progress", 10.5, 3.5) == pytest.approx(10.5 - PACIFICA.rear_axle_to_centre)
    assert (fields[ROAD_FIELDS.index("red_light")] == -REACH_M).all()


def test_a_red_connector_is_an_area_of_its_own():
    fields = road_fields(roads(red=polygons((15, 30, -2, 2))), GRID)
    assert at(fields, "red_light", 17.5, 0.5) == pytest.approx(1.5, abs=HALF_A_FINE_CELL_M)
    assert at(fields, "red_light", 12.5, 0.5) == pytest.approx(-2.5, abs=HALF_A_FINE_CELL_M)


def test_the_world_may_be_turned():
    origin = np.array([300.0, -200.0, 2.0])
    upright = roads(red=polygons((15, 30, -2, 2)))

    def moved(points):
        return compose(origin, np.column_stack([points, np.zeros(len(points))]))[:, :2]

    turned = JudgedRoads(
        origin,
        Polygons(moved(upright.polygons.vertices), upright.polygons.offsets),
        upright.layer,
        upright.on_route,
        moved(upright.centerline),
        Polygons(moved(upright.red.vertices), upright.red.offsets),
    )
    np.testing.assert_allclose(road_fields(turned, GRID), road_fields(upright, GRID), atol=2 * HALF_A_FINE_CELL_M)


def test_progress_follows_a_bend_and_ends_with_the_line():
    bend = road_fields(roads(line=((-50.0, 0.0), (10.0, 0.0), (10.0, 40.0))), GRID)
    start = PACIFICA.rear_axle_to_centre
    assert at(bend, "progress", 9.5, 6.5) == pytest.approx(10.0 + 6.5 - start)
    assert at(bend, "lane_offset", 9.5, 6.5) == pytest.approx(0.5)
    short = road_fields(roads(line=((-3.0, 0.0), (5.0, 0.0))), GRID)
    assert at(short, "progress", 20.5, 0.5) == pytest.approx(5.0 - start)
    assert at(short, "progress", -7.5, 0.5) == pytest.approx(-3.0 - start)
    assert bend[ROAD_FIELDS.index("progress")].min() >= PROGRESS_M[0]
