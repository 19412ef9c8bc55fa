"""The command ``irl-vla score``: plans of any model, from a file, judged by the true EPDMS."""

import argparse
from pathlib import Path

SUMMARY = "judge plans from a Parquet file by the true EPDMS, whatever model made them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = "Exit status: 0 all frames scored, 1 some tokens bad (named in bad_tokens.csv), 2 nothing usable."
    parser.add_argument("plans", type=Path, help="columns token, plan: 24 floats, x y heading at 0.5 .. 4.0 s")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="folder with navsim_logs")
    parser.add_argument("--split", required=True, help="split, or folder of logs, to judge on")
    parser.add_argument("--maps", type=Path, metavar="FOLDER", help="maps, by default ROOT/maps")
    parser.add_argument("--splits", type=Path, metavar="FOLDER", help="split files, by default ROOT/train_test_split")
    parser.add_argument("--prepared", type=Path, metavar="FOLDER", help="prepared scenes, by default in the cache")
    parser.add_argument("--convention", choices=("corrected", "before"), default="corrected", help="of the filter")
    parser.add_argument("--traffic", choices=("replay", "reactive"), help="of the other vehicles, by default replayed")
    parser.add_argument("--against", type=Path, metavar="OTHER.parquet", help="also judge these plans, and compare")
    parser.add_argument(
        "--skip-broken", action="store_true", help="judge what is whole, without missing or broken logs"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the tables, by default scores/PLANS")
    parser.add_argument("--workers", type=int, metavar="N", help="processes, by default one a CPU")


def run(options: argparse.Namespace) -> int:
    """Does the work; returns the exit status."""
    import os

    from irl_vla.cli.outcome import exit_status

    def work() -> int:
        from irl_vla.dataset.config import DataConfig
        from irl_vla.epdms.config import ScorerConfig
        from irl_vla.judge.score_files import ScoreJob, score_files

        settings = {"filter_convention": options.convention, "traffic": options.traffic}
        given = {name: value for name, value in settings.items() if value is not None}
        job = ScoreJob(
            plans=options.plans,
            against=options.against,
            data=DataConfig(root=options.data, maps_root=options.maps, splits_root=options.splits),
            split=options.split,
            prepared=options.prepared,
            scorer=ScorerConfig().with_overrides(given),
            output=options.output or Path("scores") / options.plans.stem,
            skip_broken=options.skip_broken,
            workers=len(os.sched_getaffinity(0)) if options.workers is None else options.workers,
        )
        return 1 if score_files(job) else 0

    return exit_status(work)
