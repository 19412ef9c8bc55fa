"""One recorded column of the official evaluator against what is computed here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from irl_vla.epdms.golden_records import Row
from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats
from irl_vla.scene import FUTURE_FRAMES

#: Absolute tolerances.
EXACT: Final = 0.0
STATE: Final = 1e-8
PROGRESS: Final = 1e-7
SCORE: Final = 1e-9
SIGNAL: Final = 2e-8  # two units of the evaluator's rounding
METRES: Final = 1e-6

#: Sub-scores of a single frame, in the order of ``SUBSCORES`` without EC.
REPORTED: Final = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")


@dataclass(frozen=True, slots=True)
class Observation:
    """Computed and recorded values of one column; ``tolerance`` is absolute, NaN equals NaN."""

    column: str
    found: Any
    expected: Any
    tolerance: float = EXACT


@dataclass(frozen=True, slots=True)
class Comparison:
    """Agreement in one column over all its rows."""

    column: str
    rows: int
    mismatches: int
    largest: float


def same(column: str, found: object, expected: object) -> Observation:
    """One row of a column that holds names or lists of them."""
    return Observation(column, [found == expected], [True])


def column(rows: Sequence[Row], name: str) -> Floats:
    """A column as numbers."""
    return np.array([row[name] for row in rows], np.float64)


def plans_of(rows: Sequence[Row], name: str = "poses") -> Floats:
    """(P, 8, 3) plans of rows."""
    return column(rows, name).reshape(-1, FUTURE_FRAMES, 3)


def compared(observations: Iterable[Observation]) -> list[Comparison]:
    """Sums observations up, column by column.

    Raises:
        CheckpointError: if what is recorded has another shape.
    """
    grouped: dict[str, list[tuple[int, int, float]]] = {}
    for item in observations:
        grouped.setdefault(item.column, []).append(_compare(item))
    return [
        Comparison(name, sum(r for r, _, _ in parts), sum(m for _, m, _ in parts), max(d for _, _, d in parts))
        for name, parts in grouped.items()
    ]


def _compare(item: Observation) -> tuple[int, int, float]:
    found, expected = np.asarray(item.found, np.float64), np.asarray(item.expected, np.float64)
    if found.shape != expected.shape:
        raise CheckpointError(f"{item.column}: expected shape {expected.shape}, computed {found.shape}")
    difference = np.abs(found - expected)
    difference[np.isnan(found) & np.isnan(expected)] = 0.0
    return difference.size, int(np.sum(~(difference <= item.tolerance))), float(np.max(difference, initial=0.0))
