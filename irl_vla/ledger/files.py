"""Files that are whole or absent: atomic writes, manifests and content hashes."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from irl_vla.errors import CheckpointError, IrlVlaError

MANIFEST_NAME = "manifest.json"
#: Errors that a write to an open file may meet.
_OF_THE_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class Manifest:
    """What a folder of results is and where it came from.

    Attributes:
        kind: e.g. "dataset", "token_bank", "label_set", "checkpoint".
        schema: version of the layout; readers refuse every other one.
        config: resolved configuration that made it.
        seed: seed of every random draw.
        inputs: name to hash of what it was made from.
        extra: facts that readers need (counts, shapes, layouts).
    """

    kind: str
    schema: int
    config: Mapping[str, Any]
    seed: int
    inputs: Mapping[str, str]
    extra: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash over all fields: equal fingerprints mean equal origin."""
        return content_hash(asdict(self))

    def write(self, folder: Path) -> None:
        """Writes the manifest; by convention last, so that its presence says that the folder is whole."""
        write_text(folder / MANIFEST_NAME, json.dumps(asdict(self), indent=1, sort_keys=True))


def read_manifest(folder: Path, kind: str, schema: int, remedy: str) -> Manifest:
    """Reads and checks a manifest.

    Args:
        remedy: what to do if it does not fit, e.g. "run `irl-vla label`".

    Raises:
        CheckpointError: if the folder is not whole, of another kind or of another schema.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = Manifest(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: expected a finished {kind}, found no manifest; {remedy}") from error
    except (json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(f"{path}: not a manifest ({error}); {remedy}") from error
    if manifest.kind != kind:
        raise CheckpointError(f"{path}: expected kind {kind!r}, found {manifest.kind!r}; {remedy}")
    if manifest.schema != schema:
        raise CheckpointError(f"{path}: expected schema {schema} of {kind}, found {manifest.schema}; {remedy}")
    return manifest


def content_hash(value: Any) -> str:
    """Hash of a JSON-like value or of bytes, 16 hex digits, equal on every machine."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Hash of a file's bytes, 16 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path``; renames it on success, removes it on failure.

    Raises:
        OSError: naming ``path``, if the disk is full or the like; libraries name no file, and some not even the reason.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except Exception as error:
        reason = None if isinstance(error, IrlVlaError) else _why_not_written(temporary, error)
        if reason is None:
            raise
        raise OSError(reason, os.strerror(reason), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a binary file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _why_not_written(path: Path, error: Exception) -> int | None:
    """Error number of what keeps a file from growing, None if it still can.

    Torch, numpy and safetensors say in words of their own that a write has failed, so the file itself is asked.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.filename is None and error.errno in _OF_THE_DISK else None
    if not path.exists():
        return None
    try:
        with path.open("ab") as stream:
            stream.write(bytes(1 << 16))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as refusal:
        return refusal.errno if refusal.errno in _OF_THE_DISK else None
    return None
