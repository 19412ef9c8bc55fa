"""Sample cache: observations and targets of a split, encoded once into memory-mapped arrays.

A folder holds one ``.npy`` array for every name of the encoder's compact form. Rows are known beforehand (scenes in
the order of the split, each followed by its shifted views), so processes write their own rows and a stopped job goes
on with the logs that are not done.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from irl_vla.dataset.config import TargetConfig, ViewConfig
from irl_vla.dataset.features import SensorSource, StoredSensors, build_observation
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes, scene_refs
from irl_vla.dataset.splits import SceneRef
from irl_vla.dataset.targets import build_targets
from irl_vla.dataset.views import imitated_plan, scene_views
from irl_vla.errors import CheckpointError
from irl_vla.ledger.files import MANIFEST_NAME, Manifest, content_hash, read_manifest, write_text
from irl_vla.policy.batch import Layout, encode_sample, encode_targets, sample_layout, target_layout
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.deployment import sensor_config
from irl_vla.policy.token_bank import ORIGINAL, BankRows
from irl_vla.scene import FUTURE_FRAMES, Scene
from irl_vla.train.config import SampleConfig
from irl_vla.world.config import WorldSensorConfig
from irl_vla.world.painted_views import PaintedSensors

KIND: Final = "sample_cache"
SCHEMA: Final = 2
REMEDY: Final = "run `irl-vla pretrain` again"
_JOB_NAME: Final = "job.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleJob:
    """What a cache is made from.

    Attributes:
        views: shifted views of the chosen share of scenes; None for none (validation and test).
        world_sensors: of a generated data set, whose shifted views are painted anew; None keeps the recorded sensors.
        seed: of the views.
    """

    dataset: Dataset
    split: str
    encoder: EncoderConfig
    samples: SampleConfig
    views: ViewConfig | None
    world_sensors: WorldSensorConfig | None
    seed: int
    folder: Path


@dataclass(frozen=True, slots=True)
class RowId:
    """Which view of which scene a row holds."""

    token: str
    view: str
    ref: SceneRef


@dataclass(frozen=True, eq=False)
class Samples:
    """An opened cache of R rows.

    Attributes:
        arrays: name to (R, ...) memory-mapped array: the names of ``sample_layout`` and ``target_layout``, and
            ``plan`` (8, 3), which imitation learns (see ``BankRows``).
        rows: the columns that the token bank keeps.
    """

    folder: Path
    fingerprint: str
    arrays: Mapping[str, NDArray[Any]]
    rows: BankRows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.int64]) -> list[dict[str, NDArray[Any]]]:
        """The named arrays of each row (a copy in memory)."""
        return [{name: np.array(array[row]) for name, array in self.arrays.items()} for row in rows]


def target_config(encoder: EncoderConfig) -> TargetConfig:
    """Targets on the encoder's grid."""
    grid = encoder.grid
    return TargetConfig(
        x_min_m=grid.x_min_m, x_max_m=grid.x_max_m, y_min_m=grid.y_min_m, y_max_m=grid.y_max_m, cell_m=grid.cell_m
    )


def write_samples(job: SampleJob) -> Samples:
    """Encodes a split, or what is missing of it.

    Raises:
        CheckpointError: if the folder holds a cache of another configuration, or the split has no scene.
        LogFormatError, SceneError: if a scene cannot be read.
    """
    listing = list_rows(job)
    if not listing:
        raise CheckpointError(f"split {job.split!r}: expected scenes to encode, found none; check its scene filter")
    manifest = Manifest(
        kind=KIND,
        schema=SCHEMA,
        config={
            "encoder": _what_matters(job.encoder),
            "samples": job.samples.model_dump(mode="json", exclude={"workers"}),
            "views": None if job.views is None else job.views.model_dump(mode="json"),
        },
        seed=job.seed,
        inputs={
            "split": job.split,
            "rows": content_hash([row.token for row in listing]),
            "logs": _logs_hash(job, listing),
        },
        extra={"rows": len(listing), "arrays": list(_layout(job.encoder))},
    )
    _begin(job, manifest, listing)
    logs = sorted({row.ref.log_name for row in listing})
    missing = [name for name in logs if not _done_path(job.folder, name).exists()]
    log.info("samples of %s: %d rows of %d logs, %d logs to encode", job.split, len(listing), len(logs), len(missing))
    silent = not Console().is_terminal
    for _ in track(_encoded(job, listing, missing), f"samples {job.split}", total=len(missing), disable=silent):
        pass
    manifest.write(job.folder)
    return open_samples(job.folder)


