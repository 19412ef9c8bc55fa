"""Disk space for what the configured stages will write, and the tracking store."""

import os
import shutil
import sqlite3
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from irl_vla.cli.doctor.finding import Finding
from irl_vla.judge.estimate import prepared_estimate
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.storage import Location
from irl_vla.reward.estimate import labels_estimate
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.folders import data_root
from irl_vla.world.config import WorldConfig

# Measured on the generated data of configs/reference.yaml, with default sizes.
_LOG_FRAME_BYTES: Final = 4_200
_IMAGE_BYTES_A_PIXEL: Final = 0.22
_SWEEP_BYTES: Final = 131_000
_MAP_LAYOUT_BYTES: Final = 400_000
_SAMPLE_REST_BYTES: Final = 130_000  # of an encoded sample: all but its images
_BANK_ROW_BYTES: Final = 17_000
_CHECKPOINT_BYTES: Final = 150_000_000
_PATIENCE_S: Final = 3.0
_NEARLY_FULL: Final = 0.8


@dataclass(frozen=True, slots=True)
class Need:
    """What a stage will write.

    Attributes:
        whole: it is there already, and nothing more will be written.
    """

    stage: str
    folder: Location
    size_bytes: float
    whole: bool

    @property
    def missing_bytes(self) -> float:
        """What is still to be written."""
        return 0.0 if self.whole else max(self.size_bytes - self.folder.size_bytes(), 0.0)


def needs(experiment: Experiment, scenes: Mapping[str, int]) -> list[Need]:
    """Estimates of what the stages of `irl-vla run` write.

    Args:
        scenes: by role of the split ("train", "val", "test"), of those that are needed.
    """
    found = []
    if experiment.generate is not None:
        root = data_root(experiment)
        place = Location.of(root)
        found.append(Need("generate", place, world_bytes(experiment.generate), _is_whole(place)))
    generated = experiment.generate is not None
    names = {"train": experiment.data.train, "val": experiment.data.val, "test": experiment.data.test}
    for role, count in scenes.items():
        views = experiment.views.count if role == "train" else 0
        folder = experiment.shared / "prepared" / names[role]
        size = float(prepared_estimate(count, views, generated=generated).size_bytes)
        found.append(Need(f"prepare {names[role]}", folder, size, _is_whole(folder)))
    if len(scenes) == 3:
        found += _training(experiment, scenes)
    return found


def training_rows(experiment: Experiment, train_scenes: int) -> int:
    """Bank rows of the training split: scenes, and the share that is seen from shifted egos."""
    return round(train_scenes * (1 + experiment.views.count * experiment.pretrain.samples.view_fraction))


def world_bytes(world: WorldConfig) -> float:
    """Size of a generated data set."""
    splits = (world.train, world.val, world.test)
    frames = world.frames_per_log * sum(split.logs for split in splits)
    a_frame = float(_LOG_FRAME_BYTES)
    if world.sensors is not None:
        pixels = world.sensors.image_height_px * world.sensors.image_width_px
        a_frame += len(world.sensors.cameras) * pixels * _IMAGE_BYTES_A_PIXEL
        a_frame += 0 if world.sensors.lidar is None else _SWEEP_BYTES
    return frames * a_frame + _MAP_LAYOUT_BYTES * sum(split.layouts for split in splits)


def disk_findings(found: Sequence[Need]) -> list[Finding]:
    """Free space of every local file system that is written to, against what is still to be written there."""
    by_device: dict[int, list[Need]] = defaultdict(list)
    for need in found:
        if need.folder.is_local:
            by_device[_existing(need.folder.path).stat().st_dev].append(need)
    return [_disk_finding(group) for group in by_device.values()]


def tracking_finding(experiment: Experiment) -> Finding:
    """Whether runs can be recorded, without starting MLflow."""
    config = experiment.tracking
    if not config.enabled:
        return Finding("tracking", "ok", "switched off")
    if config.uri is not None and config.uri.startswith("http"):
        return _server_finding(config.uri)
    if config.uri is None and not experiment.folder.is_local:
        found = f"runs cannot be recorded beside the results, which lie at {experiment.folder}"
        return Finding("tracking", "problem", found, "set tracking.uri, or tracking.enabled=false")
    if config.uri is None:
        path = experiment.folder.path / "mlflow.db"
    else:
        path = Path(config.uri.removeprefix("sqlite:///").removeprefix("file://"))
    if not os.access(_existing(path), os.W_OK) or not os.access(_existing(path.parent), os.W_OK):
        return Finding("tracking", "problem", f"{path} cannot be written", "set tracking.uri, or runs=FOLDER")
    if path.is_file():
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_PATIENCE_S) as base:
                base.execute("select count(*) from runs").fetchone()
        except sqlite3.Error as error:
            return Finding("tracking", "problem", f"{path}: {error}", "move the file away, or set tracking.uri")
    return Finding("tracking", "ok", f"{path} can be written")


def _training(experiment: Experiment, scenes: Mapping[str, int]) -> list[Need]:
    cameras, rows = experiment.model.encoder.cameras, training_rows(experiment, scenes["train"])
    seen = rows + scenes["val"] + scenes["test"]
    a_sample = _SAMPLE_REST_BYTES + 3 * len(cameras.names) * cameras.height_px * cameras.width_px
    folder, generated = experiment.folder, experiment.generate is not None
    labels = labels_estimate(rows, experiment.label.proposals, policy=True, generated=generated)
    pretrained = _is_whole(folder / "pretrain")
    return [
        Need("samples", experiment.shared / "samples", float(seen * a_sample), pretrained),
        Need("token banks", folder / "pretrain" / "banks", float(seen * _BANK_ROW_BYTES), pretrained),
        Need("labels", folder / "label", float(labels.size_bytes), _is_whole(folder / "label")),
        Need("checkpoints", folder, float(_CHECKPOINT_BYTES), _is_whole(folder / "finetune")),
    ]


def _disk_finding(group: Sequence[Need]) -> Finding:
    place = _existing(group[0].folder.path)
    free, wanted = shutil.disk_usage(place).free, sum(need.missing_bytes for need in group)
    parts = ", ".join(f"{need.stage} {_text(need.missing_bytes)}" for need in group if need.missing_bytes)
    found = f"{place}: {_text(free)} free, about {_text(wanted)} to be written" + (f" ({parts})" if parts else "")
    if wanted > free:
        return Finding("disk", "problem", found, "free space, or set runs= and data.root= to a larger disk")
    if wanted > _NEARLY_FULL * free:
        return Finding("disk", "warning", found, "estimates are rough: free some space")
    return Finding("disk", "ok", found)


def _server_finding(uri: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_PATIENCE_S) as answer:
            return Finding("tracking", "ok", f"{uri} answers ({answer.status})")
    except (urllib.error.URLError, OSError, ValueError) as error:
        remedy = "start the server, correct tracking.uri, or set tracking.enabled=false"
        return Finding("tracking", "problem", f"{uri}: {error}", remedy)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.resolve()
    return path if path.exists() else _existing(path.parent)


def _is_whole(folder: Location) -> bool:
    record = find_record(folder)
    return record is not None and record.whole


def _text(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"
