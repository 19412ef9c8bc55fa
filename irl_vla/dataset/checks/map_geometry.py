"""Rules for the geometry of a map file whose ids fit together: sides, orders, and what lies in what."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import shapely

from irl_vla.dataset.maps.layers import Layer
from irl_vla.geometry import Floats

#: The official reactive traffic drops the last vertex of a connector's centreline and needs two.
_FEWEST_VERTICES: Final = 3
#: The middle of a centreline may lie this far outside of an area that it belongs to.
_OUTSIDE_M: Final = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """A centreline: where its middle is, and the direction (2,) there."""

    line: shapely.LineString
    middle: shapely.Point
    direction: Floats

    def is_left_of(self, other: shapely.LineString) -> bool:
        """True if the other line lies on the right-hand side of this one's middle."""
        x, y = shapely.get_coordinates(shapely.shortest_line(self.middle, other))[-1]
        dx, dy = x - self.middle.x, y - self.middle.y
        return bool(self.direction[0] * dy - self.direction[1] * dx <= 0)


#: Rule, key and message of a finding, with the ids of the rows that break it, first one in the message.
GeometryBreach = tuple[str, str, str, Sequence[str]]


def geometry_breaches(layers: Mapping[str, Layer]) -> Iterator[GeometryBreach]:
    """What does not fit, one a rule and column; the message has a place {} for the first id."""
    lanes, connectors = layers["lanes_polygons"], layers["lane_connectors"]
    shapes = layers["gen_lane_connectors_scaled_width_polygons"]
    lane_paths = _paths(layers["baseline_paths"], "lane_fid")
    connector_paths = _paths(layers["baseline_paths"], "lane_connector_fid")
    short = [own for own, path in connector_paths.items() if len(path.line.coords) < _FEWEST_VERTICES]
    text = f"expected {_FEWEST_VERTICES} vertices or more in a connector's centreline (the official reactive traffic "
    yield "map.vertices", "baseline_paths", f"{text}drops the last), found fewer at connector {{}}", short
    shape_owners = [str(owner) for owner in shapes.references("lane_connector_fid")]
    boundaries = dict(zip(layers["boundaries"].ids, layers["boundaries"].lines(), strict=True))
    for layer, owners, paths in ((lanes, lanes.ids, lane_paths), (shapes, shape_owners, connector_paths)):
        yield from _sides(layer, owners, paths, boundaries)
        yield from _around(layer, zip(owners, layer.polygons(), strict=True), paths, "its polygon around")
    yield from _lane_order(lanes, lane_paths)
    for layer, column, groups, paths in (
        (lanes, "lane_group_fid", layers["lane_groups_polygons"], lane_paths),
        (connectors, "lane_group_connector_fid", layers["lane_group_connectors"], connector_paths),
    ):
        polygon_of = dict(zip(groups.ids, groups.polygons(), strict=True))
        owners = [str(owner) for owner in layer.references(column)]
        pairs = [(own, polygon_of[owner]) for own, owner in zip(layer.ids, owners, strict=True)]
        yield from _around(groups, pairs, paths, f"the polygon of {column} around")
        empty = [group for group in groups.ids if group not in set(owners)]
        yield "map.group", groups.name, f"expected rows of {layer.name} with this {column}, found none for {{}}", empty


def _paths(baselines: Layer, column: str) -> dict[str, _Path]:
    found = {}
    for owner, line in zip(baselines.references(column), baselines.lines(), strict=True):
        if owner is not None:
            before, middle, after = (line.interpolate(at, normalized=True) for at in (0.45, 0.5, 0.55))
            found[owner] = _Path(line, middle, np.array([after.x - before.x, after.y - before.y]))
    return found


def _sides(
    layer: Layer, owners: Sequence[str], paths: Mapping[str, _Path], boundaries: Mapping[str, shapely.LineString]
) -> Iterator[GeometryBreach]:
    for column, is_left in (("left_boundary_fid", True), ("right_boundary_fid", False)):
        rows = zip(owners, layer.references(column), strict=True)
        wrong = [
            owner
            for owner, boundary in rows
            if owner in paths and paths[owner].is_left_of(boundaries[str(boundary)]) == is_left
        ]
        side = "left" if is_left else "right"
        yield (
            "map.side",
            f"{layer.name}.{column}",
            f"expected a line {side} of the centreline, found others at {{}}",
            wrong,
        )


def _around(
    layer: Layer, areas: Iterable[tuple[str, shapely.Polygon]], paths: Mapping[str, _Path], what: str
) -> Iterator[GeometryBreach]:
    wrong = [own for own, area in areas if own in paths and area.distance(paths[own].middle) > _OUTSIDE_M]
    text = f"expected {what} the middle of the centreline, found it elsewhere for {{}}"
    yield "map.inside", layer.name, text, wrong


def _lane_order(lanes: Layer, paths: Mapping[str, _Path]) -> Iterator[GeometryBreach]:
    """Lanes of a group are numbered from left to right in driving direction, whichever side traffic keeps to."""
    groups: dict[str | None, list[tuple[int, str]]] = {}
    columns = zip(lanes.ids, lanes.references("lane_group_fid"), lanes.references("lane_index"), strict=True)
    for own, group, index in columns:
        groups.setdefault(group, []).append((int(index or 0), own))
    wrong = [
        right
        for members in groups.values()
        for (_, left), (_, right) in pairwise(sorted(members))
        if left in paths and right in paths and not paths[left].is_left_of(paths[right].line)
    ]
    text = "expected numbers that rise from left to right, found another order at lane {}"
    yield "map.lane_order", "lanes_polygons.lane_index", text, wrong
