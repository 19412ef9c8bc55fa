from dataclasses import replace

import numpy as np
import pytest
import shapely

from irl_vla.driving.route import (
    centreline,
    distinct_blocks,
    find_start_lane,
    lanes_of,
    repair_route,
    search_blocks,
    search_lanes,
)
from irl_vla.errors import MapError
from irl_vla.scene import Lane, MapView, Roadblock

from .straight_map import straight_map


def pose(x, y=0.0, heading=0.0):
    return np.array([x, y, heading])


def test_repeats_are_dropped_and_unknown_blocks_named():
    view = straight_map()
    assert distinct_blocks(view, ("b", "a", "b", "ab", "a")) == ("b", "a", "ab")
    with pytest.raises(MapError, match="'nowhere'"):
        distinct_blocks(view, ("a", "nowhere"))


def test_lanes_come_in_route_order():
    assert lanes_of(straight_map(2), ("b", "ab")) == ("b0", "b1", "ab0", "ab1")


def test_a_complete_route_stays_as_it_is():
    repair = repair_route(straight_map(), pose(50.0), ("a", "ab", "b"))
    assert (repair.start_block, repair.candidates, repair.blocks) == ("ab", ("ab",), ("a", "ab", "b"))


def test_gaps_are_closed():
    assert repair_route(straight_map(), pose(10.0), ("a", "b", "c")).blocks == ("a", "ab", "b", "bc", "c")


def test_a_route_that_starts_ahead_is_extended_back_to_the_ego():
    repair = repair_route(straight_map(), pose(10.0), ("bc", "c"))
    assert repair.start_block == "a"
    assert repair.blocks == ("a", "ab", "b", "bc", "c")


def test_a_route_without_way_from_the_ego_is_left_alone():
    repair = repair_route(straight_map(), pose(190.0), ("a", "ab"))
    assert (repair.start_block, repair.blocks) == ("c", ("a", "ab"))


def test_blocks_of_the_route_are_preferred_to_nearer_ones():
    # On the border of a and ab the nearest vertex belongs to both; 0.9 m on, ab touches, too.
    assert repair_route(straight_map(), pose(39.5), ("ab", "b")).start_block == "ab"


def test_a_wrong_heading_disqualifies_unless_nothing_else_is_near():
    repair = repair_route(straight_map(), pose(10.0, heading=np.pi), ("a", "ab"))
    assert (repair.start_block, repair.candidates) == ("a", ("a",))  # the fallback: smallest displacement


def test_an_ego_far_from_all_blocks_gets_the_nearest_of_both_kinds():
    repair = repair_route(straight_map(), pose(10.0, y=30.0), ("a", "ab"))
    assert repair.candidates == ("a", "ab")
    assert repair.start_block == "a"


def test_overlapping_connectors_cut_the_route():
    view = straight_map()
    overlapping = replace(view.roadblock_connectors["bc"], polygon=view.roadblock_connectors["ab"].polygon)
    looped = replace(view, roadblock_connectors={**view.roadblock_connectors, "bc": overlapping}, _trees={})
    repair = repair_route(looped, pose(10.0), ("a", "ab", "b", "bc", "c"))
    assert repair.before_loop_cut == ("a", "ab", "b", "bc", "c")
    assert repair.blocks == ("a", "ab", "b")


GRAPH = {"s": ("x", "y"), "x": ("t", "u"), "y": ("t",), "t": ("v",), "u": (), "v": ("s",)}


@pytest.mark.parametrize(
    ("targets", "depth", "path"),
    [
        ({"s", "t"}, 9, ("s",)),
        ({"t"}, 3, ("s", "y", "t")),  # the later parent wins
        ({"t"}, 2, None),
        ({"v", "u"}, 9, ("s", "x", "u")),
        ({"nowhere"}, 50, None),  # the cycle ends with the depth
    ],
)
def test_block_search(targets, depth, path):
    assert search_blocks("s", targets, GRAPH.__getitem__, depth) == path


