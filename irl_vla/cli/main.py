"""The command line: ``irl-vla STAGE CONFIG [key=value ...]`` and ``irl-vla COMMAND ...``.

Only the standard library is imported before the work begins, so that ``--help`` answers at once.
"""

import argparse
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from irl_vla.cli import commands

_STAGES = {
    "generate": "write a generated driving dataset in NAVSIM's layout",
    "pretrain": "imitate human plans (Ray Train), then write the token bank",
    "label": "score proposals for every scene with the true EPDMS (Ray Data)",
    "train-reward": "fit the reward world model to the labels (Ray Train)",
    "finetune": "PPO over the denoising chain on the learned reward (RLlib)",
    "sweep": "search the safety, comfort and efficiency weights (Ray Tune)",
    "evaluate": "judge every policy by the true EPDMS on the held-out split",
    "report": "collect tables and pictures into one HTML page",
    "run": "all stages but the sweep, skipping what is already whole",
}


class Command(Protocol):
    """A module of :mod:`irl_vla.cli.commands`: light to import, its libraries loaded by ``run``."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the command's arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Does the work; returns the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage or command; returns the exit status (0 done, 2 bad input, 130 interrupted: run it again)."""
    known = _commands()
    options = _parser(known).parse_args(arguments)
    if options.stage in known:
        return known[options.stage].run(options)
    return execute(
        options.stage, options.config, options.overrides, print_config=options.print_config, dry_run=options.dry_run
    )


def stage_entry(stage: str, module: str) -> None:
    """Entry of a cluster job: runs a stage if ``module``, a file of ``pipelines/``, is the program that was started.

    Args:
        stage: as on the command line, e.g. "train-reward".
        module: the ``__name__`` of the file.
    """
    if module != "__main__":
        return
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines.{stage.replace('-', '_')}", description=_STAGES[stage].capitalize()
    )
    _add_stage_arguments(parser)
    options = parser.parse_args()
    sys.exit(
        execute(stage, options.config, options.overrides, print_config=options.print_config, dry_run=options.dry_run)
    )


def execute(
    stage: str, config: Path, overrides: Sequence[str], *, print_config: bool = False, dry_run: bool = False
) -> int:
    """Runs a stage; returns 0 when done, 2 on bad input, 130 when interrupted (the same command resumes).

    Args:
        print_config: shows the resolved configuration instead.
        dry_run: shows what the stage would make instead.
    """
    from irl_vla.cli.outcome import exit_status

    def work() -> None:
        from irl_vla.stages.experiment import load_experiment

        experiment = load_experiment(config, overrides)
        if print_config:
            sys.stdout.write(experiment.to_yaml())
        elif dry_run:
            from irl_vla.cli.dry_run import dry_run as look_ahead
            from irl_vla.cli.dry_run_table import show

            show(look_ahead(experiment, stage))
        else:
            from irl_vla.stages.extra import require_train_extra
            from irl_vla.stages.run import STAGES

            require_train_extra(f"irl-vla {stage}")
            STAGES[stage.replace("-", "_")](experiment)

    return exit_status(work)


def _commands() -> Mapping[str, Command]:
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return {name.replace("_", "-"): cast("Command", import_module(f"{commands.__name__}.{name}")) for name in names}


def _parser(known: Mapping[str, Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="irl-vla",
        description="Train, fine-tune and judge a vision-language-action driving policy.",
        epilog="Example: irl-vla run configs/demo.yaml name=careful finetune.weights.safety=2",
    )
    subparsers = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, summary in _STAGES.items():
        stage = subparsers.add_parser(name, help=summary, description=summary)
        _add_stage_arguments(stage)
    for name, command in known.items():
        command.add_arguments(subparsers.add_parser(name, help=command.SUMMARY, description=command.SUMMARY))
    return parser


def _add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="experiment, e.g. configs/demo.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, values in YAML")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    instead.add_argument("--dry-run", action="store_true", help="show what the stage would make and stop")


if __name__ == "__main__":
    sys.exit(main())
