"""Prepares whole splits for scoring: one shard a log, in parallel over logs, resumable.

A scene that cannot be prepared does not stop the others, nor does a log that cannot be read: what became of a log
stands in its shard. Scenes that are left out are logged and named in the record; broken logs are an error that names
all of them, unless they are to be left out.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from irl_vla.dataset.config import ViewConfig
from irl_vla.dataset.fingerprint import content_hashes
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import scene_refs, split_logs
from irl_vla.dataset.second_stage import TOKEN_LENGTH, scene_path
from irl_vla.dataset.splits import Split, read_split
from irl_vla.epdms.config import SCORER_VERSION
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
from irl_vla.judge.prepared_log import FailedScene, LogReport, map_file, prepare_log
from irl_vla.ledger.artefact import Artefact, Identity, require_record
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.owner import owned
from irl_vla.ledger.shards import clear_unfinished, shard_path
from irl_vla.ledger.storage import RECORD_NAME, Location

_SHOWN: Final = 5

log = logging.getLogger(__name__)


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

    def taken(self, name: str) -> str:
        """What is noted of a log's tokens: which they are may change with the other logs of the split."""
        tokens = self.tokens[name]
        return "" if tokens is None else content_hash(list(tokens))


def prepare_split(
    dataset: Dataset,
    split: str,
    views: ViewConfig | None,
    folder: Path | Location,
    seed: int,
    *,
    skip_broken: bool = False,
    cache: Path | None = None,
    for_each: ForEach = one_by_one,
) -> PreparedStore:
    """Prepares all scenes of a split; logs that were finished before, and have not changed, are kept.

    A log has changed if its file, a map that it needs or a second-stage scene behind it has, or which of its scenes are
    taken. One that could not be read is tried again: a file that it lacked may be there now.

    Several processes may ask for one folder: whoever comes first does the work and the others wait. A folder where
    nothing is to be done is only read.

    Args:
        dataset: where the scenes are.
        split: name of the split.
        views: also prepares shifted-ego views of every scene; None prepares the scenes alone.
        folder: of the store.
        seed: of the views.
        skip_broken: leaves logs out that cannot be read, and names them in the record, instead of stopping there.
        cache: folder for remembered hashes (``dataset.fingerprint.hash_cache``), with which finished logs need not be
            read to see that they have not changed; None reads them.
        for_each: where the work runs.

    Raises:
        ConfigError: if the folder holds scenes of another split, view configuration, seed, schema or scorer version.
        LogFormatError: naming the logs that cannot be read, once all others are done.
        SceneError: if not one scene could be prepared.
        CheckpointError: if a shard is damaged.
        ClusterError: if workers are lost; finished logs are kept for the next call.
    """
    selection = read_split(dataset, split)
    tokens, place = _tokens_by_log(dataset, selection), Location.of(folder)
    job = PrepareJob(dataset, split, dataset.log_folder(selection.data_split), tokens, views, place, seed)
    artefact = Artefact(place, _identity(selection, views, seed), "prepare the split again (`irl-vla STAGE CONFIG`)")
    if not _state(job, artefact, cache).is_done:
        with owned(place, f"preparing the split {split}", wait=True):
            _complete(job, artefact, skip_broken=skip_broken, cache=cache, for_each=for_each)
    return PreparedStore.open(place)


def failed_scenes(folder: Path | Location) -> list[FailedScene]:
    """Scenes that a finished store lacks.

    Raises:
        CheckpointError: if the store is not finished.
    """
    record = require_record(Location.of(folder), KIND, SCHEMA_VERSION, rebuild(folder))
    return [FailedScene(**failure) for failure in record.facts["failed"]]


def write_log(job: PrepareJob, name: str) -> int:
    """Prepares a log; one that cannot be read gets an empty shard that says why. Returns its scenes."""
    path, taken = job.log_path(name), job.taken(name)
    log_hash = content_hashes([path], None)[path]
    scenes: tuple[PreparedScene, ...] = ()
    try:
        found = prepare_log(job.dataset, job.split, name, job.tokens[name], job.views, seed=job.seed)
        seen = [*(scene.token for scene in found.scenes), *(failure.token for failure in found.failed)]
        behind = {token: scene_path(job.dataset, job.split, token) for token in seen if len(token) == TOKEN_LENGTH}
        hashes = content_hashes(behind.values(), None)
        second_stage = {token: hashes[file] for token, file in behind.items()}
        report = LogReport(log_hash, taken, len(found.scenes), found.failed, found.maps, second_stage)
        scenes = found.scenes
    except (LogFormatError, MapError, SceneError) as error:
        report = LogReport(log_hash, taken, 0, broken=str(error))
    write_shard(shard_path(job.folder, name, SHARD_SUFFIX), scenes, asdict(report))
    return len(scenes)


