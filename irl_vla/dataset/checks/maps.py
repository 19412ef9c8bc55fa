"""Checks the map files of a data set: index, layers, columns, ids, graph, boundaries and centrelines.

Not checked: whether the official reader, which makes locks beside the maps, may write there.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyproj
import shapely

from irl_vla.dataset.checks.findings import Finding, Severity
from irl_vla.dataset.checks.map_geometry import geometry_breaches
from irl_vla.dataset.maps.content import CITY_EPSG, CITY_VERSION, INTERSECTION_KINDS, STOP_KINDS
from irl_vla.dataset.maps.layers import STORED_CRS, Layer, LayerInfo, MapFile, open_map
from irl_vla.dataset.maps.reader import INDEX_NAME, city_path
from irl_vla.dataset.raw_frame import describe
from irl_vla.errors import MapError
from irl_vla.scene import CITIES

_SIDES: Final = ("left_boundary_fid", "right_boundary_fid")
#: Layers and columns that the map API and the official scorer need.
LAYERS: Final[dict[str, tuple[str, ...]]] = {
    "lanes_polygons": ("lane_fid", "lane_group_fid", "lane_index", *_SIDES, "speed_limit_mps", "lane_type_fid"),
    "lane_connectors": (
        "exit_lane_fid",
        "entry_lane_fid",
        "lane_group_connector_fid",
        "intersection_fid",
        "speed_limit_mps",
        "traffic_light_stop_line_fids",
    ),
    "gen_lane_connectors_scaled_width_polygons": ("lane_connector_fid", *_SIDES),
    "baseline_paths": ("lane_fid", "lane_connector_fid"),
    "boundaries": ("boundary_type_fid",),
    "lane_groups_polygons": _SIDES,
    "lane_group_connectors": ("from_lane_group_fid", "to_lane_group_fid", "intersection_fid", *_SIDES),
    "intersections": ("intersection_type_fid",),
    "stop_polygons": ("stop_polygon_type_fid", "lane_fids"),
    "crosswalks": (),
    "walkways": (),
    "carpark_areas": (),
    "generic_drivable_areas": (),
    "road_segments": (),
}
#: Columns without which the official scorer runs, too.
_OPTIONAL: Final = frozenset({"lane_type_fid", "lane_fids"})
#: Layers of lines; all others are polygons.
_LINES: Final = frozenset({"lane_connectors", "baseline_paths", "boundaries"})
#: Values of the type columns.
_KINDS: Final[dict[tuple[str, str], Sequence[int]]] = {
    ("lanes_polygons", "lane_type_fid"): (0, 1),
    ("boundaries", "boundary_type_fid"): (0, 2, 3),
    ("intersections", "intersection_type_fid"): range(len(INTERSECTION_KINDS)),
    ("stop_polygons", "stop_polygon_type_fid"): range(len(STOP_KINDS)),
}
#: Columns of texts, "" for none; all others hold numbers.
_TEXTS: Final = frozenset({"traffic_light_stop_line_fids", "lane_fids"})
#: Layers of points in official files that nobody reads.
_UNREAD_LAYERS: Final = ("traffic_lights", "dubins_nodes")
#: Limits above are no metres a second.
_FASTEST_MPS: Final = 45.0
_NUMBERS: Final = {"speed_limit_mps": f"m/s, more than 0 and at most {_FASTEST_MPS:.0f}, or null"}
#: A centreline that ends further than this from the next one's beginning does not lead there.
_JOINT_M: Final = 2.0
_REMEDY: Final = "fetch or generate the map again"


def check_maps(maps_root: Path) -> list[Finding]:
    """All findings about the index and the four cities' files, one a rule and column."""
    found: list[Finding] = []
    for city in CITIES:
        try:
            path = city_path(maps_root, city)
        except MapError as error:
            remedy = "fetch the maps: the official reader opens all four cities"
            found.append(Finding("error", "map.index", INDEX_NAME, None, city, str(error), remedy))
            continue
        found += _index(maps_root, city)
        label = f"maps/{path.relative_to(maps_root)}"
        try:
            found += _Checker(label, open_map(path)).findings(city)
        except MapError as error:
            found.append(Finding("error", "map.file", label, None, city, str(error).removeprefix(f"{path}: "), _REMEDY))
    return found


