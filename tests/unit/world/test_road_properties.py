"""What holds for every road that can be drawn, not only for the seeds of the other tests."""

from dataclasses import fields
from functools import lru_cache

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from irl_vla.dataset.maps.content import MapContent
from irl_vla.geometry import Floats
from irl_vla.world.drivers import path_curvature
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import FAMILIES, Arm
from irl_vla.world.roads.network import Network, make_route
from irl_vla.world.tracks import lane_paths
from tests.unit.world.test_roads import make_network

RAMP = 2
#: Radius that the inner edge of a bent road has beyond half its width, and the sharpest bend of a ramp.
BEND_ROOM_M, RAMP_RADIUS_M = 7.5, 30.0
#: Sharpest turn of a junction that a car has to follow.
TURN_RADIUS_M = 5.5

roads = st.tuples(
    st.sampled_from(list(FAMILIES)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 3 * len(FAMILIES) - 1),
    st.sampled_from(["us-ma-boston", "sg-one-north"]),
)
every_road = settings(max_examples=25, deadline=None, derandomize=True)


@lru_cache(maxsize=256)
def built(road: tuple[str, int, int, str]) -> Network:
    family, seed, index, city = road
    return make_network(family, seed, index, city=city)


def is_ramp(network: Network, arm: int) -> bool:
    return network.layout.control == "merge" and arm == RAMP


def bends(line: Floats) -> Floats:
    """(V - 2,) curvature of poses (V, 3) two metres apart, 1/m."""
    return np.abs(np.diff(line[:, 2])) / 2.0


@every_road
@given(roads)
def test_no_road_crosses_itself_or_another_lane_of_its_arm(road: tuple[str, int, int, str]) -> None:
    network = built(road)
    for arm, chains in enumerate(zip(network.inbound, network.outbound, strict=True)):
        lines = [shapely.LineString(chain.line) for direction in chains for chain in direction]
        assert all(line.is_simple for line in lines), road
        assert shapely.LineString(network.layout.arms[arm].line[:, :2]).is_simple, road
        assert not any(a.intersects(b) for k, a in enumerate(lines) for b in lines[:k]), road
    for movement in range(len(network.movements)):
        assert shapely.LineString(make_route(network, movement).line).is_simple, road


@every_road
@given(roads)
def test_bends_are_as_wide_as_the_road_needs(road: tuple[str, int, int, str]) -> None:
    network = built(road)
    for index, arm in enumerate(network.layout.arms):
        # a ramp bends with the main road, and by itself
        sharpest = 1 / (arm.half_width_m + BEND_ROOM_M) if not is_ramp(network, index) else 1 / 11.0
        assert bends(arm.line).max() <= sharpest + 1e-9, road
    if network.layout.control == "merge":
        assert bends(network.layout.arms[RAMP].line[70:]).max() <= 1 / RAMP_RADIUS_M + 1e-9, road


@every_road
@given(roads)
def test_bends_that_are_drawn_can_be_felt(road: tuple[str, int, int, str]) -> None:
    """No radius beyond 300 m on streets: what is longer is straight, which eases have to reach from full curvature."""
    for arm in built(road).layout.arms:
        curved = bends(arm.line)
        if curved.max() > 1e-6 and not arm.is_fast:
            assert curved.max() > 1 / 300.0 * 0.99, road


@every_road
@given(roads)
def test_a_car_can_follow_every_way(road: tuple[str, int, int, str]) -> None:
    for lane in lane_paths(built(road)):
        assert np.abs(path_curvature(lane.path)).max() < 1 / TURN_RADIUS_M, road
        assert 6.0 < lane.limits_mps.min() <= lane.limits_mps.max() < 23.0, road
        assert 0.0 < lane.enter_m < lane.leave_m < len(lane.path), road


@every_road
@given(roads)
def test_rows_name_rows_that_exist_and_meet(road: tuple[str, int, int, str]) -> None:
    network = built(road)
    content = network.content
    ids = [row.id for item in fields(MapContent) for row in getattr(content, item.name)]
    assert len(set(ids)) == len(ids), road
    lanes, groups = {row.id: row for row in content.lanes}, {row.id for row in content.groups}
    blocks = {row.id: row for row in content.group_connectors}
    crossings, boundaries = {row.id for row in content.intersections}, {row.id for row in content.boundaries}
    stops = {row.id for row in content.stop_lines}
    assert {row.group_id for row in content.lanes} == groups, road
    for row in content.connectors:
        block, before, after = blocks[row.group_connector_id], lanes[row.from_lane_id], lanes[row.to_lane_id]
        assert (block.from_group_id, block.to_group_id) == (before.group_id, after.group_id), road
        np.testing.assert_allclose(row.baseline[0], before.baseline[-1], atol=1e-6)
        np.testing.assert_allclose(row.baseline[-1], after.baseline[0], atol=1e-6)
        assert row.intersection_id == block.intersection_id in crossings, road
        assert set(row.stop_line_ids) <= stops, road
    for rows in (content.lanes, content.connectors, content.groups, content.group_connectors):
        for sided in rows:
            assert {sided.left_boundary_id, sided.right_boundary_id} <= boundaries, road


@every_road
@given(roads)
def test_ways_lead_from_lanes_that_arrive_to_lanes_that_leave(road: tuple[str, int, int, str]) -> None:
    network = built(road)
    for move in network.movements:
        assert move.from_arm != move.to_arm, road
        into, out = network.inbound[move.from_arm][move.from_lane], network.outbound[move.to_arm][move.to_lane]
        np.testing.assert_allclose(move.line[0], into.line[-1], atol=1e-6)
        np.testing.assert_allclose(move.line[-1], out.line[0], atol=1e-6)
    served = {(move.to_arm, move.to_lane) for move in network.movements}
    wanted = {(arm, lane) for arm, chains in enumerate(network.outbound) for lane in range(len(chains))}
    if network.layout.control in ("free", "merge", "zipper"):
        assert served == wanted, road  # junctions may leave the lanes of wider arms without an entry
    assert {arm for arm, _ in served} == {arm for arm, _ in wanted}, road


@every_road
@given(roads)
def test_parked_cars_stand_off_the_lanes(road: tuple[str, int, int, str]) -> None:
    network = built(road)
    lanes = shapely.union_all([row.polygon for row in network.content.lanes])
    for slot in network.parking_slots:
        assert shapely.distance(shapely.Point(slot[:2]), lanes) > 0.9, road  # half a car


def nearest_arm(network: Network, point: Floats) -> Arm:
    return min(network.layout.arms, key=lambda arm: polyline_distance(arm, point))


def polyline_distance(arm: Arm, point: Floats) -> float:
    return float(shapely.distance(shapely.LineString(arm.line[:, :2]), shapely.Point(point)))


@every_road
@given(roads)
def test_crosswalks_go_from_kerb_to_kerb(road: tuple[str, int, int, str]) -> None:
    network = built(road)
    for walk in network.crosswalks:
        arm = network.layout.arms[walk.arm]
        assert np.linalg.norm(walk.ends[1] - walk.ends[0]) >= 2 * arm.half_width_m, road
        if walk.is_midblock:
            middle = polyline.locate(arm.line[:, :2], walk.ends.mean(axis=0)[None])[0]
            assert abs(middle - arm.crosswalk_m) < 2.0, road
            assert nearest_arm(network, walk.ends.mean(axis=0)) is arm, road
