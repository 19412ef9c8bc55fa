"""Road layouts obey the rules of the map format, and of traffic that keeps to its side."""

from dataclasses import fields

import numpy as np
import pytest
import shapely

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.maps.content import CITY_EPSG, STOP_KINDS, MapContent
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.maps.writer import map_path, write_index, write_map
from irl_vla.driving.route import find_start_lane, lanes_of, repair_route, search_lanes
from irl_vla.epdms.inputs import drivable_map
from irl_vla.geometry import Floats, wrap_angle
from irl_vla.scene import MapView
from irl_vla.world.config import SplitSizeConfig, WorldConfig
from irl_vla.world.plan import EVERY_ROAD, SPLITS, layout_plans
from irl_vla.world.roads import polyline
from irl_vla.world.roads.families import draw_layout
from irl_vla.world.roads.layout import FAMILIES
from irl_vla.world.roads.mirror import mirrored_layout, mirrored_points
from irl_vla.world.roads.network import Network, build_network, kerb_lane, make_route, mirrored_network
from irl_vla.world.roads.rows import IDS_PER_LAYOUT

NAMES = list(FAMILIES)
CENTRE = np.array([331_000.0, 4_690_000.0])
TIGHTEST_M = 5.5


def make_network(family: str, seed: int = 0, index: int = 0, *, city: str = "us-ma-boston", number: int = 1) -> Network:
    centre = CENTRE + 1600.0 * np.array([number - 1, 0])
    generator = np.random.default_rng(seed)
    layout = draw_layout("x", generator, number=number, city=city, family=family, centre=centre, index=index)
    return build_network(layout)


@pytest.fixture(params=NAMES, scope="module")
def network(request) -> Network:
    place = NAMES.index(request.param)
    return make_network(request.param, seed=place, index=place, number=place + 1)


@pytest.fixture(scope="module")
def every_network() -> list[Network]:
    """Three rounds of all families, the last one of left-hand traffic: other lane counts, other bends."""
    cities = ("us-ma-boston", "us-ma-boston", "sg-one-north")
    return [
        make_network(family, seed=100 * turn + place, index=place + len(NAMES) * turn, city=city)
        for turn, city in enumerate(cities)
        for place, family in enumerate(NAMES)
    ]


@pytest.fixture(scope="module", params=["us-ma-boston", "sg-one-north"])
def read_map(request, tmp_path_factory) -> tuple[MapView, list[Network]]:
    """All families in one map file, written and read."""
    root = tmp_path_factory.mktemp("roads")
    networks = [make_network(name, k, k, city=request.param, number=k + 1) for k, name in enumerate(NAMES)]
    merged = {
        item.name: tuple(row for net in networks for row in getattr(net.content, item.name))
        for item in fields(MapContent)
    }
    (root / "navsim_logs").mkdir()
    write_map(map_path(root / "maps", request.param), MapContent(**merged), CITY_EPSG[request.param])
    write_index(root / "maps")
    return load_map(open_dataset(DataConfig(root=root)), request.param), networks


def test_turn_between_perpendicular_poses_is_nearly_a_circle():
    line = polyline.turn(np.array([0.0, 0.0, 0.0]), np.array([10.0, 10.0, np.pi / 2]), 0.5)
    radius = np.linalg.norm(line - [0.0, 10.0], axis=1)
    np.testing.assert_allclose(radius, 10.0, atol=0.03)


def test_integrate_closes_a_circle():
    poses = polyline.integrate(np.zeros(3), np.full(360, 2 * np.pi / 360), 1.0)
    np.testing.assert_allclose(poses[-1, :2], 0.0, atol=1e-9)


def test_offset_is_to_the_left():
    np.testing.assert_allclose(polyline.offset(np.array([[0.0, 0.0, 0.0]]), 2.0), [[0.0, 2.0]])


