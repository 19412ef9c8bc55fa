"""Where artefacts lie: a local folder or an object store, behind one small type over ``pyarrow.fs``.

Readers want local files (memory maps, safetensors), so a remote file is fetched once into a cache of this machine;
writers make a local file first and hand it over when it is whole, so no reader ever sees half of one.

pyarrow is imported where it is used: an experiment's configuration names places and must load at once.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

from irl_vla.errors import StorageError
from irl_vla.ledger.files import atomic_path

#: Name of the record of an artefact in its folder (here, because a folder is handed over with it last).
RECORD_NAME: Final = "artefact.json"


@dataclass(frozen=True, order=True)
class Location:
    """A file or folder at an absolute local path or at a URI such as ``s3://bucket/folder``; small and picklable.

    Attributes:
        address: the path or URI, without a slash at its end.
        options: what follows ``?`` in a URI (e.g. ``endpoint_override=...``), kept through every join.
    """

    address: str
    options: str = ""

    @classmethod
    def of(cls, place: "str | Path | Location") -> Self:
        """Takes a path (made absolute: workers have other working directories) or a URI."""
        if isinstance(place, Location):
            return cls(place.address, place.options)
        text = str(place)
        if "://" not in text:
            return cls(str(Path(text).absolute()))
        if text.startswith("file://"):
            return cls(text.removeprefix("file://").rstrip("/"))
        address, _, options = text.partition("?")
        return cls(address.rstrip("/"), options)

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.address}/{name}", self.options)

    def __str__(self) -> str:
        return self.address

    @property
    def uri(self) -> str:
        """What other libraries (Ray Train, Tune) take as storage path."""
        return f"{self.address}?{self.options}" if self.options else self.address

    @property
    def name(self) -> str:
        """Last part."""
        return self.address.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        """The folder that holds it."""
        return type(self)(self.address.rpartition("/")[0], self.options)

    @property
    def is_local(self) -> bool:
        """False for an object store."""
        return "://" not in self.address

    @property
    def path(self) -> Path:
        """The local path.

        Raises:
            StorageError: for an object store.
        """
        if not self.is_local:
            raise StorageError(f"{self}: expected a local path here; give a folder of this machine")
        return Path(self.address)

    def exists(self) -> bool:
        """True if there is a file, or a folder that holds something or was made."""
        import pyarrow.fs as pafs

        with _named(self):
            return bool(self._info().type != pafs.FileType.NotFound)

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: if it is not there.
            StorageError: if the store does not answer.
        """
        if self.is_local:
            return self.path.read_bytes()
        with _named(self):
            system, path = self._system()
            with system.open_input_stream(path) as stream:
                return bytes(stream.read())

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Yields the file, open for reading at random: of a remote one only the parts that are read are fetched.

        What the reader cannot make of the content stays its own error (pyarrow's are a ValueError).

        Raises:
            FileNotFoundError: if it is not there.
            StorageError: if the store does not answer, now or later.
        """
        import pyarrow as pa

        if self.is_local:
            with pa.memory_map(str(self.path)) as stream:
                yield stream
            return
        with _named(self):
            system, path = self._system()
            stream = system.open_input_file(path)
        with _named(self, (OSError,)), stream:
            yield stream

    def read_text(self) -> str:
        """The whole file as UTF-8."""
        return self.read_bytes().decode()

    def write_text(self, text: str) -> None:
        """Writes a whole file or none."""
        with self.writing() as path:
            path.write_text(text, encoding="utf-8")

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yields a local path to write to; the file appears here, whole, when the block ends without an error."""
        if self.is_local:
            with atomic_path(self.path) as path:
                yield path
            return
        with tempfile.TemporaryDirectory(prefix="irl-vla-") as folder:
            path = Path(folder) / self.name
            yield path
            self.upload(path)

    @contextmanager
    def filling(self, last: str = RECORD_NAME) -> Iterator[Path]:
        """Yields a local folder to fill: this one, or one that is uploaded when the block ends without an error.

        Args:
            last: name of the file by which readers know that the others are there; it is uploaded after them.
        """
        if self.is_local:
            self.path.mkdir(parents=True, exist_ok=True)
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="irl-vla-") as folder:
            yield Path(folder)
            self.upload(Path(folder), last)

    def upload(self, source: Path, last: str = RECORD_NAME) -> None:
        """Copies a local file or folder to here; of a folder, the files called ``last`` come last."""
        import pyarrow.fs as pafs

        with _named(self):
            system, path = self._system()
            files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
            for file in sorted(files, key=lambda file: file.name == last):
                target = path if source.is_file() else f"{path}/{file.relative_to(source).as_posix()}"
                if self.is_local:
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                pafs.copy_files(
                    str(file), target, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=system
                )

    def children(self) -> list[str]:
        """Names of the files and folders directly below, sorted; empty if there is no such folder."""
        import pyarrow.fs as pafs

        with _named(self):
            system, path = self._system()
            found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
            return sorted(info.base_name for info in found if info.path.rstrip("/") != path)

    def delete(self) -> None:
        """Removes the file or the folder with all that is in it; fine if there is none."""
        import pyarrow.fs as pafs

        if self.is_local:
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            else:
                self.path.unlink(missing_ok=True)
            return
        with _named(self):
            system, path = self._system()
            kind = self._info().type
            if kind == pafs.FileType.Directory:
                system.delete_dir(path)
            elif kind == pafs.FileType.File:
                system.delete_file(path)

    def local(self) -> Path:
        """Local path of the file or folder: itself, or a copy in this machine's cache, fetched where it is not current.

        Raises:
            StorageError: if the store does not answer.
        """
        import pyarrow.fs as pafs

        if self.is_local:
            return self.path
        with _named(self):
            system, root = self._system()
            info = system.get_file_info(root)
            selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
            files = [info] if info.is_file else [item for item in system.get_file_info(selector) if item.is_file]
            target = cache_folder() / hashlib.sha256(self.uri.encode()).hexdigest()[:16] / self.name
            wanted = {
                target / item.path[len(root) :].lstrip("/") if item.path != root else target: item for item in files
            }
            for copy, item in wanted.items():
                _fetch(system, item, copy)
        for old in target.rglob("*"):
            # Hidden names are those of files that another process or thread is fetching just now.
            if old.is_file() and old not in wanted and not old.name.startswith("."):
                old.unlink(missing_ok=True)  # removed from the store since
        return target

    def size_bytes(self) -> int:
        """Bytes of the file, or of all files below the folder; 0 if there is nothing."""
        import pyarrow.fs as pafs

        with _named(self):
            system, path = self._system()
            info = system.get_file_info(path)
            if info.is_file:
                return int(info.size)
            below = system.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
            return sum(item.size for item in below if item.is_file)

    def _system(self) -> tuple[Any, str]:
        import pyarrow.fs as pafs

        if self.is_local:
            return pafs.LocalFileSystem(), self.address
        return _remote_system(self.uri)

    def _info(self) -> Any:
        system, path = self._system()
        return system.get_file_info(path)


