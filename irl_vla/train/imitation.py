"""Imitation of the human plans, and of the ways back from shifted views, on Ray Train: stage (a) of the paper.

Perception, language model and planner are trained together. The best state by the true score of the validation split
becomes the policy checkpoint; its frozen perception then writes the token banks.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from irl_vla.dataset.config import DataConfig, ViewConfig
from irl_vla.dataset.features import ViewSensors
from irl_vla.dataset.layout import Dataset
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.ledger.checkpoint import Provenance
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.planner_config import PolicyConfig
from irl_vla.policy.vla import Policy, build_policy, load_policy, save_policy
from irl_vla.train.bank import write_banks
from irl_vla.train.config import ImitationConfig
from irl_vla.train.ego_mlp import save_ego_mlp, train_ego_mlp
from irl_vla.train.encode import SampleJob, write_samples
from irl_vla.train.loop import Report, RunSpec, run_training
from irl_vla.train.perception_quality import write_perception
from irl_vla.train.phases import ImitationJob, imitation_worker
from irl_vla.train.samples import Samples

#: Purposes of the splits that imitation looks at; what is judged on is encoded when it is judged.
SPLITS: Final = ("train", "val")
_STAGE: Final = "pretrain"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainInputs:
    """What imitation is made from.

    Attributes:
        splits: names of the train, validation and test split.
        validation: prepared scenes of the validation split; None chooses the best state by displacement.
        fingerprints: name of a split to the fingerprint of what it draws on.
        views, data_seed: shifted views of training scenes, as for prepared scenes.
        view_sensors: paints what shifted views see; None keeps the recorded sensors.
        samples: folder of the samples of each purpose; trainings of other seeds may share it.
    """

    dataset: Dataset
    fingerprints: Mapping[str, str]
    splits: DataConfig
    validation: PreparedStore | None
    scorer: ScorerConfig
    views: ViewConfig
    view_sensors: ViewSensors | None
    data_seed: int
    samples: Mapping[str, Location]


def pretrain(
    inputs: PretrainInputs,
    policy: PolicyConfig,
    config: ImitationConfig,
    folder: Location,
    *,
    seed: int,
    report: Report,
) -> Location:
    """Trains the policy and the ego-status baseline, writes what perception sees of validation, and the token banks.

    Call it again after an interruption: samples, training and banks go on where they stopped.

    Args:
        folder: gets ``policy``, ``ego_mlp``, ``banks/{train,val}``, ``perception.csv`` and ``perception_boxes.csv``.
        report: receives metrics while training runs.

    Returns:
        The policy's checkpoint folder, ``folder/policy``.

    Raises:
        CheckpointError: if the folder holds results of another configuration.
        SceneError: if no training scene has a plan to imitate.
        ClusterError: if training failed more often than ``config.max_failures``.
    """
    samples = write_samples({name: sample_job(inputs, name, policy, config) for name in SPLITS})
    _fit_baseline(samples["train"], config, folder / "ego_mlp", seed)
    trained, provenance = _fit_policy(inputs, samples, policy, config, folder, seed=seed, report=report)
    checkpoint = save_policy(trained, folder / "policy", policy, provenance).folder
    places = {name: samples[name].place for name in SPLITS}
    write_perception(checkpoint, places["val"], folder, logs=config.validation_logs, use_gpu=config.use_gpu)
    write_banks(checkpoint, places, folder / "banks", config.bank, config.use_gpu)
    return checkpoint


def encode_split(
    inputs: PretrainInputs,
    checkpoint: Location,
    config: ImitationConfig,
    folder: Location,
    incomplete: Literal["error", "leave_out", "blank"],
    *,
    remedy: str,
) -> None:
    """Writes the token bank of the test split, as a trained policy perceives it; what is there already is kept.

    Args:
        checkpoint: of the policy.
        folder: of banks; this one has the name of the split.
        incomplete: what becomes of scenes whose sensor files are not all there.
        remedy: the command that makes them.

    Raises:
        ConfigError: if there are samples or a bank of another policy or of other data.
    """
    _, policy = load_policy(checkpoint)
    settings = config.with_overrides({"samples.incomplete": incomplete})
    job = replace(sample_job(inputs, "test", policy, settings), setting="evaluate.incomplete", remedy=remedy)
    samples = write_samples({job.split: job})[job.split]
    write_banks(checkpoint, {job.split: samples.place}, folder, config.bank, config.use_gpu, remedy=remedy)


def sample_job(inputs: PretrainInputs, name: str, policy: PolicyConfig, config: ImitationConfig) -> SampleJob:
    """The samples of a split, by its purpose "train", "val" or "test"; only training sees shifted views."""
    split = inputs.splits.splits[name]
    return SampleJob(
        dataset=inputs.dataset,
        dataset_fingerprint=inputs.fingerprints[split],
        split=split,
        encoder=policy.encoder,
        samples=config.samples,
        views=inputs.views if name == "train" else None,
        view_sensors=inputs.view_sensors,
        seed=inputs.data_seed,
        folder=inputs.samples[name],
    )


def _fit_policy(
    inputs: PretrainInputs,
    samples: Mapping[str, Samples],
    policy: PolicyConfig,
    config: ImitationConfig,
    folder: Location,
    *,
    seed: int,
    report: Report,
) -> tuple[Policy, Provenance]:
    """Trains on Ray and returns the best policy, on the CPU."""
    values = config.decisive()
    origin = {f"samples_{name}": samples[name].fingerprint for name in ("train", "val")}
    name = f"imitation-{content_hash([policy.model_dump(mode='json'), values, origin, seed])}"
    job = ImitationJob(
        train=samples["train"].place,
        val=samples["val"].place,
        policy=policy,
        config=config,
        validation=inputs.validation,
        scorer=inputs.scorer,
        seed=seed,
    )
    storage = folder / "ray"
    steps = config.sight.steps + config.steps
    spec = RunSpec(_STAGE, name, storage, steps, config.workers, config.use_gpu, config.max_failures)
    state = run_training(imitation_worker, job, spec, report)
    trained = build_policy(policy, PlanCodec(), seed)
    trained.load_state_dict(state["policy"])
    return trained.eval(), Provenance(seed, origin, {"step": state["step"], "training": values})


def _fit_baseline(samples: Samples, config: ImitationConfig, folder: Location, seed: int) -> None:
    # Humans alone: a shifted view has the ego status of its scene, which cannot tell that there is a way back to drive.
    rows, humans = samples.rows, samples.rows.has_human
    model = train_ego_mlp(rows.ego_history[humans], rows.command[humans], rows.plan[humans], config.ego_mlp, seed)
    save_ego_mlp(model, folder, config.ego_mlp, Provenance(seed, {"samples_train": samples.fingerprint}))
