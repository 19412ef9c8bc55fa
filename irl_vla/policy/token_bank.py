"""Token bank: what frozen perception makes of every scene view, as memory-mapped Arrow shards, one a log.

From here on nothing touches an image. A row holds the packed scene tokens in half precision, what perception says in
metres (``sight``), and what proposals, rewards and fine-tuning need beside them. Whoever reads a bank checks the hash
of the perception that wrote it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from irl_vla.errors import CheckpointError
from irl_vla.ledger.arrays import SUFFIX, RowLayout, Rows, ShardedRows, write_rows
from irl_vla.ledger.artefact import Artefact, Identity, require_record
from irl_vla.ledger.shards import shard_path
from irl_vla.ledger.storage import Location
from irl_vla.policy.sight import Sight, SightLayout, read_sight
from irl_vla.scene import FUTURE_FRAMES, HISTORY_FRAMES, are_pair

KIND: Final = "token_bank"
SCHEMA: Final = 3
REMEDY: Final = "run `irl-vla pretrain`"
ORIGINAL: Final = "original"  # the view that is not shifted

_TEXT: Final = ((), np.str_)
#: The columns of :class:`BankRows`.
ROW_LAYOUT: Final[RowLayout] = {
    "token": _TEXT,
    "scene_token": _TEXT,
    "view": _TEXT,
    "log_name": _TEXT,
    "group": _TEXT,
    "kind": _TEXT,
    "timestamp_us": ((), np.int64),
    "ego_history": ((HISTORY_FRAMES, 7), np.float32),
    "command": ((), np.int64),
    "plan": ((FUTURE_FRAMES, 3), np.float32),
    "has_plan": ((), np.bool_),
    "has_human": ((), np.bool_),
}


@dataclass(frozen=True)
class TokenLayout:
    """Which columns of the packed tokens (N, D) belong to which kind.

    Attributes:
        counts: tokens of each kind, in order: meta, bev, map, object, ego.
        width: D.
        sight: of what is kept beside the tokens; None where a bank holds tokens alone.
    """

    counts: Mapping[str, int]
    width: int
    sight: SightLayout | None = None

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


class Encoded(NamedTuple):
    """A batch of b rows of a bank.

    Attributes:
        tokens: (b, N, D).
        rows: that they are of.
        sight: columns of ``SightLayout.stored``, if the bank keeps them.
    """

    tokens: NDArray[np.floating[Any]]
    rows: BankRows
    sight: Mapping[str, NDArray[Any]] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class TokenBank:
    """An opened bank. Tokens stay on disk; the other columns are in memory, named and shaped as in ``BankRows``.

    Sending a bank to another process sends its place.

    Attributes:
        previous_row: (R,) int64 row of the frame with which a frame is a pair for extended comfort, -1 where there is
            none; see :func:`link_frames`.
        perception_hash: of the encoder weights that wrote it.
        inputs: name to hash of what it was written from.
        fingerprint: of its record.
    """

    place: Location
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
    _stored: ShardedRows = field(repr=False)

    @classmethod
    def open(cls, place: Location | Path | str, perception_hash: str | None = None, remedy: str = REMEDY) -> Self:
        """Opens a finished bank.

        Args:
            perception_hash: the perception that the reader's model was trained on; None accepts any.
            remedy: the command that makes it.

        Raises:
            CheckpointError: if the bank is not whole, of another schema, of another perception, or a shard is broken.
        """
        folder = Location.of(place)
        record = require_record(folder, KIND, SCHEMA, remedy)
        found = record.identity.inputs["perception"]
        if perception_hash is not None and found != perception_hash:
            raise CheckpointError(
                f"{folder}: expected tokens of perception {perception_hash}, found those of {found}; "
                f"use the bank that was written with this checkpoint, or {remedy} again"
            )
        settings = record.identity.settings
        sight = settings["sight"] and SightLayout(**settings["sight"])
        layout = TokenLayout(dict(settings["tokens"]), settings["width"], sight)
        shards = dict(record.facts["shards"])
        stored = ShardedRows.open(folder, shards, bank_columns(layout), record.fingerprint, remedy)
        rows = BankRows(**{name: stored.column(name) for name in ROW_LAYOUT})
        return cls(
            place=folder,
            layout=layout,
            previous_row=link_frames(rows),
            perception_hash=found,
            inputs=record.identity.inputs,
            fingerprint=record.fingerprint,
            _stored=stored.only(["tokens", *(sight.stored if sight else ())]),
            **columns_of(rows),
        )

    def __len__(self) -> int:
        return len(self.token)

    def __reduce__(self) -> tuple[Callable[..., "TokenBank"], tuple[Location, str]]:
        return type(self).open, (self.place, self.perception_hash)

    def tokens(self, rows: ArrayLike) -> NDArray[np.float16]:
        """Packed tokens (B, N, D) of rows (B,), copied from disk."""
        return self._stored.take("tokens", rows)

    def sight(self, rows: ArrayLike) -> Sight:
        """What perception says of rows (B,), copied from disk.

        Raises:
            CheckpointError: if the bank holds tokens alone.
        """
        if self.layout.sight is None:
            raise CheckpointError(f"{self.place}: expected a bank with fields and boxes, found tokens alone; {REMEDY}")
        layout = self.layout.sight
        return read_sight({name: self._stored.take(name, rows) for name in layout.stored}, layout)


def columns_of(rows: BankRows) -> dict[str, NDArray[Any]]:
    """The columns by name."""
    return {item.name: getattr(rows, item.name) for item in fields(BankRows)}


def bank_artefact(
    folder: Location, layout: TokenLayout, perception_hash: str, samples: str, remedy: str = REMEDY
) -> Artefact:
    """The bank of a perception and of samples, by its folder and identity.

    Args:
        samples: fingerprint of what is encoded.
        remedy: the command that makes it.
    """
    settings = {
        "tokens": [list(item) for item in layout.counts.items()],
        "width": layout.width,
        "sight": layout.sight and asdict(layout.sight),
    }
    inputs = {"perception": perception_hash, "samples": samples}
    return Artefact(folder, Identity(KIND, SCHEMA, settings, inputs, {}), remedy)


def write_bank_shard(bank: Artefact, name: str, layout: TokenLayout, batches: Iterable[Encoded]) -> int:
    """Writes one shard of a bank; returns its rows.

    Raises:
        CheckpointError: if a token is not finite in half precision.
    """

    def columns() -> Iterator[Rows]:
        for tokens, rows, sight in batches:
            yield {"tokens": _half(tokens, rows, layout, bank.folder), **columns_of(rows), **sight}

    with shard_path(bank.folder, name, SUFFIX).writing() as path:
        return write_rows(path, bank_columns(layout), columns(), bank.fingerprint)


def finish_bank(bank: Artefact, shards: Mapping[str, int]) -> TokenBank:
    """Marks a bank as whole and opens it.

    Args:
        shards: name to rows, in the order of the rows' numbers.
    """
    bank.finish({"shards": [list(item) for item in shards.items()], "rows": sum(shards.values())})
    return TokenBank.open(bank.folder, bank.identity.inputs["perception"], bank.remedy)


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


def bank_columns(layout: TokenLayout) -> RowLayout:
    """What a row of a bank holds."""
    sight = {} if layout.sight is None else layout.sight.stored
    return {"tokens": ((layout.total, layout.width), np.float16), **ROW_LAYOUT, **sight}


def _half(
    tokens: NDArray[np.floating[Any]], rows: BankRows, layout: TokenLayout, folder: Location
) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):  # reported below
        half = np.ascontiguousarray(tokens, np.float16)
    expected = (len(rows), layout.total, layout.width)
    if half.shape != expected:
        raise ValueError(f"tokens: expected {expected}, found {half.shape}")
    unfit = ~np.isfinite(half).all(axis=(1, 2))
    if unfit.any():
        raise CheckpointError(
            f"{folder}: scene tokens of {rows.token[unfit][0]} are not finite in half precision; "
            "perception has diverged: train it again with a lower learning rate"
        )
    return half
