"""Writes ``map.gpkg`` files and their index the way the official reader expects them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from irl_vla.dataset.maps.content import (
    CITY_VERSION,
    AreaRow,
    ConnectorRow,
    GroupConnectorRow,
    GroupRow,
    LaneRow,
    MapContent,
)
from irl_vla.dataset.maps.layers import STORED_CRS
from irl_vla.dataset.maps.reader import INDEX_NAME
from irl_vla.errors import MapError
from irl_vla.ledger.files import atomic_path, write_text

#: GeoPackages record when they were written: a fixed date makes equal maps equal files. The file is renamed when whole,
#: so that SQLite need not flush after every layer.
_WRITING_OPTIONS: Final = {"OGR_CURRENT_DATE": "2024-01-01T00:00:00.000Z", "OGR_SQLITE_SYNCHRONOUS": "OFF"}


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """One layer to be written; None in a column becomes a null."""

    name: str
    geometry_type: str
    ids: list[int]
    geometry: list[Any]
    columns: Mapping[str, Sequence[int | float | str | None]]


def write_map(path: Path, content: MapContent, epsg: int) -> None:
    """Writes all layers of a city's map, atomically.

    Args:
        path: the ``map.gpkg`` to write.
        content: rows with geometry in the frame ``EPSG:<epsg>``, metres.
        epsg: projected frame, normally ``CITY_EPSG[city]``.

    Raises:
        MapError: if ids collide or refer to rows that do not exist.
    """
    _check_ids(path, content)
    transformer = pyproj.Transformer.from_crs(f"EPSG:{epsg}", STORED_CRS, always_xy=True)
    with atomic_path(path) as temporary, _writing_options():
        temporary.unlink()  # GDAL wants to create the file itself
        for table in (*_lane_tables(content), *_block_tables(content), *_area_tables(content)):
            _write(temporary, table, transformer)
        pyogrio.raw.write(
            temporary,
            geometry=None,
            field_data=[np.array(["projectedCoordSystem"], object), np.array([f"EPSG:{epsg}"], object)],
            fields=["key", "value"],
            layer="meta",
            driver="GPKG",
            append=False,
            layer_options={"FID": "fid"},
        )


def write_index(maps_root: Path) -> None:
    """Writes ``nuplan-maps-v1.0.json`` for the four cities, whose files must all exist for the official reader."""
    entries = {city: {"version": version, "layers": {}} for city, version in CITY_VERSION.items()}
    write_text(maps_root / INDEX_NAME, json.dumps(entries, indent=1))


def map_path(maps_root: Path, city: str) -> Path:
    """Where a city's map file belongs."""
    return maps_root / city / CITY_VERSION[city] / "map.gpkg"


