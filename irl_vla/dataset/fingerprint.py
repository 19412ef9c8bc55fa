"""A data set's fingerprint: what every result that is made from it records, and holds against the data it finds.

It tells contents, not places or times: a copy of a data set has the fingerprint of its source.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.cache import cache_folder
from irl_vla.dataset.scenes import logs_of
from irl_vla.dataset.splits import Split, read_layouts, read_split
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.files import content_hash, file_hash, write_text
from irl_vla.ledger.progress import followed
from irl_vla.ledger.storage import Location

#: Kind of the record in the root of a generated data set.
GENERATED_KIND: Final = "dataset"
#: File in the cache folder: hashes of what was read before.
CACHE_NAME: Final = "content_hashes.json"
#: Sensor files up to this size are read whole; of larger ones only blocks at the start, in the middle and at the end.
_WHOLE_BYTES: Final = 65536
_BLOCK_BYTES: Final = 4096
_THREADS: Final = 16
#: A file that was written so shortly before may be written again within the same tick of the disk's clock.
_SETTLED_NS: Final = 2_000_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DatasetFingerprint:
    """What a data set holds, as far as some of its splits draw on it.

    Attributes:
        kind: "generated" if the root has the record of a generated world, else "recorded".
        logs: number of logs of the splits.
        log_files: hash over the content of these logs, and of the second-stage scenes of two-stage splits.
        maps: hash over the content of the map index and of every map file; which cities a log needs stands inside it.
        splits: hash over what the split files say, and over the layouts and kinds of the logs.
        sensors: hash over names, sizes and content of the sensor files in the logs' folders; of a file above 64 KiB
            (real images and sweeps) three blocks of 4 KiB stand for the content.
        generator: hash over settings, seed and generator version of a generated world, else None.
    """

    kind: Literal["generated", "recorded"]
    logs: int
    log_files: str
    maps: str
    splits: str
    sensors: str
    generator: str | None

    @property
    def content(self) -> str:
        """Hash over logs, maps and splits: what judging depends on."""
        return content_hash([self.log_files, self.maps, self.splits])

    @property
    def value(self) -> str:
        """Short hash over everything."""
        return content_hash(asdict(self))


def dataset_fingerprint(dataset: Dataset, splits: Sequence[str], cache: Path | None) -> DatasetFingerprint:
    """Reads what the splits draw on and hashes it, in threads.

    What was read is remembered in ``cache`` by size and time of modification, so that a second call only lists folders
    and reads the split files. Estimates for ``navtrain`` with all sensors (1,192 logs of 14 GB in all, 0.9 million
    sensor files): the first call reads the logs and 12 kB of each sensor file, minutes from a local disk and longer
    from one in the network; a second one takes a ``stat`` a sensor file and a second for the split file. As many files
    as the reference world has (744 logs, 71,000 sensor files, all read whole) took 8 s on two cores, then 0.9 s.

    Args:
        splits: names, in any order; two-stage splits bring their second-stage scenes and the sensors of these.
        cache: folder for the remembered hashes, see :func:`hash_cache`, never one of the data set; None reads
            everything.

    Raises:
        ConfigError: if there is no such split.
        LogFormatError: if a log that a split names is missing.
        CheckpointError: if the data set's own record cannot be read.
    """
    found = [read_split(dataset, name) for name in sorted(set(splits))]
    logs = sorted({(split.data_split, name) for split in found for name in logs_of(dataset, split)})
    parts = {
        "log_files": [*_log_pieces(dataset, logs), *_second_stage_pieces(dataset, found)],
        "maps": _map_pieces(dataset),
        "sensors": [*_sensor_pieces(dataset, logs), *_second_stage_sensors(dataset, found)],
    }
    digests = _digests([piece for pieces in parts.values() for piece in pieces], cache, is_told=True)
    hashes = {
        part: content_hash([[piece.label, digests[piece.key]] for piece in pieces]) for part, pieces in parts.items()
    }
    generator = generator_of(dataset.root)
    return DatasetFingerprint(
        kind="recorded" if generator is None else "generated",
        logs=len(logs),
        log_files=hashes["log_files"],
        maps=hashes["maps"],
        splits=_splits_hash(dataset, found, [name for _, name in logs]),
        sensors=hashes["sensors"],
        generator=generator,
    )


def content_hashes(paths: Iterable[Path], cache: Path | None) -> dict[Path, str]:
    """Hash of the content of each file; what was read before is not read again, as for a fingerprint.

    Files that were written in the last two seconds are read, and not remembered.

    Args:
        paths: files that are there.
        cache: folder for the remembered hashes, see :func:`hash_cache`; None reads everything.
    """
    pieces = {path: _Piece("", path) for path in paths}
    digests = _digests(list(pieces.values()), cache, is_told=False)
    return {path: digests[piece.key] for path, piece in pieces.items()}


def hash_cache() -> Path | None:
    """The user's folder in which hashes of files are remembered; None where the user has no home."""
    maps = cache_folder()
    return None if maps is None else maps.parent


def generator_of(root: Path) -> str | None:
    """Fingerprint of the record of the generated world in a folder, None for any other folder.

    Raises:
        CheckpointError: if the folder's record cannot be read.
    """
    record = find_record(Location.of(root))
    return record.fingerprint if record is not None and record.identity.kind == GENERATED_KIND else None


