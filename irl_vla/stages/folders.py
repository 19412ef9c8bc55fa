"""Where every stage's results lie, what each is made from, and what it needs opened.

runs/<name>/shared/             prepared scenes and encoded samples, the same for all seeds
runs/<name>/seed-<seed>/<stage> what a stage makes, with its record (``irl_vla.ledger.artefact``)
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from irl_vla.config import Config
from irl_vla.epdms.config import SCORER_VERSION, ScorerConfig
from irl_vla.errors import CheckpointError, ConfigError, LogFormatError
from irl_vla.judge.policies import POLICIES
from irl_vla.ledger.artefact import Artefact, Identity, find_record
from irl_vla.ledger.storage import Location
from irl_vla.stages.experiment import Experiment

if TYPE_CHECKING:
    from irl_vla.dataset.fingerprint import DatasetFingerprint
    from irl_vla.dataset.layout import Dataset
    from irl_vla.epdms.store import PreparedStore
    from irl_vla.judge.validation import ValidationSpec
    from irl_vla.rl.task import TaskSpec

#: Of a split whose scenes are labelled.
Purpose = Literal["train", "val"]
#: What the reward model learns, and what it is judged by.
LABELLED: Final[tuple[Purpose, ...]] = ("train", "val")

_SCHEMA: Final = 1
_SENSORS: Final = "dataset.sensors"

log = logging.getLogger(__name__)


def title(experiment: Experiment) -> str:
    """Name of the experiment's parent run."""
    return f"{experiment.name}, seed {experiment.seed}"


def data_root(experiment: Experiment) -> Path:
    """Where a generated dataset is written: ``data.root``, else ``data/<name>``."""
    return (experiment.data.root or Path("data") / experiment.name).resolve()


def dataset(experiment: Experiment) -> "Dataset":
    """Opens the dataset.

    Raises:
        ConfigError: if a folder is missing.
    """
    from irl_vla.dataset.layout import Dataset, open_dataset

    generated = experiment.generate is not None
    data = experiment.data.with_overrides({"root": data_root(experiment)}) if generated else experiment.data
    found = open_dataset(data)
    return Dataset(found.root.resolve(), found.maps_root.resolve(), found.splits_root.resolve())


def fingerprint(found: "Dataset", *splits: str) -> "DatasetFingerprint":
    """What some splits of a dataset hold; read once a process, and quickly where it was read before.

    Raises:
        ConfigError, LogFormatError: if a split or one of its logs is missing.
    """
    return _fingerprint(found, tuple(sorted(set(splits))))


def training_dataset(experiment: Experiment) -> "Dataset":
    """The dataset to train on; with ``data.skip_broken`` without the logs that are missing or cannot be read.

    Raises:
        ConfigError: if a folder or a split is missing.
    """
    found = dataset(experiment)
    if experiment.data.skip_broken:
        for purpose in ("train", "val"):
            found = _whole_logs(found, prepared_split(experiment, experiment.data.splits[purpose]))
    return found


def judged_dataset(experiment: Experiment) -> "Dataset":
    """The dataset to judge on, once all logs of the test split have been read.

    Raises:
        ConfigError: if a folder is missing.
        LogFormatError: naming all missing or broken logs, unless ``data.skip_broken`` leaves them out.
    """
    from irl_vla.dataset.whole_logs import whole_logs

    skip = None if experiment.data.skip_broken else "data.skip_broken=true"
    source = prepared_split(experiment, experiment.data.test)
    return whole_logs(dataset(experiment), source, skip=skip, processes=experiment.ray.cpus)


def prepared(experiment: Experiment, split: str, source: "Dataset | None" = None) -> "PreparedStore":
    """The prepared scenes of a split, made where they are missing; the training split includes shifted views.

    Of a split that is narrowed to the scenes worth judging all windows are prepared, once, because that is how they are
    chosen. Read by token, and take the tokens from the split.

    Args:
        experiment: whose.
        split: name of the split.
        source: of :func:`judged_dataset`; None takes that to train on.
    """
    from irl_vla.dataset.fingerprint import hash_cache
    from irl_vla.judge.for_each import on_ray
    from irl_vla.judge.prepare import prepare_split

    folder = experiment.shared / "prepared" / split
    shifted = experiment.views if split == experiment.data.train and experiment.views.count else None
    found = training_dataset(experiment) if source is None else source
    name, skip, cache = prepared_split(experiment, split), experiment.data.skip_broken, hash_cache()
    return prepare_split(
        found, name, shifted, folder, experiment.data_seed, skip_broken=skip, cache=cache, for_each=on_ray
    )


def prepared_split(experiment: Experiment, split: str) -> str:
    """Name of the split whose scenes are prepared: where a split is narrowed, that with all of its windows."""
    from irl_vla.dataset.splits import all_windows
    from irl_vla.world.plan import SPLITS

    narrowed = experiment.generate is not None and experiment.generate.selection is not None and split in SPLITS
    return all_windows(split) if narrowed else split


