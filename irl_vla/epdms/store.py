"""Prepared scenes on disk: Arrow shards with one record batch a scene, read at random by token.

A finished store has a record and an index of all its shards, so that opening it reads two small files.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from irl_vla.epdms.records import ROLLOUT_STEPS, Polygons, PreparedScene, Tracks, TrafficStart
from irl_vla.errors import CheckpointError, SceneError
from irl_vla.ledger.artefact import find_record, require_record
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location

#: Of the record of a finished store.
KIND: Final = "prepared_scenes"
SHARD_SUFFIX: Final = ".arrow"
#: Tokens and notes of all shards, written when a store is finished.
INDEX_NAME: Final = "index.json"
#: Goes up when the columns, what they hold or the notes change; stores of another schema are refused.
SCHEMA_VERSION: Final = 4
_VERSION: Final = str(SCHEMA_VERSION).encode()
_VERSION_KEY: Final = b"prepared_scene_schema"
_TOKENS_KEY: Final = b"tokens"  # JSON list in batch order, so that opening a store reads no scene
_NOTES_KEY: Final = b"notes"  # JSON mapping
_REMEDY: Final = "prepare the split again"
_FLOAT, _INT, _BOOL = pa.float64(), pa.int64(), pa.bool_()

#: Arrays of ``TrafficStart``, in the columns of these names behind ``_TRAFFIC``; all null where a scene has none.
_TRAFFIC: Final = "traffic_"
_TRAFFIC_ARRAYS: Final[Mapping[str, tuple[Any, tuple[int, ...]]]] = {
    "seen_now": (_BOOL, (-1,)),
    "drivers": (_INT, (-1,)),
    "boxes": (_FLOAT, (-1, 3)),
    "motion": (_FLOAT, (-1, 3)),
    "lane": (_INT, (-1,)),
    "lane_points": (_FLOAT, (-1, 2)),
    "lane_offsets": (_INT, (-1,)),
    "standing": (_INT, (-1,)),
}
#: Array columns: element type and shape, -1 for the axis that varies from scene to scene.
_ARRAYS: Final[Mapping[str, tuple[Any, tuple[int, ...]]]] = {
    "ego_state": (_FLOAT, (11,)),
    "history_time_us": (_INT, (-1,)),
    "history_states": (_FLOAT, (-1, 11)),
    "human_plan": (_FLOAT, (-1, 3)),
    "reference_poses": (_FLOAT, (-1, 3)),
    "centerline": (_FLOAT, (-1, 2)),
    "polygon_vertices": (_FLOAT, (-1, 2)),
    "polygon_offsets": (_INT, (-1,)),
    "polygon_layer": (_INT, (-1,)),
    "polygon_on_route": (_BOOL, (-1,)),
    "track_kinds": (_INT, (-1,)),
    "track_sizes": (_FLOAT, (-1, 2)),
    "track_poses": (_FLOAT, (-1, ROLLOUT_STEPS, 3)),
    "track_velocities": (_FLOAT, (-1, ROLLOUT_STEPS, 2)),
    "track_present": (_BOOL, (-1, ROLLOUT_STEPS)),
    "red_vertices": (_FLOAT, (-1, 2)),
    "red_offsets": (_INT, (-1,)),
    "red_active": (_BOOL, (-1, ROLLOUT_STEPS)),
    **{f"{_TRAFFIC}{name}": column for name, column in _TRAFFIC_ARRAYS.items()},
}
_SCHEMA: Final = pa.schema(
    [
        pa.field("token", pa.string()),
        pa.field("is_synthetic", _BOOL),
        pa.field("time_us", _INT),
        pa.field("track_tokens", pa.list_(pa.string())),
        *(pa.field(name, pa.large_list(kind)) for name, (kind, _) in _ARRAYS.items()),
    ]
)


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What a shard says of itself.

    Attributes:
        tokens: of its scenes, in order.
        notes: JSON values of the writer, e.g. what became of the log.
    """

    tokens: tuple[str, ...]
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PreparedStore:
    """All prepared scenes of a folder; small enough to be sent to other processes.

    Attributes:
        folder: where the shards lie.
        places: token to (file name, batch), in the order of shard names and of scenes within.
    """

    folder: Location
    places: Mapping[str, tuple[str, int]]
    _fetched: dict[str, Location] = field(default_factory=dict, repr=False, compare=False, init=False)

    def __reduce__(self) -> tuple[type[Self], tuple[Location, Mapping[str, tuple[str, int]]]]:
        """Leaves out what was fetched: another machine has a cache of its own."""
        return type(self), (self.folder, self.places)

    @classmethod
    def open(cls, folder: Path | Location) -> Self:
        """Opens a finished store by its index; a folder of shards without a record is looked through.

        Raises:
            CheckpointError: if it is half-written, there is no shard, one cannot be read, or two scenes share a token.
        """
        place = Location.of(folder)
        places: dict[str, tuple[str, int]] = {}
        for name, entry in _entries(place).items():
            for batch, token in enumerate(entry.tokens):
                if token in places:
                    raise CheckpointError(f"{place / name}: scene {token} is also in {places[token][0]}; {_REMEDY}")
                places[token] = (name, batch)
        return cls(place, places)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens in storage order."""
        return tuple(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, token: object) -> bool:
        return token in self.places

    def __getitem__(self, token: str) -> PreparedScene:
        """Reads one scene.

        Raises:
            SceneError: if there is no such token.
            CheckpointError: if the shard is damaged.
        """
        return next(self.scenes([token]))

    def scenes(self, tokens: Iterable[str]) -> Iterator[PreparedScene]:
        """Reads scenes one after the other; a shard is opened once for those that stand together.

        Raises:
            SceneError: if there is no such token.
            CheckpointError: if a shard is damaged.
        """
        for name, places in groupby(map(self._place, tokens), key=lambda place: place[0]):
            if name not in self._fetched:
                self._fetched[name] = Location.of((self.folder / name).local())
            with _reader(self._fetched[name]) as reader:
                for _, batch in places:
                    yield _scene_from(reader.get_batch(batch))

    def fingerprint(self) -> str:
        """Hash of how the scenes were prepared and of the files they came from; without a record, of their tokens."""
        record = find_record(self.folder)
        return content_hash(list(self.places) if record is None else [record.fingerprint, record.facts["logs"]])

    def _place(self, token: str) -> tuple[str, int]:
        if token not in self.places:
            raise SceneError(f"{self.folder}: no prepared scene {token!r} among {len(self)}; {_REMEDY}")
        return self.places[token]


def rebuild(folder: Path | Location) -> str:
    """What to do about a store of another schema, for error messages."""
    return f"remove it (`rm -r {folder}`) and start the stage again (`irl-vla STAGE CONFIG`), which prepares it anew"


def write_shard(path: Path | Location, scenes: Sequence[PreparedScene], notes: Mapping[str, Any] | None = None) -> None:
    """Writes scenes to one file (suffix ``.arrow``), which is whole or absent.

    Args:
        notes: JSON values that are kept in the shard.
    """
    place = Location.of(path)
    if not place.name.endswith(SHARD_SUFFIX):
        raise ValueError(f"expected a shard named *{SHARD_SUFFIX}, found {place.name}")
    tokens = json.dumps([scene.token for scene in scenes]).encode()
    metadata = {_VERSION_KEY: _VERSION, _TOKENS_KEY: tokens, _NOTES_KEY: json.dumps(dict(notes or {})).encode()}
    schema = _SCHEMA.with_metadata(metadata)
    # Reading decompresses every column of a scene by itself: lz4 does so 40 times as fast as zstd, for 15 % more bytes.
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with place.writing() as temporary, pa.ipc.new_file(str(temporary), schema, options=options) as writer:
        for scene in scenes:
            writer.write_batch(_batch_from(scene))


def read_entry(shard: Location) -> ShardEntry:
    """Tokens and notes of a shard, without its scenes.

    Raises:
        CheckpointError: if it is damaged or of another schema.
    """
    with _reader(shard) as reader:
        tokens = tuple(json.loads(reader.schema.metadata[_TOKENS_KEY]))
        notes = json.loads(reader.schema.metadata[_NOTES_KEY])
        if len(tokens) != reader.num_record_batches:
            raise CheckpointError(
                f"{shard}: expected {len(tokens)} scenes, found {reader.num_record_batches}; {_REMEDY}"
            )
        return ShardEntry(tokens, notes)


def write_index(folder: Location, entries: Mapping[str, ShardEntry]) -> None:
    """Writes what all shards say of themselves.

    Args:
        entries: by file name.
    """
    values = {name: {"tokens": entry.tokens, "notes": entry.notes} for name, entry in sorted(entries.items())}
    (folder / INDEX_NAME).write_text(json.dumps(values))


def read_index(folder: Location) -> dict[str, ShardEntry]:
    """What :func:`write_index` wrote.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        values = json.loads((folder / INDEX_NAME).read_bytes())
        return {name: ShardEntry(tuple(entry["tokens"]), entry["notes"]) for name, entry in values.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / INDEX_NAME}: expected the index of prepared scenes, found none ({error}); {rebuild(folder)}"
        ) from error


