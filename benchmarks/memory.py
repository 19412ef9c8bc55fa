"""Memory of every stage that reads data by log: of so many logs, and of ten times as many.

Run: OMP_NUM_THREADS=1 python -m benchmarks.memory [--logs 8] [--times 10]
Worlds of small logs, networks and settings of configs/smoke.yaml; the number of steps and iterations is fixed. Each
stage does its work in one process of its own, what Ray would spread over workers included, so that neither the number
of workers nor Ray's own processes count: fine-tuning alone runs on Ray, and there its driver is looked at, which
samples and learns. Told is the peak of ``RssAnon`` (Linux), twenty times a second: resident memory that no file stands
behind, hence without the pages of memory-mapped files. A ratio of 1 means that a stage does not care how many logs
there are; what it takes more is also told a row of the training bank.
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch

import irl_vla.rl.finetune
from irl_vla.judge.for_each import one_by_one
from irl_vla.judge.selected_split import begin_selection
from irl_vla.judge.validation import open_validator
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import build_policy, save_policy
from irl_vla.reward.labels import LabelInputs, mean_labels, write_labels
from irl_vla.rl.job import FinetuneJob
from irl_vla.stages import folders
from irl_vla.stages.experiment import Experiment, load_experiment
from irl_vla.stages.imitation import perceive_test_split, pretrain_inputs
from irl_vla.stages.judge import write_evaluation
from irl_vla.stages.select import select as choose_scenes
from irl_vla.stages.session import ray_session
from irl_vla.train import imitation, phases, reward_data, reward_model
from irl_vla.train.bank import write_banks
from irl_vla.train.encode import write_samples
from irl_vla.train.imitation import SPLITS, sample_job
from irl_vla.train.loop import ALONE
from irl_vla.train.phases import ImitationModel, Trainee, fit_codec, train_steps
from irl_vla.train.reward_quality import LabelledBank
from irl_vla.train.samples import open_samples
from irl_vla.train.validation import validate
from irl_vla.world.generate import generate

SMOKE: Final = Path(__file__).parents[1] / "configs" / "smoke.yaml"
#: Frames of a log, hence ten windows.
FRAMES: Final = 21
PAUSE_S: Final = 0.05
SETTINGS: Final = (
    *("tracking.enabled=false", "ray.cpus=2", f"generate.frames_per_log={FRAMES}", "finetune.iterations=2"),
    *("pretrain.samples.workers=0", "pretrain.bank.workers=0"),
    "evaluate.policies=[constant_velocity,constant_acceleration,ego_mlp,human,imitation,finetuned,reference]",
)

Stage = Callable[[Experiment], None]


def generated(experiment: Experiment) -> None:
    """The world; not one of the stages."""
    assert experiment.generate is not None
    assert experiment.data.root is not None
    generate(experiment.generate.world, experiment.data.root, experiment.data_seed)


def prepare(experiment: Experiment) -> None:
    """All windows of all splits."""
    for split in experiment.data.splits.values():
        begin_selection(folders.dataset(experiment), split)
        folders.prepared(experiment, split)


def select(experiment: Experiment) -> None:
    """The scenes worth judging, of prepared ones."""
    assert experiment.generate is not None
    with mock.patch("irl_vla.stages.select.ray_session", unconnected):
        choose_scenes(experiment, experiment.generate.selection)


def samples(experiment: Experiment) -> None:
    """Observations and targets of train and val."""
    inputs = pretrain_inputs(experiment, folders.dataset(experiment), None, *SPLITS)
    write_samples({name: sample_job(inputs, name, experiment.model, experiment.pretrain) for name in SPLITS})


def imitate(experiment: Experiment) -> None:
    """Baseline, steps and validation of imitation, as one worker takes them."""
    config, folder = experiment.pretrain, folders.stage_folder(experiment, "pretrain")
    train, val = (open_samples(folders.samples_path(experiment, name)) for name in SPLITS)
    store = folders.prepared(experiment, experiment.data.val)
    imitation._fit_baseline(train, config, folder / "ego_mlp", experiment.seed)
    policy = build_policy(experiment.model, fit_codec(train, experiment.model.planner.mode_floor), experiment.seed)
    trainee = Trainee(policy, ImitationModel(policy, config), *phases.make_optimiser(policy, config))
    seed = experiment.seed
    phase = phases.imitate(trainee, train, config, seed)
    train_steps(phase, phase.steps, config, seed=seed, rank=ALONE, after=lambda step, losses: None)
    scorer = folders.training_scorer(experiment)
    validate(policy.eval(), val, store, scorer, logs=config.validation_logs)
    save_policy(policy, folders.policy_path(experiment), experiment.model, Provenance(seed))


def banks(experiment: Experiment) -> None:
    """Token banks of train and val."""
    places = {name: folders.samples_path(experiment, name) for name in SPLITS}
    folder = folders.stage_folder(experiment, "pretrain") / "banks"
    write_banks(folders.policy_path(experiment), places, folder, experiment.pretrain.bank)


def label(experiment: Experiment) -> None:
    """Labels of the training bank: the driver's part and that of one actor."""
    prepared = folders.prepared(experiment, experiment.data.train).folder
    inputs = LabelInputs(folders.bank_path(experiment, "train"), prepared, folders.policy_path(experiment))
    place, scorer = folders.labels_path(experiment), folders.training_scorer(experiment)
    with mock.patch("irl_vla.reward.labels.write_shards", written_here):
        mean_labels(write_labels(inputs, place, experiment.label, scorer, experiment.seed))


