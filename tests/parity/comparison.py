"""Two nested answers (of the devkit, of this project), value by value."""

from collections.abc import Iterator
from typing import Any, Final

#: Absolute tolerance of what is a number of metres or a share, by the key that it stands below; the rest is equal.
TOLERANCES: Final = dict.fromkeys(
    (
        *("ego", "reference", "centreline", "sim_end", "ego_progress", "pdm_score"),
        *("score", "combined", "stage_one", "stage_two", "plans"),
    ),
    1e-6,
)


def differences(official: Any, ours: Any, where: str = "", tolerance: float = 0.0) -> Iterator[str]:
    """Names every value in which the answers differ: where it stands, what the devkit has, what we have.

    NaN equals NaN. Lists of other lengths and keys that only one answer has are differences.
    """
    if isinstance(official, dict) and isinstance(ours, dict):
        for key in sorted(official.keys() | ours.keys()):
            if key not in official or key not in ours:
                yield f"{where}/{key}: only the {'devkit' if key in official else 'project'} has it"
            else:
                yield from differences(official[key], ours[key], f"{where}/{key}", TOLERANCES.get(key, tolerance))
    elif isinstance(official, list) and isinstance(ours, list):
        if len(official) != len(ours):
            yield f"{where}: the devkit has {len(official)} values, we have {len(ours)}"
            return
        for index, (theirs, own) in enumerate(zip(official, ours, strict=True)):
            yield from differences(theirs, own, f"{where}/{index}", tolerance)
    elif not _same(official, ours, tolerance):
        yield f"{where}: the devkit has {official!r}, we have {ours!r}"


def _same(official: Any, ours: Any, tolerance: float) -> bool:
    numbers = isinstance(official, (int, float)) and isinstance(ours, (int, float))
    if not numbers:
        return bool(official == ours)
    both_missing = official != official and ours != ours  # noqa: PLR0124  # NaN is the number that differs from itself
    return both_missing or bool(abs(official - ours) <= tolerance)
