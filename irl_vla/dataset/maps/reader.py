"""Reads a city's ``map.gpkg`` into a :class:`irl_vla.scene.MapView`."""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely

from irl_vla.dataset.layout import Dataset, below
from irl_vla.dataset.maps.cache import cache_folder, entry_path, read_entry, write_entry
from irl_vla.dataset.maps.layers import Layer, MapFile, open_map
from irl_vla.errors import LogFormatError, MapError
from irl_vla.geometry import Floats
from irl_vla.scene import Area, Lane, MapView, Roadblock

logger = logging.getLogger(__name__)

INDEX_NAME: Final = "nuplan-maps-v1.0.json"
#: Layers of plain areas: file layer and type column by the name that ``MapView`` gives them.
AREA_LAYERS: Final = {
    "INTERSECTION": ("intersections", "intersection_type_fid"),
    "CARPARK_AREA": ("carpark_areas", None),
    "STOP_LINE": ("stop_polygons", "stop_polygon_type_fid"),
    "CROSSWALK": ("crosswalks", None),
    "WALKWAY": ("walkways", None),
    "GENERIC_DRIVABLE": ("generic_drivable_areas", None),
}
_NO_KIND: Final = -1


def load_map(dataset: Dataset, map_name: str) -> MapView:
    """Loads a city's map; kept in this process until the file changes, and on disk (:mod:`.cache`) for the others.

    Raises:
        MapError: if the index, the file, a layer or a column is missing, or ids do not fit together.
    """
    path = city_path(dataset.maps_root, map_name)
    modified_ns = path.stat().st_mtime_ns if path.is_file() else 0
    return _cached(path, map_name, modified_ns)


def city_path(maps_root: Path, map_name: str) -> Path:
    """A city's file in the version that the index names.

    Raises:
        MapError: if the index is missing or does not name a version below the root.
    """
    version = _version(maps_root, map_name)
    try:
        return below(maps_root, f"{map_name}/{version}/map.gpkg", "map")
    except LogFormatError as error:
        raise MapError(f"{maps_root / INDEX_NAME}: {map_name}: expected a folder's name, found {version!r}") from error


@lru_cache(maxsize=4)
def _cached(path: Path, name: str, modified_ns: int) -> MapView:
    del modified_ns  # only part of the cache's key
    folder = cache_folder()
    if folder is None or not path.is_file():
        return read_map(path, name)
    entry = entry_path(folder, path)
    view = read_entry(entry, name)
    if view is None:
        view = read_map(path, name)
        write_entry(entry, view)
    return view


def read_map(path: Path, name: str) -> MapView:
    """Reads one map file.

    Object ids are the FIDs; all orders are file orders, on which the official score depends.

    Raises:
        MapError: naming file, layer and column or id of whatever does not fit.
    """
    file = open_map(path)
    boundaries = _boundary_lines(file)
    lanes_layer = file.layer(
        "lanes_polygons", ("lane_fid", "lane_group_fid", "left_boundary_fid", "right_boundary_fid", "speed_limit_mps")
    )
    connectors_layer = file.layer(
        "lane_connectors", ("exit_lane_fid", "entry_lane_fid", "lane_group_connector_fid", "speed_limit_mps")
    )
    groups_layer = file.layer("lane_groups_polygons")
    group_connectors_layer = file.layer("lane_group_connectors", ("from_lane_group_fid", "to_lane_group_fid"))
    _refuse_shared(lanes_layer, connectors_layer)
    _refuse_shared(groups_layer, group_connectors_layer)
    lane_paths, connector_paths = _baselines(file)
    edges = _Edges(connectors_layer, "exit_lane_fid", "entry_lane_fid", lanes_layer)
    group_edges = _Edges(group_connectors_layer, "from_lane_group_fid", "to_lane_group_fid", groups_layer)
    lanes = _lanes(lanes_layer, lane_paths, boundaries, edges)
    connectors = _connectors(file, connectors_layer, connector_paths, boundaries, edges)
    return MapView(
        name=name,
        lanes=lanes,
        lane_connectors=connectors,
        roadblocks=_roadblocks(groups_layer, lanes, group_edges, is_connector=False),
        roadblock_connectors=_roadblocks(group_connectors_layer, connectors, group_edges, is_connector=True),
        areas={layer: _areas(file, name, column) for layer, (name, column) in AREA_LAYERS.items()},
    )


