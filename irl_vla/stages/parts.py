"""What the stages make in parts of many rows: each with its folder and an estimate of what it takes.

Nothing is made or opened here; sizes of splits are given.
"""

from dataclasses import dataclass
from typing import Final

from irl_vla.epdms.store import SHARD_SUFFIX as PREPARED_SUFFIX
from irl_vla.judge.estimate import prepared_estimate
from irl_vla.judge.policies import Role
from irl_vla.ledger.arrays import SUFFIX as ROWS_SUFFIX
from irl_vla.ledger.estimate import Estimate
from irl_vla.ledger.storage import Location
from irl_vla.reward.estimate import labels_estimate
from irl_vla.reward.label_shards import SUFFIX as LABELS_SUFFIX
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.folders import Purpose, bank_path, data_root, labels_path, samples_path
from irl_vla.train.estimate import bank_estimate, samples_estimate
from irl_vla.world.estimate import follow_ups_estimate, painting_s, world_estimate
from irl_vla.world.second_stage_files import SECOND_STAGE

#: Of a recorded image.
_RECORDED_PIXELS: Final = 1080 * 1920


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a stage makes.

    Attributes:
        name: e.g. "samples of train".
        folder: where it lies, with its record.
        suffix: of its shards, one a log; empty if it has none.
    """

    name: str
    folder: Location
    estimate: Estimate
    suffix: str = ""


def world_parts(experiment: Experiment) -> list[Part]:
    """The generated world and its follow-up scenes; none if the data is there already."""
    world, root = experiment.generate, Location.of(data_root(experiment))
    if world is None:
        return []
    parts = [Part("frames of the generated world", root, world_estimate(world))]
    if world.two_stage is not None:
        found = follow_ups_estimate(world.two_stage, world.sensors)
        parts.append(Part("follow-up scenes", root / SECOND_STAGE, found))
    return parts


def prepared_part(experiment: Experiment, split: str, scenes: int) -> Part:
    """Prepared scenes of a split; the training split includes all shifted views."""
    views = experiment.views.count if split == experiment.data.train else 0
    found = prepared_estimate(scenes, views, generated=experiment.generate is not None)
    return Part(f"prepared scenes of {split}", experiment.shared / "prepared" / split, found, PREPARED_SUFFIX)


def samples_part(experiment: Experiment, role: Role, scenes: int) -> Part:
    """Samples of a split; in training a share of the scenes is also seen from shifted egos."""
    split, encoder, world = experiment.data.splits[role], experiment.model.encoder, experiment.generate
    sensors = None if world is None else world.sensors
    pixels = _RECORDED_PIXELS if sensors is None else sensors.image_height_px * sensors.image_width_px
    found = samples_estimate(
        scenes,
        bank_rows(experiment, role, scenes) - scenes,
        encoder,
        image_pixels=pixels,
        painting_s=painting_s(sensors, len(encoder.lidar.sweep_indices)),
    )
    return Part(f"samples of {split}", samples_path(experiment, role), found, ROWS_SUFFIX)


def bank_part(experiment: Experiment, role: Role, scenes: int) -> Part:
    """The token bank of a split."""
    found = bank_estimate(bank_rows(experiment, role, scenes), experiment.model.encoder)
    name = f"token bank of {experiment.data.splits[role]}"
    return Part(name, bank_path(experiment, role), found, ROWS_SUFFIX)


def labels_part(experiment: Experiment, purpose: Purpose, scenes: int) -> Part:
    """Labels of the bank of training or validation."""
    rows, generated = bank_rows(experiment, purpose, scenes), experiment.generate is not None
    found = labels_estimate(rows, experiment.label.proposals, policy=True, generated=generated)
    return Part(f"labels of {purpose}", labels_path(experiment, purpose), found, LABELS_SUFFIX)


def bank_rows(experiment: Experiment, role: Role, scenes: int) -> int:
    """Rows of the samples and of the token bank of a split: its scenes and, in training, their shifted views."""
    share = experiment.views.count * experiment.pretrain.samples.view_fraction if role == "train" else 0.0
    return round(scenes * (1 + share))
