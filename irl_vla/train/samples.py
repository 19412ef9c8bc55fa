"""Samples: observations and targets of a split, encoded once; what lies in a shard, and how rows are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from irl_vla.ledger.arrays import RowLayout, ShardedRows
from irl_vla.ledger.artefact import Record, require_record
from irl_vla.ledger.storage import Location
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.sample_layout import sample_layout, target_layout
from irl_vla.policy.token_bank import ROW_LAYOUT, BankRows

KIND: Final = "samples"
SCHEMA: Final = 2
REMEDY: Final = "run `irl-vla pretrain`"
#: Columns of the token bank that an encoded observation has under another name.
_OBSERVED: Final = {"ego_history": "history"}
#: Columns that the network neither sees nor learns.
_ASIDE: Final = set(ROW_LAYOUT) - {"command", "plan"}


@dataclass(frozen=True, eq=False)
class Samples:
    """The opened samples of a split, R rows: its scenes in the order of the split, each followed by its shifted views.

    Neither the number of a row nor its content depends on how rows are cut into shards.

    Attributes:
        rows: the columns that the token bank keeps.
        stored: the columns that the network sees or learns.
    """

    place: Location
    fingerprint: str
    rows: BankRows
    stored: ShardedRows = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """What rows (B,) teach, copied from disk.

        Returns:
            Name to (B, ...): the names of ``sample_layout`` and ``target_layout``, and ``plan`` (B, 8, 3), which
            imitation learns (see ``BankRows``).
        """
        return {name: self.stored.take(name, rows) for name in self.stored.columns}


def sample_columns(encoder: EncoderConfig) -> RowLayout:
    """What a row of samples holds."""
    known = {name: item for name, item in ROW_LAYOUT.items() if name not in _OBSERVED}
    return {**known, **sample_layout(encoder), **target_layout(encoder)}


def layout_facts(layout: RowLayout) -> list[list[Any]]:
    """A layout as it stands in a record."""
    return [[name, list(shape), np.dtype(kind).name] for name, (shape, kind) in layout.items()]


def stored_layout(record: Record) -> RowLayout:
    """The layout that :func:`layout_facts` wrote."""
    return {name: (tuple(shape), np.dtype(kind).type) for name, shape, kind in record.facts["columns"]}


def sample_record(place: Location | Path | str, remedy: str = REMEDY) -> Record:
    """The record of finished samples.

    Args:
        remedy: the command that makes them.

    Raises:
        CheckpointError: if they are not finished or of another schema.
    """
    return require_record(Location.of(place), KIND, SCHEMA, remedy)


def open_samples(place: Location | Path | str, remedy: str = REMEDY) -> Samples:
    """Opens finished samples.

    Args:
        remedy: the command that makes them.

    Raises:
        CheckpointError: if they are not finished, of another schema, or a shard is broken or of other samples.
    """
    folder, record = Location.of(place), sample_record(place, remedy)
    stored = ShardedRows.open(folder, dict(record.facts["shards"]), stored_layout(record), record.fingerprint, remedy)
    rows = bank_rows({name: stored.column(_OBSERVED.get(name, name)) for name in ROW_LAYOUT})
    learned = stored.only(name for name in stored.columns if name not in _ASIDE)
    return Samples(folder, record.fingerprint, rows, learned)


def bank_rows(columns: Mapping[str, NDArray[Any]]) -> BankRows:
    """The token bank's columns out of those of samples."""
    return BankRows(**{name: columns[name if name in columns else _OBSERVED[name]] for name in ROW_LAYOUT})
