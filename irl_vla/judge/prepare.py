"""Prepares whole splits for scoring: Ray tasks over logs, one shard a log, resumable.

A scene that cannot be prepared does not stop the others: it is logged, and named with its reason in the manifest.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import ray
from rich.console import Console
from rich.progress import track

from irl_vla.dataset.config import ViewConfig
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes, scene_refs, split_logs
from irl_vla.dataset.second_stage import TOKEN_LENGTH, scene_path
from irl_vla.dataset.splits import Split, read_split
from irl_vla.dataset.views import scene_views
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.store import SCHEMA_VERSION, SHARD_SUFFIX, PreparedStore, rebuild, write_shard
from irl_vla.errors import CheckpointError, ClusterError, IrlVlaError, LogFormatError, SceneError
from irl_vla.ledger.files import MANIFEST_NAME, Manifest, content_hash, file_hash, read_manifest, write_text
from irl_vla.scene import Scene

KIND: Final = "prepared_scenes"
SCHEMA: Final = SCHEMA_VERSION  # of the manifest: that of the shards

_JOB_NAME: Final = "job.json"
_REPORTS_NAME: Final = "logs"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedScene:
    """A scene (or view) that has no prepared record, and why."""

    token: str
    log_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class _LogReport:
    """What became of a log, kept below the shards.

    Attributes:
        log_hash: of the log file; a shard of another content is made again.
        scenes: prepared ones, in the shard.
        second_stage: token to hash of the file, of the second-stage scenes behind the log.
    """

    log_hash: str
    scenes: int
    failed: tuple[FailedScene, ...]
    second_stage: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Job:
    dataset: Dataset
    split: str
    data_split: str
    views: ViewConfig | None
    folder: Path
    seed: int

    def log_path(self, name: str) -> Path:
        return self.dataset.log_folder(self.data_split) / f"{name}.pkl"

    def shard(self, name: str) -> Path:
        return self.folder / f"{name}{SHARD_SUFFIX}"

    def report(self, name: str) -> Path:
        return self.folder / _REPORTS_NAME / f"{name}.json"


def prepare_split(dataset: Dataset, split: str, views: ViewConfig | None, folder: Path, seed: int) -> PreparedStore:
    """Prepares all scenes of a split; logs that were finished before, and have not changed, are kept.

    Args:
        dataset: where the scenes are.
        split: name of the split.
        views: also prepares shifted-ego views of every scene; None prepares the scenes alone.
        folder: of the store.
        seed: of the views.

    Raises:
        CheckpointError: if the folder holds scenes of another split, view configuration, seed or schema.
        SceneError: if not one scene could be prepared.
        ClusterError: if Ray loses the workers.
        LogFormatError: naming all logs that cannot be read; the others are done and kept.
        IrlVlaError: of the data set, if a map cannot be read.
    """
    selection = read_split(dataset, split)
    job = _Job(dataset, split, selection.data_split, views, folder, seed)
    config = _what_matters(selection, views)
    tokens_by_log = _tokens_by_log(dataset, selection)
    _begin(job, content_hash({"config": config, "seed": seed}), tokens_by_log)
    reports = {name: report for name in tokens_by_log if (report := _finished(job, name)) is not None}
    missing = [name for name in tokens_by_log if name not in reports]
    log.info("prepare: split %s has %d logs, %d of them to do", split, len(tokens_by_log), len(missing))
    for name, report in _run(job, {name: tokens_by_log[name] for name in missing}):
        reports[name] = report
        for failure in report.failed:
            log.warning("prepare: scene %s of log %s left out: %s", failure.token, name, failure.reason)
    failed = [failure for name in sorted(reports) for failure in reports[name].failed]
    scenes = sum(report.scenes for report in reports.values())
    if failed:
        log.warning("prepare: %d of %d scenes left out, see %s", len(failed), len(failed) + scenes, MANIFEST_NAME)
    if scenes == 0:
        reason = failed[0].reason if failed else "its filter keeps no window"
        raise SceneError(f"split {split!r}: expected scenes, none could be prepared ({reason}); correct the split")
    Manifest(
        kind=KIND,
        schema=SCHEMA,
        config=config,
        seed=seed,
        inputs={name: _content(reports[name]) for name in sorted(reports)},
        extra={"scenes": scenes, "failed": [asdict(failure) for failure in failed]},
    ).write(folder)
    return PreparedStore.open(folder)


def failed_scenes(folder: Path) -> list[FailedScene]:
    """Scenes that a finished store lacks.

    Raises:
        CheckpointError: if the store is not finished.
    """
    manifest = read_manifest(folder, KIND, SCHEMA, "prepare the split again")
    return [FailedScene(**failure) for failure in manifest.extra["failed"]]


def prepare_log(
    dataset: Dataset, split: str, name: str, tokens: Sequence[str] | None, views: ViewConfig | None, *, seed: int
) -> tuple[list[PreparedScene], list[FailedScene]]:
    """Prepares the scenes of one log and of the second stage behind it, each followed by its views, without Ray.

    Args:
        dataset: where the log is.
        split: name of the split.
        name: of the log.
        tokens: only these scenes; None prepares all.
        views: configuration of shifted-ego views, if they are wanted.
        seed: of the views.
    """
    prepared: list[PreparedScene] = []
    failed: list[FailedScene] = []
    for original in iter_scenes(dataset, split, tokens, logs=[name]):
        map_view = load_map(dataset, original.map_name)
        for scene in _with_views(original, views, seed):
            try:
                prepared.append(prepare_scene(scene, map_view))
            except SceneError as error:
                failed.append(FailedScene(scene.token, name, str(error)))
    return prepared, failed


def _with_views(scene: Scene, views: ViewConfig | None, seed: int) -> list[Scene]:
    # Nobody drove second-stage scenes, so there is no path from which their views could be shifted.
    return [scene] if views is None or scene.is_synthetic else [scene, *scene_views(scene, views, seed)]


def _tokens_by_log(dataset: Dataset, selection: Split) -> dict[str, list[str] | None]:
    """Logs of a split and what to take of them: all that the split selects (None), or named tokens.

    A limit on the number of scenes runs over all logs, which a task that sees one log cannot know.
    """
    if selection.scene_filter.max_scenes is None:
        return dict.fromkeys(split_logs(dataset, selection.name))
    tokens: dict[str, list[str] | None] = {}
    for ref in scene_refs(dataset, selection.name):
        taken = tokens.setdefault(ref.log_name, [])
        if taken is not None:
            taken.append(ref.token)
    return tokens


def _content(report: _LogReport) -> str:
    """Hash of all files that the scenes of a log came from."""
    if not report.second_stage:
        return report.log_hash
    return content_hash([report.log_hash, dict(report.second_stage)])


def _what_matters(selection: Split, views: ViewConfig | None) -> dict[str, Any]:
    pairs = [[pair.now, pair.previous, *pair.second_tokens] for pair in selection.stage_pairs]
    return ({"stage_pairs": content_hash(pairs)} if pairs else {}) | {
        "split": selection.name,
        "data_split": selection.data_split,
        "scene_filter": selection.scene_filter.model_dump(mode="json"),
        "views": None if views is None else views.model_dump(mode="json"),
    }


def _begin(job: _Job, fingerprint: str, names: Mapping[str, object]) -> None:
    """Claims the folder for this job, or checks that it is this job's; clears what a killed worker left."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / _JOB_NAME
    if path.exists():
        before = json.loads(path.read_text())
        found, schema = before["fingerprint"], before.get("schema", 1)
        if schema != SCHEMA:
            raise CheckpointError(
                f"{job.folder}: expected prepared scenes of schema {SCHEMA}, found those of schema {schema}; "
                f"{rebuild(job.folder)}"
            )
        if found != fingerprint:
            raise CheckpointError(
                f"{job.folder}: expected scenes prepared by job {fingerprint}, found those of job {found} "
                "(another split, view configuration or seed); prepare into another folder, or delete this one"
            )
    for left in job.folder.glob(".*"):
        left.unlink()
    (job.folder / MANIFEST_NAME).unlink(missing_ok=True)
    for shard in job.folder.glob(f"*{SHARD_SUFFIX}"):
        if shard.stem not in names:
            log.warning("prepare: %s removed: its log is no longer part of split %s", shard, job.split)
            shard.unlink()
    write_text(path, json.dumps({"fingerprint": fingerprint, "schema": SCHEMA}))