def cache_folder() -> Path:
    """Folder for copies of remote files: ``$IRL_VLA_CACHE``, else below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    chosen = os.environ.get("IRL_VLA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(chosen) if chosen else Path(base) / "irl-vla" / "remote"


@lru_cache(maxsize=256)
def _remote_system(uri: str) -> tuple[Any, str]:
    import pyarrow.fs as pafs

    system, path = pafs.FileSystem.from_uri(uri)
    return system, path


def _fetch(system: Any, item: Any, target: Path) -> None:
    """Copies a remote file unless the copy is of its size and time."""
    import pyarrow.fs as pafs

    stamp_ns = int(item.mtime_ns or 0)
    if target.is_file():
        known = target.stat()
        if (known.st_size, known.st_mtime_ns) == (item.size, stamp_ns):
            return
    with atomic_path(target) as temporary:
        pafs.copy_files(
            item.path, str(temporary), source_filesystem=system, destination_filesystem=pafs.LocalFileSystem()
        )
        os.utime(temporary, ns=(stamp_ns, stamp_ns))


@contextmanager
def _named(place: Location, kinds: tuple[type[Exception], ...] = (OSError, ValueError)) -> Iterator[None]:
    """Errors of a store name the place; those of this machine's disk keep their own kind.

    Args:
        kinds: of pyarrow's errors: a store that does not answer or takes no credentials is an OSError, an unknown
            scheme a ValueError.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except kinds as error:
        if place.is_local:
            raise
        raise StorageError(
            f"{place}: {error}; check the address, the credentials and, for a store that is not Amazon's, "
            "AWS_ENDPOINT_URL"
        ) from error
