"""City maps in nuPlan's GeoPackage layout: reader, writer and the records that the writer takes."""

from irl_vla.dataset.maps.reader import load_map, read_map
from irl_vla.dataset.maps.writer import map_path, write_index, write_map

__all__ = ["load_map", "map_path", "read_map", "write_index", "write_map"]
