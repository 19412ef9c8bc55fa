"""Layers of a GeoPackage as tables: read with checks, geometry re-projected to metres."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pyogrio
import pyogrio.errors
import pyproj
import shapely
from numpy.typing import NDArray

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
        except (TypeError, ValueError):
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


@dataclass(frozen=True, slots=True, eq=False)
class MapFile:
    """An opened map file: its layers' names, and the projection of the city."""

    path: Path
    layer_names: frozenset[str]
    transformer: pyproj.Transformer

    def layer(self, name: str, columns: Sequence[str] = ()) -> Layer:
        """Reads a layer with the columns asked for.

        Raises:
            MapError: if the layer or a column is missing.
        """
        if name not in self.layer_names:
            _missing(self.path, f"layer {name}", self.layer_names)
        info = pyogrio.read_info(self.path, layer=name)
        present = {*info["fields"].tolist(), info["fid_column"]}
        for column in columns:
            if column not in present:
                _missing(self.path, f"layer {name}: column {column}", present)
        meta, fids, geometry, data = pyogrio.raw.read(
            self.path, layer=name, columns=[column for column in columns if column in info["fields"]], return_fids=True
        )
        table = dict(zip(meta["fields"].tolist(), data, strict=True))
        if info["fid_column"] in columns:
            table[info["fid_column"]] = fids
        return Layer(
            path=self.path,
            name=name,
            ids=tuple(str(fid) for fid in fids.tolist()),
            geometry=self._projected(geometry),
            columns=table,
        )

    def _projected(self, wkb: NDArray[np.object_]) -> NDArray[np.object_]:
        geometry = shapely.force_2d(shapely.from_wkb(wkb))
        lon_lat = shapely.get_coordinates(geometry)
        if len(lon_lat):
            x, y = self.transformer.transform(lon_lat[:, 0], lon_lat[:, 1])
            shapely.set_coordinates(geometry, np.column_stack([x, y]))
        return np.asarray(geometry, dtype=np.object_)


def open_map(path: Path) -> MapFile:
    """Opens a map file and reads its projection.

    Raises:
        MapError: if the file is missing, is no GeoPackage or does not say its projection.
    """
    if not path.is_file():
        raise MapError(f"{path}: expected a map, found no file; fetch the maps (all four cities are needed)")
    try:
        names = frozenset(str(name) for name, _ in pyogrio.list_layers(path))
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise MapError(
            f"{path}: expected a GeoPackage, found another content ({error}); fetch the map again"
        ) from error
    if "meta" not in names:
        _missing(path, "layer meta", names)
    _, _, _, (keys, values) = pyogrio.raw.read(path, layer="meta", columns=["key", "value"], read_geometry=False)
    system = dict(zip(keys.tolist(), values.tolist(), strict=True)).get("projectedCoordSystem")
    try:
        transformer = pyproj.Transformer.from_crs(STORED_CRS, system, always_xy=True)
    except pyproj.exceptions.CRSError as error:
        raise MapError(
            f"{path}: layer meta: projectedCoordSystem: expected a projection like 'EPSG:32611', found {system!r}"
        ) from error
    return MapFile(path=path, layer_names=names, transformer=transformer)


def _missing(path: Path, what: str, known: frozenset[str] | set[str]) -> NoReturn:
    raise MapError(f"{path}: {what}: missing; there are: {', '.join(sorted(known))}; fetch or generate the map again")
