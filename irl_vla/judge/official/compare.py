"""Everything recorded in a folder, computed again."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Column, Table

from irl_vla.errors import CheckpointError
from irl_vla.judge.official.cases import (
    check_collision_types,
    check_comfort,
    check_extended_comfort,
    check_rules,
    check_simulation,
    check_two_stage,
)
from irl_vla.judge.official.observation import Comparison, Observation, compared
from irl_vla.judge.official.planning import check_graphs, check_lanes, check_planning
from irl_vla.judge.official.results import check_reactive, check_results, check_rollouts

log = logging.getLogger(__name__)

_Check = Callable[[Path], Iterator[Observation]]

#: What a folder is known by, and what is compared then.
_KINDS: Final[dict[str, tuple[_Check, ...]]] = {
    "results.parquet": (
        check_results,
        check_rollouts,
        check_simulation,
        check_comfort,
        check_extended_comfort,
        check_collision_types,
        check_rules,
        check_two_stage,
        check_reactive,
    ),
    "synthetic_scenes.parquet": (check_planning,),
    "graph_cases.json": (check_graphs,),
    "lane_cases.json": (check_lanes,),
}


def compare_folder(folder: Path) -> list[Comparison]:
    """Computes everything recorded in a folder again and compares it, column by column.

    Args:
        folder: with golden results (``results.parquet`` and others), golden inputs (``synthetic_scenes.parquet`` and
            others), graphs (``graph_cases.json``), lanes (``lane_cases.json``), or several of them.

    Raises:
        CheckpointError: if it has none of them, or one of the files behind them is missing or damaged.
    """
    absent = [name for name in _KINDS if not (folder / name).exists()]
    checks = [check for name, kind in _KINDS.items() if (folder / name).exists() for check in kind]
    if not checks:
        raise CheckpointError(f"{folder}: expected golden files ({', '.join(_KINDS)} among them), found none of them")
    if absent:
        log.info("%s: not compared, since it is not there: %s", folder, ", ".join(absent))
    return compared(item for check in checks for item in check(folder))


def print_comparisons(comparisons: Sequence[Comparison], console: Console) -> int:
    """Prints a line a column and returns the number of mismatches."""
    table = Table(Column("column", overflow="fold"), "rows", "mismatches", "largest difference")
    for item in comparisons:
        table.add_row(item.column, f"{item.rows}", f"{item.mismatches}", f"{item.largest:.1e}")
    console.print(table)
    mismatches = sum(item.mismatches for item in comparisons)
    console.print(f"{len(comparisons)} columns, {mismatches} mismatches")
    return mismatches
