"""Reads and writes NAVSIM log pickles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from irl_vla.scene import Frame


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """A log; frames are converted when first asked for."""

    path: Path

    def __len__(self) -> int:
        raise NotImplementedError

    def token(self, index: int) -> str:
        raise NotImplementedError

    def map_name(self, index: int) -> str:
        raise NotImplementedError

    def has_route(self, index: int) -> bool:
        raise NotImplementedError

    def frame(self, index: int) -> Frame:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class LogMeta:
    """What a log file says beside its frames."""

    log_name: str
    map_name: str
    vehicle_name: str = "veh-00"
    altitude_m: float = 0.0


def read_log(path: Path, annotated: bool = True) -> Log:
    """Reads a log file without converting its frames."""
    raise NotImplementedError


def write_log(path: Path, frames: Sequence[Frame], meta: LogMeta) -> None:
    """Writes frames as the official list of dicts (pickle protocol 4, readable with numpy 1.23), atomically."""
    raise NotImplementedError