def train_reward(experiment: Experiment) -> None:
    """The reward model: the driver's part and that of one worker."""
    place = folders.stage_folder(experiment, "train_reward")
    with mock.patch("irl_vla.train.reward_model.run_training", fitted_here):
        # What is judged by lies in memory like what is learned: the same rows stand in for both.
        labelled = LabelledBank(folders.bank_path(experiment, "train"), folders.labels_path(experiment))
        reward_model.train_reward(
            labelled,
            labelled,
            experiment.train_reward,
            place,
            seed=experiment.seed,
            report=lambda metrics, step: None,
        )


def finetune(experiment: Experiment) -> None:
    """Fine-tuning with validations, on Ray."""
    place = folders.stage_folder(experiment, "finetune")
    validator = open_validator(folders.validation_spec(experiment))
    with ray_session(experiment.ray):
        spec = folders.task_spec(experiment)
        irl_vla.rl.finetune.finetune(FinetuneJob(spec, place, validator, lambda metrics, step: None))


def evaluate(experiment: Experiment) -> None:
    """Token bank of test, plans, scores and tables."""
    dataset = folders.judged_dataset(experiment)
    perceive_test_split(experiment, dataset)
    store = folders.prepared(experiment, experiment.data.test, dataset)
    place = folders.stage_folder(experiment, "evaluate")
    write_evaluation(experiment, dataset, store, place, lambda metrics, step: None, for_each=one_by_one)


STAGES: Final[tuple[Stage, ...]] = (
    *(prepare, select, samples, imitate, banks),
    *(label, train_reward, finetune, evaluate),
)


@contextmanager
def unconnected(config: object) -> Iterator[None]:
    """In place of a Ray session."""
    yield


def written_here(writer: Any, arguments: tuple[Any, ...], sizes: Mapping[str, int], plan: object) -> None:
    """In place of ``write_shards``."""
    write = writer(*arguments)
    for name in sizes:
        write(name)


def fitted_here(worker: object, job: reward_data.FitJob, spec: object, report: object) -> dict[str, Any]:
    """In place of ``run_training``: what a worker does."""
    data = reward_data.open_data(job)
    ensemble = reward_model.Ensemble(data.bank.layout, job.config)
    optimiser = reward_model.make_optimiser(ensemble.parameters(), job.config)
    reward_model.fit_steps(ensemble, *optimiser, data, steps=range(job.config.steps), job=job)
    return {"model": ensemble.state_dict()}


def experiment_of(folder: Path, logs: int) -> Experiment:
    """Of a world with so many training logs, half as many of validation and of test."""
    sizes = {"train": logs, "val": max(1, logs // 2), "test": max(1, logs // 2)}
    counts = [f"generate.{split}.logs={count}" for split, count in sizes.items()]
    places = [f"name=of-{logs}", f"runs={folder / 'runs'}", f"data.root={folder / f'world-{logs}'}"]
    return load_experiment(SMOKE, [*SETTINGS, *counts, *places])


def peak_of(work: Callable[[], None], told: Connection) -> None:
    """Does some work in this process and tells the peak of its memory in bytes."""
    done, peaks = threading.Event(), [0]

    def look() -> None:
        while not done.wait(PAUSE_S):
            peaks[0] = max(peaks[0], anonymous_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    told.send(peaks[0])


def anonymous_bytes() -> int:
    """Resident memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def in_own_process(work: Callable[[], None]) -> int:
    """Peak memory of some work in a process that is forked for it: libraries are loaded once."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=peak_of, args=(work, there))
    process.start()
    there.close()
    try:
        peak: int = here.recv()
    except EOFError:
        raise SystemExit("a stage failed, see above") from None
    process.join()
    return peak


def measure(folder: Path, logs: int) -> dict[str, int]:
    """Peaks of the stages with so many training logs; what they make stays in the folder."""
    experiment, peaks = experiment_of(folder, logs), {}
    for stage in (generated, *STAGES):
        start = time.perf_counter()
        peaks[stage.__name__] = in_own_process(partial(stage, experiment))
        seconds = time.perf_counter() - start
        print(f"{logs} logs, {stage.__name__}: {peaks[stage.__name__] / 1e6:.0f} MB, {seconds:.0f} s", flush=True)
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=8, help="of the training split, the first time")
    parser.add_argument("--times", type=int, default=10, help="so many times as many, the second time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = (options.logs, options.times * options.logs)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        stack.enter_context(mock.patch("irl_vla.judge.for_each.on_ray", one_by_one))
        once, often = (measure(Path(name), logs) for logs in numbers)
        banks_of = [folders.bank_path(experiment_of(Path(name), logs), "train") for logs in numbers]
        few, many = (len(TokenBank.open(bank)) for bank in banks_of)
    print(f"{few} and {many} rows of the training bank")
    for stage in (stage.__name__ for stage in STAGES):
        sizes = f"{once[stage] / 1e6:.0f} MB, {often[stage] / 1e6:.0f} MB, ratio {often[stage] / once[stage]:.2f}"
        print(f"{stage}: {sizes}, {(often[stage] - once[stage]) / (many - few) / 1e3:.1f} kB a row")


if __name__ == "__main__":
    main()
