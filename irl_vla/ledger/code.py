"""Which code makes a result: package version, commit, and whether the checkout was changed since."""

import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """The code that runs.

    Attributes:
        version: of the package.
        commit: of the checkout that the package lies in; None for an installed package.
        dirty: True if files of the checkout differ from that commit.
    """

    version: str
    commit: str | None
    dirty: bool

    def __str__(self) -> str:
        if self.commit is None:
            return self.version
        return f"{self.version} at {self.commit[:12]}{' (changed)' if self.dirty else ''}"


@lru_cache(maxsize=1)
def code_version() -> CodeVersion:
    """The code of this process; found once."""
    try:
        version = metadata.version("irl-vla")
    except metadata.PackageNotFoundError:
        version = "unknown"
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top) not in Path(__file__).resolve().parents:
        return CodeVersion(version, None, dirty=False)
    return CodeVersion(version, _git("rev-parse", "HEAD"), dirty=bool(_git("status", "--porcelain", "-uno")))


def _git(*arguments: str) -> str | None:
    """What git says in the package's own folder; None where there is no git or no repository."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