def shard_names(folder: Location) -> list[str]:
    """File names of the shards in a folder, sorted; unfinished ones are left out."""
    return [name for name in folder.children() if name.endswith(SHARD_SUFFIX) and not name.startswith(".")]


def _entries(folder: Location) -> dict[str, ShardEntry]:
    if find_record(folder) is not None:
        require_record(folder, KIND, SCHEMA_VERSION, _REMEDY)
        return read_index(folder)
    names = shard_names(folder)
    if not names:
        raise CheckpointError(f"{folder}: expected prepared scenes (*{SHARD_SUFFIX}), found none; {_REMEDY}")
    return {name: read_entry(folder / name) for name in names}


@contextmanager
def _reader(shard: Location) -> Iterator[Any]:
    try:
        with shard.reading() as source:
            reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(use_threads=False))
            version = (reader.schema.metadata or {}).get(_VERSION_KEY)
            if version != _VERSION or not reader.schema.equals(_SCHEMA):
                found = "no schema" if version is None else f"schema {version.decode()}"
                raise CheckpointError(
                    f"{shard}: expected prepared scenes of schema {SCHEMA_VERSION}, found {found} with columns "
                    f"{', '.join(reader.schema.names)}; {rebuild(shard.parent)}"
                )
            yield reader
    except FileNotFoundError as error:
        raise CheckpointError(f"{shard}: expected a shard of prepared scenes, found no file; {_REMEDY}") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; Arrow tells most damage by an OSError without a number
        raise CheckpointError(
            f"{shard}: expected a shard of prepared scenes, found damage ({error}); delete it and {_REMEDY}"
        ) from error