def literal_search(start, targets, neighbours, max_depth):
    """The evaluator's rule word for word: a queue of levels, repeats allowed, the last writer becomes parent."""
    level, parents = [start], [{}]
    for depth in range(max_depth):
        following, writers = [], {}
        for block in level:
            if block in targets:
                path = [block]
                for step in range(depth, 0, -1):
                    path.append(parents[step][path[-1]])
                return tuple(reversed(path))
            for neighbour in neighbours(block):
                following.append(neighbour)
                writers[neighbour] = block
        level = following
        parents.append(writers)
        if not level:
            return None
    return None


def test_block_search_equals_the_literal_rule_on_random_graphs():
    generator, hits = np.random.default_rng(0), 0
    for _ in range(300):
        names = [str(i) for i in range(12)]
        graph = {n: tuple(generator.choice(names, size=generator.integers(0, 4), replace=False)) for n in names}
        targets = set(generator.choice(names[1:], size=2, replace=False))
        expected = literal_search("0", targets, graph.__getitem__, 6)
        assert search_blocks("0", targets, graph.__getitem__, 6) == expected
        hits += expected is not None
    assert hits > 100


def start_lane(view, ego, route):
    ids = (*view.lanes, *view.lane_connectors)
    tree = shapely.STRtree([view.lane(lane_id).polygon for lane_id in ids])
    return find_start_lane(view, ego, lanes_of(view, route), ids, tree)


def test_the_start_lane_is_the_one_below_the_ego():
    view = straight_map(2)
    assert start_lane(view, pose(10.0, 1.0), ("a", "ab")) == "a0"
    assert start_lane(view, pose(10.0, 3.0), ("a", "ab")) == "a1"


def test_beside_the_route_the_nearest_lane_counts():
    view = straight_map(2)
    assert start_lane(view, pose(60.0, 9.0), ("b", "bc")) == "b1"
    assert start_lane(view, pose(39.5, 0.0), ("ab", "b")) == "ab0"  # the box centre is inside already
    assert start_lane(view, pose(10.0), ()) is None


def lane(lane_id, block, out, length):
    line = np.array([[0.0, 0.0], [length, 0.0]])
    return Lane(lane_id, block, False, line, shapely.Polygon(), None, out, ())


def lane_graph(*lanes):
    blocks = {item.roadblock_id: [] for item in lanes}
    for item in lanes:
        blocks[item.roadblock_id].append(item.id)
    roadblocks = {key: Roadblock(key, False, shapely.Polygon(), tuple(ids), (), ()) for key, ids in blocks.items()}
    return MapView("graph", {item.id: item for item in lanes}, {}, roadblocks, {}, {})


def test_the_shortest_lanes_to_the_last_block_are_taken():
    view = lane_graph(
        lane("s", "A", ("long", "short"), 5.0),
        lane("long", "B", ("t",), 20.0),
        lane("short", "B", ("t",), 10.0),
        lane("t", "C", (), 5.0),
    )
    assert search_lanes(view, "s", ("A", "B", "C")).lane_ids == ("s", "short", "t")


def test_lanes_off_the_route_are_not_entered():
    view = lane_graph(lane("s", "A", ("off", "on"), 5.0), lane("off", "X", ("t",), 1.0), lane("on", "B", ("t",), 9.0))
    search = search_lanes(view, "s", ("A", "B"))
    assert (search.lane_ids, search.found) == (("s", "on"), True)


def test_without_a_way_the_deepest_lane_is_the_goal():
    view = lane_graph(
        lane("s", "A", ("p", "q"), 5.0),
        lane("p", "B", (), 1.0),
        lane("q", "B", ("r",), 50.0),
        lane("r", "C", (), 50.0),
        lane("t", "D", (), 5.0),
    )
    search = search_lanes(view, "s", ("A", "B", "C", "D"))
    assert (search.lane_ids, search.found) == (("s", "q", "r"), False)


def test_the_window_ends_thirty_blocks_ahead():
    lanes = [lane(str(i), str(i), (str(i + 1),), 5.0) for i in range(40)]
    assert len(search_lanes(lane_graph(*lanes), "4", [str(i) for i in range(40)]).lane_ids) == 30


def test_the_centreline_starts_with_the_start_lane_and_keeps_doubled_joints():
    path = centreline(straight_map(), ("a0", "ab0"))
    assert len(path.points) == 42
    assert path.length_m == pytest.approx(80)
    assert (path.points[20] == path.points[21]).all()
