"""The command line on two real drives, against the official evaluator's results on the same scenes.

The official file holds NC, DAC, DDC, TLC, EP, TTC, LK and HC after the human filter, one scene at a time. It has no EC,
which needs the plan of the neighbouring frame: its score is the sum over 14, while ours uses EC (sum over 16) for all
frames but the first of a log. So sub-scores are compared as they are, and the scores after EC is taken out again.
"""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from irl_vla.epdms.scorer import final_score
from irl_vla.scene import SUBSCORES

from .command import ROOT, Finished, run

DRIVES = ROOT.parent / "shared" / "real_drives"
pytestmark = pytest.mark.skipif(not DRIVES.is_dir(), reason="../shared/real_drives is not here")
POLICIES = ("constant_velocity", "human")
OFFICIAL = SUBSCORES[:-1]

Scores = dict[tuple[str, str], NDArray[np.float64]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drives")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Finished:
    finished = run(folder, "evaluate", ROOT / "configs" / "navsim.yaml", f"data.root={DRIVES}", "ray.cpus=2")
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished


@pytest.fixture(scope="module")
def ours(folder: Path, finished: Finished) -> Scores:
    """(policy, token) to nine sub-scores and the final score."""
    with (folder / "runs/navsim/seed-0/evaluate/frames.csv").open(newline="") as stream:
        return {
            (row["policy"], row["token"]): np.array([float(row[name]) for name in (*SUBSCORES, "score")])
            for row in csv.DictReader(stream)
        }


@pytest.fixture(scope="module")
def official() -> Scores:
    """(policy, token) to eight sub-scores after the human filter, replayed traffic."""
    rows = pq.read_table(DRIVES / "official_scores.parquet").to_pylist()
    return {
        (row["plan"], row["token"]): np.array([row[f"filt_{name}"] for name in OFFICIAL])
        for row in rows
        if row["plan"] in POLICIES and row["traffic"] == "replay"
    }


def without_ec(subscores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores by the sum over 14, of rows that begin with the eight other sub-scores."""
    return final_score(np.concatenate([subscores[:, :8], np.full((len(subscores), 1), np.nan)], axis=1))


def test_sub_scores_are_the_official_ones(ours: Scores, official: Scores) -> None:
    assert ours.keys() == official.keys()
    assert len(ours) == 2 * 42
    for key, theirs in official.items():
        np.testing.assert_allclose(ours[key][:8], theirs, rtol=0, atol=1e-6, err_msg=str(key))


def test_scores_without_ec_are_the_official_ones(ours: Scores, official: Scores) -> None:
    keys = sorted(official)
    found, expected = (np.stack([scores[key] for key in keys]) for scores in (ours, official))
    np.testing.assert_allclose(without_ec(found), without_ec(expected), rtol=0, atol=1e-6)
    human = np.array([policy == "human" for policy, _ in keys])
    assert without_ec(found)[human].mean() == pytest.approx(0.933, abs=5e-4)
    assert without_ec(found)[~human].mean() == pytest.approx(0.745, abs=5e-4)


def test_ec_is_all_that_our_score_adds(ours: Scores) -> None:
    scores = np.stack(list(ours.values()))
    np.testing.assert_allclose(final_score(scores[:, :9]), scores[:, 9], atol=1e-12)
    missing = [key for key, row in ours.items() if np.isnan(row[8])]
    assert len(missing) == 2 * 2, "the first frame of each log, for both policies"


def test_the_human_is_ahead_and_every_log_is_told(ours: Scores, finished: Finished) -> None:
    means = {name: np.mean([row[9] for (policy, _), row in ours.items() if policy == name]) for name in POLICIES}
    assert means["human"] > means["constant_velocity"]
    logs = sorted(path.stem for path in (DRIVES / "navsim_logs" / "mini").glob("*.pkl"))
    for name in POLICIES:
        for log in logs:
            assert f"{log}  {name}: " in finished.stdout
    assert "Data read as it is" in finished.stdout
    assert "Generated" not in finished.stdout
