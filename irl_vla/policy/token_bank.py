"""Token bank: what frozen perception makes of every scene view, as one memory-mapped Arrow file.

From here on nothing touches an image. A row holds the packed scene tokens in half precision and what proposals,
rewards and fine-tuning need beside them. Whoever reads a bank checks the hash of the perception that wrote it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from irl_vla.errors import CheckpointError
from irl_vla.ledger.files import Manifest, read_manifest
from irl_vla.scene import FUTURE_FRAMES, HISTORY_FRAMES, are_pair

KIND: Final = "token_bank"
SCHEMA: Final = 2
FILE_NAME: Final = "rows.arrow"
REMEDY: Final = "run `irl-vla pretrain` again"
ORIGINAL: Final = "original"  # the view that is not shifted

_ROWS_PER_BATCH: Final = 256
_TEXT_COLUMNS: Final = ("token", "scene_token", "view", "log_name", "group", "kind")


@dataclass(frozen=True)
class TokenLayout:
    """Which columns of the packed tokens (N, D) belong to which kind.

    Attributes:
        counts: tokens of each kind, in order: meta, bev, map, object, ego.
        width: D.
    """

    counts: Mapping[str, int]
    width: int

    @property
    def total(self) -> int:
        """N, tokens of a scene."""
        return sum(self.counts.values())

    @property
    def slices(self) -> dict[str, slice]:
        """Where each kind lies along N."""
        ends = np.cumsum(list(self.counts.values())).tolist()
        starts = [0, *ends[:-1]]
        return {kind: slice(start, end) for kind, start, end in zip(self.counts, starts, ends, strict=True)}


@dataclass(frozen=True, slots=True, eq=False)
class BankRows:
    """The columns of R rows beside the tokens.

    Attributes:
        token: (R,) str, of the view; joins with prepared scenes.
        scene_token: (R,) str, of the logged scene that the view shows.
        view: (R,) str, "original" or the name of the shift.
        log_name, group, kind: (R,) str, as in ``Scene``.
        timestamp_us: (R,) int64 of the current frame.
        ego_history: (R, 4, 7) float32, as ``Observation.history``.
        command: (R,) int64.
        plan: (R, 8, 3) float32, ego frame of the view: what imitation learns, the human plan or from a shifted view the
            way back to it; zero where there is neither.
        has_plan: (R,) bool, True where ``plan`` is one.
        has_human: (R,) bool, True where it is that of a human: never in a shifted view, where nobody drove.
    """

    token: NDArray[np.str_]
    scene_token: NDArray[np.str_]
    view: NDArray[np.str_]
    log_name: NDArray[np.str_]
    group: NDArray[np.str_]
    kind: NDArray[np.str_]
    timestamp_us: NDArray[np.int64]
    ego_history: NDArray[np.float32]
    command: NDArray[np.int64]
    plan: NDArray[np.float32]
    has_plan: NDArray[np.bool_]
    has_human: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.token)


@dataclass(frozen=True, eq=False)
class TokenBank:
    """An opened bank. Tokens stay on disk; the other columns are in memory, named and shaped as in ``BankRows``.

    Sending a bank to another process sends its path.

    Attributes:
        previous_row: (R,) int64 row of the frame with which a frame is a pair for extended comfort, -1 where there is
            none; see :func:`link_frames`.
        perception_hash: of the encoder weights that wrote it.
        inputs: name to hash of what it was written from.
        fingerprint: of its manifest.
    """

    path: Path
    layout: TokenLayout
    token: NDArray[np.str_]
    scene_token: NDArray[np.str_]
    view: NDArray[np.str_]
    log_name: NDArray[np.str_]
    group: NDArray[np.str_]
    kind: NDArray[np.str_]
    timestamp_us: NDArray[np.int64]
    ego_history: NDArray[np.float32]
    command: NDArray[np.int64]
    plan: NDArray[np.float32]
    has_plan: NDArray[np.bool_]
    has_human: NDArray[np.bool_]
    previous_row: NDArray[np.int64]
    perception_hash: str
    inputs: Mapping[str, str]
    fingerprint: str
    _chunks: tuple[NDArray[np.float16], ...] = field(repr=False)

    @classmethod
    def open(cls, path: Path, perception_hash: str | None = None) -> Self:
        """Opens a finished bank.

        Args:
            perception_hash: the perception that the reader's model was trained on; None accepts any.

        Raises:
            CheckpointError: if the bank is not whole, of another schema, or of another perception.
        """
        manifest = read_manifest(
            path, KIND, SCHEMA, f"{REMEDY}; if its schema is an older one, remove the folder of that stage first"
        )
        found = manifest.inputs["perception"]
        if perception_hash is not None and found != perception_hash:
            raise CheckpointError(
                f"{path}: expected tokens of perception {perception_hash}, found those of {found}; "
                f"use the bank that was written with this checkpoint, or {REMEDY}"
            )
        layout = TokenLayout(manifest.extra["counts"], manifest.extra["width"])
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path / FILE_NAME))).read_all()
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise CheckpointError(f"{path / FILE_NAME}: expected an Arrow file, found: {error}; {REMEDY}") from error
        if table.num_rows != manifest.extra["rows"] or not table.schema.equals(_schema(layout)):
            raise CheckpointError(
                f"{path / FILE_NAME}: expected {manifest.extra['rows']} rows of {layout}, "
                f"found {table.num_rows} rows of {table.schema.names}; {REMEDY}"
            )
        rows = _columns(table)
        return cls(
            path=path,
            layout=layout,
            previous_row=link_frames(rows),
            perception_hash=found,
            inputs=manifest.inputs,
            fingerprint=manifest.fingerprint,
            _chunks=tuple(_chunk_array(chunk, layout) for chunk in table["tokens"].chunks),
            **{item.name: getattr(rows, item.name) for item in fields(BankRows)},
        )

    def __len__(self) -> int:
        return len(self.token)

    def __reduce__(self) -> tuple[Callable[..., "TokenBank"], tuple[Path, str]]:
        return type(self).open, (self.path, self.perception_hash)

    def tokens(self, rows: ArrayLike) -> NDArray[np.float16]:
        """Packed tokens (B, N, D) of rows (B,), copied from disk."""
        wanted = np.asarray(rows, np.int64)
        out = np.empty((len(wanted), self.layout.total, self.layout.width), np.float16)
        chunk_of = wanted // _ROWS_PER_BATCH
        for chunk in np.unique(chunk_of):
            here = np.flatnonzero(chunk_of == chunk)
            out[here] = self._chunks[chunk][wanted[here] % _ROWS_PER_BATCH]
        return out


class TokenBankWriter:
    """Writes a bank row by row; the bank exists only once the ``with`` block has ended without an error.

    Rows go to a temporary file, which gets its name when it is whole; the manifest comes last.

    Args:
        inputs: name to hash of what is encoded.
    """

    def __init__(self, path: Path, layout: TokenLayout, perception_hash: str, seed: int, inputs: Mapping[str, str]):
        self._path, self._layout, self._seed = path, layout, seed
        self._inputs = {**inputs, "perception": perception_hash}
        self._pending: list[pa.RecordBatch] = []
        self._count = 0

    def __enter__(self) -> Self:
        self._path.mkdir(parents=True, exist_ok=True)
        self._temporary = self._path / f".{FILE_NAME}.part"
        self._file = pa.ipc.new_file(str(self._temporary), _schema(self._layout))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush(everything=True)
        self._file.close()
        if kind is not None:
            self._temporary.unlink(missing_ok=True)
            return
        self._temporary.replace(self._path / FILE_NAME)
        extra = {"counts": dict(self._layout.counts), "width": self._layout.width, "rows": self._count}
        Manifest(KIND, SCHEMA, {}, self._seed, self._inputs, extra).write(self._path)

    def append(self, tokens: NDArray[np.floating[Any]], rows: BankRows) -> None:
        """Adds rows.

        Args:
            tokens: (R, N, D).

        Raises:
            CheckpointError: if a token is not finite in half precision.
        """
        with np.errstate(over="ignore"):  # reported below
            half = np.ascontiguousarray(tokens, np.float16)
        expected = (len(rows), self._layout.total, self._layout.width)
        if half.shape != expected:
            raise ValueError(f"tokens: expected {expected}, found {half.shape}")
        if not np.isfinite(half).all():
            raise CheckpointError(
                f"{self._path}: scene tokens of {rows.token[0]} are not finite in half precision; "
                "perception has diverged: train it again with a lower learning rate"
            )
        arrays = [
            pa.FixedSizeBinaryArray.from_buffers(_token_type(self._layout), len(half), [None, pa.py_buffer(half)])
        ]
        arrays += [_to_arrow(getattr(rows, item.name), item.name) for item in fields(BankRows)]
        self._pending.append(pa.RecordBatch.from_arrays(arrays, schema=_schema(self._layout)))
        self._count += len(half)
        self._flush(everything=False)

    def _flush(self, everything: bool) -> None:
        """Writes batches of equal size, so that a row's place follows from its number."""
        if not everything and sum(batch.num_rows for batch in self._pending) < _ROWS_PER_BATCH:
            return
        table = pa.Table.from_batches(self._pending, _schema(self._layout)).combine_chunks()
        whole = table.num_rows if everything else table.num_rows - table.num_rows % _ROWS_PER_BATCH
        for batch in table.slice(0, whole).to_batches(max_chunksize=_ROWS_PER_BATCH):
            self._file.write_batch(batch)
        self._pending = table.slice(whole).to_batches()