def _lane_tables(content: MapContent) -> list[_Table]:
    lanes, connectors = content.lanes, content.connectors
    paths: list[LaneRow | ConnectorRow] = [*lanes, *connectors]
    lane_columns: dict[str, list[int | float | str | None]] = {
        "lane_fid": [row.id for row in lanes],
        "lane_index": [row.index for row in lanes],
        "lane_type_fid": [row.kind for row in lanes],
        "lane_group_fid": [row.group_id for row in lanes],
        "left_boundary_fid": [row.left_boundary_id for row in lanes],
        "right_boundary_fid": [row.right_boundary_id for row in lanes],
        "speed_limit_mps": [_float(row.speed_limit_mps) for row in lanes],
    }
    connector_columns: dict[str, list[int | float | str | None]] = {
        "exit_lane_fid": [row.from_lane_id for row in connectors],
        "entry_lane_fid": [row.to_lane_id for row in connectors],
        "lane_group_connector_fid": [row.group_connector_id for row in connectors],
        "intersection_fid": [row.intersection_id for row in connectors],
        "speed_limit_mps": [_float(row.speed_limit_mps) for row in connectors],
        "traffic_light_stop_line_fids": [",".join(map(str, row.stop_line_ids)) for row in connectors],
    }
    shape_columns: dict[str, list[int | float | str | None]] = {
        "lane_connector_fid": [row.id for row in connectors],
        "left_boundary_fid": [row.left_boundary_id for row in connectors],
        "right_boundary_fid": [row.right_boundary_id for row in connectors],
    }
    baseline_columns: dict[str, list[int | float | str | None]] = {
        "lane_fid": [*(float(row.id) for row in lanes), *(float("nan") for _ in connectors)],
        "lane_connector_fid": [*(float("nan") for _ in lanes), *(float(row.id) for row in connectors)],
    }
    lane_ids, connector_ids = [row.id for row in lanes], [row.id for row in connectors]
    lines = [shapely.LineString(row.baseline) for row in paths]
    return [
        _Table("lanes_polygons", "Polygon", lane_ids, [row.polygon for row in lanes], lane_columns),
        _Table("lane_connectors", "LineString", connector_ids, lines[len(lanes) :], connector_columns),
        _Table(
            "gen_lane_connectors_scaled_width_polygons",
            "Polygon",
            connector_ids,
            [row.polygon for row in connectors],
            shape_columns,
        ),
        _Table("baseline_paths", "LineString", list(range(1, len(paths) + 1)), lines, baseline_columns),
        _Table(
            "boundaries",
            "LineString",
            [row.id for row in content.boundaries],
            [shapely.LineString(row.line) for row in content.boundaries],
            {
                "boundary_type_fid": [row.kind for row in content.boundaries],
                "has_reflectors": [0 for _ in content.boundaries],
            },
        ),
    ]


def _block_tables(content: MapContent) -> list[_Table]:
    groups, connectors = content.groups, content.group_connectors
    return [
        _Table(
            "lane_groups_polygons",
            "Polygon",
            [row.id for row in groups],
            [row.polygon for row in groups],
            {
                "left_boundary_fid": [row.left_boundary_id for row in groups],
                "right_boundary_fid": [row.right_boundary_id for row in groups],
            },
        ),
        _Table(
            "lane_group_connectors",
            "Polygon",
            [row.id for row in connectors],
            [row.polygon for row in connectors],
            {
                "from_lane_group_fid": [row.from_group_id for row in connectors],
                "to_lane_group_fid": [row.to_group_id for row in connectors],
                "intersection_fid": [row.intersection_id for row in connectors],
                "left_boundary_fid": [row.left_boundary_id for row in connectors],
                "right_boundary_fid": [row.right_boundary_id for row in connectors],
            },
        ),
    ]


def _area_tables(content: MapContent) -> list[_Table]:
    stops = content.stop_lines
    plain = {
        "crosswalks": content.crosswalks,
        "walkways": content.walkways,
        "carpark_areas": content.carparks,
        "generic_drivable_areas": content.generic_drivable,
        "road_segments": content.road_segments,
    }
    return [
        _area_table(
            "intersections",
            content.intersections,
            {"intersection_type_fid": [row.kind for row in content.intersections]},
        ),
        _Table(
            "stop_polygons",
            "Polygon",
            [row.id for row in stops],
            [row.polygon for row in stops],
            {
                "stop_polygon_type_fid": [row.kind for row in stops],
                "lane_fids": [",".join(map(str, row.lane_ids)) for row in stops],
            },
        ),
        *(_area_table(name, rows, {}) for name, rows in plain.items()),
        # Real files have these two; nobody reads them.
        _Table("traffic_lights", "Point", [], [], {}),
        _Table("dubins_nodes", "Point", [], [], {}),
    ]


def _area_table(name: str, rows: Sequence[AreaRow], columns: Mapping[str, Sequence[int]]) -> _Table:
    return _Table(name, "Polygon", [row.id for row in rows], [row.polygon for row in rows], columns)


