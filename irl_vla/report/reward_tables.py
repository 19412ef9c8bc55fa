"""How good the learned reward is, by source of the plans: rows out of the stage's files, and a terminal table."""

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import Any, Final

from rich.table import Table

from irl_vla.judge.tables import read_csv
from irl_vla.ledger.storage import Location
from irl_vla.scene import SUBSCORES

#: Figures of picks that are shown, out of ``quality_picks.csv``.
_PICKED: Final[tuple[str, ...]] = ("correlation", "spread_predicted", "spread_true", "enrichment", "regret", "within_5")
#: Their headlines in the terminal; two lines keep a column narrow.
_TITLES: Final = ("corre-\nlation", "spread\npredicted", "spread\ntrue", "enrich-\nment", "regret", "within\nfive")


def quality_rows(place: Location) -> list[dict[str, Any]]:
    """A row a source of plans: advantages and picks, then AUROC and calibration error of each sub-score.

    Args:
        place: with ``quality_picks.csv`` and ``quality_subscores.csv``; those of earlier versions tell less of picks.
    """
    subscores = read_csv((place / "quality_subscores.csv").local())
    rows = []
    for pick in read_csv((place / "quality_picks.csv").local()):
        own = {item["subscore"]: item for item in subscores if item["source"] == pick["source"]}
        figures = {name: pick[name] for name in _PICKED if name in pick}
        figures |= {f"{kind}_{name}": own[name][kind] for kind in ("auroc", "ece") for name in SUBSCORES if name in own}
        rows.append({"source": pick["source"], "scenes": pick["rows"], **figures})
    return rows


def quality_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The rows of :func:`quality_rows` as a terminal table; of the calibration errors the largest."""
    names = [name for name in SUBSCORES if any(f"auroc_{name}" in row for row in rows)]
    table = Table(
        title=title,
        title_justify="left",
        caption="NC to HC: AUROC, 0.5 is guessing. ECE: calibration error, the largest of a sub-score.",
        caption_justify="left",
    )
    table.add_column("source", no_wrap=True)
    for column in ("scenes", *_TITLES, *map(str.upper, names), "largest\nECE"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        errors = [row[f"ece_{name}"] for name in names if isfinite(row[f"ece_{name}"])]
        picked, skill = [row[name] for name in _PICKED], [row[f"auroc_{name}"] for name in names]
        cells = [*_cells(picked, 3), *_cells(skill, 2), *_cells([max(errors, default=nan)], 3)]
        table.add_row(row["source"], str(row["scenes"]), *cells)
    return table


def _cells(values: Sequence[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" if isfinite(value) else "none" for value in values]
