"""Checks a data set against the on-disk format, split by split, and says what each stage would lack.

Logs are independent of each other and are checked in parallel; what is kept of them does not grow with their number:
counts, the first findings of each rule, and the tokens in a temporary file. Second stages come behind the logs of their
first one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from irl_vla.dataset.checks.findings import Finding, Gathered, merged
from irl_vla.dataset.checks.frames import check_frames
from irl_vla.dataset.checks.logged_frames import LoggedFrames
from irl_vla.dataset.checks.maps import check_maps
from irl_vla.dataset.checks.second_stage import SecondStageReport, check_second_stage, second_stage_names
from irl_vla.dataset.checks.sensors import LIDAR, LOST_RULE, MissingSensors, SensorFiles
from irl_vla.dataset.checks.split import check_splits
from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.dataset.safe_pickle import read_pickle
from irl_vla.dataset.scenes import UNANNOTATED_PREFIX
from irl_vla.dataset.splits import Split, read_split
from irl_vla.dataset.spread import spread
from irl_vla.errors import ConfigError, LogFormatError, MapError
from irl_vla.ledger.progress import progress
from irl_vla.scene import MapView


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What one log holds; small, because it travels between processes.

    Attributes:
        tokens, times_us: of the frames that have a token that can be read; -1 for a time that cannot.
        missing: frames that lack a sensor.
        gaps: steps of more than 0.55 s.
        scenes: windows by split.
        size_bytes: log and the sensor files that it names.
    """

    name: str
    tokens: tuple[str, ...]
    times_us: tuple[int, ...]
    missing: MissingSensors
    gaps: int
    scenes: Mapping[str, int]
    size_bytes: int
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class FolderReport:
    """One folder of logs, and the splits that draw on it.

    Attributes:
        splits: names of the splits, with their numbers of scenes.
        missing: frames that lack a sensor, of all logs.
    """

    data_split: str
    splits: dict[str, int]
    logs: int = 0
    frames: int = 0
    gaps: int = 0
    size_bytes: int = 0
    missing: MissingSensors = field(default_factory=MissingSensors)
    gathered: Gathered = field(default_factory=Gathered)


@dataclass(frozen=True, slots=True)
class Report:
    """A checked data set: its split files and maps, a part for each folder of logs, and one for each second stage.

    Attributes:
        split_files: findings about those that cannot be read, and about second stages without one.
    """

    root: Path
    split_files: Gathered
    maps: Gathered
    folders: tuple[FolderReport, ...]
    second_stages: tuple[SecondStageReport, ...]

    @property
    def parts(self) -> dict[str, Gathered]:
        """All findings, by what they are about."""
        folders = {item.data_split: item.gathered for item in self.folders}
        second = {f"{item.split} (second stage)": item.gathered for item in self.second_stages}
        return {"split files": self.split_files, "maps": self.maps, **folders, **second}

    def total(self, severity: str) -> int:
        """Occurrences of findings of a severity."""
        return sum(count for part in self.parts.values() for name, count in part.totals.items() if name == severity)


def check_dataset(
    dataset: Dataset,
    splits: Sequence[str] = (),
    workers: int = 1,
    decode: bool = False,
) -> Report:
    """Checks maps, then every log that the splits draw on and every second-stage scene that belongs to them.

    Args:
        splits: split names; empty means every split file whose folder is there and every folder of logs.
        workers: processes.
        decode: also decode every image and every sweep, which takes as long as training on them once.

    Raises:
        ConfigError: if a split does not exist, or there are no logs at all.
    """
    split_files = Gathered()
    groups = split_groups(dataset, splits, split_files)
    if not splits:
        split_files.add(_unlisted(dataset))
    jobs = {folder: log_names(dataset, folder, [split.scene_filter for split in found]) for folder, found in groups}
    total = sum(len(names) for names in jobs.values())
    total += sum(len(second_stage_names(dataset, split)) for _, found in groups for split in found)
    maps = Gathered()
    maps.add(check_maps(dataset.maps_root))
    reports, second_stages = [], []
    with progress("check", "logs and scenes", total) as shown:
        for folder, found in groups:
            work = _Work(dataset, folder, found, workers, decode, shown.advance)
            report, second = _check_folder(work, jobs[folder])
            reports.append(report)
            second_stages += second
    return Report(dataset.root, split_files, maps, tuple(reports), tuple(second_stages))


class _Work(NamedTuple):
    """How a folder of logs is checked; ``done`` is called after each log and each second-stage scene."""

    dataset: Dataset
    folder: str
    splits: Sequence[Split]
    workers: int
    decode: bool
    done: Callable[[], None]