def _batch_from(scene: PreparedScene) -> Any:
    arrays = {
        **{name: getattr(scene, name) for name in _ARRAYS if hasattr(scene, name)},
        "polygon_vertices": scene.polygons.vertices,
        "polygon_offsets": scene.polygons.offsets,
        "track_kinds": scene.tracks.kinds,
        "track_sizes": scene.tracks.sizes,
        "track_poses": scene.tracks.poses,
        "track_velocities": scene.tracks.velocities,
        "track_present": scene.tracks.present,
        "red_vertices": scene.red_lights.vertices,
        "red_offsets": scene.red_lights.offsets,
        **{f"{_TRAFFIC}{name}": getattr(scene.traffic, name, None) for name in _TRAFFIC_ARRAYS},
    }
    columns = {
        "token": pa.array([scene.token], pa.string()),
        "is_synthetic": pa.array([scene.is_synthetic], _BOOL),
        "time_us": pa.array([scene.time_us], _INT),
        "track_tokens": pa.array([list(scene.tracks.tokens)], pa.list_(pa.string())),
    }
    for name, (kind, _) in _ARRAYS.items():
        columns[name] = _list_column(arrays[name], kind)
    return pa.record_batch([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)


def _list_column(array: Any, kind: Any) -> Any:
    if array is None:
        return pa.array([None], pa.large_list(kind))
    values = pa.array(np.ascontiguousarray(array).reshape(-1), kind)
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)


def _scene_from(batch: Any) -> PreparedScene:
    def array(name: str) -> Any:
        values = batch.column(name).values
        # A copy, because the file is unmapped after reading.
        return np.array(values.to_numpy(zero_copy_only=False)).reshape(_ARRAYS[name][1])

    has_traffic = batch.column(f"{_TRAFFIC}drivers")[0].is_valid
    has_human = batch.column("human_plan")[0].is_valid
    return PreparedScene(
        token=batch.column("token")[0].as_py(),
        is_synthetic=batch.column("is_synthetic")[0].as_py(),
        time_us=batch.column("time_us")[0].as_py(),
        ego_state=array("ego_state"),
        history_time_us=array("history_time_us"),
        history_states=array("history_states"),
        human_plan=array("human_plan") if has_human else None,
        reference_poses=array("reference_poses"),
        centerline=array("centerline"),
        polygons=Polygons(array("polygon_vertices"), array("polygon_offsets")),
        polygon_layer=array("polygon_layer"),
        polygon_on_route=array("polygon_on_route"),
        tracks=Tracks(
            tokens=tuple(batch.column("track_tokens")[0].as_py()),
            kinds=array("track_kinds"),
            sizes=array("track_sizes"),
            poses=array("track_poses"),
            velocities=array("track_velocities"),
            present=array("track_present"),
        ),
        red_lights=Polygons(array("red_vertices"), array("red_offsets")),
        red_active=array("red_active"),
        traffic=TrafficStart(**{name: array(f"{_TRAFFIC}{name}") for name in _TRAFFIC_ARRAYS}) if has_traffic else None,
    )
