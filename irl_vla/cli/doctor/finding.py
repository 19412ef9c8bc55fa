"""What one look at the installation, the machine or the data found."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        check: what was looked at.
        level: "problem": some stage will fail or give wrong numbers; "warning": it may.
        found: what was found.
        remedy: what to do; empty where nothing needs to be done.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""
