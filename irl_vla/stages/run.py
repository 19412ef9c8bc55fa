"""The stages, each a function of the experiment.

A stage that is whole is left alone, one that was interrupted goes on where it stopped. Heavy libraries are imported by
the stage that needs them.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from irl_vla.config import Config
from irl_vla.ledger.artefact import Artefact
from irl_vla.ledger.tracking import StageRun, stage_run
from irl_vla.stages import folders
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.folders import (
    bank_path,
    labels_path,
    policy_path,
    prepared,
    task_spec,
    training_scorer,
    validation_spec,
)

log = logging.getLogger(__name__)


def generate(experiment: Experiment) -> None:
    """Writes the generated dataset in NAVSIM's layout and narrows its splits to the scenes worth judging."""
    if experiment.generate is None:
        log.info("generate: the configuration has no generated world; data is read as it is")
        return
    from irl_vla.stages.select import select
    from irl_vla.world.generate import generate as write_world
    from irl_vla.world.identity import require_replaceable, will_generate, world_artefact

    settings, root, seed = experiment.generate, folders.data_root(experiment), experiment.data_seed
    planned = world_artefact(settings.world, root, seed)
    if will_generate(planned, settings.replace):
        require_replaceable(folders.made_from(experiment), planned, settings.replace)
    write_world(settings.world, root, seed, settings.replace)
    select(experiment, settings.selection)
    folders.forget_data()


def pretrain(experiment: Experiment) -> None:
    """Imitates human plans, then freezes perception and writes the token banks."""
    from irl_vla.dataset.split_guard import require_disjoint

    stage = folders.pretrain(experiment)
    if _is_done(stage, "pretrain"):
        return
    dataset = folders.dataset(experiment)
    require_disjoint(dataset, experiment.data.splits)
    folder = stage.begin()
    with _session(experiment), _tracked(experiment, "pretrain", experiment.pretrain) as run:
        from irl_vla.stages.imitation import pretrain_inputs
        from irl_vla.train.imitation import pretrain as imitate

        validation = prepared(experiment, experiment.data.val)
        inputs = pretrain_inputs(experiment, dataset, validation, "train", "val")
        policy = imitate(
            inputs, experiment.model, experiment.pretrain, folder, seed=experiment.seed, report=run.metrics
        )
        run.artifact(policy, "checkpoint")
    stage.finish()


def label(experiment: Experiment) -> None:
    """Scores proposals for every row of the training bank with the true EPDMS."""
    stage = folders.label(experiment)
    if _is_done(stage, "label"):
        return
    stage.begin()
    with _session(experiment), _tracked(experiment, "label", experiment.label) as run:
        from irl_vla.reward.labels import LabelInputs, mean_labels, write_labels

        store = prepared(experiment, experiment.data.train)
        inputs = LabelInputs(bank_path(experiment, "train"), store.folder, policy_path(experiment))
        labels = write_labels(
            inputs, labels_path(experiment).path, experiment.label, training_scorer(experiment), experiment.seed
        )
        run.metrics(mean_labels(labels))
    stage.finish()


def train_reward(experiment: Experiment) -> None:
    """Fits the reward world model to the labels."""
    stage = folders.train_reward(experiment)
    if _is_done(stage, "train_reward"):
        return
    folder = stage.begin()
    with _session(experiment), _tracked(experiment, "train-reward", experiment.train_reward) as run:
        from irl_vla.train.reward_model import train_reward as fit

        checkpoint = fit(
            bank_path(experiment, "train"),
            labels_path(experiment),
            experiment.train_reward,
            folder,
            seed=experiment.seed,
            report=run.metrics,
        )
        run.artifact(checkpoint, "checkpoint")
        for name in folder.children():
            if name.endswith(".csv"):
                run.artifact(folder / name)
    stage.finish()


