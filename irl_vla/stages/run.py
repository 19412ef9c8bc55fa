"""The stages, each a function of the experiment.

A stage that is whole is left alone, one that was interrupted goes on where it stopped. Heavy libraries are imported by
the stage that needs them.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Final

from rich.console import Console

from irl_vla.config import Config
from irl_vla.ledger.artefact import Artefact
from irl_vla.ledger.code import code_version
from irl_vla.ledger.owner import owned
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
    written = will_generate(planned, settings.replace)
    if written:
        require_replaceable(folders.made_from(experiment), planned, settings.replace)
    with owned(root, "generating a data set", wait=True) if written else nullcontext():
        write_world(settings.world, root, seed, settings.replace)
        select(experiment, settings.selection)
    folders.forget_data()


def pretrain(experiment: Experiment) -> None:
    """Imitates human plans, then freezes perception and writes the token banks."""
    from irl_vla.dataset.split_guard import require_disjoint

    stage = folders.pretrain(experiment)
    if _is_done(stage):
        return
    dataset = folders.training_dataset(experiment)
    require_disjoint(dataset, experiment.data.splits)
    with _making(experiment, stage, experiment.pretrain) as run:
        from irl_vla.stages.imitation import pretrain_inputs
        from irl_vla.train.imitation import pretrain as imitate
        from irl_vla.train.perception_quality import BOXES_NAME, FIGURES_NAME

        validation = prepared(experiment, experiment.data.val)
        inputs = pretrain_inputs(experiment, dataset, validation, "train", "val")
        settings = (experiment.model, experiment.pretrain, stage.folder)
        run.artifact(imitate(inputs, *settings, seed=experiment.seed, report=run.metrics), "checkpoint")
        for name in (FIGURES_NAME, BOXES_NAME):
            run.artifact(stage.folder / name)


def label(experiment: Experiment) -> None:
    """Scores proposals for every row of the banks of training and validation with the true EPDMS."""
    stage = folders.label(experiment)
    if _is_done(stage):
        return
    with _making(experiment, stage, experiment.label) as run:
        from irl_vla.reward.labels import LabelInputs, mean_labels, write_labels

        scorer = training_scorer(experiment)
        for purpose in folders.LABELLED:
            store = prepared(experiment, experiment.data.splits[purpose])
            inputs = LabelInputs(bank_path(experiment, purpose), store.folder, policy_path(experiment))
            folder = labels_path(experiment, purpose)
            labels = write_labels(inputs, folder, experiment.label, scorer, experiment.seed)
            if purpose == "train":
                run.metrics(mean_labels(labels))


def train_reward(experiment: Experiment) -> None:
    """Fits the reward world model to the labels, and prints what it is worth on the validation split."""
    stage = folders.train_reward(experiment)
    if _is_done(stage):
        return
    with _making(experiment, stage, experiment.train_reward) as run:
        from irl_vla.report.reward_tables import quality_rows, quality_table
        from irl_vla.train.reward_model import train_reward as fit
        from irl_vla.train.reward_quality import LabelledBank

        train, val = (
            LabelledBank(bank_path(experiment, name), labels_path(experiment, name)) for name in folders.LABELLED
        )
        settings = (experiment.train_reward, stage.folder)
        run.artifact(fit(train, val, *settings, seed=experiment.seed, report=run.metrics), "checkpoint")
        for place, below in ((stage.folder, None), (stage.folder / "validation", "validation")):
            for name in place.children():
                if name.endswith(".csv"):
                    run.artifact(place / name, below)
        title = f"{folders.title(experiment)}: the learned reward on {experiment.data.val}, by source of plans"
        Console(width=160).print(quality_table(quality_rows(stage.folder / "validation"), title))


def finetune(experiment: Experiment) -> None:
    """PPO over the denoising chain on the learned reward, or imitation of what it chooses; and the control."""
    stage = folders.finetune(experiment)
    if _is_done(stage):
        return
    with _making(experiment, stage, experiment.finetune) as run:
        from irl_vla.judge.validation import open_validator
        from irl_vla.rl.control import train_control
        from irl_vla.rl.finetune import finetune as improve
        from irl_vla.rl.job import FinetuneJob

        _require_trusted_reward(experiment)
        validate = open_validator(validation_spec(experiment))
        job = FinetuneJob(task_spec(experiment), stage.folder, validate, run.metrics)
        run.artifact(improve(job), "checkpoint")
        train_control(replace(job, folder=stage.folder / "control"), experiment.pretrain)


def sweep(experiment: Experiment) -> None:
    """Searches the reward weights; trials are ranked by the true score."""
    stage = folders.sweep(experiment)
    with _making(experiment, stage, experiment.sweep) as run:
        from irl_vla.rl.sweep import SweepJob
        from irl_vla.rl.sweep import sweep as search
        from irl_vla.stages.report_page import write_sweep

        _require_trusted_reward(experiment)
        rows = search(
            SweepJob(
                spec=task_spec(experiment),
                validation=validation_spec(experiment),
                config=experiment.sweep,
                tracking=experiment.tracking,
                folder=stage.folder,
                root=experiment.folder,
                name=folders.title(experiment),
            )
        )
        with stage.folder.filling() as folder:
            for path in write_sweep(rows, folder):
                run.artifact(path)


def evaluate(experiment: Experiment) -> None:
    """Judges every configured policy by the true EPDMS on the test split."""
    folders.require_policies(experiment)
    dataset = folders.judged_dataset(experiment)
    folders.warn_of_overlap(experiment, dataset)
    place = folders.stage_folder(experiment, "evaluate")
    owner, session = owned(place, "the stage evaluate"), _session(experiment)
    with owner, session, _tracked(experiment, "evaluate", experiment.evaluate) as run:
        from irl_vla.judge.fingerprint import MLFLOW_TAG, read_fingerprint, sidecar
        from irl_vla.judge.for_each import on_ray
        from irl_vla.judge.judgement import RESULTS_NAME
        from irl_vla.stages.imitation import perceive_test_split
        from irl_vla.stages.judge import write_evaluation

        perceive_test_split(experiment, dataset)
        store = prepared(experiment, experiment.data.test, dataset)
        for table in write_evaluation(experiment, dataset, store, place, run.metrics, for_each=on_ray):
            run.artifact(table)
        results = place.local() / RESULTS_NAME
        evaluator = read_fingerprint(results)
        run.artifact(sidecar(results))
        run.tags({"irl_vla.code": str(code_version())})
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


@contextmanager
def _making(experiment: Experiment, stage: Artefact, section: Config) -> Iterator[StageRun]:
    """Begins a stage in a folder that is this process's, on Ray and recorded, and marks it as whole at the end."""
    name = stage.folder.name.replace("_", "-")
    with owned(stage.folder, f"the stage {name}"), _session(experiment), _tracked(experiment, name, section) as run:
        stage.begin()
        run.tags({"irl_vla.code": str(code_version()), "irl_vla.identity": stage.fingerprint})
        yield run
        stage.finish()


def _require_trusted_reward(experiment: Experiment) -> None:
    from irl_vla.reward.model import require_enrichment

    if experiment.finetune.backend.kind in ("rwm", "mix"):
        require_enrichment(folders.reward_path(experiment), force=experiment.finetune.force)


def _session(experiment: Experiment) -> AbstractContextManager[None]:
    from irl_vla.stages.session import ray_session

    return ray_session(experiment.ray)


def _tracked(experiment: Experiment, stage: str, section: Config) -> AbstractContextManager[StageRun]:
    params = section.model_dump(mode="json") | {"seed": experiment.seed}
    return stage_run(experiment.tracking, experiment.folder, folders.title(experiment), stage, params)


def _is_done(stage: Artefact) -> bool:
    done = stage.is_whole()
    if done:
        log.info("%s: whole already (%s)", stage.folder.name, stage.folder)
    return done
