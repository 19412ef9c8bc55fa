"""``irl-vla check-data``: is this data set as the format says, and what would each stage lack?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from irl_vla.dataset.checks.dataset import Report
    from irl_vla.dataset.checks.findings import Gathered

SUMMARY = "check a data set against NAVSIM's format and say what each stage would lack"
_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("root", type=Path, help="folder with navsim_logs and sensor_blobs")
    parser.add_argument("--maps", type=Path, metavar="ROOT", help="folder of the maps (default: ROOT/maps)")
    parser.add_argument("--splits", type=Path, metavar="ROOT", help="split files (default: ROOT/train_test_split)")
    parser.add_argument("--split", nargs="+", default=[], metavar="NAME", help="check only these (default: all)")
    parser.add_argument("--decode", action="store_true", help="also decode every image and sweep (slow)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, logs are spread over them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the whole report as JSON")


def run(options: argparse.Namespace) -> int:
    """Status 0: no errors; 1: findings of severity error; 2: there is nothing that can be checked."""
    from irl_vla.cli.outcome import exit_status

    return exit_status(lambda: _check(options))


def _check(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console

    from irl_vla.dataset.checks.dataset import check_dataset, stage_needs
    from irl_vla.dataset.config import DataConfig, SensorConfig
    from irl_vla.dataset.layout import open_dataset
    from irl_vla.ledger.files import write_text

    console = Console()
    dataset = open_dataset(DataConfig(root=options.root, maps_root=options.maps, splits_root=options.splits))
    report = check_dataset(dataset, options.split, workers=max(options.workers, 1), decode=options.decode)
    _show(report, console)
    if options.json is not None:
        needs = {item.data_split: stage_needs(item, SensorConfig().cameras, lidar=True) for item in report.folders}
        values = asdict(report) | {"stage_needs": needs}
        write_text(options.json, json.dumps(values, indent=1, default=str))
    return 1 if report.total("error") else 0


def _show(report: "Report", console: "Console") -> None:
    from rich.table import Table

    table = Table("folder", "logs", "frames", "scenes", "gaps", "errors", "warnings", "size", title=str(report.root))
    for folder in report.folders:
        scenes = ", ".join(f"{split} {count}" for split, count in folder.splits.items())
        totals = folder.gathered.totals
        numbers = (folder.logs, folder.frames, scenes, folder.gaps, totals["error"], totals["warning"])
        table.add_row(folder.data_split, *map(str, numbers), _size(folder.size_bytes))
    for second in report.second_stages:
        scenes, totals = f"{second.scenes} in {second.groups} groups", second.gathered.totals
        counts = ("", second.frames, scenes, "", totals["error"], totals["warning"])
        table.add_row(f"{second.split} (second stage)", *map(str, counts), _size(second.size_bytes))
    for name, part in (("maps", report.maps), ("split files", report.split_files)):
        table.add_row(name, "", "", "", "", str(part.totals["error"]), str(part.totals["warning"]), "")
    console.print(table)
    _show_needs(report, console)
    for name, gathered in report.parts.items():
        _show_findings(name, gathered, console)
    console.print(f"{report.total('error')} errors, {report.total('warning')} warnings, {report.total('note')} notes")


def _show_needs(report: "Report", console: "Console") -> None:
    """Missing sensors, and what each stage would lack."""
    from rich.table import Table

    from irl_vla.dataset.checks.dataset import stage_needs
    from irl_vla.dataset.checks.sensors import SENSORS
    from irl_vla.dataset.config import SensorConfig

    table = Table(
        "folder", "sensor", "frames without an entry", "frames whose file is missing", title="missing sensors"
    )
    parts = {item.data_split: item for item in report.folders} | {
        f"{item.split} (second stage)": item for item in report.second_stages
    }
    for name, part in parts.items():
        for sensor in SENSORS:
            if part.missing.of(sensor):
                counts = part.missing.absent.get(sensor, 0), part.missing.lost.get(sensor, 0)
                table.add_row(name, sensor, *map(str, counts))
    if table.row_count:
        console.print(table)
    for folder in report.folders:
        for stage, lacks in stage_needs(folder, SensorConfig().cameras, lidar=True).items():
            text = "; ".join(lacks) or "nothing is missing"
            console.print(f"{folder.data_split}: {stage}: {text}", soft_wrap=True, highlight=False)


def _show_findings(name: str, gathered: "Gathered", console: "Console") -> None:
    """One row for all findings of a rule and key, with the first as example."""
    from rich.markup import escape
    from rich.table import Table

    if not gathered.kinds:
        return
    table = Table("severity", title=f"findings: {name}")
    table.add_column("finding", overflow="fold")
    table.add_column("files")
    table.add_column("times")
    for kind in sorted(gathered.kinds.values(), key=lambda item: list(_STYLES).index(item.examples[0].severity)):
        example = kind.examples[0]
        place = [example.file, *([] if example.frame is None else [f"frame {example.frame}"]), example.key]
        text = f"{': '.join(part for part in place if part)}: {example.message}\n→ {example.remedy}"
        style = _STYLES[example.severity]
        table.add_row(example.severity, escape(text), str(kind.files), str(kind.occurrences), style=style)
    console.print(table)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes > 1e9 else f"{size_bytes / 1e6:.1f} MB"
