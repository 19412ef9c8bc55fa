"""Ray, memory and shared memory, held against what the configuration asks for."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from irl_vla.cli.doctor.finding import Finding
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.session import RayConfig

GIB: Final = 2**30
_SHARED_MEMORY: Final = Path("/dev/shm")
#: Measured with the demonstration: its driver, and a worker that trains.
_DRIVER_BYTES, _WORKER_BYTES = 2 * GIB, 2 * GIB
_LABELLED_ROW_BYTES: Final = 10_000
_END_S: Final = 5


@dataclass(frozen=True)
class RayProbe:
    """A process that connects to Ray, in a group of its own that ends with it."""

    process: subprocess.Popen[str]
    config: RayConfig
    where: str


def start_probe(config: RayConfig) -> RayProbe:
    """Begins to connect as a stage would, but to a local instance of one CPU: many would only take longer to start."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    patience_s = min(config.connect_timeout_s, 5)
    tried = config.with_overrides({"connect_timeout_s": patience_s} | ({} if address else {"cpus": 1}))
    process = subprocess.Popen(
        [sys.executable, "-m", "irl_vla.cli.doctor.probe", tried.model_dump_json()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return RayProbe(process, config, address or "a local instance")


def look_at(probe: RayProbe, trained: Experiment | None, patience_s: float) -> Finding:
    """What became of the attempt to connect; the probe has ended when this returns.

    Args:
        trained: the experiment, if it trains: its workers are held against what Ray has.
    """
    try:
        out, errors = probe.process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        return Finding(
            "Ray",
            "warning",
            f"{probe.where}: no answer in {patience_s:g} s",
            "is the machine busy? try a longer --patience",
        )
    finally:
        end(probe.process)
    if probe.process.returncode != 0:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return Finding("Ray", "problem", last, "see docs/cluster.md")
    resources: dict[str, float] = json.loads(out)
    if probe.where == "a local instance":
        resources["CPU"] = probe.config.cpus or len(os.sched_getaffinity(0))
    found = f"{probe.where}: {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
    lacking = [] if trained is None else lacking_workers(trained, resources)
    if lacking:
        return Finding("Ray", "problem", found, f"would wait forever: {', '.join(lacking)}; lower them")
    return Finding("Ray", "ok", found)


def lacking_workers(experiment: Experiment, resources: Mapping[str, float]) -> list[str]:
    """Settings that ask for more CPUs or GPUs at a time than there are; labelling and the sweep make do with fewer."""
    runners, actors = experiment.finetune.env_runners, experiment.finetune.backend.scorer_actors
    both = "finetune.env_runners + finetune.backend.actors" if actors else "finetune.env_runners"
    wanted = {both: ("CPU", runners + actors)}
    for name, section in (("pretrain", experiment.pretrain), ("train_reward", experiment.train_reward)):
        wanted[f"{name}.workers"] = ("GPU" if section.use_gpu else "CPU", section.workers)
    return [f"{key}={count} ({kind})" for key, (kind, count) in wanted.items() if count > resources.get(kind, 0)]


def memory(config: RayConfig, workers: int, rows: int, free: int, shared: int) -> Finding:
    """Memory for the configured stages, and for Ray's object store.

    Args:
        config: of the local instance.
        workers: processes that train or label at a time.
        rows: bank rows that are labelled.
        free: bytes of memory that are free.
        shared: bytes of shared memory that are free.
    """
    store = config.object_store_mb * 2**20
    need = store + _DRIVER_BYTES + workers * _WORKER_BYTES + rows * _LABELLED_ROW_BYTES
    found = f"{free / GIB:.1f} GiB free, about {need / GIB:.1f} needed; object store {store / GIB:.1f} GiB"
    if free < need:
        remedy = "fewer workers, a smaller ray.object_store_mb, or a larger machine"
        return Finding("memory", "warning", found, remedy)
    if shared < store:
        return Finding(
            "memory",
            "warning",
            f"{found}; {shared / GIB:.1f} GiB of shared memory",
            "Ray falls back to slow disk: give more shared memory (docker run --shm-size) or lower ray.object_store_mb",
        )
    return Finding("memory", "ok", found)


def free_memory() -> int:
    """Bytes of memory that are free here, within the limit of a container."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text(encoding="utf-8").strip().isdecimal():
        free = min(free, int(limit.read_text(encoding="utf-8")) - int(used.read_text(encoding="utf-8")))
    return free


def free_shared_memory() -> int:
    """Bytes of shared memory that are free."""
    return shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0


def end(process: subprocess.Popen[str]) -> None:
    """Ends a probe, if it has not ended, with all that it started: a local Ray dies with its driver."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):  # nobody of its group is left
            os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
