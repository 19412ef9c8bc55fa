"""Shards of a label set: one Parquet file a log, one record a bank row, 10 to 40 bytes a label.

A plan of the vocabulary is stored as its index, every other one as small integers (``plan_codes``). Of the sub-scores
all but EP take the values 0, 1/2 and 1 only and share one number; EP is kept to 1e-5 and progress to 5 mm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats
from irl_vla.ledger.arrays import scratch_array
from irl_vla.ledger.storage import Location
from irl_vla.reward.plan_codes import decode_plans, encode_plans
from irl_vla.scene import FUTURE_FRAMES, SUBSCORES

SUFFIX: Final = ".parquet"
_FINGERPRINT_KEY: Final = b"irl_vla.labels"
_PLAN_SIZE: Final = FUTURE_FRAMES * 3
_OWN_PLAN: Final = -1  # in place of an index into the vocabulary
_EP, _EC = SUBSCORES.index("ep"), SUBSCORES.index("ec")
_STEPPED: Final = [index for index in range(len(SUBSCORES)) if index not in (_EP, _EC)]
#: Sub-scores of 0, 1/2 and 1 are the digits 0, 1 and 2 of one number.
_DIGITS: Final = 3 ** np.arange(len(_STEPPED))
_EP_UNITS: Final = np.iinfo(np.uint16).max
_PROGRESS_PER_M: Final = 100.0
_PACKED: Final[Mapping[str, Any]] = {
    "compression": "zstd",
    "compression_level": 9,
    "use_byte_stream_split": ["steps.list.element"],  # high bytes of steps are alike
    "use_dictionary": ["entry.list.element", "source.list.element", "subscores.list.element"],
    "write_statistics": False,
    "store_schema": False,
}


@dataclass(frozen=True, slots=True, eq=False)
class LabelledRows:
    """Labels of R bank rows with P proposals each.

    Attributes:
        tokens: (R,) str, view token of every row.
        rows: (R,) bank rows.
        plans: (R, P, 8, 3) as they were scored, ego frame.
        source: (R, P) index into ``SOURCES``.
        raw: (R, P, 9) sub-scores before the human filter, EC NaN.
        progress_m: (R, P) raw progress along the centreline.
        reference_m: (R,) progress of the reference times its gates, the rival in EP.
        human: (R, 9) sub-scores of the human alone; NaN where there is none.
    """

    tokens: NDArray[np.str_]
    rows: NDArray[np.int64]
    plans: NDArray[np.float32]
    source: NDArray[np.int8]
    raw: NDArray[np.float32]
    progress_m: NDArray[np.float32]
    reference_m: NDArray[np.float32]
    human: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)


#: Columns with a value for every plan, which are large: name to (shape of a value, data type).
_PER_PLAN: Final[Mapping[str, tuple[tuple[int, ...], type[np.generic]]]] = {
    "plans": ((FUTURE_FRAMES, 3), np.float32),
    "source": ((), np.int8),
    "raw": ((len(SUBSCORES),), np.float32),
    "progress_m": ((), np.float32),
}


def join_rows(parts: list[LabelledRows]) -> LabelledRows:
    """All rows, in order; at least one part."""
    columns = ([getattr(part, item.name) for part in parts] for item in fields(LabelledRows))
    return LabelledRows(*map(np.concatenate, columns))


def write_label_shard(shard: Location, labels: LabelledRows, vocabulary: Floats, fingerprint: str) -> None:
    """Writes a shard, whole or not at all.

    Args:
        labels: of a log, whose plans are ``plan_codes.rounded``.
        vocabulary: (V, 8, 3) rounded plans.
        fingerprint: of the label set.
    """
    count, codes = labels.source.shape[1], encode_plans(labels.plans)
    known = {code.tobytes(): index for index, code in enumerate(encode_plans(vocabulary))}
    entry = np.array([known.get(code.tobytes(), _OWN_PLAN) for code in codes.reshape(-1, _PLAN_SIZE)], np.int16)
    own = (entry == _OWN_PLAN).reshape(-1, count)
    table = pa.table(
        {
            "token": pa.array(labels.tokens.tolist(), pa.string()),
            "row": pa.array(labels.rows.astype(np.int32)),
            "entry": _lists(entry, len(labels)),
            "steps": pa.ListArray.from_arrays(_offsets(own.sum(1) * _PLAN_SIZE), pa.array(codes[own].ravel())),
            "source": _lists(labels.source.astype(np.int8), len(labels)),
            "subscores": _lists(_digits_of(labels.raw), len(labels)),
            "ep": _lists(np.rint(labels.raw[..., _EP] * _EP_UNITS).astype(np.uint16), len(labels)),
            "progress": _lists(_centimetres(labels.progress_m), len(labels)),
            "reference_m": pa.array(labels.reference_m.astype(np.float32)),
            "human": _lists(labels.human.astype(np.float32), len(labels)),
        }
    )
    with shard.writing() as path, pq.ParquetWriter(path, table.schema, **_PACKED) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_FINGERPRINT_KEY: fingerprint.encode()})


def read_label_shards(shards: Sequence[Location], vocabulary: Floats, proposals: int, fingerprint: str) -> LabelledRows:
    """Reads shards, one after the other, into arrays on disk; the rows come out by their number.

    A row of 64 plans takes 9 kB there, and about 150 bytes in memory.

    Args:
        shards: at least one; the rest as :func:`read_label_shard`.

    Raises:
        CheckpointError: as :func:`read_label_shard`.
    """
    numbers = np.concatenate([_numbers(shard) for shard in shards])
    place = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
    large = {name: scratch_array((len(numbers), proposals, *item), kind) for name, (item, kind) in _PER_PLAN.items()}
    small: dict[str, list[NDArray[Any]]] = {item.name: [] for item in fields(LabelledRows) if item.name not in large}
    start = 0
    for shard in shards:
        part = read_label_shard(shard, vocabulary, proposals, fingerprint)
        for name, values in large.items():
            values[place[start : start + len(part)]] = getattr(part, name)
        for name, values_of_parts in small.items():
            values_of_parts.append(getattr(part, name))
        start += len(part)
    order = np.argsort(place)
    return LabelledRows(**large, **{name: np.concatenate(values)[order] for name, values in small.items()})


def read_label_shard(shard: Location, vocabulary: Floats, proposals: int, fingerprint: str) -> LabelledRows:
    """Reads a shard.

    Args:
        vocabulary: with which it was written.
        proposals: P.
        fingerprint: of the label set.

    Raises:
        CheckpointError: if it cannot be read or belongs to another label set.
    """
    try:
        table = pq.read_table(shard.local())
        found = (table.schema.metadata or {}).get(_FINGERPRINT_KEY, b"").decode()
        if found != fingerprint:
            raise CheckpointError(f"{shard}: expected a shard of label set {fingerprint}, found {found!r}; delete it")
        return _rows_of(table, encode_plans(vocabulary), proposals)
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"{shard}: expected labels of {proposals} plans a row, found {error}; delete it"
        ) from error


def _numbers(shard: Location) -> NDArray[np.int64]:
    """(R,) bank rows of a shard."""
    try:
        rows: NDArray[np.int64] = pq.read_table(shard.local(), columns=["row"])["row"].to_numpy().astype(np.int64)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CheckpointError(f"{shard}: expected labels, found {error}; delete it") from error
    return rows


def _rows_of(table: pa.Table, vocabulary: NDArray[np.int16], proposals: int) -> LabelledRows:
    shape = (table.num_rows, proposals)
    entry = _values(table, "entry").reshape(shape)
    own = entry == _OWN_PLAN
    codes = vocabulary[np.where(own, 0, entry)]
    codes[own] = _values(table, "steps").reshape(-1, FUTURE_FRAMES, 3)
    raw = np.full((*shape, len(SUBSCORES)), np.nan, np.float32)
    raw[..., _STEPPED] = _values(table, "subscores").reshape(*shape, 1) // _DIGITS % 3 / 2
    raw[..., _EP] = _values(table, "ep").reshape(shape) / _EP_UNITS
    return LabelledRows(
        tokens=np.array(table["token"].to_pylist(), np.str_),
        rows=table["row"].to_numpy().astype(np.int64),
        plans=decode_plans(codes),
        source=_values(table, "source").reshape(shape).astype(np.int8),
        raw=raw,
        progress_m=(_values(table, "progress").reshape(shape) / _PROGRESS_PER_M).astype(np.float32),
        reference_m=table["reference_m"].to_numpy(),
        human=_values(table, "human").reshape(-1, len(SUBSCORES)),
    )


def _digits_of(raw: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """(R, P) one number for all sub-scores but EP and EC.

    Raises:
        ValueError: if the scorer takes other values than 0, 1/2 and 1: the layout must change with it.
    """
    doubled = 2.0 * raw[..., _STEPPED]
    if not np.isin(doubled, (0.0, 1.0, 2.0)).all():
        names = [SUBSCORES[index] for index in _STEPPED]
        raise ValueError(f"labels: expected {', '.join(names)} of 0, 1/2 or 1, found {np.unique(doubled / 2.0)}")
    number: NDArray[np.uint16] = np.asarray(doubled.astype(np.int64) @ _DIGITS, np.uint16)
    return number


def _centimetres(progress_m: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """(R, P); no plan gets further than 655 m in 4 s."""
    units: NDArray[np.uint16] = np.clip(np.rint(progress_m * _PROGRESS_PER_M), 0, np.iinfo(np.uint16).max).astype(
        np.uint16
    )
    return units


def _lists(values: NDArray[Any], rows: int) -> pa.ListArray:
    """One list of equal length a row."""
    flat = np.ascontiguousarray(values).ravel()
    return pa.ListArray.from_arrays(_offsets(np.full(rows, flat.size // rows)), pa.array(flat))


def _offsets(lengths: NDArray[Any]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _values(table: pa.Table, column: str) -> NDArray[Any]:
    """All elements of a column of lists."""
    values: NDArray[Any] = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values
