"""Layers of a GeoPackage as tables: read with checks, geometry re-projected to metres."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray
from pyogrio._err import CPLE_BaseError

from irl_vla.errors import MapError

STORED_CRS: Final = "EPSG:4326"


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer in file order.

    Attributes:
        ids: FIDs as strings, which are the object ids.
        geometry: (N,) shapely geometries in the projected frame, metres, two-dimensional.
        columns: name to (N,) values.
    """

    path: Path
    name: str
    ids: tuple[str, ...]
    geometry: NDArray[np.object_]
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def fail(self, row: int, what: str) -> NoReturn:
        """Raises a MapError that names file, layer and id."""
        raise MapError(f"{self.path}: layer {self.name}, id {self.ids[row]}: {what}; fetch or generate the map again")

    def references(self, column: str) -> list[str | None]:
        """Ids of other objects; null and NaN become None."""
        return [self._reference(row, column, value) for row, value in enumerate(self.columns[column].tolist())]

    def required(self, column: str) -> list[str]:
        """Ids of other objects, every row of which must have one."""
        found = self.references(column)
        for row, value in enumerate(found):
            if value is None:
                self.fail(row, f"{column}: expected an id, found none")
        return [value for value in found if value is not None]

    def polygons(self) -> list[shapely.Polygon]:
        """The geometry as polygons; a multipolygon of one part counts as one."""
        return [
            item if isinstance(item, shapely.Polygon) and not item.is_empty else self._refuse(row, "polygon")
            for row, item in enumerate(self._parts())
        ]

    def lines(self) -> list[shapely.LineString]:
        """The geometry as lines of at least two vertices."""
        return [
            item if isinstance(item, shapely.LineString) and not item.is_empty else self._refuse(row, "line")
            for row, item in enumerate(self._parts())
        ]

    def _reference(self, row: int, column: str, value: Any) -> str | None:
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return None
        try:
            return str(int(value))
        except (TypeError, ValueError, OverflowError):
            self.fail(row, f"{column}: expected a whole number, found {value!r}")

    def _parts(self) -> list[Any]:
        return [
            item.geoms[0]
            if isinstance(item, shapely.MultiPolygon | shapely.MultiLineString) and len(item.geoms) == 1
            else item
            for item in self.geometry
        ]

    def _refuse(self, row: int, expected: str) -> NoReturn:
        item = self.geometry[row]
        self.fail(row, f"expected a {expected}, found {'nothing' if item is None else item.wkt[:60]}")


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What a file says of a layer without its rows.

    Attributes:
        columns: names of the attribute columns and of the id column.
        fid_column: name of the id column, "" where there is none.
        crs: stored reference system, None without geometry.
    """

    columns: tuple[str, ...]
    fid_column: str
    crs: str | None
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class MapFile:
    """An opened map file: its layers' names, and the projection of the city."""

    path: Path
    layer_names: frozenset[str]
    transformer: pyproj.Transformer

    def info(self, name: str) -> LayerInfo:
        """Columns, reference system and size of a layer.

        Raises:
            MapError: if the layer is missing or cannot be read.
        """
        if name not in self.layer_names:
            _missing(self.path, f"layer {name}", self.layer_names)
        with _reading(self.path, name):
            info = pyogrio.read_info(self.path, layer=name)
        fields, fid_column = info["fields"].tolist(), info["fid_column"]
        return LayerInfo((*fields, fid_column), fid_column, info["crs"], int(info["features"]))

    def layer(self, name: str, columns: Sequence[str] = ()) -> Layer:
        """Reads a layer with the columns asked for.

        Raises:
            MapError: if the layer or a column is missing, or the file is broken.
        """
        info = self.info(name)
        for column in columns:
            if column not in info.columns:
                _missing(self.path, f"layer {name}: column {column}", set(info.columns))
        wanted = [column for column in columns if column != info.fid_column]
        with _reading(self.path, name):
            meta, fids, geometry, data = pyogrio.raw.read(self.path, layer=name, columns=wanted, return_fids=True)
            table = dict(zip(meta["fields"].tolist(), data, strict=True))
            shapes = shapely.from_wkb(geometry)
        if info.fid_column in columns:
            table[info.fid_column] = fids
        layer = Layer(self.path, name, tuple(str(fid) for fid in fids.tolist()), shapes, table)
        return replace(layer, geometry=self._projected(layer))

    def _projected(self, layer: Layer) -> NDArray[np.object_]:
        geometry = shapely.force_2d(layer.geometry)
        lon_lat, rows = shapely.get_coordinates(geometry, return_index=True)
        if len(lon_lat):
            x, y = self.transformer.transform(lon_lat[:, 0], lon_lat[:, 1])
            metres = np.column_stack([x, y])
            if not np.isfinite(metres).all():
                first = int(np.flatnonzero(~np.isfinite(metres).all(axis=1))[0])
                layer.fail(int(rows[first]), f"expected longitude and latitude, found {lon_lat[first].tolist()}")
            shapely.set_coordinates(geometry, metres)
        return np.asarray(geometry, dtype=np.object_)


def open_map(path: Path) -> MapFile:
    """Opens a map file and reads its projection.

    Raises:
        MapError: if the file is missing, is no GeoPackage or does not say its projection.
    """
    if not path.is_file():
        raise MapError(f"{path}: expected a map, found no file; fetch the maps (all four cities are needed)")
    with _reading(path, "any"):
        names = frozenset(str(name) for name, _ in pyogrio.list_layers(path))
    if "meta" not in names:
        _missing(path, "layer meta", names)
    with _reading(path, "meta"):
        _, _, _, data = pyogrio.raw.read(path, layer="meta", columns=["key", "value"], read_geometry=False)
        keys, values = data
        system = dict(zip(keys.tolist(), values.tolist(), strict=True)).get("projectedCoordSystem")
    try:
        transformer = pyproj.Transformer.from_crs(STORED_CRS, system, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        _refuse_system(path, system, error)
    if transformer.target_crs is None or not transformer.target_crs.is_projected:
        _refuse_system(path, system, None)
    return MapFile(path=path, layer_names=names, transformer=transformer)


@contextmanager
def _reading(path: Path, layer: str) -> Iterator[None]:
    """Whatever GDAL, SQLite or GEOS find wrong with a file's bytes is an error of the map."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, shapely.errors.ShapelyError, CPLE_BaseError) as error:
        raise MapError(
            f"{path}: layer {layer}: expected a GeoPackage, found another content ({error}); fetch the map again"
        ) from error


def _refuse_system(path: Path, system: Any, cause: Exception | None) -> NoReturn:
    raise MapError(
        f"{path}: layer meta: projectedCoordSystem: expected a projection like 'EPSG:32611', found {system!r}; "
        "fetch or generate the map again"
    ) from cause


def _missing(path: Path, what: str, known: frozenset[str] | set[str]) -> NoReturn:
    raise MapError(f"{path}: {what}: missing; there are: {', '.join(sorted(known))}; fetch or generate the map again")
