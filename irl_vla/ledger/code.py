"""Which code runs: the version of the package and, in a checkout, the commit."""

import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from irl_vla.ledger.files import content_hash, file_hash

PACKAGE: Final = Path(__file__).parents[1]
UNKNOWN: Final = "unknown"
_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """The code that made a result.

    Attributes:
        version: of the installed package; "unknown" if it is not installed.
        commit: of the git checkout that holds the package; None outside of one, as in an installed wheel.
        dirty: the checkout has changes of the package that are not committed.
        changes: hash over the changed and the new files, 16 hex digits; empty without changes.
    """

    version: str
    commit: str | None
    dirty: bool
    changes: str = ""

    def __str__(self) -> str:
        if self.commit is None:
            return self.version
        return f"{self.version} at {self.commit[:8]}{f' with changes {self.changes}'.rstrip() if self.dirty else ''}"


@lru_cache(maxsize=1)
def code_version() -> CodeVersion:
    """The code of this process, as it was when this was first asked."""
    return code_version_of(PACKAGE)


def code_version_of(package: Path) -> CodeVersion:
    """The code in a folder of the package ``irl_vla``.

    A repository around an installed package, whose commits say nothing about it, does not count.
    """
    try:
        installed = version("irl-vla")
    except PackageNotFoundError:
        installed = UNKNOWN
    found = _git(package, "rev-parse", "--show-toplevel", "HEAD")
    root, _, commit = (found or "").strip().partition("\n")
    if not commit or Path(root).resolve() != package.resolve().parent:
        return CodeVersion(installed, None, dirty=False)
    changes = _changes(package)
    return CodeVersion(installed, commit, dirty=changes != "", changes=changes)


def _changes(package: Path) -> str:
    """Hash over names and content of the files that differ from the commit or are new in it; empty if none do."""
    tracked = _git(package, "--no-optional-locks", "diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD")
    new = _git(package, "ls-files", "--others", "--exclude-standard", "-z")
    if tracked is None or new is None:
        return UNKNOWN
    paths = {name: package / name for name in sorted(filter(None, (tracked + new).split("\0")))}
    found = {name: file_hash(path) if path.is_file() else None for name, path in paths.items()}
    return content_hash(found) if found else ""


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it is not installed, fails, or does not answer in time."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
