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
from irl_vla.judge.policies import Role
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.estimate import readable_bytes
from irl_vla.ledger.storage import Location
from irl_vla.stages import parts
from irl_vla.stages.experiment import Experiment

#: Of all trainings of a seed, at default sizes.
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


def needs(experiment: Experiment, scenes: Mapping[Role, int]) -> list[Need]:
    """Estimates of what the stages of `irl-vla run` write.

    Args:
        scenes: by role of the split ("train", "val", "test"), of those that are needed.
    """
    found = [_need(part) for part in parts.world_parts(experiment)]
    splits = experiment.data.splits
    found += [_need(parts.prepared_part(experiment, splits[role], count)) for role, count in scenes.items()]
    if len(scenes) == len(splits):
        for part in (parts.samples_part, parts.bank_part):
            found += [_need(part(experiment, role, count)) for role, count in scenes.items()]
        found += [_need(parts.labels_part(experiment, name, scenes[name])) for name in ("train", "val")]
        folder = experiment.folder
        found.append(Need("checkpoints", folder, _CHECKPOINT_BYTES, _is_whole(folder / "finetune")))
    return found


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


def _need(part: parts.Part) -> Need:
    return Need(part.name, part.folder, part.estimate.size_bytes, _is_whole(part.folder))


def _disk_finding(group: Sequence[Need]) -> Finding:
    place = _existing(group[0].folder.path)
    free, wanted = shutil.disk_usage(place).free, sum(need.missing_bytes for need in group)
    parts = ", ".join(f"{need.stage} {readable_bytes(need.missing_bytes)}" for need in group if need.missing_bytes)
    found = f"{place}: {readable_bytes(free)} free, about {readable_bytes(wanted)} to be written" + (
        f" ({parts})" if parts else ""
    )
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