def _index(maps_root: Path, city: str) -> Iterator[Finding]:
    """The entry of a city whose version could be read."""
    entry = json.loads((maps_root / INDEX_NAME).read_text(encoding="utf-8"))[city]
    remedy = "name the release nuplan-maps-v1.0 as its index does"
    if entry["version"] != CITY_VERSION[city]:
        message = f"expected {CITY_VERSION[city]}, found {describe(entry['version'])}"
        yield Finding("warning", "map.version", INDEX_NAME, None, f"{city}.version", message, remedy)
    if not isinstance(entry.get("layers"), dict):
        message = f"expected a mapping, which may be empty, found {describe(entry.get('layers'))}"
        yield Finding("warning", "map.index", INDEX_NAME, None, f"{city}.layers", message, remedy)


@dataclass(frozen=True, slots=True)
class _Checker:
    """Rules over one file; each yields at most one finding a column."""

    label: str
    file: MapFile

    def findings(self, city: str) -> list[Finding]:
        found = [*self._projection(city), *self._unread()]
        layers: dict[str, Layer] = {}
        for name, columns in LAYERS.items():
            try:
                info = self.file.info(name)
                layers[name] = self.file.layer(name, [column for column in columns if column in info.columns])
            except MapError as error:
                text = str(error).removeprefix(f"{self.file.path}: ")
                found.append(self._finding("error", "map.layer", name, text, 1))
                continue
            found += self._schema(name, columns, info)
            found += self._types(layers[name])
            found += self._shapes(layers[name])
        if not any(finding.severity == "error" for finding in found):
            found += self._ids(layers)
            found += self._graph(layers)
        if not any(finding.severity == "error" for finding in found):
            found += [
                self._finding("warning", rule, key, message.format(ids[0]), len(ids))
                for rule, key, message, ids in geometry_breaches(layers)
                if ids
            ]
        return found

    def _finding(self, severity: Severity, rule: str, key: str, message: str, count: int) -> Finding:
        return Finding(severity, rule, self.label, None, key, message, _REMEDY, count)

    def _projection(self, city: str) -> Iterator[Finding]:
        system, expected = self.file.transformer.target_crs, pyproj.CRS.from_epsg(CITY_EPSG[city])
        if system is None or not system.equals(expected):
            message = f"expected EPSG:{CITY_EPSG[city]}, found {system.name if system else 'none'}"
            yield self._finding("warning", "map.projection", "projectedCoordSystem", message, 1)

    def _unread(self) -> Iterator[Finding]:
        absent = [name for name in _UNREAD_LAYERS if name not in self.file.layer_names]
        if absent:
            message = f"expected as in official files, found no {', '.join(absent)}"
            yield self._finding("note", "map.unread_layers", absent[0], message, 1)
        if self.file.info("meta").crs is not None:
            yield self._finding("warning", "map.meta", "meta", "expected a table without geometry, found a layer", 1)

    def _types(self, layer: Layer) -> Iterator[Finding]:
        """Columns of numbers and of texts; the official reader converts with ``int`` and splits texts."""
        for column, values in layer.columns.items():
            items = values.tolist()
            if column in _TEXTS:
                wrong = [row for row, item in enumerate(items) if not isinstance(item, str)]
            elif column == "speed_limit_mps":
                wrong = [row for row, item in enumerate(items) if not _is_limit(item)]
            else:
                wrong = [] if values.dtype.kind in "iuf" else list(range(len(items)))
            if wrong:
                expected = "a text" if column in _TEXTS else _NUMBERS.get(column, "a number")
                message = f"expected {expected}, found {describe(items[wrong[0]])} at id {layer.ids[wrong[0]]}"
                yield self._finding("warning", "map.type", f"{layer.name}.{column}", message, len(wrong))

    def _schema(self, name: str, columns: Sequence[str], info: LayerInfo) -> Iterator[Finding]:
        for column in sorted(set(columns) - set(info.columns)):
            severity: Severity = "warning" if column in _OPTIONAL else "error"
            yield self._finding(severity, "map.column", f"{name}.{column}", "expected the column, found none", 1)
        if info.fid_column != "fid":
            message = f"expected the id column 'fid', found {info.fid_column!r}"
            yield self._finding("error", "map.column", f"{name}.fid", message, 1)
        if info.rows and (info.crs is None or not pyproj.CRS.from_user_input(info.crs).equals(STORED_CRS, True)):
            yield self._finding("error", "map.crs", name, f"expected {STORED_CRS}, found {info.crs}", 1)

    def _shapes(self, layer: Layer) -> Iterator[Finding]:
        try:
            shapes: Sequence[Any] = layer.lines() if layer.name in _LINES else layer.polygons()
        except MapError as error:
            text = str(error).removeprefix(f"{self.file.path}: layer {layer.name}, ")
            yield self._finding("error", "map.geometry", layer.name, text, 1)
            return
        broken = [layer.ids[row] for row, shape in enumerate(shapes) if not shape.is_valid]
        if broken:
            message = f"expected valid shapes, found others, first id {broken[0]}"
            yield self._finding("warning", "map.geometry", layer.name, message, len(broken))
        if layer.name in _LINES:
            short = [layer.ids[row] for row, shape in enumerate(shapes) if not shape.length > 0]
            if short:
                message = f"expected lines with a length, found none at id {short[0]}"
                yield self._finding("error", "map.geometry", layer.name, message, len(short))

    def _ids(self, layers: dict[str, Layer]) -> Iterator[Finding]:
        """Id spaces, references and the numbers of rows that must be one."""
        lanes, connectors = layers["lanes_polygons"], layers["lane_connectors"]
        groups, group_connectors = layers["lane_groups_polygons"], layers["lane_group_connectors"]
        shapes = layers["gen_lane_connectors_scaled_width_polygons"]
        boundaries = set(layers["boundaries"].ids)
        yield from self._apart(lanes, connectors)
        yield from self._apart(groups, group_connectors)
        yield from self._same(lanes, "lane_fid", lanes.ids)
        for layer in (lanes, shapes, groups, group_connectors):
            for side in _SIDES:
                yield from self._known("error", layer, side, boundaries, required=True)
        yield from self._known("error", lanes, "lane_group_fid", set(groups.ids), required=True)
        yield from self._known("error", connectors, "lane_group_connector_fid", set(group_connectors.ids), True)
        for column in ("exit_lane_fid", "entry_lane_fid"):
            yield from self._known("warning", connectors, column, set(lanes.ids), required=True)
        for column in ("from_lane_group_fid", "to_lane_group_fid"):
            yield from self._known("warning", group_connectors, column, set(groups.ids), required=True)
        junctions = set(layers["intersections"].ids)
        for layer in (connectors, group_connectors):
            yield from self._known("warning", layer, "intersection_fid", junctions, required=False)
        yield from self._listed(connectors, "traffic_light_stop_line_fids", set(layers["stop_polygons"].ids))
        yield from self._listed(layers["stop_polygons"], "lane_fids", {*lanes.ids, *connectors.ids})
        baselines = layers["baseline_paths"]
        yield from self._one_each(baselines, "lane_fid", lanes)
        yield from self._one_each(baselines, "lane_connector_fid", connectors)
        yield from self._one_each(shapes, "lane_connector_fid", connectors)
        yield from self._one_owner(baselines)
        yield from self._numbered(lanes)
        for (name, column), kinds in _KINDS.items():
            if column in layers[name].columns:
                yield from self._known("warning", layers[name], column, {str(kind) for kind in kinds}, required=True)

    def _graph(self, layers: dict[str, Layer]) -> Iterator[Finding]:
        """Lanes of a group are numbered without gaps; connectors join what their group connector joins."""
        lanes, connectors = layers["lanes_polygons"], layers["lane_connectors"]
        group_connectors = layers["lane_group_connectors"]
        group_of = dict(zip(lanes.ids, lanes.references("lane_group_fid"), strict=True))
        indices: dict[str | None, list[int]] = {}
        for lane_id, index in zip(lanes.ids, lanes.references("lane_index"), strict=True):
            indices.setdefault(group_of[lane_id], []).append(-1 if index is None else int(index))
        gaps = [group for group, found in indices.items() if any(b - a != 1 for a, b in pairwise(sorted(found)))]
        if gaps:
            message = f"expected consecutive numbers in a lane group, found others in group {gaps[0]}"
            yield self._finding("warning", "map.lane_index", "lanes_polygons.lane_index", message, len(gaps))
        ends = zip(
            group_connectors.ids,
            group_connectors.references("from_lane_group_fid"),
            group_connectors.references("to_lane_group_fid"),
            strict=True,
        )
        joins = {own: (source, target) for own, source, target in ends}
        sources, targets = connectors.references("exit_lane_fid"), connectors.references("entry_lane_fid")
        owners = connectors.references("lane_group_connector_fid")
        crossed = [
            connectors.ids[row]
            for row, (source, target, owner) in enumerate(zip(sources, targets, owners, strict=True))
            if source in group_of
            and target in group_of
            and joins.get(str(owner)) != (group_of[source], group_of[target])
        ]
        if crossed:
            message = f"expected to join the groups of its group connector, found others at id {crossed[0]}"
            yield self._finding("warning", "map.graph", "lane_connectors", message, len(crossed))
        yield from self._joints(layers, sources, targets)

    def _joints(
        self, layers: dict[str, Layer], sources: Sequence[str | None], targets: Sequence[str | None]
    ) -> Iterator[Finding]:
        """A connector's centreline begins where the lane before it ends, and ends where the next one begins."""
        baselines = layers["baseline_paths"]
        paths: dict[str, Any] = {}
        for column in ("lane_fid", "lane_connector_fid"):
            for owner, line in zip(baselines.references(column), baselines.lines(), strict=True):
                if owner is not None:
                    paths[owner] = shapely.get_coordinates(line)
        apart = []
        for own, source, target in zip(layers["lane_connectors"].ids, sources, targets, strict=True):
            ends = [(paths.get(str(source)), paths.get(own)), (paths.get(own), paths.get(str(target)))]
            if any(a is not None and b is not None and np.linalg.norm(a[-1] - b[0]) > _JOINT_M for a, b in ends):
                apart.append(own)
        if apart:
            message = f"expected centrelines that meet within {_JOINT_M:.0f} m, found a gap at connector {apart[0]}"
            yield self._finding("warning", "map.joint", "baseline_paths", message, len(apart))

    def _apart(self, first: Layer, second: Layer) -> Iterator[Finding]:
        shared = sorted(set(first.ids) & set(second.ids))
        if shared:
            message = f"expected ids apart from those of {first.name}, found {shared[0]} in both"
            yield self._finding("error", "map.id_space", second.name, message, len(shared))

    def _same(self, layer: Layer, column: str, ids: Sequence[str]) -> Iterator[Finding]:
        other = [own for own, value in zip(ids, layer.references(column), strict=True) if own != value]
        if other:
            message = f"expected the same as fid, found another value at id {other[0]}"
            yield self._finding("error", "map.lane_fid", f"{layer.name}.{column}", message, len(other))

    def _known(
        self, severity: Severity, layer: Layer, column: str, known: Collection[str], required: bool
    ) -> Iterator[Finding]:
        values = layer.references(column)
        wrong = [row for row, value in enumerate(values) if (required if value is None else value not in known)]
        if wrong:
            message = f"expected a known id, found {values[wrong[0]]} at id {layer.ids[wrong[0]]}"
            yield self._finding(severity, "map.reference", f"{layer.name}.{column}", message, len(wrong))

    def _listed(self, layer: Layer, column: str, known: Collection[str]) -> Iterator[Finding]:
        """Ids that are joined by commas in one text."""
        if column not in layer.columns:
            return  # a finding of its own
        wrong = []
        for row, text in enumerate(layer.columns[column].tolist()):
            listed = [item.strip() for item in str(text).split(",")] if text else []
            wrong += [(row, item) for item in listed if item and item not in known]
        if wrong:
            message = f"expected known ids, found {wrong[0][1]!r} at id {layer.ids[wrong[0][0]]}"
            yield self._finding("warning", "map.reference", f"{layer.name}.{column}", message, len(wrong))

    def _one_owner(self, baselines: Layer) -> Iterator[Finding]:
        owners = zip(baselines.references("lane_fid"), baselines.references("lane_connector_fid"), strict=True)
        wrong = [row for row, owner in enumerate(owners) if (owner[0] is None) == (owner[1] is None)]
        if wrong:
            message = f"expected a lane or a lane connector, found both or none at id {baselines.ids[wrong[0]]}"
            yield self._finding("warning", "map.reference", "baseline_paths", message, len(wrong))

    def _numbered(self, lanes: Layer) -> Iterator[Finding]:
        absent = [own for own, index in zip(lanes.ids, lanes.references("lane_index"), strict=True) if index is None]
        if absent:
            message = f"expected a number, found none at id {absent[0]}"
            yield self._finding("warning", "map.lane_index", "lanes_polygons.lane_index", message, len(absent))

    def _one_each(self, layer: Layer, column: str, owners: Layer) -> Iterator[Finding]:
        counts = Counter(value for value in layer.references(column) if value is not None)
        wrong = [own for own in owners.ids if counts[own] != 1]
        if wrong:
            message = f"expected one row for each of {owners.name}, found {counts[wrong[0]]} for id {wrong[0]}"
            yield self._finding("error", "map.one_each", f"{layer.name}.{column}", message, len(wrong))
        strangers = sorted(set(counts) - set(owners.ids))
        if strangers:
            message = f"expected ids of {owners.name}, found {strangers[0]}"
            yield self._finding("warning", "map.reference", f"{layer.name}.{column}", message, len(strangers))


def _is_limit(value: Any) -> bool:
    """A speed limit in m/s; null and NaN are none."""
    return value is None or (isinstance(value, int | float) and (math.isnan(value) or 0 < value <= _FASTEST_MPS))
