"""Writes ``map.gpkg`` files and their index the way the official reader expects them."""

from pathlib import Path

from irl_vla.dataset.maps.content import MapContent


def write_map(path: Path, content: MapContent, epsg: int) -> None:
    """Writes all layers of a city's map, atomically; geometry is re-projected from ``epsg`` to EPSG:4326.

    Raises:
        MapError: if ids collide or refer to rows that do not exist.
    """
    raise NotImplementedError


def write_index(maps_root: Path) -> None:
    """Writes ``nuplan-maps-v1.0.json`` for the four cities, which must all exist for the official reader."""
    raise NotImplementedError
