"""The command line: ``irl-vla STAGE CONFIG [key=value ...]``.

Only the standard library is imported before a stage is chosen, so that ``--help`` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage; returns the exit status (0 done, 2 bad input, 130 interrupted: the same command resumes)."""
    options = _parser().parse_args(arguments)
    from irl_vla.stages.run import execute

    return execute(options.stage.replace("-", "_"), options.config, options.overrides, options.print_config)


def _parser() -> argparse.ArgumentParser:
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
    return parser


if __name__ == "__main__":
    sys.exit(main())