def test_way_around_a_ring_follows_it_and_touches_it_smoothly():
    # from the south, on the lane 2 m right of the axis, to the north: half of the ring, counter-clockwise
    line = polyline.around(np.zeros(2), 15.0, 10.0, np.array([2.0, -40.0, np.pi / 2]), np.array([2.0, 40.0, np.pi / 2]))
    np.testing.assert_allclose(line[[0, -1]], [[2.0, -40.0], [2.0, 40.0]])
    np.testing.assert_allclose(line[:, 1], -line[::-1, 1], atol=1e-6)  # as it was entered it is left
    on_ring = np.abs(line[:, 1]) < 8.0
    np.testing.assert_allclose(np.linalg.norm(line[on_ring], axis=1), 15.0, atol=0.02)
    assert line[on_ring, 0].min() > 0  # past the right, which is counter-clockwise
    turns = np.diff(polyline.headings(line))
    assert np.abs(turns).max() < 1 / 9.0  # no sharper than the arcs, at 1 m spacing
    assert turns.min() < -1 / 11.0 < 0 < turns.max()  # right, left around the ring, right


def test_layout_is_a_function_of_the_seed():
    first, again, other = (make_network("merge", seed) for seed in (3, 3, 4))
    for row, same in zip(first.content.lanes, again.content.lanes, strict=True):
        np.testing.assert_array_equal(row.baseline, same.baseline)
    assert not np.array_equal(first.content.lanes[0].baseline, other.content.lanes[0].baseline)


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


def test_connectors_join_lanes_without_a_kink(every_network):
    for network in every_network:
        lanes = {row.id: row.baseline for row in network.content.lanes}
        for row in network.content.connectors:
            before, after = lanes[row.from_lane_id], lanes[row.to_lane_id]
            kinks = [bearing(before[-2:]) - bearing(row.baseline[:2]), bearing(row.baseline[-2:]) - bearing(after[:2])]
            assert np.abs(wrap_angle(np.array(kinks))).max() < 0.1, network.layout.family


def bearing(points: Floats) -> float:
    step = points[1] - points[0]
    return float(np.arctan2(step[1], step[0]))


def test_a_car_can_follow_every_baseline(every_network):
    for network in every_network:
        for row in (*network.content.lanes, *network.content.connectors):
            line = polyline.resample(row.baseline, 1.0)
            if len(line) > 4:
                turned = np.abs(np.diff(np.unwrap(np.arctan2(*np.diff(line, axis=0).T[::-1]))))
                over_2_m = np.convolve(turned, [0.5, 0.5], mode="valid")
                assert over_2_m.max() < 1 / TIGHTEST_M, network.layout.family


def test_every_lane_has_both_boundaries_and_a_place_in_its_group(every_network):
    for network in every_network:
        content = network.content
        boundaries = {row.id: row.line for row in content.boundaries}
        indices: dict[int, list[int]] = {}
        for lane in content.lanes:
            left, right = boundaries[lane.left_boundary_id], boundaries[lane.right_boundary_id]
            heading = bearing(lane.baseline[:2])
            to_left = (left[0] - right[0]) @ [-np.sin(heading), np.cos(heading)]
            assert 3.3 < to_left < 4.0
            assert lane.polygon.is_valid
            indices.setdefault(lane.group_id, []).append(lane.index)
        assert all(sorted(group) == list(range(len(group))) for group in indices.values())


def test_lanes_of_a_group_are_counted_from_the_left(every_network):
    for network in every_network:
        lanes = {(row.group_id, row.index): row.baseline for row in network.content.lanes}
        for (group, index), line in lanes.items():
            beside = lanes.get((group, index + 1))
            if beside is not None:
                heading = bearing(line[:2])
                assert (beside[0] - line[0]) @ [-np.sin(heading), np.cos(heading)] < -3.0


def test_lanes_and_baselines_lie_inside_their_blocks(every_network):
    for network in every_network:
        content = network.content
        blocks = {row.id: row.polygon.buffer(0.01) for row in (*content.groups, *content.group_connectors)}
        owners = [(row, row.group_id) for row in content.lanes]
        owners += [(row, row.group_connector_id) for row in content.connectors]
        for row, block in owners:
            assert row.polygon.difference(blocks[block]).area < 0.01
            assert shapely.LineString(row.baseline).difference(row.polygon.buffer(0.01)).length < 0.01
        assert all(row.polygon.is_valid for row in (*content.intersections, *content.carparks, *content.walkways))