def _write(path: Path, table: _Table, transformer: pyproj.Transformer) -> None:
    columns = {"fid": table.ids, **table.columns}
    arrays = [_column(values) for values in columns.values()]
    pyogrio.raw.write(
        path,
        geometry=_stored(table.geometry, transformer),
        field_data=[values for values, _ in arrays],
        fields=list(columns),
        field_mask=[nulls for _, nulls in arrays],
        layer=table.name,
        driver="GPKG",
        geometry_type=table.geometry_type,
        crs=STORED_CRS,
        append=False,
        layer_options={"FID": "fid"},
    )


def _column(values: Sequence[int | float | str | None]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """A column's values and, where integers are missing, the mask of nulls."""
    if any(isinstance(value, str) for value in values):
        return np.array(values, dtype=object), None
    if any(isinstance(value, float) for value in values):
        return np.array(values, dtype=np.float64), None
    nulls = np.array([value is None for value in values], dtype=bool)
    return np.array([0 if value is None else value for value in values], dtype=np.int64), nulls if nulls.any() else None


def _stored(geometry: Sequence[Any], transformer: pyproj.Transformer) -> NDArray[np.object_]:
    shapes = shapely.transform(
        np.array(geometry, dtype=object), lambda xy: np.column_stack(transformer.transform(*xy.T))
    )
    return np.asarray(shapely.to_wkb(shapes), dtype=object)


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


@contextmanager
def _writing_options() -> Iterator[None]:
    pyogrio.set_gdal_config_options(_WRITING_OPTIONS)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(dict.fromkeys(_WRITING_OPTIONS))


def _check_ids(path: Path, content: MapContent) -> None:
    lanes, connectors = [row.id for row in content.lanes], [row.id for row in content.connectors]
    groups, group_connectors = [row.id for row in content.groups], [row.id for row in content.group_connectors]
    boundaries = [row.id for row in content.boundaries]
    _distinct(path, "lanes and lane connectors", [*lanes, *connectors])
    _distinct(path, "lane groups and lane-group connectors", [*groups, *group_connectors])
    _distinct(path, "boundaries", boundaries)
    _distinct(path, "intersections", [row.id for row in content.intersections])
    _distinct(path, "stop lines", [row.id for row in content.stop_lines])
    ends = [lane for row in content.connectors for lane in (row.from_lane_id, row.to_lane_id)]
    group_ends = [group for row in content.group_connectors for group in (row.from_group_id, row.to_group_id)]
    bounded: list[LaneRow | ConnectorRow | GroupRow | GroupConnectorRow] = [
        *content.lanes,
        *content.connectors,
        *content.groups,
        *content.group_connectors,
    ]
    sides = [side for row in bounded for side in (row.left_boundary_id, row.right_boundary_id)]
    crossings: list[ConnectorRow | GroupConnectorRow] = [*content.connectors, *content.group_connectors]
    junctions = [row.intersection_id for row in crossings]
    _known(path, "lane connectors: lane", ends, lanes)
    _known(path, "lane-group connectors: lane group", group_ends, groups)
    _known(path, "lanes: lane group", [row.group_id for row in content.lanes], groups)
    _known(
        path,
        "lane connectors: lane-group connector",
        [row.group_connector_id for row in content.connectors],
        group_connectors,
    )
    _known(path, "boundary", sides, boundaries)
    _known(path, "intersection", junctions, [row.id for row in content.intersections])


def _distinct(path: Path, what: str, ids: Sequence[int]) -> None:
    repeated = sorted({item for item in ids if ids.count(item) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        raise MapError(
            f"{path}: {what}: expected distinct ids, found {repeated[0]} more than once; give each row its own"
        )


def _known(path: Path, what: str, references: Iterable[int | None], ids: Iterable[int]) -> None:
    unknown = {item for item in references if item is not None} - set(ids)
    if unknown:
        raise MapError(f"{path}: {what}: expected the id of a row, found {min(unknown)}; add that row")
