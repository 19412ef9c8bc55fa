import numpy as np
import pytest

from irl_vla.driving.path import corridor, lane_path, nearest_vertex, vertex_headings


@pytest.fixture
def corner():
    """10 m along x, then 10 m along y."""
    points = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
    return lane_path(points, vertex_headings(points))


def test_headings_are_those_of_the_segments_that_follow(corner):
    np.testing.assert_allclose(corner.headings, [0, np.pi / 2, np.pi / 2])


def test_poses_lie_between_vertices_and_are_clipped_to_the_ends(corner):
    poses = corner.poses_at(np.array([-3.0, 5.0, 10.0, 15.0, 99.0]))
    expected = [[1e-5, 0, 1e-5 * np.pi / 20], [5, 0, np.pi / 4], [10, 0, np.pi / 2], [10, 5, np.pi / 2]]
    np.testing.assert_allclose(poses, [*expected, [10, 10, np.pi / 2]], atol=1e-12)


def test_repeated_vertices_do_no_harm():
    points = np.array([[0.0, 0.0], [0.0, 0.0], [4.0, 0.0], [4.0, 0.0], [8.0, 0.0], [8.0, 0.0]])
    path = lane_path(points, np.zeros(6))
    np.testing.assert_allclose(path.poses_at(np.array([0.0, 4.0, 6.0, 8.0]))[:, 0], [1e-5, 4, 6, 8])


def test_headings_turn_the_short_way_round():
    path = lane_path(np.array([[0.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]]), np.array([np.pi - 0.1, -np.pi + 0.1, 3.0]))
    assert abs(path.poses_at(np.array(0.5))[2]) == pytest.approx(np.pi)


def test_projection_is_the_arc_length_of_the_nearest_point(corner):
    np.testing.assert_allclose(corner.project(np.array([[4.0, 3.0], [12.0, 6.0], [-5.0, 0.0]])), [4, 16, 0])


def test_a_parallel_path_lies_to_the_left(corner):
    left = corner.parallel(1.0)
    np.testing.assert_allclose(left.points, [[0, 1], [9, 0], [9, 10]], atol=1e-12)  # vertex by vertex, no mitre
    assert left.length_m == pytest.approx(np.hypot(9, 1) + 10)


def test_the_corridor_is_built_on_vertices_where_there_are_two():
    points = np.stack([np.arange(0.0, 21.0, 2.0), np.zeros(11)], axis=-1)
    path = lane_path(points, np.zeros(11))
    assert corridor(path, 3.0, 9.0, 1.0).bounds == pytest.approx((3, -1, 9, 1))  # vertices 4 .. 8, square ends
    assert corridor(path, 4.5, 5.5, 1.0).bounds == pytest.approx((3.5, -1, 6.5, 1))  # no vertex within


def test_the_corridor_stops_at_the_end_of_the_path():
    path = lane_path(np.array([[0.0, 0.0], [10.0, 0.0]]), np.zeros(2))
    assert corridor(path, 0.0, 50.0, 1.0).bounds[2] == pytest.approx(11)
    assert corridor(path, 10.0, 60.0, 1.0).bounds == pytest.approx((9, -1, 11, 1))


def test_the_nearest_vertex_gives_distance_and_heading_error():
    points = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
    assert nearest_vertex(points, np.array([9.0, 0.0, 0.5])) == pytest.approx((1.0, np.pi / 2 - 0.5))
    assert nearest_vertex(points, np.array([10.0, 12.0, np.pi / 2])) == pytest.approx((2.0, 0.0))
