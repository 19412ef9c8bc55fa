"""Prepared scenes on disk: Arrow shards with one record batch a scene, read at random by token."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from irl_vla.epdms.records import ROLLOUT_STEPS, Polygons, PreparedScene, Tracks, TrafficStart
from irl_vla.errors import CheckpointError, SceneError
from irl_vla.ledger.files import atomic_path

SHARD_SUFFIX: Final = ".arrow"
#: Goes up when the columns or what they hold change; stores of another schema are refused.
SCHEMA_VERSION: Final = 3
_VERSION: Final = str(SCHEMA_VERSION).encode()
_VERSION_KEY: Final = b"prepared_scene_schema"
_TOKENS_KEY: Final = b"tokens"  # JSON list in batch order, so that opening a store reads no scene
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
class PreparedStore:
    """All prepared scenes of a folder; small enough to be sent to other processes.

    Attributes:
        folder: where the shards lie.
        places: token to (file name, batch), in the order of shard names and of scenes within.
    """

    folder: Path
    places: Mapping[str, tuple[str, int]]

    @classmethod
    def open(cls, folder: Path) -> "PreparedStore":
        """Indexes the shards of a folder.

        Raises:
            CheckpointError: if there is none, one cannot be read, or two scenes share a token.
        """
        shards = sorted(path for path in folder.glob(f"*{SHARD_SUFFIX}") if not path.name.startswith("."))
        if not shards:
            raise CheckpointError(f"{folder}: expected prepared scenes (*{SHARD_SUFFIX}), found none; {_REMEDY}")
        places: dict[str, tuple[str, int]] = {}
        for shard in shards:
            for batch, token in enumerate(_read_tokens(shard)):
                if token in places:
                    raise CheckpointError(f"{shard}: scene {token} is also in {places[token][0]}; {_REMEDY}")
                places[token] = (shard.name, batch)
        return cls(folder, places)

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
        if token not in self.places:
            raise SceneError(f"{self.folder}: no prepared scene {token!r} among {len(self)}; {_REMEDY}")
        name, batch = self.places[token]
        with _reader(self.folder / name) as reader:
            return _scene_from(reader.get_batch(batch))


def rebuild(folder: Path) -> str:
    """What to do about a store of another schema, for error messages."""
    return f"remove it (`rm -r {folder}`) and start the stage again (`irl-vla STAGE CONFIG`), which prepares it anew"


def write_shard(path: Path, scenes: Sequence[PreparedScene]) -> None:
    """Writes scenes to one file (suffix ``.arrow``), which is whole or absent."""
    if path.suffix != SHARD_SUFFIX:
        raise ValueError(f"expected a shard named *{SHARD_SUFFIX}, found {path.name}")
    tokens = json.dumps([scene.token for scene in scenes]).encode()
    schema = _SCHEMA.with_metadata({_VERSION_KEY: _VERSION, _TOKENS_KEY: tokens})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), schema, options=options) as writer:
        for scene in scenes:
            writer.write_batch(_batch_from(scene))


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            version = (reader.schema.metadata or {}).get(_VERSION_KEY)
            if version != _VERSION or not reader.schema.equals(_SCHEMA):
                found = "no schema" if version is None else f"schema {version.decode()}"
                raise CheckpointError(
                    f"{path}: expected prepared scenes of schema {SCHEMA_VERSION}, found {found} with columns "
                    f"{', '.join(reader.schema.names)}; {rebuild(path.parent)}"
                )
            yield reader
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a shard of prepared scenes, found damage ({error}); {_REMEDY}"
        ) from error


def _read_tokens(path: Path) -> list[str]:
    with _reader(path) as reader:
        tokens: list[str] = json.loads(reader.schema.metadata[_TOKENS_KEY])
        if len(tokens) != reader.num_record_batches:
            raise CheckpointError(
                f"{path}: expected {len(tokens)} scenes, found {reader.num_record_batches}; {_REMEDY}"
            )
        return tokens


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
        cell = batch.column(name)[0]
        # A copy, because the file is unmapped after reading.
        return np.array(cell.values.to_numpy(zero_copy_only=False)).reshape(_ARRAYS[name][1])

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