def pretrain(experiment: Experiment) -> Artefact:
    """Imitation: policy checkpoint, token banks, ego-status baseline."""
    sections = {"model": experiment.model, "views": experiment.views, "pretrain": experiment.pretrain}
    splits = {"train": experiment.data.train, "val": experiment.data.val}
    return _stage(experiment, "pretrain", sections, _training_data(experiment), {"data": splits})


def label(experiment: Experiment) -> Artefact:
    """The label set."""
    return _stage(experiment, "label", {"label": experiment.label}, _after(_pretrained(experiment)))


def train_reward(experiment: Experiment) -> Artefact:
    """The reward world model."""
    return _stage(experiment, "train_reward", {"train_reward": experiment.train_reward}, _after(label(experiment)))


def finetune(experiment: Experiment) -> Artefact:
    """The fine-tuned policy and its control."""
    return _stage(experiment, "finetune", {"finetune": experiment.finetune}, _after(train_reward(experiment)))


def sweep(experiment: Experiment) -> Artefact:
    """The trials of the sweep."""
    sections = {"finetune": experiment.finetune, "sweep": experiment.sweep}
    return _stage(experiment, "sweep", sections, _after(train_reward(experiment)))


def warn_of_overlap(experiment: Experiment, judged: "Dataset") -> None:
    """Says so if trained policies are judged on what they learned from or were chosen by.

    Training asks the same of all its splits; here another one may be judged. Where the training splits are not at
    hand there is nothing to compare.
    """
    from irl_vla.dataset.split_guard import overlap

    if all(POLICIES[name].kind != "trained" for name in experiment.evaluate.policies):
        return
    for role in ("train", "val"):
        names = {role: experiment.data.splits[role], "test": experiment.data.test}
        try:
            shared = overlap(judged, names).pairs
        except (ConfigError, LogFormatError) as error:
            log.info("%s: not compared with the split that is judged on (%s)", names[role], error)
            continue
        for pair in shared:
            log.warning("trained policies are judged on what they have seen: %s", pair)


def require_policies(experiment: Experiment) -> None:
    """Makes sure that what `evaluate` is to judge is there, before any work.

    Raises:
        CheckpointError: if a policy, the ego-status baseline, or the reward by which one chooses is not trained yet.
    """
    stages = {"pretrain": _pretrained, "train_reward": train_reward, "finetune": finetune}
    judged = [POLICIES[name] for name in experiment.evaluate.policies]
    wanted = [policy.stage for policy in judged if policy.stage is not None]
    wanted += ["train_reward" for policy in judged if policy.is_best_of]
    for stage in dict.fromkeys(wanted):
        stages[stage](experiment).require()


def checkpoint(experiment: Experiment, policy: str) -> Location:
    """Where the stage that trains a policy leaves it.

    Raises:
        ValueError: if nothing is trained for this policy.
    """
    below = POLICIES[policy].checkpoint
    if below is None:
        raise ValueError(f"{policy}: expected a policy that is trained, found one that is not")
    return experiment.folder / below


def stage_folder(experiment: Experiment, stage: str) -> Location:
    """Folder of a stage's results."""
    return experiment.folder / stage


def policy_path(experiment: Experiment) -> Location:
    """Checkpoint of imitation."""
    return checkpoint(experiment, "imitation")


def samples_path(experiment: Experiment, purpose: str) -> Location:
    """Samples of "train", "val" or "test"; those with shifted views lie apart from those of the split alone."""
    split = experiment.data.splits[purpose]
    views = purpose == "train" and experiment.views.count and experiment.pretrain.samples.view_fraction
    return experiment.shared / "samples" / (f"{split}-views" if views else split)


def bank_path(experiment: Experiment, purpose: str) -> Location:
    """Token bank of "train" or "val", which imitation leaves, or of "test": of the split that is judged on."""
    if purpose == "test":
        return experiment.folder / "test_banks" / experiment.data.test
    return stage_folder(experiment, "pretrain") / "banks" / purpose


def labels_path(experiment: Experiment, purpose: Purpose = "train") -> Location:
    """The label set that the reward world model learns, or that of the validation split, by which it is judged."""
    return stage_folder(experiment, "label") / ("set" if purpose == "train" else "validation")


def reward_path(experiment: Experiment) -> Location:
    """Checkpoint of the reward world model."""
    return stage_folder(experiment, "train_reward") / "checkpoint"


def training_scorer(experiment: Experiment) -> ScorerConfig:
    """How plans are scored while training: as in the evaluation, but always with replayed traffic.

    Reactive traffic is simulated anew for every plan, which is affordable for a test split and not for a label set.
    """
    return experiment.evaluate.scorer.with_overrides({"traffic": "replay"})


def task_spec(experiment: Experiment) -> "TaskSpec":
    """What fine-tuning runs on."""
    from irl_vla.rl.task import TaskSpec

    return TaskSpec(
        policy=policy_path(experiment),
        bank=bank_path(experiment, "train"),
        reward=reward_path(experiment),
        labels=labels_path(experiment),
        prepared=experiment.shared / "prepared" / experiment.data.train,
        scorer=training_scorer(experiment),
        config=experiment.finetune,
        seed=experiment.seed,
    )