def link_frames(rows: BankRows) -> NDArray[np.int64]:
    """(R,) row of the frame before in the same log, where the two are a pair (``scene.are_pair``); -1 elsewhere.

    Original views only, as the score pairs them: shifted views have no predecessor.
    """
    links = np.full(len(rows), -1, np.int64)
    originals = np.flatnonzero(rows.view == ORIGINAL)
    order = originals[np.lexsort((rows.timestamp_us[originals], rows.log_name[originals]))]
    before, after = order[:-1], order[1:]
    gaps_us = rows.timestamp_us[after] - rows.timestamp_us[before]
    linked = (rows.log_name[before] == rows.log_name[after]) & are_pair(gaps_us)
    links[after[linked]] = before[linked]
    return links


def _token_type(layout: TokenLayout) -> Any:
    return pa.binary(layout.total * layout.width * np.dtype(np.float16).itemsize)


def _schema(layout: TokenLayout) -> Any:
    columns = [("tokens", _token_type(layout))]
    columns += [(name, pa.string()) for name in _TEXT_COLUMNS]
    columns += [
        ("timestamp_us", pa.int64()),
        ("ego_history", pa.list_(pa.float32(), HISTORY_FRAMES * 7)),
        ("command", pa.int64()),
        ("plan", pa.list_(pa.float32(), FUTURE_FRAMES * 3)),
        ("has_plan", pa.bool_()),
        ("has_human", pa.bool_()),
    ]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def _to_arrow(values: NDArray[Any], name: str) -> Any:
    if name in _TEXT_COLUMNS:
        return pa.array(values.astype(str).tolist(), pa.string())
    if values.ndim > 1:
        flat = pa.array(np.ascontiguousarray(values, np.float32).ravel())
        return pa.FixedSizeListArray.from_arrays(flat, math.prod(values.shape[1:]))
    return pa.array(values)


def _columns(table: Any) -> BankRows:
    def flat(name: str, shape: tuple[int, ...] = ()) -> NDArray[Any]:
        column = table[name].combine_chunks()
        values: NDArray[Any] = (column.flatten() if shape else column).to_numpy(zero_copy_only=False)
        return values.reshape(table.num_rows, *shape)

    texts = {name: np.array(table[name].to_pylist(), np.str_) for name in _TEXT_COLUMNS}
    return BankRows(
        **texts,
        timestamp_us=flat("timestamp_us"),
        ego_history=flat("ego_history", (HISTORY_FRAMES, 7)),
        command=flat("command"),
        plan=flat("plan", (FUTURE_FRAMES, 3)),
        has_plan=flat("has_plan").astype(np.bool_),
        has_human=flat("has_human").astype(np.bool_),
    )


def _chunk_array(chunk: Any, layout: TokenLayout) -> NDArray[np.float16]:
    """A view of the memory map, no copy."""
    flat = np.frombuffer(chunk.buffers()[1], np.float16, count=len(chunk) * layout.total * layout.width)
    return flat.reshape(-1, layout.total, layout.width)
