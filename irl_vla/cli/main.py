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
    from irl_vla.stages.run import execute

    return execute(options.stage.replace("-", "_"), options.config, options.overrides, options.print_config)


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
        stage.add_argument("config", type=Path, help="experiment, e.g. configs/demo.yaml")
        stage.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, values in YAML")
        stage.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    for name, command in known.items():
        command.add_arguments(subparsers.add_parser(name, help=command.SUMMARY, description=command.SUMMARY))
    return parser


if __name__ == "__main__":
    sys.exit(main())
