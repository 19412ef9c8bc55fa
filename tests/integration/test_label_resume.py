"""Labelling and reward training survive the death of their driver: killed without warning, run again, same result."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from irl_vla.epdms.config import ScorerConfig
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.storage import Location
from irl_vla.reward import labels as labelling
from irl_vla.reward.config import LabelConfig, ProposalConfig
from irl_vla.reward.labels import LabelInputs, LabelSet, open_labels, write_labels

from ..unit.ledger.here import without_ray

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 90

LABEL = """
import sys
from pathlib import Path
from irl_vla.epdms.config import ScorerConfig
from irl_vla.reward.config import LabelConfig, ProposalConfig
from irl_vla.reward.labels import LabelInputs, write_labels
from irl_vla.stages.session import RayConfig, ray_session
bank, store, out = map(Path, sys.argv[1:])
config = LabelConfig(workers=2, proposals=ProposalConfig(vocabulary_size=16))
with ray_session(RayConfig(cpus=2)):
    write_labels(LabelInputs(bank, store), out, config, ScorerConfig(), seed=5)
"""

TRAIN = """
import sys
from pathlib import Path
from irl_vla.reward.config import RewardTrainConfig
from irl_vla.stages.session import RayConfig, ray_session
from irl_vla.ledger.storage import Location
from irl_vla.train.reward_model import train_reward
from irl_vla.train.reward_quality import LabelledBank
bank, labels, out = map(Path, sys.argv[1:])
both = LabelledBank(Location.of(bank), Location.of(labels))
config = RewardTrainConfig(steps=120, checkpoint_every=30, rows_per_batch=8, proposals_per_row=16)
with ray_session(RayConfig(cpus=2)), open(f"{out}.steps", "w") as heard:
    train_reward(both, both, config, Location.of(out), seed=5, report=lambda metrics, step: print(step, file=heard))
"""


def start(program: str, *folders: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, folders)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(program: str, *folders: Path) -> None:
    process = start(program, *folders)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors.decode()[-3000:]


def kill_once(program: str, reached: Callable[[], bool], *folders: Path) -> None:
    """Kills the driver as soon as ``reached``; its Ray dies with it."""
    process = start(program, *folders)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not reached():
            assert process.poll() is None, "ended before it could be killed: " + str(process.stderr.read()[-3000:])
            assert time.monotonic() < deadline, "never got far enough to be killed"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    sys.path.insert(0, str(ROOT))
    from tests.unit.reward.roads import write_world

    return write_world(tmp_path_factory.mktemp("world"), rows=120, groups=8)


def shards(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("log-*.parquet")}


def label_here(world: tuple[Path, Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> LabelSet:
    """The same labels without Ray and without interruption."""

    without_ray(monkeypatch, labelling)
    config = LabelConfig(proposals=ProposalConfig(vocabulary_size=16))
    return write_labels(LabelInputs(*world), folder, config, ScorerConfig(), seed=5)


def test_a_killed_labelling_goes_on_from_its_whole_shards(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    kill_once(LABEL, lambda: len(shards(killed)) >= 3, *world, killed)
    time.sleep(1.0)  # a worker may still finish the shard in hand while its Ray goes down
    before = shards(killed)
    assert 3 <= len(before) < 60
    record = find_record(Location.of(killed))
    assert record is not None
    assert not record.whole
    finish(LABEL, *world, killed)
    after = shards(killed)
    assert len(after) == 60
    assert {name: after[name] for name in before} == before, "whole shards were written again"
    assert not list(killed.glob(".*"))
    resumed, straight = open_labels(killed), label_here(world, tmp_path / "whole", monkeypatch)
    assert resumed.fingerprint == straight.fingerprint
    np.testing.assert_array_equal(resumed.plans, straight.plans)
    np.testing.assert_array_equal(resumed.raw, straight.raw)
    np.testing.assert_array_equal(resumed.progress_m, straight.progress_m)


@pytest.mark.slow
def test_two_actors_write_the_same_shards_as_one(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    finish(LABEL, *world, two)
    label_here(world, one, monkeypatch)
    assert len(shards(two)) == 60
    for name in shards(two):
        assert (two / name).read_bytes() == (one / name).read_bytes(), name


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, killed, whole = tmp_path / "labels", tmp_path / "killed", tmp_path / "whole"
    label_here(world, labels, monkeypatch)
    bank = world[0]
    kill_once(
        TRAIN, lambda: len(list(killed.glob("training/*/checkpoint_manager_snapshot.json"))) > 0, bank, labels, killed
    )
    time.sleep(1.0)
    assert not (killed / "checkpoint").exists()
    finish(TRAIN, bank, labels, killed)
    heard = [int(line) for line in Path(f"{killed}.steps").read_text().split()]  # by the second driver alone
    assert heard[0] > 30, "went back behind its checkpoint at step 30"
    assert heard[-1] == 120
    finish(TRAIN, bank, labels, whole)
    found = safetensors.torch.load_file(killed / "checkpoint" / "member_0.safetensors")
    expected = safetensors.torch.load_file(whole / "checkpoint" / "member_0.safetensors")
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=0, msg=name)
