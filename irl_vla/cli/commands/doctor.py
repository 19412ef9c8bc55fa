"""The command ``irl-vla doctor``: is everything there that a run needs?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from irl_vla.cli.doctor.finding import Finding

SUMMARY = "check the installation and the machine and, for an experiment, data, disk and tracking"
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = "Exit status: 0 no problem, 1 problems. Writes nothing and leaves nothing running."
    parser.add_argument("config", type=Path, nargs="?", help="experiment; without one only the installation is checked")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, values in YAML")
    parser.add_argument("--patience", type=float, default=30.0, metavar="SECONDS", help="with Ray (default 30)")


def run(options: argparse.Namespace) -> int:
    """Does the work; returns the exit status."""
    from irl_vla.cli.outcome import exit_status

    def work() -> int:
        from irl_vla.cli.doctor.examine import examine
        from irl_vla.stages.experiment import load_experiment

        experiment = None if options.config is None else load_experiment(options.config, options.overrides)
        findings = examine(experiment, options.patience)
        _show(findings)
        return 1 if any(finding.level == "problem" for finding in findings) else 0

    return exit_status(work)


def _show(findings: "Sequence[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "found", "what to do")
    for finding in findings:
        level = Text(finding.level, style=_STYLES[finding.level])
        table.add_row(finding.check, level, Text(finding.found), Text(finding.remedy))
    Console(width=140).print(table)