def _check_folder(work: _Work, logs: Sequence[str]) -> tuple[FolderReport, list[SecondStageReport]]:
    """Checks some logs of a folder, and the second stages of the splits that draw on it."""
    dataset, folder = work.dataset, work.folder
    report = FolderReport(folder, {split.name: 0 for split in work.splits})
    report.gathered.add(_foreign_files(dataset, folder))
    report.gathered.add(_missing_logs(dataset, folder, work.splits, logs))
    check = partial(check_log, dataset, folder, {split.name: split.scene_filter for split in work.splits}, work.decode)
    second_stages = []
    with LoggedFrames() as logged:
        for facts in spread(check, logs, work.workers):
            _take(report, facts)
            report.gathered.add(_repeated(folder, logged, facts))
            work.done()
        for split in work.splits:
            second = check_second_stage(
                dataset,
                split,
                logged,
                map_of=partial(_map_or_none, dataset),
                workers=work.workers,
                decode=work.decode,
                done=work.done,
            )
            second_stages += [] if second is None else [second]
    report.gathered.add(check_splits(dataset, work.splits, report.splits))
    _forgive_absent_sensors(report)
    for split in work.splits:
        report.splits[split.name] = min(report.splits[split.name], split.scene_filter.max_scenes or 2**63)
    return report, second_stages


def check_log(dataset: Dataset, data_split: str, rules: Mapping[str, SceneFilter], decode: bool, name: str) -> LogFacts:
    """Checks one log and the sensor files that it names."""
    path = dataset.log_folder(data_split) / f"{name}.pkl"
    label = f"navsim_logs/{data_split}/{name}.pkl"
    size = path.stat().st_size
    try:
        frames = read_pickle(path)
    except LogFormatError as error:
        return _unreadable(name, label, size, str(error).removeprefix(f"{path}: "))
    if not isinstance(frames, list) or not frames:
        return _unreadable(name, label, size, f"expected a list of frames, found {describe(frames)}")
    annotated = not data_split.startswith(UNANNOTATED_PREFIX)
    found = check_frames(path, label, frames, annotated, partial(_map_or_none, dataset))
    gaps = sum(finding.rule == "frame.gap" for finding in found)
    raw = [RawFrame(path, index, item) for index, item in enumerate(frames) if isinstance(item, dict)]
    files = SensorFiles(dataset.sensor_folder(data_split), label, decode)
    for frame in raw:
        files.look(frame)
    stamps = [stamp for frame in raw if (stamp := _stamp(frame)) is not None]
    return LogFacts(
        name=name,
        tokens=tuple(token for token, _ in stamps),
        times_us=tuple(time_us for _, time_us in stamps),
        missing=files.missing,
        gaps=gaps,
        scenes={split: _windows(raw, rule) for split, rule in rules.items()},
        size_bytes=size + files.size_bytes,
        findings=tuple(merged([*found, *files.findings])),
    )


def _windows(frames: Sequence[RawFrame], rule: SceneFilter) -> int:
    """Scenes that the official window rule cuts from a log; broken frames (findings of their own) are no scenes."""
    kept = None if rule.tokens is None else frozenset(rule.tokens)
    currents = range(rule.num_history_frames - 1, len(frames) - rule.num_future_frames, rule.step)
    count = 0
    for frame in (frames[index] for index in currents):
        try:
            token, route = frame.text("token"), frame.sequence("roadblock_ids")
        except LogFormatError:
            continue
        count += (len(route) > 0 or not rule.has_route) and (kept is None or token in kept)
    return count


def _unreadable(name: str, label: str, size: int, message: str) -> LogFacts:
    finding = Finding("error", "log", label, None, "", message, "fetch or generate the log again")
    return LogFacts(name, (), (), MissingSensors(), 0, {}, size, (finding,))


def _stamp(frame: RawFrame) -> tuple[str, int] | None:
    """Token and time of a frame; what cannot be read is a finding of its own."""
    try:
        token = frame.text("token")
    except LogFormatError:
        return None
    try:
        return token, frame.integer("timestamp")
    except LogFormatError:
        return token, -1


def _repeated(data_split: str, logged: LoggedFrames, facts: LogFacts) -> list[Finding]:
    """Takes a log's frames in; finds tokens that an earlier log has, too."""
    label, remedy = f"navsim_logs/{data_split}/{facts.name}.pkl", "remove one of the logs"
    return merged(
        Finding(
            *("error", "log.token", label, None, "token"),
            f"expected a token in one log, found {earlier.token!r} in {earlier.log_name}, too",
            remedy,
        )
        for earlier in logged.take(facts.name, facts.tokens, facts.times_us)
    )


def _take(report: FolderReport, facts: LogFacts) -> None:
    report.logs += 1
    report.frames += len(facts.tokens)
    report.gaps += facts.gaps
    report.size_bytes += facts.size_bytes
    report.missing.add(facts.missing)
    report.gathered.add(facts.findings)
    for split, scenes in facts.scenes.items():
        report.splits[split] += scenes


def _forgive_absent_sensors(report: FolderReport) -> None:
    """Sensors that were not fetched at all are a fact of the table; lost files are findings only among others."""
    for sensor in report.missing.not_fetched(report.frames):
        report.gathered.drop(LOST_RULE, sensor)


@lru_cache(maxsize=8)
def _map_or_none(dataset: Dataset, city: str) -> MapView | None:
    try:
        return load_map(dataset, city)
    except MapError:
        return None  # named by check_maps