def test_lanes_never_overlap_outside_junctions(every_network):
    for network in every_network:
        polygons = [row.polygon for row in network.content.lanes]
        first, second = shapely.STRtree(polygons).query(polygons, predicate="overlaps")
        shared = shapely.area(shapely.intersection(np.array(polygons)[first], np.array(polygons)[second]))
        assert (shared < 0.05).all(), network.layout.family


def test_ids_of_a_layout_stay_within_its_room(every_network):
    for network in every_network:
        ids = [row.id for item in fields(MapContent) for row in getattr(network.content, item.name)]
        assert len(set(ids)) == len(ids)
        assert max(ids) < 2 * IDS_PER_LAYOUT  # of layout number 1


def test_traffic_keeps_to_its_side(every_network):
    for network in every_network:
        for index, arm in enumerate(network.layout.arms):
            for chains, sign in ((network.outbound[index], 1.0), (network.inbound[index], -1.0)):
                for chain in chains if arm.auxiliary_m == 0 else chains[:0]:
                    start = chain.line[0] if sign > 0 else chain.line[-1]
                    if network.layout.control == "merge" and index == 2:
                        continue  # ends beside another arm
                    lateral = (start - arm.line[0, :2]) @ [-np.sin(arm.line[0, 2]), np.cos(arm.line[0, 2])]
                    assert lateral * arm.outward_side * sign > 0


@pytest.mark.parametrize("family", NAMES)
def test_left_hand_layouts_are_mirror_images(family):
    right = make_network(family, 5)
    left = make_network(family, 5, city="sg-one-north")
    assert left.layout.keeps_left
    centre = right.layout.centre
    for row, image in zip(right.content.lanes, left.content.lanes, strict=True):
        np.testing.assert_allclose(mirrored_points(row.baseline, centre), image.baseline, atol=1e-9)
        assert (row.left_boundary_id, row.right_boundary_id) == (image.right_boundary_id, image.left_boundary_id)
    turned = {"left": "right", "right": "left", "straight": "straight"}
    assert [turned[move.turn] for move in right.movements] == [move.turn for move in left.movements]
    assert [move.rank for move in right.movements] == [move.rank for move in left.movements]
    for move in left.movements:
        np.testing.assert_array_equal(left.inbound[move.from_arm][move.from_lane].line[-1], move.line[0])
        np.testing.assert_array_equal(left.outbound[move.to_arm][move.to_lane].line[0], move.line[-1])
    again = mirrored_network(left)
    np.testing.assert_allclose(again.content.lanes[0].baseline, right.content.lanes[0].baseline, atol=1e-9)
    assert [arm.closure for arm in mirrored_layout(left.layout).arms] == [arm.closure for arm in right.layout.arms]


def test_drivable_area_has_no_cracks_along_routes(every_network):
    for network in every_network:
        content = network.content
        area = shapely.union_all([row.polygon for row in (*content.groups, *content.intersections)])
        for movement in range(len(network.movements)):
            route = make_route(network, movement)
            inside = shapely.LineString(route.line).buffer(1.2, cap_style="flat")
            assert inside.difference(area).area < 0.01, network.layout.family


def test_routes_alternate_roadblocks_and_connectors(network):
    groups = {str(row.id) for row in network.content.groups}
    links = {(str(row.from_group_id), str(row.to_group_id)): str(row.id) for row in network.content.group_connectors}
    assert len(links) == len(network.content.group_connectors)
    for movement in range(len(network.movements)):
        route = make_route(network, movement)
        blocks = route.block_ids
        assert [block in groups for block in blocks] == [place % 2 == 0 for place in range(len(blocks))]
        assert all(links[blocks[k - 1], blocks[k + 1]] == blocks[k] for k in range(1, len(blocks), 2))
        assert route.lane_ids[route.movement_place] == network.movements[movement].id
        np.testing.assert_allclose(
            polyline.at(route.line, polyline.lengths(route.line), np.array(route.junction_m)),
            network.movements[movement].line[[0, -1]],
            atol=1e-6,
        )