def open_samples(folder: Path) -> Samples:
    """Opens a finished cache.

    Raises:
        CheckpointError: if it is not finished or of another schema.
    """
    manifest = read_manifest(
        folder, KIND, SCHEMA, f"{REMEDY}; if its schema is an older one, remove it first (`rm -r {folder}`)"
    )
    arrays = {name: np.load(_array_path(folder, name), mmap_mode="r") for name in manifest.extra["arrays"]}
    texts = {name: np.load(_array_path(folder, name)) for name in _TEXTS}
    facts = {name: np.array(arrays.pop(name)) for name in _FACTS}
    history, command, plan = (np.array(arrays[name]) for name in ("history", "command", "plan"))
    rows = BankRows(**texts, **facts, ego_history=history, command=command, plan=plan)
    return Samples(folder, manifest.fingerprint, arrays, rows)


def list_rows(job: SampleJob) -> list[RowId]:
    """All rows of a cache in order; which scenes get views depends on seed and token alone."""
    listing = []
    for ref in scene_refs(job.dataset, job.split):
        listing.append(RowId(ref.token, ORIGINAL, ref))
        if job.views is not None and _share(ref.token, job.seed) < job.samples.view_fraction:
            numbers = range(1, job.views.count + 1)
            listing += [RowId(f"{ref.token}-s{number}", f"s{number}", ref) for number in numbers]
    return listing


def encode_log(job: SampleJob, rows: Mapping[str, int], log_name: str) -> str:
    """Encodes the rows of one log in this process.

    Args:
        rows: view token to row, of this log.
    """
    arrays = {name: open_memmap(_array_path(job.folder, name), mode="r+") for name in _layout(job.encoder)}
    for scene in iter_scenes(job.dataset, job.split, logs=[log_name]):
        for view in _wanted_views(job, scene, rows):
            for name, value in encode_view(job, view, scene).items():
                arrays[name][rows[view.token]] = value
    for array in arrays.values():
        array.flush()
    write_text(_done_path(job.folder, log_name), "")
    return log_name


def encode_view(job: SampleJob, view: Scene, logged: Scene) -> dict[str, NDArray[Any]]:
    """All arrays of one row.

    Args:
        view: the scene to encode: ``logged`` itself or a shifted view of it.
    """
    map_view = load_map(job.dataset, logged.map_name)
    sensors: SensorSource = StoredSensors(job.dataset)
    if view is not logged and job.world_sensors is not None:
        sensors = PaintedSensors(logged, map_view, job.world_sensors, job.seed)
    config = sensor_config(job.encoder, job.samples.allow_missing_sensors)
    targets = build_targets(view, map_view, target_config(job.encoder))
    plan = imitated_plan(view)
    return {
        **encode_sample(build_observation(view, sensors, config), job.encoder),
        **encode_targets(
            targets.boxes.boxes, targets.boxes.classes, targets.raster, targets.meta_action, config=job.encoder
        ),
        "plan": np.zeros((FUTURE_FRAMES, 3)) if plan is None else plan,
        "has_plan": np.asarray(plan is not None),
        "has_human": np.asarray(view.has_human),
        "timestamp_us": np.asarray(view.current.timestamp_us),
    }


