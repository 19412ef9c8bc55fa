"""``irl-vla sweep`` on the finished chain: interrupted after its first trial, gone on with, and run again."""

import csv
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from irl_vla.ledger.storage import Location
from irl_vla.ledger.tracking import child_runs, open_store

from .command import PATIENCE_S, is_whole, run, stamps, start
from .conftest import Chain

AXES = ("safety", "comfort", "efficiency")


def interrupt_after_first_trial(chain: Chain) -> int:
    """Starts the sweep, presses Ctrl-C when a trial is whole; returns the exit status."""
    process = start(chain.folder, *chain.command("sweep"))
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not list((chain.seed / "sweep").glob("trials/*/result.json")):
            assert process.poll() is None, "ended before it could be interrupted: " + process.communicate()[1][-3000:]
            assert time.monotonic() < deadline, "no trial was finished in time"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    return process.returncode


@pytest.fixture(scope="module")
def first_trial(chain: Chain) -> dict[Path, tuple[int, int]]:
    """Files of the trial that was whole at the interruption; the sweep is whole thereafter."""
    folder = chain.seed / "sweep"
    assert interrupt_after_first_trial(chain) == 130
    assert not is_whole(folder)
    assert not (folder / "trials.csv").exists()
    (whole,) = (path.parent for path in folder.glob("trials/*/result.json"))
    files = stamps(whole)
    again = run(chain.folder, *chain.command("sweep"))
    assert again.returncode == 0, again.stderr[-3000:]
    return files


def trials(chain: Chain) -> list[dict[str, str]]:
    with (chain.seed / "sweep" / "trials.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def sweep_runs(chain: Chain) -> dict[str, Any]:
    client, experiment_id = open_store(chain.experiment.tracking, Location.of(chain.seed))
    (parent,) = client.search_runs([experiment_id], "attributes.run_name = 'chain, seed 0'")
    runs = child_runs(client, experiment_id, parent.info.run_id)
    return {run.info.run_id: run for run in runs if run.info.run_name.startswith("sweep")}


def test_an_interrupted_sweep_goes_on_with_the_trials_that_are_missing(
    chain: Chain, first_trial: dict[Path, tuple[int, int]]
) -> None:
    table = trials(chain)
    assert len(table) == chain.experiment.sweep.trials == 2
    assert len({tuple(row[axis] for axis in AXES) for row in table}) == 2
    assert [1.0, 1.0, 1.0] in [[float(row[axis]) for axis in AXES] for row in table]
    scores = [float(row["epdms"]) for row in table]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert stamps(*{path.parent for path in first_trial}).items() >= first_trial.items(), "a whole trial ran again"
    assert (chain.seed / "sweep" / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


def test_trials_are_tracked_beside_the_sweep(chain: Chain, first_trial: dict[Path, tuple[int, int]]) -> None:
    runs = sweep_runs(chain).values()
    assert sorted(run.info.run_name for run in runs) == ["sweep", *sorted(f"sweep/{r['trial']}" for r in trials(chain))]
    assert {run.info.status for run in runs} == {"FINISHED"}, "the interrupted run is the one that went on"
    for run_ in runs:
        if run_.info.run_name != "sweep":
            assert {f"weights.{axis}" for axis in AXES} <= set(run_.data.params)
            assert {"finetune/reward", "finetune/val_epdms"} <= set(run_.data.metrics)
    client, _ = open_store(chain.experiment.tracking, Location.of(chain.seed))
    (whole,) = (run for run in runs if run.info.run_name == "sweep")
    assert {item.path for item in client.list_artifacts(whole.info.run_id)} == {"trials.csv", "tradeoff.png"}


def test_again_no_trial_runs(chain: Chain, first_trial: dict[Path, tuple[int, int]]) -> None:
    folder = chain.seed / "sweep"
    table, before, known = (folder / "trials.csv").read_bytes(), stamps(folder / "trials"), sweep_runs(chain)
    again = run(chain.folder, *chain.command("sweep"))
    assert again.returncode == 0, again.stderr[-3000:]
    assert (folder / "trials.csv").read_bytes() == table
    assert stamps(folder / "trials") == before
    new = sweep_runs(chain).keys() - known.keys()
    assert {sweep_runs(chain)[run_id].info.run_name for run_id in new} <= {"sweep"}


def test_other_ranges_are_refused(chain: Chain, first_trial: dict[Path, tuple[int, int]]) -> None:
    refused = run(chain.folder, *chain.command("sweep", "sweep.safety=[1,2]"))
    assert refused.returncode == 2
    assert "sweep.safety: [0.25, 4.0] then, [1, 2] now" in refused.stderr.replace("1.0, 2.0", "1, 2")
