"""Prepares whole splits for scoring: one shard a log, in parallel over logs, resumable.

A scene that cannot be prepared does not stop the others, nor does a log that cannot be read: what became of a log
stands in its shard. Scenes that are left out are logged and named in the record; broken logs are an error that names
all of them, unless they are to be left out.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from irl_vla.dataset.config import ViewConfig
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes, scene_refs, split_logs
from irl_vla.dataset.second_stage import TOKEN_LENGTH, scene_path
from irl_vla.dataset.splits import Split, read_split
from irl_vla.dataset.views import scene_views
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.store import (
    INDEX_NAME,
    KIND,
    SCHEMA_VERSION,
    SHARD_SUFFIX,
    PreparedStore,
    ShardEntry,
    read_entry,
    read_index,
    rebuild,
    shard_names,
    write_index,
    write_shard,
)
from irl_vla.errors import LogFormatError, MapError, SceneError
from irl_vla.judge.for_each import ForEach, one_by_one
from irl_vla.ledger.artefact import Artefact, Identity, require_record
from irl_vla.ledger.files import content_hash, file_hash
from irl_vla.ledger.owner import owned
from irl_vla.ledger.shards import clear_unfinished, shard_path
from irl_vla.ledger.storage import RECORD_NAME, Location
from irl_vla.scene import Scene

_SHOWN: Final = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedScene:
    """A scene (or view) that has no prepared record, and why."""

    token: str
    log_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class LogReport:
    """What became of a log; the notes of its shard.

    Attributes:
        log_hash: of the log file; a shard of another content is made again.
        scenes: prepared ones, in the shard.
        failed: scenes that could not be prepared.
        second_stage: token to hash of the file, of the second-stage scenes behind the log.
        broken: why the log could not be read; empty if it could.
    """

    log_hash: str
    scenes: int
    failed: tuple[FailedScene, ...] = ()
    second_stage: Mapping[str, str] = field(default_factory=dict)
    broken: str = ""

    @property
    def content(self) -> str:
        """Hash of all files that the scenes of the log came from."""
        if not self.second_stage:
            return self.log_hash
        return content_hash([self.log_hash, dict(self.second_stage)])

    @classmethod
    def of(cls, entry: ShardEntry) -> Self:
        """Of a shard."""
        failed = tuple(FailedScene(**item) for item in entry.notes["failed"])
        return cls(**{**entry.notes, "failed": failed})


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """What a worker needs.

    Attributes:
        split: name of the split.
        logs: folder of its logs.
        tokens: by log, the scenes to take; None takes all that the split selects.
    """

    dataset: Dataset
    split: str
    logs: Path
    tokens: Mapping[str, Sequence[str] | None]
    views: ViewConfig | None
    folder: Location
    seed: int

    def log_path(self, name: str) -> Path:
        """File of a log."""
        return self.logs / f"{name}.pkl"


def prepare_split(
    dataset: Dataset,
    split: str,
    views: ViewConfig | None,
    folder: Path | Location,
    seed: int,
    *,
    skip_broken: bool = False,
    for_each: ForEach = one_by_one,
) -> PreparedStore:
    """Prepares all scenes of a split; logs that were finished before, and have not changed, are kept.

    Several processes may ask for one folder: whoever comes first does the work and the others wait. A folder where
    nothing is to be done is only read.

    Args:
        dataset: where the scenes are.
        split: name of the split.
        views: also prepares shifted-ego views of every scene; None prepares the scenes alone.
        folder: of the store.
        seed: of the views.
        skip_broken: leaves logs out that cannot be read, and names them in the record, instead of stopping there.
        for_each: where the work runs.

    Raises:
        ConfigError: if the folder holds scenes of another split, view configuration, seed or schema.
        LogFormatError: naming the logs that cannot be read, once all others are done.
        SceneError: if not one scene could be prepared.
        CheckpointError: if a shard is damaged.
        ClusterError: if workers are lost; finished logs are kept for the next call.
    """
    selection = read_split(dataset, split)
    tokens, place = _tokens_by_log(dataset, selection), Location.of(folder)
    job = PrepareJob(dataset, split, dataset.log_folder(selection.data_split), tokens, views, place, seed)
    artefact = Artefact(place, _identity(selection, views, seed), "prepare the split again (`irl-vla STAGE CONFIG`)")
    if not artefact.is_whole() or _kept(job, artefact, skip_broken=skip_broken) is not None:
        with owned(place, f"preparing the split {split}", wait=True):
            entries = _kept(job, artefact, skip_broken=skip_broken)  # again: another process may have made it meanwhile
            if entries is not None:
                _complete(job, artefact, entries, skip_broken=skip_broken, for_each=for_each)
    return PreparedStore.open(place)


def failed_scenes(folder: Path | Location) -> list[FailedScene]:
    """Scenes that a finished store lacks.

    Raises:
        CheckpointError: if the store is not finished.
    """
    record = require_record(Location.of(folder), KIND, SCHEMA_VERSION, rebuild(folder))
    return [FailedScene(**failure) for failure in record.facts["failed"]]


def prepare_log(
    dataset: Dataset, split: str, name: str, tokens: Sequence[str] | None, views: ViewConfig | None, *, seed: int
) -> tuple[list[PreparedScene], list[FailedScene]]:
    """Prepares the scenes of one log and of the second stage behind it, each followed by its views, in this process.

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


