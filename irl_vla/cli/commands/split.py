"""``irl-vla split``: holds whole drives out of a split, for validation."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irl_vla.dataset.hold_out import Part

SUMMARY = "divide a split into training and validation by whole drives or layouts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("root", type=Path, help="folder with navsim_logs")
    parser.add_argument("--from", dest="source", required=True, metavar="SPLIT", help="split file or folder of logs")
    parser.add_argument("--hold-out", type=float, required=True, metavar="SHARE", help="of the scenes, e.g. 0.05")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of drives (default: 0)")
    parser.add_argument("--name", help="writes NAME_train and NAME_val (default: the split's own name)")
    parser.add_argument("--maps", type=Path, metavar="ROOT", help="folder of the maps (default: ROOT/maps)")
    parser.add_argument("--splits", type=Path, metavar="ROOT", help="split files (default: ROOT/train_test_split)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, logs are spread over them")


def run(options: argparse.Namespace) -> int:
    """Status 0: both files are there; 2: bad input, nothing is written; 130: interrupted."""
    from irl_vla.cli.outcome import exit_status

    return exit_status(lambda: _split(options))


def _split(options: argparse.Namespace) -> None:
    import numpy as np

    from irl_vla.dataset.config import DataConfig
    from irl_vla.dataset.hold_out import divide
    from irl_vla.dataset.layout import open_dataset

    dataset = open_dataset(DataConfig(root=options.root, maps_root=options.maps, splits_root=options.splits))
    parts = divide(
        dataset,
        options.source,
        options.hold_out,
        np.random.default_rng(options.seed),
        options.name or options.source,
        workers=max(options.workers, 1),
    )
    _show(parts, dataset.splits_root)


def _show(parts: "Sequence[Part]", folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "scenes", "with EC", "logs", "drives or layouts", title=str(folder))
    for part in parts:
        table.add_row(part.name, *map(str, (len(part.refs), part.paired, len(part.logs), len(part.units))))
    console = Console()
    console.print(table)
    if not all(part.paired for part in parts):
        console.print(
            "No two scenes are half a second apart, so these splits have no extended comfort (EC): a filter with "
            "frame_interval: 1 gives neighbouring scenes.",
            highlight=False,
            soft_wrap=True,
        )