_TEXTS: Final = ("token", "scene_token", "view", "log_name", "group", "kind")
_FACTS: Final = ("has_plan", "has_human", "timestamp_us")


def _layout(encoder: EncoderConfig) -> Layout:
    own: Layout = {"plan": ((FUTURE_FRAMES, 3), np.float32), "timestamp_us": ((), np.int64)}
    own |= {"has_plan": ((), np.bool_), "has_human": ((), np.bool_)}
    return {**sample_layout(encoder), **target_layout(encoder), **own}


def _what_matters(encoder: EncoderConfig) -> dict[str, Any]:
    """The part of the encoder's configuration that shapes samples; networks of other sizes share a cache."""
    values = encoder.model_dump(mode="json")
    return {
        "sensors": {name: values[name] for name in ("cameras", "grid", "lidar")},
        "language": values["semantic"]["language"],
        "targets": {name: values["perception"][name] for name in ("max_boxes", "map_classes")},
    }


def _begin(job: SampleJob, manifest: Manifest, listing: Sequence[RowId]) -> None:
    """Claims the folder and lays out its arrays, or checks that they are this job's."""
    path = job.folder / _JOB_NAME
    if path.exists():
        found = json.loads(path.read_text())["fingerprint"]
        if found != manifest.fingerprint:
            raise CheckpointError(
                f"{job.folder}: expected samples of job {manifest.fingerprint}, found those of job {found} "
                "(other data, configuration or seed, or an older schema); choose another folder, or remove this one "
                f"(`rm -r {job.folder}`) and {REMEDY}"
            )
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / MANIFEST_NAME).unlink(missing_ok=True)
    for name, (shape, dtype) in _layout(job.encoder).items():
        open_memmap(_array_path(job.folder, name), mode="w+", dtype=dtype, shape=(len(listing), *shape)).flush()
    texts = [(r.token, r.ref.token, r.view, r.ref.log_name, r.ref.group, r.ref.kind) for r in listing]
    for name, column in zip(_TEXTS, zip(*texts, strict=True), strict=True):
        np.save(_array_path(job.folder, name), np.array(column, np.str_))
    write_text(path, json.dumps({"fingerprint": manifest.fingerprint}))


def _encoded(job: SampleJob, listing: Sequence[RowId], logs: Sequence[str]) -> Iterator[str]:
    """Encodes logs, here or by Ray tasks, and yields the name of each when it is done."""
    rows: dict[str, dict[str, int]] = {}
    for index, row in enumerate(listing):
        rows.setdefault(row.ref.log_name, {})[row.token] = index
    if job.samples.workers == 0:
        for name in logs:
            yield encode_log(job, rows[name], name)
        return
    task = ray.remote(num_cpus=1)(encode_log)
    waiting = list(reversed(logs))
    running: list[ray.ObjectRef] = []
    while waiting or running:
        while waiting and len(running) < job.samples.workers:
            name = waiting.pop()
            running.append(task.remote(job, rows[name], name))
        ready, running = ray.wait(running, num_returns=1)
        yield ray.get(ready[0])


def _wanted_views(job: SampleJob, scene: Scene, rows: Mapping[str, int]) -> Iterator[Scene]:
    if scene.token in rows:
        yield scene
        if job.views is not None:
            yield from (view for view in scene_views(scene, job.views, job.seed) if view.token in rows)


def _share(token: str, seed: int) -> float:
    """A number in [0, 1) that is uniform over tokens."""
    digest = hashlib.sha256(f"{seed} {token}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _logs_hash(job: SampleJob, listing: Sequence[RowId]) -> str:
    """Changes when a log is written anew with another content (judged by its size)."""
    names = {row.ref.log_name for row in listing}
    sizes = {path.stem: path.stat().st_size for path in (job.dataset.root / "navsim_logs").glob("*/*.pkl")}
    return content_hash({name: size for name, size in sizes.items() if name in names})


def _array_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _done_path(folder: Path, log_name: str) -> Path:
    return folder / "done" / log_name
