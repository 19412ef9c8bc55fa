"""``irl-vla check-submission``: what the leaderboard would stumble over, found before the file is sent."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irl_vla.navsim.preflight import SubmissionFinding
    from irl_vla.navsim.submission import SplitTokens, SubmissionFile

SUMMARY = "check a NAVSIM submission pickle before it is sent"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and the split whose scenes it should plan."""
    parser.add_argument("file", type=Path, help="the submission, e.g. submission.pkl")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="data set whose split is compared")
    parser.add_argument("--split", metavar="NAME", help="split, e.g. navtest or navhard_two_stage")


def run(options: argparse.Namespace) -> int:
    """Prints a table of findings; returns 0 without any, 1 with some, 2 if the file cannot be read."""
    from irl_vla.cli.outcome import exit_status

    return exit_status(lambda: _check(options))


def show_findings(file: "SubmissionFile", expected: "SplitTokens | None") -> int:
    """Checks a submission and prints what was found; returns 0 without findings, else 1."""
    from rich.console import Console
    from rich.table import Table

    from irl_vla.navsim.preflight import check_submission, stage_plans

    findings = check_submission(file, expected)
    plans = ", ".join(f"{len(entries):,} {key}" for key, entries in stage_plans(file.content).items())
    compared = "tokens not compared with a split" if expected is None else "tokens compared with the split"
    if expected is not None and expected.second == ():
        compared += ", which does not list those of its second stage"
    console = Console(width=140)
    title = f"{file.path}: {plans or 'no predictions'}; {compared}; {len(findings) or 'no'} findings"
    if not findings:
        console.print(title)
        return 0
    table = Table(title=title, title_justify="left")
    for column in ("check", "where", "expected", "found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.check, finding.where, finding.expected, _found(finding))
    console.print(table)
    return 1


def _check(options: argparse.Namespace) -> int:
    from irl_vla.dataset.config import DataConfig
    from irl_vla.dataset.layout import open_dataset
    from irl_vla.errors import ConfigError
    from irl_vla.navsim.submission import read_submission, split_tokens

    if options.split is None and options.data is not None:
        raise ConfigError("--data: expected --split beside it, found none; name the split to compare with")
    file = read_submission(options.file)
    if options.split is None:
        return show_findings(file, None)
    return show_findings(file, split_tokens(open_dataset(DataConfig(root=options.data)), options.split))


def _found(finding: "SubmissionFinding") -> str:
    if not finding.examples:
        return finding.found
    return f"{finding.found}: {finding.count:,} ({_listed(finding.examples, finding.count)})"


def _listed(examples: Sequence[str], count: int) -> str:
    return ", ".join(examples) + (", ..." if count > len(examples) else "")
