"""What a stage would make, as a table in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from irl_vla.cli.dry_run import DryRun, Row
from irl_vla.ledger.estimate import readable_bytes
from irl_vla.ledger.storage import Location

_NOTES = (
    "Core hours are those of one idle core, without the start of Ray; rates were measured on other machines and data. "
    "Trainings, scores and pages (-) are not estimated.",
    "What is there is told by records and by the names of files; whether it was made with these settings is found out "
    "when the stage begins.",
)
_PLANNED = "The world is not generated yet: scenes are all windows of its logs; the selection keeps some of them."


def show(found: DryRun) -> None:
    """Prints the table, its sums and how to read it."""
    console = Console(width=160)
    if not found.rows:
        console.print("nothing to make: the data is read as it is")
        return
    table = Table("stage", "what")
    for name in ("rows", "plans", "core hours", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("there")
    table.add_column("folder", overflow="fold")
    for row in found.rows:
        table.add_row(row.stage, Text(row.what), *figures(row), row.there, Text(shown_folder(row.folder)))
    console.print(table)
    for line in (totals(found), *([_PLANNED] if found.sizes.are_planned else []), *_NOTES):
        console.print(line, highlight=False)


def figures(row: Row) -> tuple[str, str, str, str]:
    """Rows, plans, core hours and size; "-" where nothing is estimated."""
    found = row.estimate
    if found is None:
        return "-", "-", "-", "-"
    plans = f"{found.plans:,}" if found.plans else "-"
    return f"{found.rows:,}", plans, f"{found.core_hours:.2g}", readable_bytes(found.size_bytes)


def shown_folder(folder: Location) -> str:
    """Below the working directory as a relative path; else whole."""
    here = Path.cwd()
    if folder.is_local and folder.path.is_relative_to(here):
        return str(folder.path.relative_to(here))
    return str(folder)


def totals(found: DryRun) -> str:
    """Sums over what is estimated: of all, and of what is not there yet."""
    known = [(row.estimate, 1.0 - row.done) for row in found.rows if row.estimate is not None]
    hours, size_bytes = sum(item.core_hours for item, _ in known), sum(item.size_bytes for item, _ in known)
    hours_left = sum(item.core_hours * left for item, left in known)
    bytes_left = sum(item.size_bytes * left for item, left in known)
    return (
        f"In all {hours:.2g} core hours and {readable_bytes(size_bytes)}, of which {hours_left:.2g} core hours and "
        f"{readable_bytes(bytes_left)} are still to be made."
    )
