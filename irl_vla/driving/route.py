"""Routes over the road graph: repair of a logged route, the ego's lane, and the lanes to follow.

Roadblocks are groups of parallel lanes, roadblock connectors their links through junctions; "block" means either. The
rules, surprising ones included, are those of PDM-Closed in NAVSIM v2.2 (``pdm_planner/utils``), because the centreline,
and with it progress, lane keeping and the reference, depends on every one of them.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import shapely

from irl_vla.driving.path import LanePath, lane_path, nearest_vertex, vertex_headings
from irl_vla.errors import MapError
from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre
from irl_vla.scene import MapView, Roadblock

_QUERY_HALF_WIDTH_M: Final = 1.0
_MAX_DISPLACEMENT_M: Final = 3.0
_MAX_HEADING_ERROR_RAD: Final = np.pi / 4
_BACKWARD_DEPTH: Final = 15
_FORWARD_DEPTH: Final = 30
_REJOIN_BLOCKS: Final = 3
_LOOP_AREA_M2: Final = 1.0
_WINDOW_BLOCKS: Final = 30


@dataclass(frozen=True, slots=True)
class RouteRepair:
    """A route made fit for planning.

    Attributes:
        start_block: block in which the ego is.
        candidates: blocks in which it may be, one entry a matching lane.
        before_loop_cut: route with the ego's block and all gaps joined.
        blocks: that route without loops and repeats.
    """

    start_block: str
    candidates: tuple[str, ...]
    before_loop_cut: tuple[str, ...]
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LaneSearch:
    """Lanes to follow, and whether they reach the end of the planning window (else the deepest lane)."""

    lane_ids: tuple[str, ...]
    found: bool


def distinct_blocks(map_view: MapView, block_ids: Sequence[str]) -> tuple[str, ...]:
    """A raw route without repeats.

    Raises:
        MapError: if the map has no roadblock or roadblock connector of an id.
    """
    for block_id in block_ids:
        if block_id not in map_view.roadblocks and block_id not in map_view.roadblock_connectors:
            raise MapError(
                f"map {map_view.name}: a route names block {block_id!r}, expected a roadblock or a roadblock connector "
                "of that id, found neither; check that log and map belong together"
            )
    return tuple(dict.fromkeys(block_ids))


def lanes_of(map_view: MapView, block_ids: Sequence[str]) -> tuple[str, ...]:
    """Ids of all lanes and connectors inside blocks, in route order, then file order."""
    return tuple(lane_id for block_id in block_ids for lane_id in map_view.roadblock(block_id).lane_ids)


def repair_route(map_view: MapView, pose: Floats, route: Sequence[str]) -> RouteRepair:
    """Joins a route to the ego's block, closes its gaps and cuts its loops.

    Args:
        map_view: the map.
        pose: (3,) global rear axle of the ego.
        route: block ids without repeats, at least one.
    """
    start_block, candidates = _locate(map_view, pose, route)
    joined = list(route)
    if start_block not in route:
        joined = _joined_to_ego(map_view, start_block, candidates, joined)
    joined = _without_gaps(map_view, joined)
    return RouteRepair(
        start_block=start_block,
        candidates=candidates,
        before_loop_cut=tuple(joined),
        blocks=distinct_blocks(map_view, _before_loop(map_view, joined)),
    )


def search_blocks(
    start: str, targets: Collection[str], neighbours: Callable[[str], Sequence[str]], max_depth: int
) -> tuple[str, ...] | None:
    """Breadth-first search for the nearest of several blocks; the path from ``start`` to it, or None.

    The evaluator's search revisits blocks and lets the last writer decide on a parent. Its result follows, in
    polynomial time, from two orders of every level: by first occurrence in its queue (who is hit), and by last (who is
    parent).

    Args:
        start: first block; a hit if it is itself a target.
        targets: ids looked for.
        neighbours: blocks next to a block, in file order.
        max_depth: levels searched; ``start`` is at level 1.
    """
    first_order, last_order = [start], [start]
    parents: list[dict[str, str]] = [{}]
    for depth in range(max_depth):
        hit = next((block for block in first_order if block in targets), None)
        if hit is not None:
            path = [hit]
            for level in reversed(parents[1 : depth + 1]):
                path.append(level[path[-1]])
            return tuple(reversed(path))
        occurrences = [(block, following) for block in last_order for following in neighbours(block)]
        parents.append({following: block for block, following in occurrences})
        last_order = list(dict.fromkeys(following for _, following in reversed(occurrences)))[::-1]
        first_order = list(dict.fromkeys(following for block in first_order for following in neighbours(block)))
        if not first_order:
            return None
    return None


def find_start_lane(
    map_view: MapView, pose: Floats, lane_ids: Sequence[str], nearby_ids: Sequence[str], nearby: shapely.STRtree
) -> str | None:
    """The lane of the route that the ego is on, or is nearest to; None without any lane.

    Args:
        map_view: the map.
        pose: (3,) global rear axle.
        lane_ids: lanes of the route in route order.
        nearby_ids: ids of the polygons in ``nearby``.
        nearby: index over the drivable map, whose order of hits decides between equal headings.
    """
    on_route = frozenset(lane_ids)
    hits: list[str] = [nearby_ids[index] for index in nearby.query(shapely.Point(pose[:2]), predicate="intersects")]
    around = [lane_id for lane_id in hits if lane_id in on_route]
    if around:
        errors = [nearest_vertex(map_view.lane(lane_id).baseline, pose)[1] for lane_id in around]
        return around[int(np.argmin(errors))]
    if not lane_ids:
        return None
    polygons = np.array([map_view.lane(lane_id).polygon for lane_id in lane_ids])
    centre = rear_axle_to_centre(pose)
    inside = shapely.contains_xy(polygons, centre[0], centre[1])
    if inside.any():
        return lane_ids[int(inside.argmax())]
    box = shapely.Polygon(box_corners(centre, PACIFICA.length, PACIFICA.width))
    return lane_ids[int(shapely.distance(polygons, box).argmin())]


def search_lanes(map_view: MapView, start_lane: str, route: Sequence[str]) -> LaneSearch:
    """Shortest way along successors inside the route, from a lane to the last block of the planning window.

    Args:
        map_view: the map.
        start_lane: first lane.
        route: repaired block ids.
    """
    start_block = map_view.lane(start_lane).roadblock_id
    first = route.index(start_block) if start_block in route else 0
    target = route[first : first + _WINDOW_BLOCKS][-1]
    allowed = frozenset(lanes_of(map_view, route))
    cost, depth = {start_lane: 1.0}, {start_lane: 1}
    parent: dict[str, str] = {}
    frontier, expanded = [start_lane], list[str]()
    while frontier:
        lane_id = min(frontier, key=cost.__getitem__)  # the first of equals
        if map_view.lane(lane_id).roadblock_id == target:
            return LaneSearch(_walk(parent, lane_id), found=True)
        frontier.remove(lane_id)
        expanded.append(lane_id)
        for following in map_view.lane(lane_id).outgoing:
            if following not in allowed or following in expanded:
                continue
            total = cost[lane_id] + _length_m(map_view, following)
            if following not in cost:
                frontier.append(following)
            elif total >= cost[following]:
                continue
            cost[following], depth[following], parent[following] = total, depth[lane_id] + 1, lane_id
    deepest = min(expanded, key=lambda lane_id: (-depth[lane_id], cost[lane_id]))
    return LaneSearch(_walk(parent, deepest), found=False)


def centreline(map_view: MapView, lane_ids: Sequence[str]) -> LanePath:
    """The path over whole lanes, from the beginning of the first one; joints stay doubled."""
    baselines = [map_view.lane(lane_id).baseline for lane_id in lane_ids]
    return lane_path(np.concatenate(baselines), np.concatenate([vertex_headings(points) for points in baselines]))


def _length_m(map_view: MapView, lane_id: str) -> float:
    # Parallel lanes may differ in the last digit only: the sum has to be GEOS's to break such ties alike.
    return float(shapely.length(shapely.linestrings(map_view.lane(lane_id).baseline)))


def _walk(parent: dict[str, str], lane_id: str) -> tuple[str, ...]:
    path = [lane_id]
    while path[-1] in parent:
        path.append(parent[path[-1]])
    return tuple(reversed(path))


def _locate(map_view: MapView, pose: Floats, route: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The block in which the ego is, blocks of the route preferred, and all in which it may be."""
    on_route: list[tuple[float, str]] = []
    off_route: list[tuple[float, str]] = []
    smallest: list[tuple[float, str]] = []
    for block in _blocks_around(map_view, pose):
        errors = [nearest_vertex(map_view.lane(lane_id).baseline, pose) for lane_id in block.lane_ids]
        matches = on_route if block.id in route else off_route
        matches += [
            (distance, block.id)
            for distance, heading_error in errors
            if heading_error < _MAX_HEADING_ERROR_RAD and distance < _MAX_DISPLACEMENT_M
        ]
        smallest.append((min((distance for distance, _ in errors), default=np.inf), block.id))
    candidates = on_route or off_route or smallest
    nearest = min(candidates, key=lambda candidate: candidate[0])  # the first of equals
    return nearest[1], tuple(block_id for _, block_id in candidates)