def test_reference_planner_finds_every_route(read_map):
    view, networks = read_map
    for network in networks:
        for movement in range(len(network.movements)):
            route = make_route(network, movement)
            along = polyline.lengths(route.line)
            for place in np.arange(5.0, along[-1] - 50.0, 147.0):
                here, ahead = polyline.at(route.line, along, np.array([place, place + 0.5]))
                pose = np.array([*here, bearing(np.stack([here, ahead]))])
                repair = repair_route(view, pose, route.block_ids)
                assert repair.blocks == route.block_ids
                area = drivable_map(view, pose[:2])
                lane = int(np.searchsorted(route.lane_starts_m, place, side="right")) - 1
                found = find_start_lane(
                    view, pose, lanes_of(view, repair.blocks), area.ids, shapely.STRtree(area.shapes)
                )
                assert view.lane(found).roadblock_id == route.block_ids[lane]
                assert search_lanes(view, found, repair.blocks).found


def test_conflict_zones_are_mutual(network):
    zones = network.conflicts
    np.testing.assert_array_equal(np.isnan(zones[..., 0]), np.isnan(zones[..., 0].T))


def test_signal_layouts_reference_their_stop_lines():
    content = make_network("cross_signal").content
    stops = {row.id for row in content.stop_lines}
    assert {stop for row in content.connectors for stop in row.stop_line_ids} == stops
    assert len(stops) == 4


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("cross_all_stop", ["stop_sign"] * 4),
        ("cross_stop", ["stop_sign"] * 2),
        ("tee_priority", ["yield"]),
        ("roundabout", ["yield"] * 4),
        ("merge", []),
        ("lane_drop", []),
    ],
)
def test_stop_lines_are_where_somebody_gives_way(family, kinds):
    network = make_network(family)
    assert [STOP_KINDS[row.kind] for row in network.content.stop_lines] == kinds
    assert all(row.stop_line_ids == () for row in network.content.connectors)


def test_right_of_way():
    crossing = make_network("cross_stop", 3)
    ranks = {(crossing.layout.arms[move.from_arm].axis, move.turn): move.rank for move in crossing.movements}
    assert ranks[0, "straight"] > ranks[0, "right"] > ranks[0, "left"] > ranks[1, "straight"] > ranks[1, "left"]
    merge = make_network("merge")
    ramp = next(move for move in merge.movements if move.from_arm == 2)
    assert ramp.sign == "yield"
    assert all(move.rank > ramp.rank for move in merge.movements if move is not ramp)
    assert len({move.rank for move in make_network("cross_all_stop").movements}) == 1
    near = {move.turn: move.rank for move in make_network("cross_signal", city="sg-one-north").movements}
    assert near["left"] > near["right"]  # where traffic keeps left, right turns cross the oncoming traffic


def test_nobody_drives_over_the_island_of_a_roundabout():
    network = make_network("roundabout")
    ring = network.layout.ring
    area = shapely.union_all([row.polygon for row in (*network.content.groups, *network.content.intersections)])
    assert not area.intersects(shapely.Point(network.layout.centre).buffer(ring.island_m - 0.1))
    assert area.covers(shapely.Point(network.layout.centre + np.array([ring.radius_m, 0.0])))


def test_ramp_ends_with_the_acceleration_lane_beside_the_main_road():
    network = make_network("merge")
    (ramp,) = network.inbound[2]
    main = network.inbound[0][-1]
    assert ramp.block_ids[-1] == main.block_ids[-1]
    assert ramp.ids[-1] != main.ids[-1]
    gap = shapely.distance(shapely.LineString(ramp.lines[-1]), shapely.LineString(main.lines[-1]))
    assert gap == pytest.approx(network.layout.arms[0].lane_width_m, abs=0.05)
    joining = [move for move in network.movements if (move.to_arm, move.to_lane) == (1, len(network.outbound[1]) - 1)]
    assert sorted(move.from_arm for move in joining) == [0, 2]


