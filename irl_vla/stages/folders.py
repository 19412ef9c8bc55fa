"""Where every stage's results lie, what each is made from, and what it needs opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irl_vla.config import Config
from irl_vla.epdms.config import ScorerConfig
from irl_vla.stages.experiment import Experiment, StageFolder

if TYPE_CHECKING:
    from irl_vla.dataset.layout import Dataset
    from irl_vla.epdms.store import PreparedStore
    from irl_vla.judge.validation import ValidationSpec
    from irl_vla.rl.task import TaskSpec

#: Settings by section that decide how fast a result is reached, not which: a run may be taken up with others.
_HOW_FAST: Final[Mapping[str, Mapping[str, Any]]] = {
    "pretrain": {
        "samples": {"workers": True},
        "threads_per_worker": True,
        "use_gpu": True,
        "max_failures": True,
        "log_every": True,
    },
    "label": {"workers": True, "rows_per_chain_batch": True},
    "train_reward": {"use_gpu": True, "max_failures": True},
    "finetune": {"backend": {"actors": True, "scenes_in_memory": True}},
}

#: Trained policies: name to checkpoint below the folder of a seed; its first part is the stage that makes it.
TRAINED: Final[Mapping[str, str]] = {
    "imitation": "pretrain/policy",
    "control": "finetune/control",
    "finetuned": "finetune/checkpoint",
}


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


def prepared(experiment: Experiment, split: str) -> "PreparedStore":
    """The prepared scenes of a split, made where they are missing; the training split includes shifted views.

    Of a split that is narrowed to the scenes worth judging all windows are prepared, once, because that is how they are
    chosen. Read by token, and take the tokens from the split.
    """
    from irl_vla.dataset.splits import all_windows
    from irl_vla.judge.prepare import prepare_split
    from irl_vla.world.plan import SPLITS

    folder = experiment.shared / "prepared" / split
    shifted = experiment.views if split == experiment.data.train and experiment.views.count else None
    narrowed = experiment.generate is not None and experiment.generate.selection is not None and split in SPLITS
    source = all_windows(split) if narrowed else split
    skip = experiment.data.skip_broken
    return prepare_split(dataset(experiment), source, shifted, folder, experiment.data_seed, skip_broken=skip)


def pretrain(experiment: Experiment) -> StageFolder:
    """Imitation: policy checkpoint, token banks, ego-status baseline."""
    sections = {"model": experiment.model, "views": experiment.views, "pretrain": experiment.pretrain}
    return _stage(experiment, "pretrain", {**sections, "data": experiment.data}, {})


def label(experiment: Experiment) -> StageFolder:
    """The label set."""
    inputs = {"pretrain": pretrain(experiment).require("pretrain")}
    return _stage(experiment, "label", {"label": experiment.label}, inputs)


def train_reward(experiment: Experiment) -> StageFolder:
    """The reward world model."""
    inputs = {"label": label(experiment).require("label")}
    return _stage(experiment, "train_reward", {"train_reward": experiment.train_reward}, inputs)


def finetune(experiment: Experiment) -> StageFolder:
    """The fine-tuned policy and its control."""
    inputs = {"train_reward": train_reward(experiment).require("train_reward")}
    return _stage(experiment, "finetune", {"finetune": experiment.finetune}, inputs)


def sweep(experiment: Experiment) -> StageFolder:
    """The trials of the sweep."""
    inputs = {"train_reward": train_reward(experiment).require("train_reward")}
    return _stage(experiment, "sweep", {"finetune": experiment.finetune, "sweep": experiment.sweep}, inputs)


def require_policies(experiment: Experiment) -> None:
    """Makes sure that what `evaluate` is to judge is there, before any work.

    Raises:
        CheckpointError: if a policy, or the ego-status baseline, is not trained yet.
    """
    made_by = {name: path.partition("/")[0] for name, path in TRAINED.items()} | {"ego_mlp": "pretrain"}
    stages = {"pretrain": pretrain, "finetune": finetune}
    for stage in dict.fromkeys(made_by[name] for name in experiment.evaluate.policies if name in made_by):
        stages[stage](experiment).require(stage)


def policy_path(experiment: Experiment) -> Path:
    """Checkpoint of imitation."""
    return pretrain(experiment).path / "policy"


def bank_path(experiment: Experiment, split: str) -> Path:
    """Token bank of "train", "val" or "test"."""
    return pretrain(experiment).path / "banks" / split


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
        reward=train_reward(experiment).path / "checkpoint",
        labels=label(experiment).path,
        prepared=experiment.shared / "prepared" / experiment.data.train,
        scorer=training_scorer(experiment),
        config=experiment.finetune,
        seed=experiment.seed,
    )


def validation_spec(experiment: Experiment) -> "ValidationSpec":
    """What watches fine-tuning: bank and prepared scenes of the validation split."""
    from irl_vla.judge.validation import ValidationSpec

    store = prepared(experiment, experiment.data.val)
    reward = train_reward(experiment).path / "checkpoint"
    return ValidationSpec(bank_path(experiment, "val"), store.folder, reward, training_scorer(experiment))


def _stage(experiment: Experiment, name: str, sections: dict[str, Config], inputs: Mapping[str, str]) -> StageFolder:
    judged = sections | {"evaluate.scorer": training_scorer(experiment)}  # labels plans, or chooses the best state
    values = {key: section.model_dump(mode="json", exclude=_HOW_FAST.get(key)) for key, section in judged.items()}
    seeds = {"seed": experiment.seed, "data_seed": experiment.data_seed}
    return StageFolder(experiment.folder / name, values | seeds, inputs)
