"""Rule for the bytes of a pickle: would the official environment (Python 3.9, numpy 1.23) load it?"""

import pickle
from pathlib import Path
from typing import Final

from irl_vla.dataset.checks.findings import Finding

#: Official files have protocol 5 and ours 4; Python 3.9 knows no later one.
_NEWEST: Final = 5
#: Where numpy 2 keeps its internals. Older ones import modules by the names in a pickle and have none of this name.
_NEW_PACKAGE: Final = b"numpy._core"
_REMEDY: Final = "write the log again with irl-vla, or load and dump it with the official environment"


def check_pickle(path: Path, label: str) -> list[Finding]:
    """What an older environment stumbles over in a pickle that was read (so it refers to allowed names alone)."""
    data = path.read_bytes()
    found = []
    protocol = data[1] if data[:1] == pickle.PROTO else 0
    if not 2 <= protocol <= _NEWEST:
        message = f"expected protocol 2 to {_NEWEST}, found {protocol}"
        found.append(Finding("warning", "log.pickle", label, None, "protocol", message, _REMEDY))
    if _NEW_PACKAGE in data:
        message = "expected numpy.core, which every numpy knows, found numpy._core, unknown before numpy 1.26"
        found.append(Finding("warning", "log.pickle", label, None, "numpy", message, _REMEDY))
    return found
