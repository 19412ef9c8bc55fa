"""Parsed maps in Arrow, so that a map file is parsed once a machine and not once a process.

Entries lie in ``$XDG_CACHE_HOME/irl-vla/maps`` (``~/.cache`` without the variable), never beside the data, which may be
read-only. A name is the hash of the map file's bytes and the version of this layout: another file is another entry, so
an entry is never stale. It begins with a hash of itself; one that is cut off or altered is made anew. Where nothing can
be written maps are parsed each time.
"""

import hashlib
import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import shapely

from irl_vla.geometry import Floats
from irl_vla.ledger.files import file_hash, write_bytes
from irl_vla.scene import Area, Lane, MapView, Roadblock

#: Raised when the records of a map or the layout of an entry change.
SCHEMA: Final = 1
#: Entries that are kept; the ones that were used longest ago go first.
KEPT: Final = 32
_DIGEST_BYTES: Final = 32
_IDS: Final = pa.list_(pa.string())
_LINE: Final = pa.list_(pa.float64())
_COLUMNS: Final = pa.schema(
    [
        ("layer", pa.dictionary(pa.int8(), pa.string())),
        ("id", pa.string()),
        ("polygon", pa.binary()),
        ("block", pa.string()),
        ("kind", pa.int64()),
        ("limit", pa.float64()),
        ("baseline", _LINE),
        ("left", _LINE),
        ("right", _LINE),
        ("lanes", _IDS),
        ("outgoing", _IDS),
        ("incoming", _IDS),
    ]
)

logger = logging.getLogger(__name__)


def cache_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """Folder of the entries; None where the user has no home."""
    variables = os.environ if environment is None else environment
    base = variables.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "irl-vla" / "maps"
    home = variables.get("HOME")
    return Path(home) / ".cache" / "irl-vla" / "maps" if home else None


def entry_path(folder: Path, map_path: Path) -> Path:
    """Where the entry of a map file lies."""
    return folder / f"{file_hash(map_path)}-{SCHEMA}.arrow"


