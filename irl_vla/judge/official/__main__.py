"""Agreement with the official evaluator: ``python -m irl_vla.judge.official DIR``.

``DIR`` holds inputs and outputs of the official evaluator as Parquet and JSON files. Every recorded column is computed
again and compared; the exit status is 1 if any value lies beyond its tolerance.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from irl_vla.errors import IrlVlaError
from irl_vla.judge.official.compare import compare_folder, print_comparisons


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison with a golden folder; returns 1 if any column disagrees, 2 if the folder is unfit."""
    parser = argparse.ArgumentParser(prog="python -m irl_vla.judge.official", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder with results.parquet, ... or synthetic_scenes.parquet, ...")
    console = Console()
    try:
        comparisons = compare_folder(parser.parse_args(arguments).folder)
    except IrlVlaError as error:
        console.print(f"[red]{error}[/red]")
        return 2
    return 1 if print_comparisons(comparisons, console) else 0


if __name__ == "__main__":
    sys.exit(main())
