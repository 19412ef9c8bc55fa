"""Files that are whole or absent, and hashes of their content."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from irl_vla.errors import IrlVlaError

#: Errors that a write to an open file may meet.
_OF_THE_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


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
        temporary.write_text(text, encoding="utf-8")


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