class _Piece(NamedTuple):
    """What is hashed together: one file, or all below a folder.

    Attributes:
        label: enters the hash; the same wherever the data set lies.
        suffix: of the files below a folder that count; empty for all.
        is_sampled: large files are not read whole.
    """

    label: str
    path: Path
    suffix: str = ""
    is_sampled: bool = False

    @property
    def key(self) -> str:
        """Name in the cache."""
        return str(self.path.absolute())


class _Hashed(NamedTuple):
    """A piece's state on disk and the hash of its content; ``is_settled`` if it may be remembered."""

    key: str
    state: str
    digest: str
    is_settled: bool
    files_read: int


def _log_pieces(dataset: Dataset, logs: Iterable[tuple[str, str]]) -> list[_Piece]:
    return [_Piece(f"{folder}/{name}", dataset.log_folder(folder) / f"{name}.pkl") for folder, name in logs]


def _map_pieces(dataset: Dataset) -> list[_Piece]:
    found = [*dataset.maps_root.glob("*.json"), *dataset.maps_root.glob("*/*/map.gpkg")]
    return [_Piece(str(path.relative_to(dataset.maps_root)), path) for path in sorted(found)]


def _sensor_pieces(dataset: Dataset, logs: Iterable[tuple[str, str]]) -> list[_Piece]:
    folders = [(f"{folder}/{name}", dataset.sensor_folder(folder) / name) for folder, name in logs]
    return [_Piece(label, path, is_sampled=True) for label, path in folders if path.is_dir()]


def _second_stage_pieces(dataset: Dataset, splits: Iterable[Split]) -> list[_Piece]:
    names = [split.name for split in splits if split.stage_pairs]
    return [_Piece(f"{name} (second stage)", dataset.second_stage_folder(name), ".pkl") for name in names]


def _second_stage_sensors(dataset: Dataset, splits: Iterable[Split]) -> list[_Piece]:
    folders = [(split.name, dataset.sensor_folder(split.name)) for split in splits if split.stage_pairs]
    return [
        _Piece(f"{name} (second stage)/{path.name}", path, is_sampled=True)
        for name, folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
    ]


def _splits_hash(dataset: Dataset, splits: Iterable[Split], logs: Iterable[str]) -> str:
    layouts = read_layouts(dataset)
    rules = [
        [split.name, split.data_split, split.scene_filter.model_dump(mode="json"), list(map(asdict, split.stage_pairs))]
        for split in splits
    ]
    return content_hash([rules, {name: asdict(layouts[name]) for name in logs if name in layouts}])


def _digests(pieces: Sequence[_Piece], cache: Path | None, *, is_told: bool) -> dict[str, str]:
    """Hash of every piece by its key; what is new is remembered. ``is_told`` if the user sees how it goes."""
    known = {} if cache is None else _remembered(cache)
    start_ns = time.time_ns()

    def work(piece: _Piece) -> _Hashed:
        return _hashed(piece, known, start_ns)

    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(followed(pool.map(work, pieces), "fingerprint", "parts", len(pieces)))
    fresh = [result for result in results if result.files_read]
    if fresh and is_told:
        files = sum(result.files_read for result in fresh)
        log.info("fingerprint: read %d files; %d of %d parts were known", files, len(pieces) - len(fresh), len(pieces))
    lasting = {result.key: [result.state, result.digest] for result in fresh if result.is_settled}
    if cache is not None and lasting:
        write_text(cache / CACHE_NAME, json.dumps(known | lasting, indent=0))
    return {result.key: result.digest for result in results}


def _hashed(piece: _Piece, known: Mapping[str, list[str]], start_ns: int) -> _Hashed:
    files = sorted(_files(piece))
    state = content_hash([[name, status.st_size, status.st_mtime_ns] for name, _, status in files])
    before = known.get(piece.key)
    if before is not None and before[0] == state:
        return _Hashed(piece.key, state, before[1], is_settled=True, files_read=0)
    read = _sampled_hash if piece.is_sampled else file_hash
    digest = content_hash([[name, status.st_size, read(Path(path))] for name, path, status in files])
    newest_ns = max((status.st_mtime_ns for _, _, status in files), default=0)
    return _Hashed(piece.key, state, digest, newest_ns < start_ns - _SETTLED_NS, len(files))


def _files(piece: _Piece) -> Iterator[tuple[str, str, os.stat_result]]:
    """Name below the piece's path, full path and status of each file."""
    if not piece.path.is_dir():
        yield "", str(piece.path), piece.path.stat()
        return
    waiting = [("", str(piece.path))]
    while waiting:
        prefix, folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_file() and entry.name.endswith(piece.suffix) and not entry.name.startswith("."):
                    yield f"{prefix}{entry.name}", entry.path, entry.stat()


def _sampled_hash(path: Path) -> str:
    """Hash of a file's bytes; of a large file of blocks at its start, in its middle and at its end."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= _WHOLE_BYTES:
            return content_hash(stream.read())
        blocks = []
        for start in (0, (size - _BLOCK_BYTES) // 2, size - _BLOCK_BYTES):
            stream.seek(start)
            blocks.append(stream.read(_BLOCK_BYTES))
    return content_hash(b"".join(blocks))


def _remembered(cache: Path) -> dict[str, list[str]]:
    """State and hash by path; nothing where the file is missing or not what this module writes."""
    path = cache / CACHE_NAME
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_bytes())
    except ValueError:
        entries = None
    shaped = isinstance(entries, dict) and all(
        isinstance(entry, list) and len(entry) == 2 and all(isinstance(text, str) for text in entry)
        for entry in entries.values()
    )
    if not shaped:
        log.warning("%s: expected hashes of files, found another content; everything is read again", path)
        return {}
    return dict(entries)