def write_log(job: PrepareJob, name: str) -> int:
    """Prepares a log; one that cannot be read gets an empty shard that says why. Returns its scenes."""
    log_hash = file_hash(job.log_path(name))
    scenes: list[PreparedScene] = []
    try:
        scenes, failed = prepare_log(job.dataset, job.split, name, job.tokens[name], job.views, seed=job.seed)
        seen = [*(scene.token for scene in scenes), *(failure.token for failure in failed)]
        behind = [token for token in seen if len(token) == TOKEN_LENGTH]
        second_stage = {token: file_hash(scene_path(job.dataset, job.split, token)) for token in behind}
        report = LogReport(log_hash, len(scenes), tuple(failed), second_stage)
    except (LogFormatError, MapError, SceneError) as error:
        report = LogReport(log_hash, 0, broken=str(error))
    write_shard(shard_path(job.folder, name, SHARD_SUFFIX), scenes, asdict(report))
    return len(scenes)


def _kept(job: PrepareJob, artefact: Artefact, *, skip_broken: bool) -> dict[str, ShardEntry] | None:
    """The entries of logs that need no work; None if there is no work at all."""
    whole = artefact.is_whole()
    entries = _current(job, _entries(job.folder, whole=whole), skip_broken=skip_broken)
    is_done = whole and entries.keys() == job.tokens.keys() and shard_names(job.folder) == _shards_of(job.tokens)
    return None if is_done else entries


def _complete(
    job: PrepareJob, artefact: Artefact, kept: Mapping[str, ShardEntry], *, skip_broken: bool, for_each: ForEach
) -> None:
    """Prepares all logs but those that are kept."""
    entries, missing = dict(kept), {name: name for name in job.tokens if name not in kept}
    log.info("prepare: split %s has %d logs, %d of them to do", job.split, len(job.tokens), len(missing))
    artefact.begin()
    _clear(job)
    for name, _ in for_each(f"prepare {job.split}", partial(write_log, job), missing):
        entries[name] = read_entry(shard_path(job.folder, name, SHARD_SUFFIX))
    facts = _facts({name: LogReport.of(entries[name]) for name in sorted(entries)}, job.split, skip_broken=skip_broken)
    write_index(job.folder, {f"{name}{SHARD_SUFFIX}": entry for name, entry in entries.items()})
    artefact.finish(facts)


def _with_views(scene: Scene, views: ViewConfig | None, seed: int) -> list[Scene]:
    # Nobody drove second-stage scenes, so there is no path from which their views could be shifted.
    return [scene] if views is None or scene.is_synthetic else [scene, *scene_views(scene, views, seed)]


def _tokens_by_log(dataset: Dataset, selection: Split) -> dict[str, list[str] | None]:
    """Logs of a split and what to take of them: all that the split selects (None), or named tokens.

    A limit on the number of scenes runs over all logs, which an actor that sees one log cannot know.
    """
    if selection.scene_filter.max_scenes is None:
        return dict.fromkeys(split_logs(dataset, selection.name))
    tokens: dict[str, list[str] | None] = {}
    for ref in scene_refs(dataset, selection.name):
        taken = tokens.setdefault(ref.log_name, [])
        if taken is not None:
            taken.append(ref.token)
    return tokens


