"""``irl-vla export-submission``: plans of a policy, or of a file, as the leaderboard's pickle."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irl_vla.geometry import Floats
    from irl_vla.stages.experiment import Experiment

SUMMARY = "write a policy's plans as a NAVSIM submission pickle, and check it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The experiment, whose plans, and the header."""
    parser.add_argument("config", type=Path, help="experiment; its data.test is the split that is submitted")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, values in YAML")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--policy", metavar="NAME", help="policy of the experiment, e.g. finetuned")
    source.add_argument("--plans", type=Path, metavar="PLANS.parquet", help="plans of any model: token, plan")
    parser.add_argument("--output", type=Path, required=True, help="the leaderboard wants submission.pkl")
    for name, what in (
        ("--team-name", "shown on the leaderboard"),
        ("--authors", "shown on the leaderboard"),
        ("--email", "of whom to ask"),
        ("--institution", "where the work was done"),
        ("--country", "country or region"),
    ):
        parser.add_argument(name, required=True, metavar="TEXT", help=what)


def run(options: argparse.Namespace) -> int:
    """Writes the file; returns 0, 1 if its pre-flight finds something, 2 if it could not be written."""
    from irl_vla.cli.outcome import exit_status

    return exit_status(lambda: _export(options))


def _export(options: argparse.Namespace) -> int:
    from irl_vla.cli.commands.check_submission import show_findings
    from irl_vla.navsim.submission import Header, read_submission, split_tokens, write_submission
    from irl_vla.stages import folders
    from irl_vla.stages.experiment import load_experiment
    from irl_vla.stages.extra import require_train_extra

    if options.plans is None:
        require_train_extra("irl-vla export-submission --policy")
    header = Header(options.team_name, options.authors, options.email, options.institution, options.country)
    experiment = load_experiment(options.config, options.overrides)
    expected = split_tokens(folders.dataset(experiment), experiment.data.test)
    if options.plans is not None:
        from irl_vla.judge.plan_file import read_plans

        plans = read_plans(options.plans)
    else:
        plans = _policy_plans(experiment, options.policy)
    write_submission(options.output, header, plans, two_stage=expected.second is not None)
    return show_findings(read_submission(options.output), expected)


def _policy_plans(experiment: "Experiment", name: str) -> "dict[str, Floats]":
    """What `evaluate` would judge: the plans of one policy on the test split."""
    from irl_vla.dataset.scenes import scene_refs
    from irl_vla.judge.judgement import frames_to_judge
    from irl_vla.judge.one_stage import frames_of_refs, prepared_frames
    from irl_vla.stages import folders
    from irl_vla.stages.imitation import perceive_test_split
    from irl_vla.stages.judge import JudgedScenes, plans_of
    from irl_vla.stages.session import ray_session

    chosen = experiment.with_overrides({"evaluate.policies": (name,)})
    folders.require_policies(chosen)
    dataset, split = folders.judged_dataset(chosen), chosen.data.test
    with ray_session(chosen.ray):
        perceive_test_split(chosen, dataset)
        store = folders.prepared(chosen, split, dataset)
        frames = prepared_frames(store, frames_of_refs(scene_refs(dataset, split)), split)
        return plans_of(name, chosen, JudgedScenes("test", store, frames_to_judge(frames, ())))
