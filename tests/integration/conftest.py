"""One run of the whole chain, which several tests look at."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from irl_vla.stages.experiment import Experiment, load_experiment

from .command import SMOKE, Finished, run

#: What can be smaller than in configs/smoke.yaml without leaving anything out.
SMALLER = (
    "name=chain",
    "runs=runs",
    "data.root=data",
    "ray.cpus=2",
    "generate.train.logs=8",
    "generate.val.logs=2",
    "generate.test.logs=6",
    "generate.sensors.image_height_px=36",
    "generate.sensors.image_width_px=64",
    "pretrain.steps=2",
    "pretrain.validate_every=1",
    "pretrain.log_every=1",
    "train_reward.steps=6",
    "train_reward.checkpoint_every=3",
    "finetune.iterations=2",
    "finetune.validate_every=1",
    "sweep.iterations=1",
    "sweep.concurrent=1",
)


@dataclass(frozen=True)
class Chain:
    """A finished ``irl-vla run``.

    Attributes:
        folder: working directory, with ``runs`` and ``data``.
    """

    folder: Path
    finished: Finished

    @property
    def seed(self) -> Path:
        return self.folder / "runs" / "chain" / "seed-0"

    @property
    def experiment(self) -> Experiment:
        """The settings, with absolute folders."""
        roots = (f"runs={self.folder / 'runs'}", f"data.root={self.folder / 'data'}")
        return load_experiment(SMOKE, [*SMALLER, *roots])

    def command(self, stage: str, *overrides: str) -> tuple[str | Path, ...]:
        return (stage, SMOKE, *SMALLER, *overrides)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    finished = run(folder, "run", SMOKE, *SMALLER)
    assert finished.returncode == 0, finished.stderr[-5000:]
    return Chain(folder, finished)