class _Edges:
    """Who leads to whom through the rows of a connector layer."""

    def __init__(self, connectors: Layer, source: str, target: str, nodes: Layer) -> None:
        known = frozenset(nodes.ids)
        self.sources = _present(connectors, source, known)
        self.targets = _present(connectors, target, known)
        self.outgoing = _grouped(self.sources, connectors.ids)
        self.incoming = _grouped(self.targets, connectors.ids)

    def around(self, row: int, own_id: str, is_connector: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids after and before an object."""
        if not is_connector:
            return self.outgoing.get(own_id, ()), self.incoming.get(own_id, ())
        after, before = self.targets[row], self.sources[row]
        return (() if after is None else (after,)), (() if before is None else (before,))


def _lanes(layer: Layer, paths: dict[str, Floats], boundaries: dict[str, Floats], edges: _Edges) -> dict[str, Lane]:
    polygons = layer.polygons()
    left = _lines_of(layer, "left_boundary_fid", boundaries)
    right = _lines_of(layer, "right_boundary_fid", boundaries)
    blocks, limits = layer.required("lane_group_fid"), _speed_limits(layer)
    lanes = {}
    for row, lane_id in enumerate(layer.ids):
        if lane_id not in paths:
            layer.fail(row, "expected one row of baseline_paths with this lane_fid, found none")
        after, before = edges.around(row, lane_id, is_connector=False)
        lanes[lane_id] = Lane(
            id=lane_id,
            roadblock_id=blocks[row],
            is_connector=False,
            baseline=paths[lane_id],
            polygon=polygons[row],
            speed_limit_mps=limits[row],
            outgoing=after,
            incoming=before,
            left_boundary=left[row],
            right_boundary=right[row],
        )
    return lanes


def _connectors(
    file: MapFile, layer: Layer, paths: dict[str, Floats], boundaries: dict[str, Floats], edges: _Edges
) -> dict[str, Lane]:
    shapes = file.layer(
        "gen_lane_connectors_scaled_width_polygons", ("lane_connector_fid", "left_boundary_fid", "right_boundary_fid")
    )
    row_of = {connector: row for row, connector in enumerate(shapes.required("lane_connector_fid"))}
    polygons = shapes.polygons()
    left = _lines_of(shapes, "left_boundary_fid", boundaries)
    right = _lines_of(shapes, "right_boundary_fid", boundaries)
    blocks, limits = layer.required("lane_group_connector_fid"), _speed_limits(layer)
    connectors = {}
    for row, lane_id in enumerate(layer.ids):
        if lane_id not in paths:
            layer.fail(row, "expected one row of baseline_paths with this lane_connector_fid, found none")
        if lane_id not in row_of:
            layer.fail(row, f"expected one row of {shapes.name} with this lane_connector_fid, found none")
        shape = row_of[lane_id]
        after, before = edges.around(row, lane_id, is_connector=True)
        connectors[lane_id] = Lane(
            id=lane_id,
            roadblock_id=blocks[row],
            is_connector=True,
            baseline=paths[lane_id],
            polygon=polygons[shape],
            speed_limit_mps=limits[row],
            outgoing=after,
            incoming=before,
            left_boundary=left[shape],
            right_boundary=right[shape],
        )
    return connectors


def _roadblocks(layer: Layer, lanes: dict[str, Lane], edges: _Edges, is_connector: bool) -> dict[str, Roadblock]:
    inside = _grouped([lane.roadblock_id for lane in lanes.values()], list(lanes))
    blocks = {}
    for row, (block_id, polygon) in enumerate(zip(layer.ids, layer.polygons(), strict=True)):
        after, before = edges.around(row, block_id, is_connector)
        blocks[block_id] = Roadblock(block_id, is_connector, polygon, inside.get(block_id, ()), after, before)
    return blocks


def _areas(file: MapFile, name: str, kind_column: str | None) -> dict[str, Area]:
    layer = file.layer(name, () if kind_column is None else (kind_column,))
    kinds: Sequence[str | None] = [None] * len(layer) if kind_column is None else layer.references(kind_column)
    return {
        area_id: Area(area_id, polygon, _NO_KIND if kind is None else int(kind))
        for area_id, polygon, kind in zip(layer.ids, layer.polygons(), kinds, strict=True)
    }


def _baselines(file: MapFile) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Centrelines of lanes and of lane connectors by their ids, vertices as stored."""
    layer = file.layer("baseline_paths", ("lane_fid", "lane_connector_fid"))
    found: tuple[dict[str, Floats], dict[str, Floats]] = ({}, {})
    owners = zip(layer.references("lane_fid"), layer.references("lane_connector_fid"), strict=True)
    for row, (owner, line) in enumerate(zip(owners, layer.lines(), strict=True)):
        for paths, lane_id in zip(found, owner, strict=True):
            if lane_id is not None:
                if lane_id in paths:
                    layer.fail(row, f"expected one baseline a lane, found a second one of {lane_id}")
                paths[lane_id] = _vertices(line)
    return found


def _boundary_lines(file: MapFile) -> dict[str, Floats]:
    layer = file.layer("boundaries")
    return {line_id: _vertices(line) for line_id, line in zip(layer.ids, layer.lines(), strict=True)}


def _lines_of(layer: Layer, column: str, boundaries: dict[str, Floats]) -> list[Floats | None]:
    found: list[Floats | None] = []
    for row, line_id in enumerate(layer.references(column)):
        if line_id is not None and line_id not in boundaries:
            layer.fail(row, f"{column}: expected the id of a row of boundaries, found {line_id}")
        found.append(None if line_id is None else boundaries[line_id])
    return found


def _speed_limits(layer: Layer) -> list[float | None]:
    limits: list[float | None] = []
    for row, value in enumerate(layer.columns["speed_limit_mps"].tolist()):
        try:
            limit = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            layer.fail(row, f"speed_limit_mps: expected a number, found {value!r}")
        limits.append(None if math.isnan(limit) else limit)
    return limits


def _present(layer: Layer, column: str, known: Collection[str]) -> list[str | None]:
    """References without those to objects that the map does not have: no lane can be reached through them."""
    references = layer.references(column)
    gone = [value for value in references if value is not None and value not in known]
    if gone:
        logger.warning(
            "%s: layer %s: %d values of %s name no object, first %s", layer.path, layer.name, len(gone), column, gone[0]
        )
    return [value if value in known else None for value in references]


def _grouped(keys: Iterable[str | None], values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        if key is not None:
            groups[key].append(value)
    return {key: tuple(members) for key, members in groups.items()}


def _refuse_shared(first: Layer, second: Layer) -> None:
    shared = set(first.ids) & set(second.ids)
    if shared:
        row = second.ids.index(min(shared))
        second.fail(row, f"expected ids apart from those of {first.name}, found {len(shared)} in both")


def _vertices(line: shapely.LineString) -> Floats:
    return np.asarray(shapely.get_coordinates(line), dtype=np.float64)


def _version(maps_root: Path, map_name: str) -> str:
    path = maps_root / INDEX_NAME
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8"))
        return str(entries[map_name]["version"])
    except FileNotFoundError as error:
        raise MapError(f"{path}: expected the index of the maps, found no file; fetch the maps") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise MapError(f'{path}: expected {{city: {{"version": ...}}}}, found another content ({error})') from error
    except KeyError as error:
        raise MapError(f"{path}: expected a version of {map_name!r}, found none (no {error})") from error
