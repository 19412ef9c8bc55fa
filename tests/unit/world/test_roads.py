"""Road layouts obey the rules of the map format and of right-hand traffic."""

import numpy as np
import pytest
import shapely

from irl_vla.world.roads import polyline
from irl_vla.world.roads.families import draw_layout
from irl_vla.world.roads.layout import FAMILIES
from irl_vla.world.roads.network import Network, build_network, make_route


def make_network(family: str, seed: int = 0, index: int = 0) -> Network:
    generator = np.random.default_rng(seed)
    centre = np.array([331_000.0, 4_690_000.0])
    layout = draw_layout("x", generator, number=1, city="us-ma-boston", family=family, centre=centre, index=index)
    return build_network(layout)


@pytest.fixture(params=list(FAMILIES))
def network(request) -> Network:
    return make_network(request.param, seed=list(FAMILIES).index(request.param))


def test_turn_between_perpendicular_poses_is_nearly_a_circle():
    line = polyline.turn(np.array([0.0, 0.0, 0.0]), np.array([10.0, 10.0, np.pi / 2]), 0.5)
    radius = np.linalg.norm(line - [0.0, 10.0], axis=1)
    np.testing.assert_allclose(radius, 10.0, atol=0.03)


def test_integrate_closes_a_circle():
    poses = polyline.integrate(np.zeros(3), np.full(360, 2 * np.pi / 360), 1.0)
    np.testing.assert_allclose(poses[-1, :2], 0.0, atol=1e-9)


def test_offset_is_to_the_left():
    np.testing.assert_allclose(polyline.offset(np.array([[0.0, 0.0, 0.0]]), 2.0), [[0.0, 2.0]])


def test_layout_is_a_function_of_the_seed():
    first, again, other = make_network("cross_signal", 3), make_network("cross_signal", 3), make_network("bend", 4)
    np.testing.assert_array_equal(first.content.lanes[5].baseline, again.content.lanes[5].baseline)
    assert not np.array_equal(first.content.lanes[5].baseline, other.content.lanes[5].baseline)


def test_lanes_connect_only_through_connectors_that_meet_them(network):
    lanes = {row.id: row for row in network.content.lanes}
    for connector in network.content.connectors:
        before, after = lanes[connector.from_lane_id], lanes[connector.to_lane_id]
        np.testing.assert_allclose(connector.baseline[0], before.baseline[-1], atol=1e-6)
        np.testing.assert_allclose(connector.baseline[-1], after.baseline[0], atol=1e-6)
    ends = np.stack([row.baseline[-1] for row in lanes.values()])
    for row in lanes.values():
        gaps = np.linalg.norm(ends - row.baseline[0], axis=1)
        assert gaps.min() > 0.5, "a lane touches the next one without a connector between them"


def test_every_lane_has_both_boundaries_and_a_place_in_its_group(network):
    content = network.content
    boundaries = {row.id: row.line for row in content.boundaries}
    indices: dict[int, list[int]] = {}
    for lane in content.lanes:
        left, right = boundaries[lane.left_boundary_id], boundaries[lane.right_boundary_id]
        heading = polyline.headings(lane.baseline)[0]
        to_left = (left[0] - right[0]) @ [-np.sin(heading), np.cos(heading)]
        assert 3.3 < to_left < 4.0
        assert lane.polygon.is_valid
        assert lane.polygon.covers(shapely.Point(lane.baseline[len(lane.baseline) // 2]))
        indices.setdefault(lane.group_id, []).append(lane.index)
    assert all(group == list(range(len(group))) for group in indices.values())


def test_traffic_keeps_to_the_right(network):
    for index, arm in enumerate(network.layout.arms):
        if arm.lanes_out == 0:
            continue
        outbound = network.outbound[index][0].lines[0][0]
        lateral = (outbound - arm.line[0, :2]) @ [-np.sin(arm.line[0, 2]), np.cos(arm.line[0, 2])]
        assert lateral < 0


def test_drivable_area_has_no_cracks_along_routes(network):
    content = network.content
    areas = [row.polygon for row in (*content.groups, *content.intersections)]
    area = shapely.union_all(areas)
    for movement in range(len(network.movements)):
        route = make_route(network, movement)
        inside = shapely.LineString(route.line).buffer(1.2, cap_style="flat")
        assert inside.difference(area).area < 0.01


def test_routes_alternate_roadblocks_and_connectors(network):
    groups = {str(row.id) for row in network.content.groups}
    links = {(str(row.from_group_id), str(row.to_group_id)): str(row.id) for row in network.content.group_connectors}
    for movement in range(len(network.movements)):
        blocks = make_route(network, movement).block_ids
        assert [block in groups for block in blocks] == [place % 2 == 0 for place in range(len(blocks))]
        assert all(links[blocks[k - 1], blocks[k + 1]] == blocks[k] for k in range(1, len(blocks), 2))


def test_conflict_zones_are_mutual(network):
    zones = network.conflicts
    np.testing.assert_array_equal(np.isnan(zones[..., 0]), np.isnan(zones[..., 0].T))


def test_signal_layouts_reference_their_stop_lines():
    content = make_network("cross_signal").content
    stops = {row.id for row in content.stop_lines}
    assert {stop for row in content.connectors for stop in row.stop_line_ids} == stops
    assert len(stops) == 4
