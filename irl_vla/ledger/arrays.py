"""Named arrays of many rows as Arrow files, one a shard, read through the memory map.

A row has one number in all shards together: the shards follow each other in the order of the artefact's record, however
large each is. Numbers of a row are a tensor column (Arrow's canonical type), so any Arrow reader understands a shard.
"""

import logging
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from irl_vla.errors import CheckpointError
from irl_vla.ledger.code import code_version
from irl_vla.ledger.shards import missing_shards, shard_path
from irl_vla.ledger.storage import Location

#: Name -> (shape of a row, data type); ``np.str_`` for text.
RowLayout = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
#: Name -> (R, ...) array.
Rows = Mapping[str, NDArray[Any]]

SUFFIX: Final = ".arrow"
_FINGERPRINT: Final = b"irl_vla.fingerprint"
_CODE: Final = b"irl_vla.code"
#: Below so many wanted rows a chunk, row by row is faster than chunk by chunk.
_FEW_A_CHUNK: Final = 4
#: What a text takes, roughly: a token of 16 letters or the name of a log of 40, and where it ends.
_TEXT_BYTES: Final = 32

log = logging.getLogger(__name__)


def write_rows(path: Path, layout: RowLayout, batches: Iterable[Rows], fingerprint: str) -> int:
    """Writes a shard, batch by batch; returns its rows.

    Args:
        path: a temporary name, as of ``Location.writing``.
        fingerprint: of the artefact that the shard belongs to.
    """
    schema = _schema(layout).with_metadata({_FINGERPRINT: fingerprint.encode(), _CODE: str(code_version()).encode()})
    count = 0
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, schema) as file:
        for batch in batches:
            columns = [_column(batch[name], *layout[name]) for name in layout]
            file.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            count += len(columns[0])
    return count


def scratch_array(shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    """An array of zeros in a temporary file that ends with the array: as large as the disk allows, not the memory.

    Raises:
        OSError: if the disk of the temporary files (``TMPDIR``) has not the space.
    """
    size = math.prod(shape) * np.dtype(kind).itemsize
    with tempfile.TemporaryFile(prefix="irl-vla-") as stream:
        if size == 0:
            return np.zeros(shape, kind)
        os.posix_fallocate(stream.fileno(), 0, size)  # without the space, writing to the map would kill the process
        return np.memmap(stream, kind, "r+", shape=shape)


def row_bytes(layout: RowLayout) -> int:
    """What a row takes on disk: exact for numbers, roughly for texts, without what a shard takes beside its rows."""
    return sum(
        _TEXT_BYTES if kind is np.str_ else math.prod(shape) * np.dtype(_stored(kind)).itemsize
        for shape, kind in layout.values()
    )


@dataclass(frozen=True, eq=False)
class Shard:
    """An opened shard.

    Attributes:
        chunks: name to (r, ...) arrays in order: views of the memory map (of text and of truth values, copies).
        code: the code that wrote it.
    """

    chunks: Mapping[str, Sequence[NDArray[Any]]]
    rows: int
    code: str

    def rows_of(self, names: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """(r, ...) arrays of the whole shard."""
        return {name: _joined(self.chunks[name]) for name in (self.chunks if names is None else names)}


def open_shard(path: Path, layout: RowLayout, fingerprint: str, remedy: str) -> Shard:
    """Maps a shard into memory.

    Args:
        remedy: the command that makes it, e.g. "run `irl-vla pretrain`".

    Raises:
        BrokenShardError: if the file is cut off or no Arrow file.
        CheckpointError: if it is missing, belongs to another artefact or holds other columns.
    """
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [file.get_batch(index) for index in range(file.num_record_batches)]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: expected a shard, found no file; {remedy} again") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise BrokenShardError(
            f"{path}: expected a whole Arrow file, found one that is cut off or damaged ({error}); "
            f"delete it and {remedy} again"
        ) from error
    metadata = file.schema.metadata or {}
    found = metadata.get(_FINGERPRINT, b"none").decode()
    if found != fingerprint:
        raise CheckpointError(
            f"{path}: expected a shard of {fingerprint}, found one of {found} (other settings, inputs or seed); "
            f"delete it and {remedy} again"
        )
    if not file.schema.equals(_schema(layout)):
        raise CheckpointError(
            f"{path}: expected the columns {', '.join(layout)} in the configured shapes, found {file.schema.names}; "
            f"delete the folder and {remedy} again"
        )
    chunks = {name: [_array(batch.column(name), *layout[name]) for batch in batches] for name in layout}
    rows = sum(batch.num_rows for batch in batches)
    return Shard(chunks if batches else _nothing(layout), rows, metadata.get(_CODE, b"unknown").decode())


def unfit_shards(
    folder: Location, shards: Mapping[str, int], layout: RowLayout, fingerprint: str, remedy: str
) -> list[str]:
    """Names of the shards that have to be made: they are missing, damaged or have another number of rows.

    Args:
        shards: name to expected rows, in order.

    Raises:
        CheckpointError: if a shard belongs to another artefact.
    """
    unfit = missing_shards(folder, list(shards), SUFFIX)
    there = [name for name in shards if name not in set(unfit)]
    local = Location.of(folder.local()) if there else folder
    for name in there:
        try:
            rows = open_shard(shard_path(local, name, SUFFIX).path, layout, fingerprint, remedy).rows
        except BrokenShardError as error:
            log.warning("%s; it is made again", error)
            unfit.append(name)
            continue
        if rows != shards[name]:
            log.warning("%s: shard %s has %d rows, expected %d; it is made again", folder, name, rows, shards[name])
            unfit.append(name)
    return [name for name in shards if name in set(unfit)]


class BrokenShardError(CheckpointError):
    """A shard is cut off or damaged: names it; a stage that makes shards makes it again."""


@dataclass(frozen=True, eq=False)
class ShardedRows:
    """The rows of all shards, one behind the other.

    Attributes:
        names: of the shards, in order.
        starts: (S + 1,) number of each shard's first row; the last one is the number of rows.
    """

    names: tuple[str, ...]
    starts: NDArray[np.int64]
    _chunks: Mapping[str, Sequence[NDArray[Any]]]
    _chunk_starts: NDArray[np.int64]

    @classmethod
    def open(
        cls, folder: Location, shards: Mapping[str, int], layout: RowLayout, fingerprint: str, remedy: str
    ) -> Self:
        """Opens all shards of a folder; those of an object store are fetched first.

        Args:
            shards: name to rows, in order.

        Raises:
            CheckpointError: as :func:`open_shard`, or if a shard has not the rows that the record says.
        """
        local = Location.of(folder.local())
        opened = []
        for name, rows in shards.items():
            path = shard_path(local, name, SUFFIX).path
            shard = open_shard(path, layout, fingerprint, remedy)
            if shard.rows != rows:
                raise CheckpointError(
                    f"{path}: expected {rows} rows, found {shard.rows}; delete the file and {remedy} again"
                )
            opened.append(shard)
        code = dict.fromkeys(shard.code for shard in opened)
        if len(code) > 1:
            log.warning("%s: its shards were written by different code: %s", folder, "; ".join(code))
        chunks = {name: _even([part for shard in opened for part in shard.chunks[name]]) for name in layout}
        chunks = chunks if opened else _nothing(layout)
        sizes = [len(part) for part in next(iter(chunks.values()))]
        return cls(tuple(shards), _starts(list(shards.values())), chunks, _starts(sizes))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self._chunks)

    def column(self, name: str) -> NDArray[Any]:
        """(R, ...) of all rows, in memory."""
        return _joined(self._chunks[name])

    def only(self, names: Iterable[str]) -> Self:
        """The same rows of some columns: texts and truth values of the others take no memory any more."""
        return replace(self, _chunks={name: self._chunks[name] for name in names})

    def take(self, name: str, rows: ArrayLike) -> NDArray[Any]:
        """(B, ...) of some rows (B,), copied from the memory map."""
        wanted = np.asarray(rows, np.int64)
        parts = self._chunks[name]
        chunk_of = np.searchsorted(self._chunk_starts, wanted, side="right") - 1
        local = wanted - self._chunk_starts[chunk_of]
        out = np.empty((len(wanted), *parts[0].shape[1:]), parts[0].dtype)
        if len(wanted) < _FEW_A_CHUNK * len(parts):
            for place, (chunk, row) in enumerate(zip(chunk_of.tolist(), local.tolist(), strict=True)):
                out[place] = parts[chunk][row]
            return out
        for chunk in np.unique(chunk_of).tolist():
            here = np.flatnonzero(chunk_of == chunk)
            out[here] = parts[chunk][local[here]]
        return out