class _State(NamedTuple):
    """What is there of a split.

    Attributes:
        found: entries of all logs that have a shard.
        current: those that need no work.
        missing: logs that need some.
        complete: the record says whole, and there are these logs' shards and no others.
    """

    found: dict[str, ShardEntry]
    current: dict[str, ShardEntry]
    missing: list[str]
    complete: bool

    @property
    def is_done(self) -> bool:
        """Nothing is to be done."""
        return self.complete and not self.missing


def _state(job: PrepareJob, artefact: Artefact, cache: Path | None) -> _State:
    whole = artefact.is_whole()
    found = _entries(job.folder, whole=whole)
    current = _current(job, found, cache)
    missing = [name for name in job.tokens if name not in current]
    return _State(found, current, missing, whole and shard_names(job.folder) == _shards_of(job.tokens))


def _complete(job: PrepareJob, artefact: Artefact, *, skip_broken: bool, cache: Path | None, for_each: ForEach) -> None:
    """Prepares all logs that need it, in a folder that is this process's; another one may have done so meanwhile."""
    state = _state(job, artefact, cache)
    if state.is_done:
        return
    entries, missing = state.current, state.missing
    log.info("prepare: split %s has %d logs, %d of them to do", job.split, len(job.tokens), len(missing))
    if state.complete and skip_broken and all(LogReport.of(state.found[name]).broken for name in missing):
        again = _made(job, missing, for_each)
        if all(LogReport.of(again[name]) == LogReport.of(state.found[name]) for name in missing):
            return  # as it was all the while, for other readers too
        entries, missing = entries | again, []
    artefact.begin()
    _clear(job)
    entries |= _made(job, missing, for_each)
    reports = {name: LogReport.of(entries[name]) for name in sorted(entries)}
    facts = _facts(reports, job.split, skip_broken=skip_broken)
    write_index(job.folder, {f"{name}{SHARD_SUFFIX}": entry for name, entry in entries.items()})
    artefact.finish(facts)


def _made(job: PrepareJob, names: Sequence[str], for_each: ForEach) -> dict[str, ShardEntry]:
    """Prepares logs; what their shards say then."""
    done = for_each(f"prepare {job.split}", partial(write_log, job), {name: name for name in names})
    return {name: read_entry(shard_path(job.folder, name, SHARD_SUFFIX)) for name, _ in done}


def _second_stage_file(job: PrepareJob, token: str) -> Path | None:
    try:
        return scene_path(job.dataset, job.split, token)
    except (LogFormatError, SceneError):
        return None


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
    """What decides the scenes beside logs and maps, whose hashes stand in the shards: one may change alone."""
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
        "scorer_version": SCORER_VERSION,
    }
    return Identity(KIND, SCHEMA_VERSION, settings, inputs={}, seeds={"data_seed": seed})


def _entries(folder: Location, *, whole: bool) -> dict[str, ShardEntry]:
    """What is there of logs, from the index of a whole store or else from the shards themselves."""
    found = read_index(folder) if whole else {name: read_entry(folder / name) for name in shard_names(folder)}
    return {name.removesuffix(SHARD_SUFFIX): entry for name, entry in found.items()}


def _current(job: PrepareJob, entries: Mapping[str, ShardEntry], cache: Path | None) -> dict[str, ShardEntry]:
    """The entries of logs of the split that could be read and are as they were when their shards were made."""
    there = set(shard_names(job.folder)) & set(_shards_of(job.tokens))
    reports = {
        name: LogReport.of(entry)  # shards without notes were not made here
        for name, entry in entries.items()
        if f"{name}{SHARD_SUFFIX}" in there and entry.notes
    }
    files = {name: _files(job, name, report) for name, report in reports.items() if not report.broken}
    hashes = content_hashes({path for paths in files.values() for path in paths if path is not None}, cache)
    current = {}
    for name, report in reports.items():
        if report.broken:
            log.info("prepare: log %s could not be read, it is tried again", name)
        elif [None if path is None else hashes[path] for path in files[name]] != report.file_hashes:
            log.info("prepare: log %s, or a map or second stage of it, has changed; it is prepared again", name)
        elif report.taken != job.taken(name):
            log.info("prepare: other scenes of log %s are taken than before; it is prepared again", name)
        else:
            current[name] = entries[name]
    return current


def _files(job: PrepareJob, name: str, report: LogReport) -> list[Path | None]:
    """Where the files lie whose hashes a report has, in their order; None for one that is no longer there."""
    maps = [map_file(job.dataset, city) for city in report.maps]
    return [job.log_path(name), *maps, *(_second_stage_file(job, token) for token in report.second_stage)]


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
