import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from irl_vla.epdms.polygons import (
    bounding_boxes,
    box_meets_polygon,
    boxes_intersect,
    fill_ego_box,
    points_inside,
    project_on_polyline,
    segment_meets_box,
    segment_within,
    side,
)
from irl_vla.geometry import box_corners

from .straight_road import polygons, rectangle

NOTCHED = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [2.0, 1.0], [0.0, 4.0], [0.0, 0.0]])


def inside(points: list[list[float]], ring: np.ndarray) -> list[bool]:
    mask = points_inside(np.array(points), ring, 0, len(ring))
    return [bool(mask >> i & 1) for i in range(len(points))]


def test_boundary_is_outside() -> None:
    points = [[2.0, 0.5], [2.0, 0.0], [0.0, 0.0], [2.0, 1.0], [0.0, 2.0], [4.0, 4.0]]
    assert inside(points, NOTCHED) == [True, False, False, False, False, False]


def test_concave_notch_is_outside() -> None:
    assert inside([[2.0, 2.0], [0.5, 2.0], [3.5, 2.0], [5.0, 2.0]], NOTCHED) == [False, True, True, False]


def test_side_resolves_what_float64_cannot() -> None:
    """At map coordinates the naive determinant of these points is rounding noise."""
    a, b = np.array([400_000.0, 4_500_000.0]), np.array([400_003.0, 4_500_001.0])
    x, y = 400_006.0, 4_500_002.0
    assert side(a, b, x, y) == 0
    assert side(a, b, x, np.nextafter(y, np.inf)) == 1
    assert side(a, b, x, np.nextafter(y, -np.inf)) == -1


coordinates = st.integers(-6, 6).map(float)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8), st.tuples(coordinates, coordinates))
def test_containment_agrees_with_geos(corners: list[tuple[float, float]], point: tuple[float, float]) -> None:
    polygon = shapely.convex_hull(shapely.MultiPoint(corners))
    if not isinstance(polygon, shapely.Polygon):
        return
    ring = np.array(polygon.exterior.coords)
    assert inside([list(point)], ring) == [polygon.contains(shapely.Point(point))]


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.floats(-6, 6)] * 4), st.tuples(*[st.floats(-3.2, 3.2)] * 2))
def test_boxes_and_rings_agree_with_geos(centres: tuple[float, ...], headings: tuple[float, ...]) -> None:
    first = box_corners(np.array([*centres[:2], headings[0]]), 5.0, 2.0)
    second = box_corners(np.array([*centres[2:], headings[1]]), 4.0, 1.5)
    expected = shapely.Polygon(first).intersects(shapely.Polygon(second))
    if shapely.Polygon(first).distance(shapely.Polygon(second)) < 1e-9 and not expected:
        return
    assert boxes_intersect(first, second) == expected
    ring = np.concatenate([second, second[:1]])
    assert box_meets_polygon(first, ring, 0, 5) == expected


def test_touching_boxes_intersect() -> None:
    first = box_corners(np.zeros(3), 2.0, 2.0)
    assert boxes_intersect(first, box_corners(np.array([2.0, 0.0, 0.0]), 2.0, 2.0))
    assert boxes_intersect(first, box_corners(np.array([2.0, 2.0, 0.0]), 2.0, 2.0))
    assert not boxes_intersect(first, box_corners(np.array([2.0 + 1e-9, 0.0, 0.0]), 2.0, 2.0))


def test_box_meets_a_polygon_that_contains_it_or_lies_within() -> None:
    box = box_corners(np.zeros(3), 2.0, 2.0)
    around, within = rectangle(-9.0, -9.0, 9.0, 9.0), rectangle(-0.1, -0.1, 0.1, 0.1)
    assert box_meets_polygon(box, around, 0, 5)
    assert box_meets_polygon(box, within, 0, 5)
    assert not box_meets_polygon(box, rectangle(1.5, -1.0, 2.0, 1.0), 0, 5)


def test_segment_through_a_box_without_end_points_inside() -> None:
    box = box_corners(np.zeros(3), 2.0, 2.0)
    assert segment_meets_box(np.array([-5.0, 0.5]), np.array([5.0, 0.5]), box)
    assert not segment_meets_box(np.array([-5.0, 1.5]), np.array([5.0, 1.5]), box)


def test_projection_saturates_and_skips_repeated_vertices() -> None:
    line = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert project_on_polyline(line, 1.5, -2.0) == 1.5
    assert project_on_polyline(line, -9.0, 0.0) == 0.0
    assert project_on_polyline(line, 3.5, 3.0) == 6.0
    assert project_on_polyline(line, 3.0, 99.0) == 7.0


@pytest.mark.parametrize("hint", [-1, 0, 2, 7])
def test_segment_within_is_inclusive_whatever_the_hint(hint: int) -> None:
    line = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert segment_within(line, 1.0, 0.5, 0.5, hint) == 0
    assert segment_within(line, 3.5, 3.0, 0.5, hint) == 2
    assert segment_within(line, 1.0, 0.51, 0.5, hint) == -1


def test_bounds_and_ego_box() -> None:
    bounds = bounding_boxes(polygons([rectangle(0, 1, 2, 3), NOTCHED]))
    np.testing.assert_array_equal(bounds, [[0, 1, 2, 3], [0, 0, 4, 4]])
    box = np.empty((6, 2))
    fill_ego_box(np.array([10.0, 5.0, np.pi / 2]), box)
    expected = [[8.8515, 9.049], [8.8515, 3.873], [11.1485, 3.873], [11.1485, 9.049], [10, 6.461], [10, 5]]
    np.testing.assert_allclose(box, expected, atol=1e-12)