def _starts(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts)


def _even(parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Texts of all parts get one width; numbers stay views."""
    width = max((part.dtype for part in parts if part.dtype.kind == "U"), key=lambda kind: kind.itemsize, default=None)
    return parts if width is None else [part.astype(width) for part in parts]


def _nothing(layout: RowLayout) -> dict[str, list[NDArray[Any]]]:
    return {name: [np.empty((0, *shape), kind)] for name, (shape, kind) in layout.items()}


def _stored(kind: type[np.generic]) -> type[np.generic]:
    """Truth values take a byte each: Arrow packs them in bits, which no memory map can show."""
    return np.uint8 if kind is np.bool_ else kind


def _schema(layout: RowLayout) -> Any:
    return pa.schema([pa.field(name, _type(*item), nullable=False) for name, item in layout.items()])


def _type(shape: tuple[int, ...], kind: type[np.generic]) -> Any:
    if kind is np.str_:
        return pa.string()
    value = pa.from_numpy_dtype(_stored(kind))
    return pa.fixed_shape_tensor(value, shape) if shape else value


def _column(values: NDArray[Any], shape: tuple[int, ...], kind: type[np.generic]) -> Any:
    if kind is np.str_:
        return pa.array(values.astype(str).tolist(), pa.string())
    plain = np.ascontiguousarray(values, kind).view(_stored(kind))
    if plain.shape[1:] != shape:
        raise ValueError(f"expected rows of shape {shape}, found {plain.shape[1:]}")
    if not shape:
        return pa.array(plain)
    size = int(np.prod(shape))
    storage = pa.FixedSizeListArray.from_arrays(pa.array(plain.reshape(-1)), size)
    return pa.ExtensionArray.from_storage(_type(shape, kind), storage)


def _array(column: Any, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    if kind is np.str_:
        return np.array(column.to_pylist(), np.str_)
    flat: NDArray[Any] = (column.storage.flatten() if shape else column).to_numpy(zero_copy_only=True)
    return flat.view(kind).reshape(len(column), *shape)