def split_groups(
    dataset: Dataset, names: Sequence[str], unreadable: Gathered | None = None
) -> list[tuple[str, list[Split]]]:
    """Folders of logs, each with the splits that draw on it.

    Args:
        names: of splits; empty means all that there are.
        unreadable: takes findings about split files of "all" that cannot be read; None makes them errors.

    Raises:
        ConfigError: if there is nothing to check.
    """
    by_folder: dict[str, list[Split]] = {}
    for split in [read_split(dataset, name) for name in names] or _all_splits(dataset, unreadable):
        if dataset.log_folder(split.data_split).is_dir():
            by_folder.setdefault(split.data_split, []).append(split)
        elif names:
            raise ConfigError(
                f"{dataset.log_folder(split.data_split)}: split {split.name!r} needs this folder of logs, found none"
            )
    if not by_folder and (unreadable is None or not unreadable.kinds):
        raise ConfigError(f"{dataset.root / 'navsim_logs'}: expected folders of logs, found none; see docs/data.md")
    return sorted(by_folder.items())


def _all_splits(dataset: Dataset, unreadable: Gathered | None) -> list[Split]:
    """Those of all split files, and folders of logs on which none of them draws, by name."""
    files = sorted(dataset.splits_root.glob("*.yaml"))
    splits = []
    for path in files:
        try:
            splits.append(read_split(dataset, path.stem))
        except (ConfigError, LogFormatError) as error:
            if unreadable is None:
                raise
            message = str(error).removeprefix(f"{path}: ")
            remedy = "correct the file; what it alone draws on is not checked before"
            unreadable.add([Finding("error", "split.file", str(path), None, "", message, remedy)])
    logs = dataset.root / "navsim_logs"
    folders = {path.name for path in logs.iterdir() if path.is_dir()} if logs.is_dir() else set()
    alone = folders - {split.data_split for split in splits} - {path.stem for path in files}
    return sorted([*splits, *(read_split(dataset, name) for name in alone)], key=lambda split: split.name)


def _unlisted(dataset: Dataset) -> Iterator[Finding]:
    """Second stages without a split file."""
    for folder in sorted(dataset.root.glob("*/synthetic_scene_pickles")):
        name = folder.parent.name
        path = dataset.splits_root / f"{name}.yaml"
        if not path.is_file():
            label, message = f"{name}/synthetic_scene_pickles", f"expected a split file {path}, found none"
            yield Finding("warning", "second.mapping", label, None, "", message, "fetch the split files (docs/data.md)")


def log_names(dataset: Dataset, folder: str, rules: Iterable[SceneFilter]) -> list[str]:
    """Logs of a folder that any of the filters draws on, sorted; those that are missing are left out."""
    present = {path.stem for path in dataset.log_folder(folder).glob("[!.]*.pkl") if path.is_file()}
    named: set[str] = set()
    for rule in rules:
        named |= present if rule.log_names is None else set(rule.log_names) & present
    return sorted(named)


def _missing_logs(dataset: Dataset, folder: str, splits: Iterable[Split], present: Sequence[str]) -> Iterator[Finding]:
    if not present:
        label = f"navsim_logs/{folder}"
        yield Finding("error", "folder.logs", label, None, "", "expected <log>.pkl files, found none", "fetch the logs")
    for split in splits:
        absent = sorted(set(split.scene_filter.log_names or ()) - set(present))
        if absent:
            label = str(dataset.splits_root / f"{split.name}.yaml")
            message = f"expected {len(absent)} more logs in {folder}, found none of them, first {absent[0]!r}"
            yield Finding("error", "split.logs", label, None, "log_names", message, "fetch them, or name others")


def _foreign_files(dataset: Dataset, folder: str) -> Iterator[Finding]:
    for entry in sorted(dataset.log_folder(folder).iterdir()):
        if entry.name.startswith(".") or entry.suffix != ".pkl" or not entry.is_file():
            label = f"navsim_logs/{folder}/{entry.name}"
            message = "expected log pickles alone (the official loader unpickles every entry), found something else"
            yield Finding("error", "folder.foreign", label, None, "", message, "move it elsewhere")


def stage_needs(folder: FolderReport, cameras: Sequence[str], lidar: bool) -> dict[str, tuple[str, ...]]:
    """What each stage would lack in a folder of logs; an empty tuple where nothing is missing.

    Args:
        cameras, lidar: sensors that the policy looks at.
    """
    judged = []
    if not sum(folder.splits.values()):
        judged.append("no scenes: logs are too short, have no route, or the split names none of them")
    if broken := folder.gathered.totals["error"]:
        judged.append(f"{broken} errors, see the findings")
    wanted = [*cameras, *([LIDAR] if lidar else [])]
    seen = [
        f"{lacking} of {folder.frames} frames lack {sensor}"
        for sensor in wanted
        if (lacking := folder.missing.of(sensor))
    ]
    return {"prepare, label, evaluate": tuple(judged), "imitation": (*judged, *seen)}