def _finished(job: _Job, name: str) -> _LogReport | None:
    """The report of a log whose shard is whole and made of the log as it is now."""
    if not (job.shard(name).exists() and job.report(name).exists()):
        return None
    values = json.loads(job.report(name).read_text())
    second_stage = values.get("second_stage", {})  # absent in reports of splits of one stage, as they were before
    now = {token: file_hash(scene_path(job.dataset, job.split, token)) for token in second_stage}
    if values["log_hash"] != file_hash(job.log_path(name)) or now != second_stage:
        log.info("prepare: log %s has changed, its scenes are prepared again", name)
        return None
    failed = tuple(FailedScene(**item) for item in values["failed"])
    return _LogReport(values["log_hash"], values["scenes"], failed, second_stage)


def _run(job: _Job, tokens_by_log: Mapping[str, Sequence[str] | None]) -> Iterator[tuple[str, _LogReport]]:
    """Runs a task a log and yields reports as they come in; broken logs are raised at the end, all of them together."""
    if not tokens_by_log:
        return
    broken: list[LogFormatError] = []
    task = ray.remote(_prepare_shard)
    names = {task.remote(job, name, tokens): name for name, tokens in tokens_by_log.items()}
    for reference in track(_as_completed(names), "prepare", total=len(names), disable=not Console().is_terminal):
        try:
            yield names[reference], ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, LogFormatError):
                broken.append(error.cause)
                continue
            if isinstance(error.cause, IrlVlaError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"prepare: Ray lost the task of log {names[reference]} ({error}); start the stage again, "
                "finished logs are kept"
            ) from error
    if broken:
        reasons = " | ".join(sorted(str(error) for error in broken))
        raise LogFormatError(f"prepare: {len(broken)} of {len(names)} logs cannot be read: {reasons}")


def _as_completed(references: Mapping[Any, str]) -> Iterator[Any]:
    waiting = list(references)
    while waiting:
        done, waiting = ray.wait(waiting)
        yield from done


def _prepare_shard(job: _Job, name: str, tokens: Sequence[str] | None) -> _LogReport:
    log_hash = file_hash(job.log_path(name))
    scenes, failed = prepare_log(job.dataset, job.split, name, tokens, job.views, seed=job.seed)
    seen = [*(scene.token for scene in scenes), *(failure.token for failure in failed)]
    behind = [token for token in seen if len(token) == TOKEN_LENGTH]
    second_stage = {token: file_hash(scene_path(job.dataset, job.split, token)) for token in behind}
    report = _LogReport(log_hash, len(scenes), tuple(failed), second_stage)
    # The shard comes last: while it is absent, the log counts as not done.
    job.shard(name).unlink(missing_ok=True)
    write_text(job.report(name), json.dumps(asdict(report)))
    write_shard(job.shard(name), scenes)
    return report
