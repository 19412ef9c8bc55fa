"""The smoke configuration's two trainings for a few steps, in this process, without Ray."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import build_policy, save_policy
from irl_vla.reward.proposals import SOURCES
from irl_vla.scene import FUTURE_FRAMES
from irl_vla.stages.experiment import Experiment, load_experiment
from irl_vla.train.bank import write_banks
from irl_vla.train.config import BankConfig, SampleConfig
from irl_vla.train.encode import write_samples
from irl_vla.train.imitation import PretrainInputs, sample_job
from irl_vla.train.loop import ALONE
from irl_vla.train.phases import ImitationModel, Trainee, fit_codec, imitate, make_optimiser, train_steps
from irl_vla.train.reward_data import FitData, FitJob
from irl_vla.train.reward_model import Ensemble, fit_steps
from irl_vla.train.reward_model import make_optimiser as make_reward_optimiser
from irl_vla.train.samples import Samples
from irl_vla.world.generate import generate
from irl_vla.world.painted_views import view_sensors

FOLDER = Path(__file__).parent
SMOKE = FOLDER.parents[2] / "configs" / "smoke.yaml"
#: What makes the world small enough to be made in seconds; the networks stay as they are.
SMALLER = (
    *("generate.train.logs=4", "generate.val.logs=2", "generate.test.logs=2", "generate.workers=1"),
    *("generate.sensors.image_height_px=36", "generate.sensors.image_width_px=64"),
)
STEPS = 6
PROPOSALS = 12

Curve = dict[str, list[float]]


def imitation_curve(folder: Path) -> Curve:
    """Losses by name of the first steps of imitation; leaves world, samples, policy and bank in ``folder``."""
    experiment, samples = smoke_experiment(), _samples(folder)
    config, seed = experiment.pretrain, experiment.seed
    torch.set_num_threads(1)
    policy = build_policy(experiment.model, fit_codec(samples, experiment.model.planner.mode_floor), seed)
    subject = Trainee(policy, ImitationModel(policy, config), *make_optimiser(policy, config))
    curve: Curve = {}
    phase = imitate(subject, samples, config, seed)
    train_steps(phase, range(STEPS), config, seed=seed, rank=ALONE, after=partial(_add, curve))
    save_policy(policy.eval(), folder / "policy", experiment.model, Provenance(seed))
    write_banks(folder / "policy", {"bank": samples.place}, Location.of(folder), BankConfig(workers=0))
    return curve


def reward_curve(folder: Path) -> Curve:
    """Losses of the first steps of the reward model, on the bank of :func:`imitation_curve` and drawn labels."""
    experiment = smoke_experiment()
    config = experiment.train_reward.with_overrides({"model.members": 2, "rows_per_batch": 4})
    bank = TokenBank.open(folder / "bank")
    torch.manual_seed(experiment.seed)
    ensemble = Ensemble(bank.layout, config)
    curve: Curve = {}
    fit_steps(
        ensemble,
        *make_reward_optimiser(ensemble.parameters(), config),
        drawn_labels(bank),
        steps=range(STEPS),
        job=FitJob(folder, folder, Location.of(folder), config, experiment.seed),
        after=partial(_add, curve),
    )
    return curve


def smoke_experiment() -> Experiment:
    """The smoke configuration with a smaller world."""
    return load_experiment(SMOKE, SMALLER)


def _samples(folder: Path) -> Samples:
    experiment, root = smoke_experiment(), folder / "world"
    assert experiment.generate is not None
    generate(experiment.generate.world, root, experiment.data_seed)
    data = DataConfig(root=root)
    dataset = open_dataset(data)
    inputs = PretrainInputs(
        dataset=dataset,
        fingerprints={"train": "golden"},
        splits=data,
        validation=None,
        scorer=experiment.evaluate.scorer,
        views=experiment.views,
        data_seed=experiment.data_seed,
        view_sensors=view_sensors(dataset, experiment.data_seed),
        samples={purpose: Location.of(folder / "samples" / purpose) for purpose in ("train", "val")},
    )
    here = experiment.pretrain.model_copy(update={"samples": SampleConfig(workers=0)})
    job = sample_job(inputs, "train", experiment.model, here)
    return write_samples({"train": job})["train"]


def drawn_labels(bank: TokenBank) -> FitData:
    """Random plans and sub-scores: what is watched here is the fit, not the labels."""
    rng, rows = np.random.default_rng(5), len(bank)
    plans = rng.normal(0, 2, (rows, PROPOSALS, FUTURE_FRAMES, 3)).cumsum(axis=2).astype(np.float32)
    subscores = rng.integers(0, 2, (rows, PROPOSALS, 8)).astype(np.float32)
    source = rng.integers(0, len(SOURCES), (rows, PROPOSALS))
    labels = SimpleNamespace(plans=plans, rows=np.arange(rows), source=source)
    every = np.arange(rows)
    return FitData(bank, labels, subscores, every, np.arange(0), (every, every))  # type: ignore[arg-type]


def _add(curve: Curve, _: int, losses: Mapping[str, float]) -> None:
    for name, value in losses.items():
        curve.setdefault(name, []).append(float(f"{value:.6g}"))