def test_lane_drop_leads_two_lanes_into_one():
    network = make_network("lane_drop")
    entered = [move.to_lane for move in network.movements if move.to_arm == 1]
    assert entered == [0, 1, 1]


@pytest.mark.parametrize("city", ["us-ma-boston", "sg-one-north"])
def test_work_sites_close_one_lane_and_leave_the_next_open(city):
    network = make_network("works", 2, city=city)
    assert len(network.sites) == 2
    for site in network.sites:
        chains, arm = network.outbound[site.arm], network.layout.arms[site.arm]
        closed = chains[site.lane].line
        things = np.array([pose[:2] for name, pose, _ in site.things if name != "czone_sign"])
        assert (polyline.locate(closed, things) > site.taper_m - 3.0).all()
        along = polyline.locate(arm.line[:, :2], things)
        assert (along < arm.closure.end_m + 15.0).all()
        for lane in {site.lane - 1, site.lane + 1} & set(range(len(chains))):
            to_free = shapely.distance(shapely.points(things), shapely.LineString(chains[lane].line))
            assert to_free.min() > 1.5  # half a car beside the middle of the open lane, and some air
        between = (along > arm.closure.begin_m + 1.0) & (along < arm.closure.end_m - 1.0)
        assert shapely.distance(shapely.points(things[between]), shapely.LineString(closed)).max() < 2.0


@pytest.mark.parametrize("city", ["us-ma-boston", "sg-one-north"])
def test_bays_lie_beside_the_kerb_lane(city):
    network = make_network("pickup", 2, city=city)
    carparks = shapely.union_all([row.polygon for row in network.content.carparks])
    assert len(network.bays) == 2
    for bay in network.bays:
        assert bay.lane == kerb_lane(network, bay.arm, inward=False)
        line = network.outbound[bay.arm][bay.lane].line
        arm = network.layout.arms[bay.arm]
        along = polyline.locate(arm.line[:, :2], bay.slots[:, :2])
        assert ((along > arm.bay_m[0]) & (along < arm.bay_m[1])).all()
        assert all(carparks.covers(shapely.Point(slot[:2])) for slot in bay.slots)
        offsets = shapely.distance(shapely.points(bay.double_parked[:, :2]), shapely.LineString(line))
        assert ((offsets > 0.5) & (offsets < 1.4)).all()  # inside of the lane, towards the bay


def test_families_take_turns_and_cities_too():
    sizes = SplitSizeConfig(logs=25, layouts=EVERY_ROAD)
    config = WorldConfig(train=SplitSizeConfig(logs=40, layouts=40), val=sizes, test=sizes)
    plans = layout_plans(config)
    controls = set(FAMILIES.values())
    for split in SPLITS:
        families = {plan.family for plan in plans[split]}
        assert {"pickup", "works"} <= families
        assert controls - {FAMILIES[family] for family in families} <= {"stop"}  # all-way stops stand for them
    assert {plan.family for plan in plans["train"]} == set(FAMILIES)
    assert len({plan.family for plan in plans["train"] if plan.city == "sg-one-north"}) > 6
    places = [(plan.city, plan.number // 4) for split in SPLITS for plan in plans[split]]
    assert len(set(places)) == len(places)


def test_roads_have_the_radii_and_speeds_of_real_drives(every_network):
    curvature = max(arm.max_curvature for net in every_network for arm in net.layout.arms)
    assert 1 / 20 < curvature < 1 / 11
    limits = [arm.speed_limit_mps for net in every_network for arm in net.layout.arms]
    assert min(limits) < 9.0
    assert max(limits) > 22.0
    lanes = {arm.lanes for net in every_network for arm in net.layout.arms}
    assert lanes == {1, 2, 3}
