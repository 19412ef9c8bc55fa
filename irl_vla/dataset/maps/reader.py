"""Reads a city's ``map.gpkg`` into a :class:`irl_vla.scene.MapView`."""

from pathlib import Path

from irl_vla.dataset.layout import Dataset
from irl_vla.scene import MapView


def load_map(dataset: Dataset, map_name: str) -> MapView:
    """Loads a city's map; cached per process.

    Raises:
        MapError: if the index, the file, a layer or a column is missing, or ids do not fit together.
    """
    raise NotImplementedError


def read_map(path: Path, name: str) -> MapView:
    """Reads one map file (uncached)."""
    raise NotImplementedError
