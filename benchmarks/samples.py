"""Samples: rows a second by one actor and by two; random rows of a token bank in shards against one plain array.

Run: OMP_NUM_THREADS=1 python benchmarks/samples.py [--logs 24] [--no-ray]
The world is that of configs/smoke.yaml, its sensors at their configured size; shifted views are painted. Starting Ray
and its actors is not counted as a row's time, but is printed.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import (
    BankRows,
    Encoded,
    TokenBank,
    TokenLayout,
    bank_artefact,
    finish_bank,
    write_bank_shard,
)
from irl_vla.stages.experiment import load_experiment
from irl_vla.stages.session import RayConfig, ray_session
from irl_vla.train.config import SampleConfig
from irl_vla.train.encode import SampleJob, write_samples
from irl_vla.world.generate import generate
from irl_vla.world.painted_views import view_sensors

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
LOGS, ROWS_A_LOG, BATCH, BATCHES = 64, 40, 64, 200


def job_of(folder: Path, world: Path, logs: int, workers: int) -> SampleJob:
    smaller = (
        f"generate.train.logs={logs}",
        "generate.val.logs=1",
        "generate.test.logs=1",
        "generate.frames_per_log=20",
    )
    experiment = load_experiment(SMOKE, smaller)
    assert experiment.generate is not None
    generate(experiment.generate.world, world, 0)
    dataset = open_dataset(DataConfig(root=world))
    return SampleJob(
        dataset=dataset,
        dataset_fingerprint="benchmark",
        split="train",
        encoder=experiment.model.encoder,
        samples=SampleConfig(workers=workers),
        views=experiment.views,
        view_sensors=view_sensors(dataset, 0),
        seed=0,
        folder=Location.of(folder / f"samples-{workers}"),
    )


def encode_by_actors(folder: Path, world: Path, logs: int) -> None:
    """Each number of actors twice: the shorter run has a quarter of the logs, so that the start-up drops out."""
    rates = {}
    with ray_session(RayConfig(cpus=2)):
        for workers in (1, 2):
            job = job_of(folder, world, logs, workers)
            start = time.perf_counter()
            samples = write_samples({"train": job})["train"]
            first = time.perf_counter() - start
            shards = list(samples.stored.names)
            kept = shards[: len(shards) // 4]
            for name in shards:
                if name in kept:
                    (job.folder / f"{name}.arrow").delete()
            fewer = int(sum(np.diff(samples.stored.starts)[: len(kept)]))
            start = time.perf_counter()
            write_samples({"train": job})
            second = time.perf_counter() - start
            rates[workers] = (len(samples) - fewer) / (first - second)
            overhead = first - len(samples) / rates[workers]
            print(f"{workers} actors: {rates[workers]:.1f} rows/s over {len(samples)} rows, start-up {overhead:.1f} s")
    print(f"two actors against one: {rates[2] / rates[1]:.2f}")


def gather(folder: Path) -> None:
    """Random rows of a bank, warm: shards of one log each against one memory-mapped array."""
    rng, layout = np.random.default_rng(0), TokenLayout({"bev": 64}, 128)
    bank, shards = bank_artefact(Location.of(folder / "bank"), layout, "random", "random"), {}
    count = LOGS * ROWS_A_LOG
    tokens = rng.normal(size=(count, layout.total, layout.width)).astype(np.float16)
    for log in range(LOGS):
        part = slice(log * ROWS_A_LOG, (log + 1) * ROWS_A_LOG)
        names = np.array([f"{row:016x}" for row in range(part.start, part.stop)])
        rows = BankRows(
            token=names,
            scene_token=names,
            view=np.full(ROWS_A_LOG, "original"),
            log_name=np.full(ROWS_A_LOG, f"log-{log}"),
            group=np.full(ROWS_A_LOG, "group"),
            kind=np.full(ROWS_A_LOG, ""),
            timestamp_us=500_000 * np.arange(ROWS_A_LOG),
            ego_history=np.zeros((ROWS_A_LOG, 4, 7), np.float32),
            command=np.ones(ROWS_A_LOG, np.int64),
            plan=np.zeros((ROWS_A_LOG, 8, 3), np.float32),
            has_plan=np.ones(ROWS_A_LOG, np.bool_),
            has_human=np.ones(ROWS_A_LOG, np.bool_),
        )
        shards[f"log-{log:03d}"] = write_bank_shard(bank, f"log-{log:03d}", layout, [Encoded(tokens[part], rows)])
    finish_bank(bank, shards)
    start = time.perf_counter()
    opened = TokenBank.open(folder / "bank")
    print(f"bank of {LOGS} shards: opened in {1e3 * (time.perf_counter() - start):.0f} ms")
    np.save(folder / "plain.npy", tokens)
    plain = np.load(folder / "plain.npy", mmap_mode="r")
    batches = [rng.integers(0, count, BATCH) for _ in range(BATCHES)]
    times: dict[str, list[float]] = {"shards": [], "plain": []}
    for _ in range(7):
        for name, read in (("shards", opened.tokens), ("plain", plain.__getitem__)):
            start = time.perf_counter()
            for rows_of_batch in batches:
                read(rows_of_batch)
            times[name].append((time.perf_counter() - start) / (BATCHES * BATCH))
    best = {name: 1e6 * min(values) for name, values in times.items()}
    print(f"random rows of 16 KiB: {best['shards']:.1f} us in shards, {best['plain']:.1f} us in one array", end="; ")
    print(f"ratio {best['plain'] / best['shards']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=24)
    parser.add_argument("--no-ray", action="store_true", help="the bank alone")
    parser.add_argument("--world", type=Path, help="where the generated world is kept for another time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gather(folder)
        if not options.no_ray:
            encode_by_actors(folder, options.world or folder / "world", options.logs)


if __name__ == "__main__":
    main()
