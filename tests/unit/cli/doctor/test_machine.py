"""Ray and memory: a probe that answers, fails or hangs, and what a configuration asks for."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irl_vla.cli.doctor.machine import (
    GIB,
    RayProbe,
    free_memory,
    free_shared_memory,
    lacking_workers,
    look_at,
    memory,
    start_probe,
)
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.session import RayConfig


def probe(code: str, config: RayConfig | None = None, where: str = "head:6379") -> RayProbe:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return RayProbe(process, config or RayConfig(), where)


def test_an_answer_is_shown() -> None:
    finding = look_at(probe("""print('{"CPU": 8.0, "GPU": 2.0}')"""), None, 30)
    assert (finding.level, finding.found) == ("ok", "head:6379: 8 CPUs, 2 GPUs")


def test_a_local_instance_has_the_configured_cpus() -> None:
    finding = look_at(probe("""print('{"CPU": 1.0}')""", RayConfig(cpus=3), "a local instance"), None, 30)
    assert finding.found == "a local instance: 3 CPUs, 0 GPUs"


def test_a_failure_names_the_reason() -> None:
    finding = look_at(probe("import sys; sys.exit('noise\\nno Ray cluster at head:6379')"), None, 30)
    assert (finding.level, finding.found) == ("problem", "no Ray cluster at head:6379")


def test_a_probe_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"path = pathlib.Path({str(pids)!r}); path.with_suffix('.new').write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        "path.with_suffix('.new').rename(path); time.sleep(600)\n"
    )
    hanging = probe(code)
    while not pids.exists():
        assert hanging.process.poll() is None
        time.sleep(0.01)
    finding = look_at(hanging, None, 0.1)
    assert finding.level == "warning"
    assert "no answer in 0.1 s" in finding.found
    left = [int(pid) for pid in pids.read_text().split()]
    for _ in range(500):  # the kernel may take a moment
        left = [pid for pid in left if alive(pid)]
        time.sleep(0.01 if left else 0.0)
    assert left == []


def alive(pid: int) -> bool:
    """True for a process that runs; a child of nobody that nobody has waited for does not."""
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_an_address_without_a_cluster_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PYTHONPATH", str(Path(__file__).parents[4]))
    finding = look_at(start_probe(RayConfig(address="127.0.0.1:9")), None, 60)
    assert finding.level == "problem"
    assert "no Ray cluster at 127.0.0.1:9" in finding.found


def test_workers_that_would_wait_forever_are_named() -> None:
    experiment = Experiment(name="x", pretrain={"workers": 4}, label={"workers": 9}, train_reward={"use_gpu": True})
    assert lacking_workers(experiment, {"CPU": 2.0}) == ["pretrain.workers=4 (CPU)", "train_reward.workers=1 (GPU)"]
    assert lacking_workers(experiment, {"CPU": 4.0, "GPU": 1.0}) == []
    finding = look_at(probe("""print('{"CPU": 2.0}')"""), experiment, 30)
    assert finding.level == "problem"
    assert "pretrain.workers=4" in finding.remedy


def test_scorer_actors_count_where_there_are_any() -> None:
    backend = {"kind": "scorer", "actors": 2}
    experiment = Experiment(name="x", finetune={"env_runners": 2, "backend": backend})
    named = "finetune.env_runners + finetune.backend.actors=4 (CPU)"
    assert lacking_workers(experiment, {"CPU": 3.0}) == [named]
    assert lacking_workers(experiment, {"CPU": 4.0}) == []
    learned = experiment.with_overrides({"finetune.backend.kind": "rwm"})
    assert lacking_workers(learned, {"CPU": 2.0}) == []
    assert lacking_workers(learned, {"CPU": 1.0}) == ["finetune.env_runners=2 (CPU)"]


def test_memory_is_held_against_workers_and_object_store() -> None:
    config = RayConfig(object_store_mb=1024)
    # 1 GiB store, 2 GiB driver, three workers of 2 GiB
    assert "about 9.0 needed" in memory(config, 3, 0, 64 * GIB, 2 * GIB).found
    assert memory(config, 3, 0, 9 * GIB, 2 * GIB).level == "ok"
    assert memory(config, 3, 0, 8 * GIB, 2 * GIB).level == "warning"
    assert memory(config, 3, 10**6, 9 * GIB, 2 * GIB).level == "warning", "a million labelled rows take 10 GB"
    short = memory(config, 3, 0, 64 * GIB, GIB // 16)
    assert short.level == "warning"
    assert "--shm-size" in short.remedy


def test_this_machine_has_some_memory() -> None:
    assert free_memory() > 0
    assert free_shared_memory() >= 0
