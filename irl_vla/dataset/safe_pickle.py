"""Pickles from outside, read with an explicit list of allowed names, and written so that old numpy reads them.

A pickle is a program: whoever loads it runs it. The reader here resolves only the listed names, never imports a module
because a file names it, and treats every failure of the virtual machine as a broken file.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy._core import multiarray, numeric

from irl_vla.errors import LogFormatError
from irl_vla.ledger.files import write_bytes

AllowedNames: TypeAlias = Mapping[tuple[str, str], Callable[..., Any]]


def _encode(text: str, encoding: str) -> bytes:
    """How protocols up to 2 spell bytes; only the one encoding they use."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"spells bytes with the encoding {encoding!r}, expected 'latin1'")
    return text.encode("latin1")


#: What log pickles refer to: plain arrays and scalars as numpy 1 and numpy 2 name them (``_frombuffer``: protocol 5).
NUMPY_NAMES: Final[AllowedNames] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    **{
        (f"{package}.{module}", name): function
        for package in ("numpy.core", "numpy._core")
        for module, name, function in (
            ("multiarray", "_reconstruct", multiarray._reconstruct),
            ("multiarray", "scalar", multiarray.scalar),
            ("numeric", "_frombuffer", numeric._frombuffer),  # type: ignore[attr-defined]
        )
    },
}
_READING_ERRORS: Final = (
    pickle.UnpicklingError,
    EOFError,
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,  # includes UnicodeError
)
#: The pickler written in Python; the C one has no hook for the name of a global. Its stub hides all its methods.
_PYTHON_PICKLER: Any = pickle._Pickler
_OLD_PACKAGE: Final = {"numpy._core.multiarray": "numpy.core.multiarray", "numpy._core.numeric": "numpy.core.numeric"}


class _Unpickler(pickle.Unpickler):
    """Resolves the listed names and no other."""

    def __init__(self, stream: io.BufferedIOBase | io.BytesIO, allowed: AllowedNames) -> None:
        super().__init__(stream)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refers to {module}.{name}, which such files never need") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"refers to an outside object {pid!r}")


class _Pickler(_PYTHON_PICKLER):  # type: ignore[misc]
    """Names numpy's internals as numpy 1 does, and stand-ins as the classes that they stand for."""

    def __init__(self, stream: io.BytesIO, names: AllowedNames) -> None:
        super().__init__(stream, protocol=4)
        self._names = {id(stand_in): name for name, stand_in in names.items()}

    def save_global(self, obj: Any, name: str | None = None) -> None:
        old = _OLD_PACKAGE.get(getattr(obj, "__module__", ""))
        official = (old, obj.__name__) if old else self._names.get(id(obj))
        if official is None:
            super().save_global(obj, name)
            return
        for part in official:
            self.save(part)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)


def read_pickle(path: Path, allowed: AllowedNames = NUMPY_NAMES) -> Any:
    """Loads one pickle that refers to nothing but the allowed names.

    Raises:
        LogFormatError: if the file is missing, cut off, no pickle, or refers to any other name.
    """
    try:
        with path.open("rb") as stream:
            return _Unpickler(stream, allowed).load()
    except FileNotFoundError as error:
        raise LogFormatError(f"{path}: expected a pickle, found no file; check the data set's folders") from error
    except OSError as error:
        raise LogFormatError(
            f"{path}: expected a pickle that can be read, found {error.strerror}; check the file"
        ) from error
    except _READING_ERRORS as error:
        raise LogFormatError(
            f"{path}: expected a whole pickle of plain data, found {error}; fetch the file again"
        ) from error


def write_pickle(path: Path, value: Any, names: AllowedNames = MappingProxyType({})) -> None:
    """Writes builtins and arrays with protocol 4 and the names of numpy 1, atomically.

    Args:
        names: further classes that may occur, by the (module, name) under which a reader shall look for them.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, names).dump(value)
    write_bytes(path, buffer.getvalue())
