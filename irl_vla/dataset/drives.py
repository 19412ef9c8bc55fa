"""What logs have in common: pieces of one recorded drive, or drives on one generated road layout.

Scenes of one unit resemble each other, so a unit belongs to one split as a whole.
"""

import re
from collections.abc import Mapping
from typing import Final

from irl_vla.dataset.splits import LogLayout

_PIECE: Final = re.compile(r"(.+_veh-\d+)_\d+_\d+")


def drive_of(log_name: str) -> str:
    """The drive that a log is a piece of.

    ``2021.05.12.19.36.12_veh-35_00005_00204`` holds the seconds 5 to 204 of the drive ``2021.05.12.19.36.12_veh-35``.
    A log with a name of another form is a drive of its own.
    """
    found = _PIECE.fullmatch(log_name)
    return found[1] if found else log_name


def unit_of(log_name: str, layouts: Mapping[str, LogLayout]) -> str:
    """The road layout of a generated log, the drive of any other.

    Args:
        layouts: by log name, as :func:`irl_vla.dataset.splits.read_layouts` gives them.
    """
    return layouts[log_name].layout if log_name in layouts else drive_of(log_name)