def read_entry(path: Path, name: str) -> MapView | None:
    """The cached map; None if there is none or it is not whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, body = data[:_DIGEST_BYTES], memoryview(data)[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        logger.warning("%s: expected a whole entry, found a broken one; the map is parsed again", path)
        return None
    with pa.ipc.open_stream(body) as stream:
        view = _map_view(stream.read_all(), name)
    try:
        path.touch()  # entries that are used stay
    except OSError:
        logger.debug("%s: cannot be marked as used", path)
    return view


def write_entry(path: Path, view: MapView) -> None:
    """Writes an entry atomically; only warns if the folder cannot be written."""
    sink = io.BytesIO()
    table = _table(view)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    body = sink.getvalue()
    try:
        write_bytes(path, hashlib.sha256(body).digest() + body)
        _prune(path.parent)
    except OSError as error:
        logger.warning(
            "%s: parsed maps cannot be kept (%s); set XDG_CACHE_HOME to a folder of yours", path.parent, error
        )


def _prune(folder: Path) -> None:
    entries = sorted(folder.glob("*.arrow"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in entries[KEPT:]:
        path.unlink(missing_ok=True)


def _table(view: MapView) -> pa.Table:
    rows = [
        *(_lane_row("LANE", lane) for lane in view.lanes.values()),
        *(_lane_row("LANE_CONNECTOR", lane) for lane in view.lane_connectors.values()),
        *(_block_row("ROADBLOCK", block) for block in view.roadblocks.values()),
        *(_block_row("ROADBLOCK_CONNECTOR", block) for block in view.roadblock_connectors.values()),
        *(_area_row(layer, area) for layer, areas in view.areas.items() for area in areas.values()),
    ]
    polygons = shapely.to_wkb(np.array([row.pop("shape") for row in rows], dtype=object))
    table = pa.Table.from_pylist(
        [{**row, "polygon": polygon} for row, polygon in zip(rows, polygons, strict=True)], schema=_COLUMNS
    )
    return table.replace_schema_metadata({"areas": ",".join(view.areas)})


def _lane_row(layer: str, lane: Lane) -> dict[str, Any]:
    return {
        "layer": layer,
        "id": lane.id,
        "shape": lane.polygon,
        "block": lane.roadblock_id,
        "limit": lane.speed_limit_mps,
        "baseline": _flat(lane.baseline),
        "left": _flat(lane.left_boundary),
        "right": _flat(lane.right_boundary),
        "outgoing": lane.outgoing,
        "incoming": lane.incoming,
    }


def _block_row(layer: str, block: Roadblock) -> dict[str, Any]:
    return {
        "layer": layer,
        "id": block.id,
        "shape": block.polygon,
        "lanes": block.lane_ids,
        "outgoing": block.outgoing,
        "incoming": block.incoming,
    }


def _area_row(layer: str, area: Area) -> dict[str, Any]:
    return {"layer": layer, "id": area.id, "shape": area.polygon, "kind": area.kind}


def _flat(line: Floats | None) -> Floats | None:
    return None if line is None else line.ravel()


def _map_view(table: pa.Table, name: str) -> MapView:
    columns = {key: table[key].to_pylist() for key in ("layer", "id", "block", "kind", "limit", "lanes")}
    columns |= {key: table[key].to_pylist() for key in ("outgoing", "incoming")}
    columns |= {key: _lines(table[key].combine_chunks()) for key in ("baseline", "left", "right")}
    columns["polygon"] = shapely.from_wkb(table["polygon"].to_numpy(zero_copy_only=False))
    by_layer: dict[str, list[int]] = {}
    for row, layer in enumerate(columns["layer"]):
        by_layer.setdefault(layer, []).append(row)
    areas = (table.schema.metadata or {})[b"areas"].decode().split(",")
    return MapView(
        name=name,
        lanes=_lanes(columns, by_layer.get("LANE", ()), is_connector=False),
        lane_connectors=_lanes(columns, by_layer.get("LANE_CONNECTOR", ()), is_connector=True),
        roadblocks=_blocks(columns, by_layer.get("ROADBLOCK", ()), is_connector=False),
        roadblock_connectors=_blocks(columns, by_layer.get("ROADBLOCK_CONNECTOR", ()), is_connector=True),
        areas={
            layer: {
                columns["id"][row]: Area(columns["id"][row], columns["polygon"][row], columns["kind"][row])
                for row in by_layer.get(layer, ())
            }
            for layer in areas
            if layer
        },
    )


def _lines(column: Any) -> list[Floats | None]:
    """Polylines (V, 2), cut out of one array."""
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values = np.array(array.values.to_numpy(zero_copy_only=False), dtype=np.float64)
    starts, present = array.offsets.to_numpy().tolist(), array.is_valid().to_pylist()
    return [
        values[starts[row] : starts[row + 1]].reshape(-1, 2) if is_there else None
        for row, is_there in enumerate(present)
    ]


def _lanes(columns: Mapping[str, Sequence[Any]], rows: Iterable[int], is_connector: bool) -> dict[str, Lane]:
    return {
        columns["id"][row]: Lane(
            id=columns["id"][row],
            roadblock_id=columns["block"][row],
            is_connector=is_connector,
            baseline=columns["baseline"][row],
            polygon=columns["polygon"][row],
            speed_limit_mps=columns["limit"][row],
            outgoing=tuple(columns["outgoing"][row]),
            incoming=tuple(columns["incoming"][row]),
            left_boundary=columns["left"][row],
            right_boundary=columns["right"][row],
        )
        for row in rows
    }


def _blocks(columns: Mapping[str, Sequence[Any]], rows: Iterable[int], is_connector: bool) -> dict[str, Roadblock]:
    return {
        columns["id"][row]: Roadblock(
            id=columns["id"][row],
            is_connector=is_connector,
            polygon=columns["polygon"][row],
            lane_ids=tuple(columns["lanes"][row]),
            outgoing=tuple(columns["outgoing"][row]),
            incoming=tuple(columns["incoming"][row]),
        )
        for row in rows
    }
