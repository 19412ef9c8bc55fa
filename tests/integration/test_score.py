"""`irl-vla score` and `irl-vla doctor` from outside: the same plans get the same score as in the stage `evaluate`."""

import csv
from pathlib import Path

import pytest

from irl_vla.epdms.store import PreparedStore
from irl_vla.judge.baselines import constant_velocity
from irl_vla.judge.fingerprint import read_fingerprint
from irl_vla.judge.plan_file import write_plans

from .command import SMOKE, run

SETTINGS = (
    *("name=judged", "runs=runs", "data.root=data", "ray.cpus=1", "tracking.enabled=false", "generate.sensors=null"),
    *("generate.train.logs=2", "generate.val.logs=2", "generate.test.logs=4", "generate.workers=1"),
    *("evaluate.policies=[constant_velocity]", "evaluate.against=[]"),
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a generated split was judged by the stage."""
    folder = tmp_path_factory.mktemp("score")
    for stage in ("generate", "evaluate"):
        finished = run(folder, stage, SMOKE, *SETTINGS)
        assert finished.returncode == 0, finished.stderr[-5000:]
    return folder


def frames(path: Path) -> dict[str, list[str]]:
    """Sub-scores, score and what was lost, by token."""
    with path.open(newline="") as stream:
        return {row["token"]: list(row.values())[2:] for row in csv.DictReader(stream)}


def test_the_same_plans_get_the_same_score(judged: Path) -> None:
    store = PreparedStore.open(judged / "runs/judged/shared/prepared/test")
    plans = {token: constant_velocity(store[token]) for token in store.tokens}
    write_plans(judged / "plans.parquet", plans)
    where = ("--data", "data", "--split", "test", "--workers", "2")
    # in a folder of its own, and in the one that the stage prepared
    for folder, place in (("own", "prepared"), ("stage", "runs/judged/shared/prepared/test")):
        finished = run(judged, "score", "plans.parquet", *where, "--prepared", place, "--output", folder)
        assert finished.returncode == 0, finished.stderr[-5000:]
        evaluated = judged / "runs/judged/seed-0/evaluate/frames.csv"
        assert frames(judged / folder / "frames.csv") == frames(evaluated)
        assert read_fingerprint(judged / folder / "frames.csv") == read_fingerprint(evaluated)
    first, *_ = plans
    del plans[first]
    write_plans(judged / "fewer.parquet", plans)
    finished = run(judged, "score", "fewer.parquet", *where, "--prepared", "prepared", "--against", "plans.parquet")
    assert finished.returncode == 1, finished.stderr[-5000:]
    assert f"{first}  fewer  no plan" in finished.stdout
    assert set(frames(judged / "scores/fewer/frames.csv")) == set(plans)


def test_the_doctor_finds_nothing_wrong_and_writes_nothing(judged: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in judged.rglob("*")}
    finished = run(judged, "doctor", SMOKE, *SETTINGS, "--patience", "120")
    assert finished.returncode == 0, finished.stdout
    assert "self-check passed" in finished.stdout
    assert "split test" in finished.stdout
    assert {path: path.stat().st_mtime_ns for path in judged.rglob("*")} == before
    broken = run(judged, "doctor", SMOKE, *SETTINGS, "ray.address=127.0.0.1:9", "data.test=absent")
    assert broken.returncode == 1
    assert "split absent" in broken.stdout
