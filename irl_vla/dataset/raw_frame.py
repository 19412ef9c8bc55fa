"""A dict of a log file together with its place: typed access whose errors name file, frame and key."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from irl_vla.errors import LogFormatError
from irl_vla.geometry import Floats

#: What a timestamp or id may reach at most: later layers keep them in 64 bits.
_LARGEST: Final = 2**63 - 1
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


@dataclass(frozen=True, slots=True, eq=False)
class RawFrame:
    """One frame of a log as the file holds it, or a dict inside of it.

    Attributes:
        index: of the frame in its log.
        prefix: keys that lead to this dict, each followed by a dot.
    """

    path: Path
    index: int
    values: Mapping[Any, Any]
    prefix: str = ""

    def fail(self, key: str, expected: str, found: str) -> NoReturn:
        """Raises a LogFormatError that names file, frame and key."""
        raise LogFormatError(f"{self.place(key)}expected {expected}, found {found}; fetch or generate the log again")

    def place(self, key: str) -> str:
        """How errors begin."""
        return f"{self.path}: frame {self.index}: {self.prefix}{key}: "

    def get(self, key: str) -> Any:
        """The value of a key that must be there."""
        try:
            return self.values[key]
        except KeyError:
            self.fail(key, "the key", "none")

    def inner(self, key: str) -> "RawFrame":
        """A dict inside of this one."""
        value = self.get(key)
        if not isinstance(value, dict):
            self.fail(key, "a dict", describe(value))
        return RawFrame(self.path, self.index, value, f"{self.prefix}{key}.")

    def text(self, key: str) -> str:
        """A non-empty string."""
        value = self.get(key)
        if not isinstance(value, str) or not value or not _is_encodable(value):
            self.fail(key, "a non-empty string", describe(value))
        return str(value)

    def integer(self, key: str) -> int:
        """A whole number from 0 to 2^63 - 1."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value <= _LARGEST:
            self.fail(key, "a whole number, 0 or more", describe(value))
        return int(value)

    def sequence(self, key: str) -> Sequence[Any]:
        """A list, tuple or one-dimensional array."""
        value = self.get(key)
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return value.tolist()  # type: ignore[no-any-return]
        if not isinstance(value, (list, tuple)):
            self.fail(key, "a list", describe(value))
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; they may be empty."""
        items = tuple(self.sequence(key))
        for item in items:
            if not isinstance(item, str) or not _is_encodable(item):
                self.fail(key, "a list of strings", describe(item))
        return items

    def floats(self, key: str, shape: tuple[int | None, ...]) -> Floats:
        """A finite float64 array of a shape in which None stands for any length."""
        value = self.get(key)
        try:
            numbers = np.asarray(value)
        except (TypeError, ValueError, RecursionError):  # ragged or endless lists
            self.fail(key, "numbers", describe(value))
        if numbers.dtype.kind not in "buif":
            self.fail(key, "numbers", describe(value))
        array = numbers.astype(np.float64, copy=False)
        if array.ndim == 1 and array.size == 0 and shape[0] is None:  # an empty list of rows has lost its width
            array = array.reshape(0, *(length or 0 for length in shape[1:]))
        if len(array.shape) != len(shape) or any(
            want is not None and want != have for want, have in zip(shape, array.shape, strict=True)
        ):
            wanted = ", ".join("N" if length is None else str(length) for length in shape)
            self.fail(key, f"shape ({wanted})", f"shape {array.shape}")
        if not np.isfinite(array).all():
            where = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(array)))
            self.fail(key, "finite numbers", f"{array[where]} at {where}")
        return array


def describe(value: Any) -> str:
    """Type and beginning of a value, for messages; never fails, whatever a file made of it."""
    try:
        return f"{type(value).__name__} {_SHORT.repr(value)}"
    except (ValueError, RecursionError):  # whole numbers of thousands of digits; endless nesting
        return f"{type(value).__name__} that cannot be shown"


def _is_encodable(text: str) -> bool:
    """False for halves of surrogate pairs, which no file name, database or log can hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
