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
#: A headline of two lines keeps a column of the terminal narrow.
_TITLES: Final = {"spread_predicted": "spread\npredicted", "spread_true": "spread\ntrue", "within_5": "within\nfive"}


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
        caption="NC to HC: AUROC, 0.5 is guessing. Calibration: the largest error of a sub-score.",
        caption_justify="left",
    )
    table.add_column("source", no_wrap=True)
    for column in ("scenes", *(_TITLES.get(name, name) for name in _PICKED), *map(str.upper, names), "calibration"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        errors = [row[f"ece_{name}"] for name in names if isfinite(row[f"ece_{name}"])]
        cells = [*(row[name] for name in (*_PICKED, *(f"auroc_{name}" for name in names))), max(errors, default=nan)]
        shown = (f"{cell:.3f}" if isfinite(cell) else "none" for cell in cells)
        table.add_row(row["source"], str(row["scenes"]), *shown)
    return table