def validation_spec(experiment: Experiment) -> "ValidationSpec":
    """What fine-tuning is validated with: bank and prepared scenes of the validation split."""
    from irl_vla.judge.validation import ValidationSpec

    store = prepared(experiment, experiment.data.val)
    return ValidationSpec(
        imitation=policy_path(experiment),
        bank=bank_path(experiment, "val"),
        prepared=store.folder,
        reward=reward_path(experiment),
        scorer=training_scorer(experiment),
    )


def _stage(
    experiment: Experiment,
    name: str,
    sections: Mapping[str, Config],
    inputs: Mapping[str, str],
    values: Mapping[str, Any] | None = None,
) -> Artefact:
    judged = {**sections, "evaluate.scorer": training_scorer(experiment)}  # labels plans, or chooses the best state
    settings: dict[str, Any] = {key: section.decisive() for key, section in judged.items()}
    settings |= {"scorer_version": SCORER_VERSION, **(values or {})}
    seeds = {"seed": experiment.seed, "data_seed": experiment.data_seed}
    identity = Identity(f"stage {name}", _SCHEMA, settings, inputs, seeds)
    return Artefact(stage_folder(experiment, name), identity, f"run `irl-vla {name.replace('_', '-')}`")


def _after(stage: Artefact) -> dict[str, str]:
    """The input that a finished stage is.

    Raises:
        CheckpointError: if it is not whole.
    """
    return {stage.folder.name: stage.require().fingerprint}


def _pretrained(experiment: Experiment) -> Artefact:
    """Imitation, for what comes after it, if it was ever begun; where it was not, that is the news.

    Sensors are read by imitation alone: that they have changed or are gone since is told, and the record's stand in.
    Its tokens and the policy stay what they were made from.

    Raises:
        CheckpointError: if there is no record of it.
    """
    folder = stage_folder(experiment, "pretrain")
    record = find_record(folder)
    if record is None:
        raise CheckpointError(
            f"{folder}: expected a finished stage pretrain, found nothing; run `irl-vla pretrain` first"
        )
    stage = pretrain(experiment)
    then, now = record.identity.inputs.get(_SENSORS), stage.identity.inputs[_SENSORS]
    if then is None or then == now:
        return stage
    _tell_sensors(str(folder))
    inputs = {**stage.identity.inputs, _SENSORS: then}
    return replace(stage, identity=replace(stage.identity, inputs=inputs))


@lru_cache(maxsize=1024)
def _tell_sensors(folder: str) -> None:
    """Says, once a process, that the sensors are not those of training."""
    log.warning("%s: the sensors that it was made from have changed or are gone; what follows reads none", folder)


def _training_data(experiment: Experiment) -> dict[str, str]:
    """Fingerprint, part by part, of what imitation learns from and chooses by.

    Where this data is not at hand (a finished policy is judged on another split, or its data moved away), that of the
    record stands in.

    Raises:
        ConfigError, LogFormatError: if the data is not at hand and nothing was made from it.
    """
    try:
        found = fingerprint(training_dataset(experiment), experiment.data.train, experiment.data.val)
    except (ConfigError, LogFormatError) as error:
        record = find_record(stage_folder(experiment, "pretrain"))
        if record is None or not record.whole:
            raise
        log.info("the data that the policy was trained on is not at hand (%s); its record stands in", error)
        return dict(record.identity.inputs)
    return {f"dataset.{part}": str(value) for part, value in asdict(found).items()}


def made_from(experiment: Experiment) -> "dict[str, DatasetFingerprint]":
    """Fingerprint of the data that each seed's policy was trained on, by its folder's name."""
    from irl_vla.dataset.fingerprint import DatasetFingerprint

    found = {}
    for name in experiment.root.children():
        record = find_record(experiment.root / name / "pretrain") if name.startswith("seed-") else None
        if record is not None:
            parts = {key.removeprefix("dataset."): value for key, value in record.identity.inputs.items()}
            generator = None if parts["generator"] == str(None) else parts["generator"]
            found[f"{name}/pretrain"] = DatasetFingerprint(
                **(parts | {"logs": int(parts["logs"]), "generator": generator})  # type: ignore[arg-type]
            )
    return found


def forget_data() -> None:
    """Data was written in this process: what was read of it before is read again."""
    _fingerprint.cache_clear()
    _whole_logs.cache_clear()


@lru_cache(maxsize=8)
def _whole_logs(found: "Dataset", split: str) -> "Dataset":
    from irl_vla.dataset.whole_logs import whole_logs

    return whole_logs(found, split, skip=None)


@lru_cache(maxsize=8)
def _fingerprint(found: "Dataset", splits: tuple[str, ...]) -> "DatasetFingerprint":
    from irl_vla.dataset.fingerprint import dataset_fingerprint, hash_cache

    return dataset_fingerprint(found, splits, hash_cache())
