"""From logs to samples: a Ray Data actor takes a log and writes its shard.

A log gives scenes, a scene its shifted views, a view an observation and what there is to learn from it; all rows of a
log are one shard. Before that, one look at every scene tells which rows there will be and which sensor files lack.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.dataset.config import TargetConfig, ViewConfig
from irl_vla.dataset.features import SensorSource, StoredSensors, ViewSensors, build_observation
from irl_vla.dataset.inventory import SensorInventory, spread_inventory
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.targets import build_targets
from irl_vla.dataset.views import imitated_plan, scene_views
from irl_vla.epdms.inputs import judged_roads
from irl_vla.epdms.road_fields import FieldGrid, road_fields
from irl_vla.errors import SceneError
from irl_vla.ledger.arrays import SUFFIX, Rows, unfit_shards, write_rows
from irl_vla.ledger.artefact import Artefact, Identity
from irl_vla.ledger.owner import owned
from irl_vla.ledger.shards import ShardPlan, clear_unfinished, shard_path, write_shards
from irl_vla.ledger.storage import Location
from irl_vla.policy.batch import encode_sample, encode_targets, stacked
from irl_vla.policy.config import EncoderConfig, GridConfig, sensor_config
from irl_vla.policy.token_bank import ORIGINAL
from irl_vla.scene import FUTURE_FRAMES, MapView, Scene
from irl_vla.train.config import SampleConfig
from irl_vla.train.loop import session_cpus
from irl_vla.train.samples import KIND, REMEDY, SCHEMA, Samples, layout_facts, open_samples, sample_columns

_ROWS_PER_BATCH: Final = 32
#: File beside the shards with the tokens of every log's rows, where actors look them up.
_ROWS_NAME: Final = "rows.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleJob:
    """What samples are made from.

    Attributes:
        dataset_fingerprint: of what the split draws on; samples of other content have another identity.
        views: shifted views of the chosen share of scenes; None for none (validation and test).
        view_sensors: paints what shifted views see, in a generated world; None keeps the recorded sensors.
        seed: of the views.
        setting: that says what becomes of scenes without all sensors, for messages.
        remedy: the command that makes them.
    """

    dataset: Dataset
    dataset_fingerprint: str
    split: str
    encoder: EncoderConfig
    samples: SampleConfig
    views: ViewConfig | None
    view_sensors: ViewSensors | None
    seed: int
    folder: Location
    setting: str = "pretrain.samples.incomplete"
    remedy: str = REMEDY

    @property
    def artefact(self) -> Artefact:
        """The samples, by folder and identity."""
        settings = {
            "split": self.split,
            "encoder": _what_matters(self.encoder),
            "samples": self.samples.decisive(),
            "views": None if self.views is None else self.views.decisive(),
        }
        identity = Identity(KIND, SCHEMA, settings, {"dataset": self.dataset_fingerprint}, {"views": self.seed})
        return Artefact(self.folder, identity, self.remedy)


@dataclass(frozen=True)
class Pending:
    """What is to be done for the samples of a split.

    Attributes:
        found: its scenes, and the sensor files that lack.
        rows: log to the tokens of its rows, in order.
        unfit: the logs whose shards have to be made.
    """

    job: SampleJob
    found: SensorInventory
    rows: Mapping[str, Sequence[str]]
    unfit: Sequence[str]


def write_samples(jobs: Mapping[str, SampleJob]) -> dict[str, Samples]:
    """Encodes splits, or what is missing of them; a shard that is damaged is made again.

    Args:
        jobs: by name; all logs of all of them are one queue for the actors.

    Raises:
        ConfigError: if a folder holds samples of another identity.
        CheckpointError: if a shard belongs to other samples.
        SceneError: if a split has no scene, or as :func:`require_sensors`.
        LogFormatError: if a log or a sensor file cannot be read.
    """
    with ExitStack() as stack:
        for job in jobs.values():  # trainings of other seeds share them: whoever comes first makes them for all
            stack.enter_context(owned(job.folder, f"samples of {job.split}", wait=True))
        pending = {name: found for name, job in jobs.items() if (found := begin(job)) is not None}
        encode_logs(pending)
        for samples in pending.values():
            finish(samples)
    return {name: open_samples(job.folder, job.remedy) for name, job in jobs.items()}


def begin(job: SampleJob) -> Pending | None:
    """Finds out what is missing; None if nothing is. Raises as :func:`write_samples`."""
    artefact, layout = job.artefact, sample_columns(job.encoder)
    if artefact.is_whole():
        shards = dict(artefact.require().facts["shards"])
        if not unfit_shards(job.folder, shards, layout, artefact.fingerprint, artefact.remedy):
            return None
        artefact.reopen()
    found = spread_inventory(job.dataset, job.split, sensor_config(job.encoder, allow_missing=True))
    require_sensors(job, found)
    rows = list_rows(job, found)
    artefact.begin()
    clear_unfinished(job.folder)
    (job.folder / _ROWS_NAME).write_text(json.dumps(rows))
    shards = {name: len(tokens) for name, tokens in rows.items()}
    unfit = unfit_shards(job.folder, shards, layout, artefact.fingerprint, artefact.remedy)
    log.info("samples of %s: %d logs, %d of them to encode", job.split, len(shards), len(unfit))
    return Pending(job, found, rows, unfit)


def encode_logs(pending: Mapping[str, Pending]) -> None:
    """Writes the shards that have to be made, here or by actors."""
    sizes = {f"{name}/{log}": len(samples.rows[log]) for name, samples in pending.items() for log in samples.unfit}
    if not sizes:
        return
    jobs = {name: samples.job for name, samples in pending.items()}
    workers = next(iter(jobs.values())).samples.workers
    if workers == 0:
        encode_here = SampleWriter(jobs)
        for shard in sizes:
            encode_here(shard)
        return
    write_shards(SampleWriter, (jobs,), sizes, ShardPlan("samples", "rows", workers or session_cpus()))


def finish(samples: Pending) -> None:
    """Writes the record of whole samples."""
    facts = {
        "rows": sum(map(len, samples.rows.values())),
        "scenes": len(samples.found.log_of),
        "shards": [[name, len(tokens)] for name, tokens in samples.rows.items()],
        "columns": layout_facts(sample_columns(samples.job.encoder)),
        "missing_sensors": missing_counts(samples.found),
    }
    samples.job.artefact.finish(facts)


def require_sensors(job: SampleJob, found: SensorInventory) -> None:
    """Says which sensor files lack, and what becomes of their scenes.

    Raises:
        SceneError: if nothing may lack, or nothing is left.
    """
    if not found.log_of:
        raise SceneError(f"split {job.split!r}: expected scenes to encode, found none; check its scene filter")
    if not found.missing:
        return
    chosen, told = job.samples.incomplete, f"split {job.split!r}: {found.describe()}"
    if chosen == "error" or (chosen == "leave_out" and not found.whole):
        raise SceneError(
            f"{told}; fetch the files, take other sensors (model.encoder.cameras, model.encoder.lidar), or set "
            f"{job.setting}: leave_out does without these scenes, blank shows black images and empty sweeps in their "
            "place"
        )
    done = "are left out" if chosen == "leave_out" else "see black images and empty sweeps"
    log.warning("%s; these scenes %s (%s=%s)", told, done, job.setting, chosen)


def missing_counts(found: SensorInventory) -> dict[str, dict[str, int]]:
    """Log to sensor to number of scenes that lack it."""
    counts: dict[str, Counter[str]] = {}
    for token, items in found.missing.items():
        counts.setdefault(found.log_of[token], Counter()).update(item.sensor for item in items)
    return {name: dict(sorted(sensors.items())) for name, sensors in sorted(counts.items())}


def list_rows(job: SampleJob, found: SensorInventory) -> dict[str, list[str]]:
    """Log to the tokens of its rows, in the order of the split; which scenes get views depends on seed and token."""
    rows: dict[str, list[str]] = {}
    for token in found.whole if job.samples.incomplete == "leave_out" else found.log_of:
        rows.setdefault(found.log_of[token], []).extend(_row_tokens(job, token))
    return rows


class SampleWriter:
    """Encodes whole logs, each into one shard.

    Args:
        jobs: by name; their rows are listed in their folders.
    """

    def __init__(self, jobs: Mapping[str, SampleJob]) -> None:
        self._jobs = jobs
        self._rows = {name: json.loads((job.folder / _ROWS_NAME).read_text()) for name, job in jobs.items()}

    def __call__(self, name: str) -> int:
        """Writes a shard, "<name of the job>/<log>"; returns its rows."""
        whose, _, log_name = name.partition("/")
        job = self._jobs[whose]
        with shard_path(job.folder, log_name, SUFFIX).writing() as path:
            rows = in_batches(encoded_rows(job, log_name, self._rows[whose][log_name]), _ROWS_PER_BATCH)
            return write_rows(path, sample_columns(job.encoder), rows, job.artefact.fingerprint)


def encoded_rows(job: SampleJob, log_name: str, tokens: Sequence[str]) -> Iterator[Rows]:
    """The rows of a log with these tokens, in order.

    Raises:
        SceneError: if the log has other scenes than when the rows were listed.
    """
    wanted, found = set(tokens), []
    for logged in iter_scenes(job.dataset, job.split, logs=[log_name]):
        if logged.token not in wanted:
            continue
        shifted = [] if job.views is None else scene_views(logged, job.views, job.seed)
        for view in (logged, *shifted):
            if view.token in wanted:
                found.append(view.token)
                yield encode_view(job, view, logged)
    if found != list(tokens):
        raise SceneError(
            f"log {log_name} of split {job.split!r}: expected {len(tokens)} rows, found {len(found)}; it changed while "
            f"samples were made; {job.remedy} again"
        )


def encode_view(job: SampleJob, view: Scene, logged: Scene) -> Rows:
    """All columns of one row.

    Args:
        view: the scene to encode: ``logged`` itself or a shifted view of it.
    """
    map_view = load_map(job.dataset, logged.map_name)
    sensors: SensorSource = StoredSensors(job.dataset)
    if view is not logged and job.view_sensors is not None:
        sensors = job.view_sensors(logged, map_view)
    config = sensor_config(job.encoder, allow_missing=job.samples.incomplete == "blank")
    targets = build_targets(view, map_view, target_config(job.encoder))
    plan = imitated_plan(view)
    return {
        "token": np.asarray(view.token),
        "scene_token": np.asarray(logged.token),
        "view": np.asarray(ORIGINAL if view is logged else view.token.removeprefix(f"{logged.token}-")),
        "log_name": np.asarray(logged.log_name),
        "group": np.asarray(logged.group),
        "kind": np.asarray(logged.kind),
        "timestamp_us": np.asarray(view.current.timestamp_us),
        "plan": np.zeros((FUTURE_FRAMES, 3)) if plan is None else plan,
        "has_plan": np.asarray(plan is not None),
        "has_human": np.asarray(view.has_human),
        **encode_sample(build_observation(view, sensors, config), job.encoder),
        **encode_targets(targets, fields_of(view, map_view, job.encoder.grid), job.encoder),
    }


def fields_of(view: Scene, map_view: MapView, grid: GridConfig) -> NDArray[np.float32] | None:
    """What the score reads from the map around a scene; None, with a warning, where there is no route to follow."""
    try:
        roads = judged_roads(view, map_view)
    except SceneError as error:
        log.warning("samples: a scene has no road fields to learn: %s", error)
        return None
    return road_fields(roads, FieldGrid(grid.x_min_m, grid.y_min_m, grid.cell_m, grid.rows, grid.columns))


def in_batches(rows: Iterable[Rows], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Stacks up to ``size`` rows at a time, so that a long log does not have to fit in memory."""
    waiting: list[Rows] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == size:
            yield stacked(waiting)
            waiting = []
    if waiting:
        yield stacked(waiting)


def target_config(encoder: EncoderConfig) -> TargetConfig:
    """Targets on the encoder's grid."""
    grid = encoder.grid
    return TargetConfig(
        x_min_m=grid.x_min_m, x_max_m=grid.x_max_m, y_min_m=grid.y_min_m, y_max_m=grid.y_max_m, cell_m=grid.cell_m
    )


def _row_tokens(job: SampleJob, token: str) -> list[str]:
    """A scene and, if it is one of the chosen share, its views."""
    if job.views is None or _share(token, job.seed) >= job.samples.view_fraction:
        return [token]
    return [token, *(f"{token}-s{number}" for number in range(1, job.views.count + 1))]


def _share(token: str, seed: int) -> float:
    """A number in [0, 1) that is uniform over tokens."""
    digest = hashlib.sha256(f"{seed} {token}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _what_matters(encoder: EncoderConfig) -> dict[str, Any]:
    """The part of the encoder's configuration that shapes samples; networks of other sizes share them."""
    values = encoder.model_dump(mode="json")
    return {
        "sensors": {name: values[name] for name in ("cameras", "grid", "lidar")},
        "language": values["semantic"]["language"],
        "targets": {name: values["perception"][name] for name in ("max_boxes", "map_classes")},
    }
