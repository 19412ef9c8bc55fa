"""The record and index of prepared scenes that a test wrote by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.store import KIND, SCHEMA_VERSION, read_entry, shard_names, write_index
from irl_vla.ledger.artefact import Artefact, Identity
from irl_vla.ledger.storage import Location


class Store(dict[str, PreparedScene]):
    """Prepared scenes in memory, with the record that tells what they were made from."""

    folder: Path


def finish_store(
    folder: Path, logs: Mapping[str, str], failed: Sequence[Mapping[str, Any]] = (), split: str = "test", seed: int = 0
) -> Path:
    """As `prepare` leaves a folder whose shards are there.

    Args:
        logs: name to hash of the file.
    """
    place = Location.of(folder)
    identity = Identity(KIND, SCHEMA_VERSION, {"split": split}, {}, {"data_seed": seed})
    write_index(place, {name: read_entry(place / name) for name in shard_names(place)})
    Artefact(place, identity, "-").finish({"logs": dict(logs), "failed": list(failed), "broken_logs": {}})
    return folder