def _blocks_around(map_view: MapView, pose: Floats) -> list[Roadblock]:
    x, y = float(pose[0]), float(pose[1])
    layers = (("ROADBLOCK", map_view.roadblocks), ("ROADBLOCK_CONNECTOR", map_view.roadblock_connectors))
    touched = [
        blocks[block_id] for layer, blocks in layers for block_id in map_view.query(layer, x, y, _QUERY_HALF_WIDTH_M)
    ]
    return touched or [_nearest(list(blocks.values()), x, y) for _, blocks in layers if blocks]


def _nearest(blocks: Sequence[Roadblock], x: float, y: float) -> Roadblock:
    distances = shapely.distance(np.array([block.polygon for block in blocks]), shapely.Point(x, y))
    return blocks[int(distances.argmin())]


def _joined_to_ego(map_view: MapView, start: str, candidates: Sequence[str], route: list[str]) -> list[str]:
    """A route that leads from the ego's block, by a way back from its first block or ahead to one of its first."""
    back = search_blocks(route[0], candidates, lambda block: map_view.roadblock(block).incoming, _BACKWARD_DEPTH)
    if back is not None:
        return [*reversed(back[1:]), *route]
    ahead = search_blocks(start, route[:_REJOIN_BLOCKS], _successors(map_view), _FORWARD_DEPTH)
    if ahead is not None:
        return [*ahead, *route[route.index(ahead[-1]) + 1 :]]
    return route


def _without_gaps(map_view: MapView, route: list[str]) -> list[str]:
    closed = route[:1]
    for block, following in pairwise(route):
        if block not in map_view.roadblock(following).incoming:
            path = search_blocks(block, (following,), _successors(map_view), _FORWARD_DEPTH)
            closed += path[1:-1] if path else ()
        closed.append(following)
    return closed


def _successors(map_view: MapView) -> Callable[[str], Sequence[str]]:
    return lambda block: map_view.roadblock(block).outgoing


def _before_loop(map_view: MapView, route: list[str]) -> list[str]:
    """The route up to the first connector that overlaps an earlier one."""
    seen: list[shapely.Polygon] = []
    for index, block_id in enumerate(route):
        block = map_view.roadblock(block_id)
        if not block.is_connector:
            continue
        overlaps = shapely.area(shapely.intersection(np.array(seen, dtype=object), block.polygon))
        if np.any(overlaps > _LOOP_AREA_M2):
            return route[:index]
        seen.append(block.polygon)
    return route