def _identity(selection: Split, views: ViewConfig | None, seed: int) -> Identity:
    """What decides the scenes beside the logs themselves, whose hashes stand in the shards: one may change alone."""
    rule = selection.scene_filter.decisive()
    # A hash of what can be a hundred thousand tokens.
    rule |= {name: content_hash(rule[name]) for name in ("tokens", "log_names") if rule[name] is not None}
    pairs = [[pair.now, pair.previous, *pair.second_tokens] for pair in selection.stage_pairs]
    settings = {
        "split": selection.name,
        "data_split": selection.data_split,
        "scene_filter": rule,
        "stage_pairs": content_hash(pairs) if pairs else None,
        "views": None if views is None else views.decisive(),
    }
    return Identity(KIND, SCHEMA_VERSION, settings, inputs={}, seeds={"data_seed": seed})


def _entries(folder: Location, *, whole: bool) -> dict[str, ShardEntry]:
    """What is there of logs, from the index of a whole store or else from the shards themselves."""
    found = read_index(folder) if whole else {name: read_entry(folder / name) for name in shard_names(folder)}
    return {name.removesuffix(SHARD_SUFFIX): entry for name, entry in found.items()}


def _current(job: PrepareJob, entries: Mapping[str, ShardEntry], *, skip_broken: bool) -> dict[str, ShardEntry]:
    """The entries of logs of the split that are as they were when their shards were made."""
    there = set(shard_names(job.folder)) & set(_shards_of(job.tokens))
    known = {
        name: entry  # shards without notes were not made here
        for name, entry in entries.items()
        if f"{name}{SHARD_SUFFIX}" in there and entry.notes
    }

    def is_current(name: str) -> bool:
        report = LogReport.of(known[name])
        if report.broken and not skip_broken:
            return False
        now = {token: file_hash(scene_path(job.dataset, job.split, token)) for token in report.second_stage}
        same = report.log_hash == file_hash(job.log_path(name)) and now == report.second_stage
        if not same:
            log.info("prepare: log %s has changed, its scenes are prepared again", name)
        return same

    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        same = dict(zip(known, pool.map(is_current, known), strict=True))
    return {name: entry for name, entry in known.items() if same[name]}


def _clear(job: PrepareJob) -> None:
    """Removes the index, what a killed worker left, and shards of logs that the split no longer has."""
    clear_unfinished(job.folder)
    (job.folder / INDEX_NAME).delete()
    for name in sorted(set(shard_names(job.folder)) - set(_shards_of(job.tokens))):
        log.warning("prepare: %s removed: its log is no longer part of split %s", job.folder / name, job.split)
        (job.folder / name).delete()


def _facts(reports: Mapping[str, LogReport], split: str, *, skip_broken: bool) -> dict[str, Any]:
    """Of the record; tells what is left out.

    Raises:
        LogFormatError: for broken logs, unless they are to be left out.
        SceneError: if there is no scene.
    """
    failed = [failure for report in reports.values() for failure in report.failed]
    broken = {name: report.broken for name, report in reports.items() if report.broken}
    scenes = sum(report.scenes for report in reports.values())
    for failure in failed:
        log.warning("prepare: scene %s of log %s left out: %s", failure.token, failure.log_name, failure.reason)
    if failed:
        log.warning("prepare: %d of %d scenes left out, see %s", len(failed), len(failed) + scenes, RECORD_NAME)
    if broken and not skip_broken:
        raise LogFormatError(
            f"split {split!r}: expected {len(reports)} logs, found {len(broken)} that cannot be read: "
            f"{'; '.join(_shortened(broken))}; mend them (`irl-vla check-data` names every fault), or set "
            "data.skip_broken=true to leave them out"
        )
    if broken:
        log.warning("prepare: %d of %d logs left out: %s", len(broken), len(reports), "; ".join(_shortened(broken)))
    if scenes == 0:
        reason = next(iter([*broken.values(), *(failure.reason for failure in failed)]), "its filter keeps no window")
        raise SceneError(f"split {split!r}: expected scenes, none could be prepared ({reason}); correct the split")
    return {
        "scenes": scenes,
        "failed": [asdict(failure) for failure in failed],
        "broken_logs": broken,
        "logs": {name: report.content for name, report in reports.items()},
    }


def _shortened(broken: Mapping[str, str]) -> Iterator[str]:
    """The first few broken logs, and how many there are beside them."""
    for name in list(broken)[:_SHOWN]:
        yield f"{name}: {broken[name]}"
    if len(broken) > _SHOWN:
        yield f"and {len(broken) - _SHOWN} more"


def _shards_of(names: Mapping[str, object]) -> list[str]:
    return sorted(f"{name}{SHARD_SUFFIX}" for name in names)
