"""Encoding on one core: processor time of a row of samples, logged or a painted view, and of a row of a token bank.

Run: OMP_NUM_THREADS=1 python benchmarks/encoding.py [--logs 6] [--height 144 --width 256]
Samples are encoded as an actor encodes them, writing included, from a generated world whose images have the given size;
tokens come from an untrained encoder of default size. Processor time of this process: other load does not count. The
baseline is the logged row. The estimates of ``irl_vla.train.estimate`` rest on these figures.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from irl_vla.dataset.config import DataConfig, ViewConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.ledger.storage import Location
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.encoder import SceneEncoder
from irl_vla.policy.token_bank import columns_of
from irl_vla.train.bank import encode
from irl_vla.train.config import SampleConfig
from irl_vla.train.encode import SampleJob, write_samples
from irl_vla.train.samples import Samples
from irl_vla.world.config import SplitSizeConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate
from irl_vla.world.painted_views import view_sensors

FRAMES, BATCH = 19, 32


def job_of(world: Path, folder: Path, views: ViewConfig | None) -> SampleJob:
    dataset = open_dataset(DataConfig(root=world))
    return SampleJob(
        dataset=dataset,
        dataset_fingerprint="benchmark",
        split="train",
        encoder=EncoderConfig(),
        samples=SampleConfig(workers=0, view_fraction=1.0),
        views=views,
        view_sensors=view_sensors(dataset, 0),
        seed=0,
        folder=Location.of(folder),
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def encoded(world: Path, folder: Path, views: ViewConfig | None) -> tuple[Samples, float]:
    """The samples, and what all rows took beside opening and listing them."""
    job, found = job_of(world, folder, views), {}
    spent = seconds(lambda: found.update(write_samples({"train": job})))
    return found["train"], spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=6)
    parser.add_argument("--height", type=int, default=144)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = {"image_height_px": options.height, "image_width_px": options.width}
    few = SplitSizeConfig(logs=1, layouts=2)
    world = WorldConfig(
        train=SplitSizeConfig(logs=options.logs, layouts=2),
        val=few,
        test=few,
        frames_per_log=FRAMES,
        sensors=WorldSensorConfig(**size),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(world, folder / "world", 0)
        encoded(folder / "world", folder / "first", None)  # parses maps, compiles
        logged, alone = encoded(folder / "world", folder / "logged", None)
        both, with_views = encoded(folder / "world", folder / "views", ViewConfig(count=1))
        a_row = alone / len(logged)
        a_view = (with_views - alone) / (len(both) - len(logged))
        encoder = SceneEncoder(EncoderConfig()).eval()
        known = {name: values[:BATCH] for name, values in columns_of(both.rows).items()}
        columns = {**known, **both.take(np.arange(BATCH))}
        encode(encoder, columns, torch.device("cpu"))
        a_token_row = min(seconds(lambda: encode(encoder, columns, torch.device("cpu"))) for _ in range(3)) / BATCH
        written = sum(path.stat().st_size for path in (folder / "views").glob("*.arrow")) / len(both)
        print(f"images of {options.height} x {options.width}: {len(logged)} logged rows, {len(both)} with views")
        print(f"logged row {1e3 * a_row:.1f} ms, painted view {1e3 * a_view:.1f} ms, ratio {a_view / a_row:.2f}")
        print(f"row of a token bank {1e3 * a_token_row:.1f} ms; {written:.0f} bytes a row of samples")


if __name__ == "__main__":
    main()
