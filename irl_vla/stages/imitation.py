"""What imitation is made from, and how its perception sees the split that is judged on."""

from typing import TYPE_CHECKING, Final

from irl_vla.judge.policies import POLICIES
from irl_vla.stages import folders
from irl_vla.stages.experiment import Experiment

if TYPE_CHECKING:
    from irl_vla.dataset.layout import Dataset
    from irl_vla.epdms.store import PreparedStore
    from irl_vla.train.imitation import PretrainInputs

#: Makes the samples and the token bank of the split that is judged on.
_REMEDY: Final = "run `irl-vla evaluate`"


def pretrain_inputs(
    experiment: Experiment, dataset: "Dataset", validation: "PreparedStore | None", *purposes: str
) -> "PretrainInputs":
    """What imitation needs of the data.

    Args:
        validation: prepared scenes of the validation split, by whose true score the best state is chosen.
        purposes: of the splits that are read: "train", "val", "test".
    """
    from irl_vla.train.imitation import PretrainInputs
    from irl_vla.world.painted_views import view_sensors

    splits = [experiment.data.splits[purpose] for purpose in purposes]
    return PretrainInputs(
        dataset=dataset,
        fingerprints={split: folders.fingerprint(dataset, split).value for split in splits},
        splits=experiment.data,
        validation=validation,
        scorer=folders.training_scorer(experiment),
        views=experiment.views,
        view_sensors=view_sensors(dataset, experiment.data_seed),
        data_seed=experiment.data_seed,
        samples={purpose: folders.samples_path(experiment, purpose) for purpose in purposes},
    )


def perceive_test_split(experiment: Experiment, dataset: "Dataset") -> None:
    """Writes the token bank of the split that is judged on, if a policy that is judged plans from one."""
    if all(POLICIES[name].stage is None for name in experiment.evaluate.policies):
        return
    from irl_vla.train.imitation import encode_split

    encode_split(
        pretrain_inputs(experiment, dataset, None, "test"),
        folders.policy_path(experiment),
        experiment.pretrain,
        folders.bank_path(experiment, "test").parent,
        experiment.evaluate.incomplete,
        remedy=_REMEDY,
    )