def finetune(experiment: Experiment) -> None:
    """PPO over the denoising chain on the learned reward, and its control."""
    stage = folders.finetune(experiment)
    if _is_done(stage, "finetune"):
        return
    folder = stage.begin()
    with _session(experiment), _tracked(experiment, "finetune", experiment.finetune) as run:
        from irl_vla.judge.validation import open_validator
        from irl_vla.rl.control import train_control
        from irl_vla.rl.finetune import finetune as improve
        from irl_vla.rl.job import FinetuneJob

        job = FinetuneJob(task_spec(experiment), folder, open_validator(validation_spec(experiment)), run.metrics)
        run.artifact(improve(job), "checkpoint")
        train_control(replace(job, folder=folder / "control"), experiment.pretrain)
    stage.finish()


def sweep(experiment: Experiment) -> None:
    """Searches the reward weights; trials are ranked by the true score."""
    stage = folders.sweep(experiment)
    folder = stage.begin()
    with _session(experiment), _tracked(experiment, "sweep", experiment.sweep) as run:
        from irl_vla.rl.sweep import SweepJob
        from irl_vla.rl.sweep import sweep as search
        from irl_vla.stages.report_page import write_sweep

        rows = search(
            SweepJob(
                spec=task_spec(experiment),
                validation=validation_spec(experiment),
                config=experiment.sweep,
                tracking=experiment.tracking,
                folder=folder,
                root=experiment.folder,
                name=folders.title(experiment),
            )
        )
        with folder.filling() as here:
            for path in write_sweep(rows, here):
                run.artifact(path)
    stage.finish()


def evaluate(experiment: Experiment) -> None:
    """Judges every configured policy by the true EPDMS on the test split."""
    folders.require_policies(experiment)
    dataset = folders.judged_dataset(experiment)
    with _session(experiment), _tracked(experiment, "evaluate", experiment.evaluate) as run:
        from irl_vla.judge.fingerprint import MLFLOW_TAG, read_fingerprint, sidecar
        from irl_vla.judge.for_each import on_ray
        from irl_vla.stages.imitation import perceive_test_split
        from irl_vla.stages.judge import write_evaluation

        perceive_test_split(experiment, dataset)
        store = prepared(experiment, experiment.data.test, dataset)
        with folders.stage_folder(experiment, "evaluate").filling() as folder:
            for path in write_evaluation(experiment, dataset, store, folder, run.metrics, for_each=on_ray):
                run.artifact(path)
            evaluator = read_fingerprint(folder / "results.csv")
            run.artifact(sidecar(folder / "results.csv"))
        run.tags({MLFLOW_TAG: evaluator.short, f"{MLFLOW_TAG}.self_check": evaluator.self_check})


def report(experiment: Experiment) -> None:
    """Collects tables and pictures of all seeds into one HTML page."""
    place = experiment.root / "report"
    with _tracked(experiment, "report", experiment.report) as run, place.filling() as folder:
        from irl_vla.stages.report_page import write_report

        write_report(experiment, folders.dataset(experiment), folder)
        run.artifact(folder, "report")
    log.info("open %s", place / "index.html")


def run(experiment: Experiment) -> None:
    """All stages but the sweep, skipping what is already whole."""
    with _session(experiment):
        for stage in (generate, pretrain, label, train_reward, finetune, evaluate, report):
            stage(experiment)


STAGES: Final[dict[str, Callable[[Experiment], None]]] = {
    stage.__name__: stage for stage in (generate, pretrain, label, train_reward, finetune, sweep, evaluate, report, run)
}


def _session(experiment: Experiment) -> AbstractContextManager[None]:
    from irl_vla.stages.session import ray_session

    return ray_session(experiment.ray)


def _tracked(experiment: Experiment, stage: str, section: Config) -> AbstractContextManager[StageRun]:
    params = section.model_dump(mode="json") | {"seed": experiment.seed}
    return stage_run(experiment.tracking, experiment.folder, folders.title(experiment), stage, params)


def _is_done(stage: Artefact, name: str) -> bool:
    done = stage.is_whole()
    if done:
        log.info("%s: whole already (%s)", name, stage.folder)
    return done
