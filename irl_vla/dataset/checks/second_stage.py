"""Checks the second stage of a two-stage split: its scene files, and that they fit to the mapping and to the logs.

Scenes are checked in parallel; what is kept of them is a few words each. Repeated tokens in the mapping, and values of
a wrong type there, are errors of the reader of split files.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from irl_vla.dataset.checks.findings import Finding, Gathered, Severity, merged
from irl_vla.dataset.checks.logged_frames import LoggedFrame, LoggedFrames
from irl_vla.dataset.checks.second_scene import REMEDY, MapOf, SceneFacts, check_scene, scene_label
from irl_vla.dataset.checks.sensors import LOST_RULE, MissingSensors
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.splits import MAPPING_KEY, Split, StagePair
from irl_vla.dataset.spread import spread
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S, are_pair

#: Pairs of second-stage scenes in the groups of official splits.
_PAIRS: Final = (8, 20)
_LATER_S: Final = FUTURE_FRAMES * PLAN_INTERVAL_S
#: Real timestamps jitter by milliseconds, a little in each frame of the window between both stages.
_JITTER_S: Final = 0.1
_FILE_REMEDY: Final = "correct the file"
_ORIGINAL: Final = "scene_metadata.corresponding_original_scene"
_INITIAL: Final = "scene_metadata.corresponding_original_initial_token"


@dataclass(slots=True)
class SecondStageReport:
    """The second stage of one split.

    Attributes:
        groups, pairs: of the mapping.
        scenes: files.
        frames: of all scenes; those that both scenes of a pair see are counted twice, like what they lack.
        missing: frames that lack a sensor.
        size_bytes: of the scene files and the sensor folder on disk.
    """

    split: str
    groups: int = 0
    pairs: int = 0
    scenes: int = 0
    frames: int = 0
    size_bytes: int = 0
    missing: MissingSensors = field(default_factory=MissingSensors)
    gathered: Gathered = field(default_factory=Gathered)


def second_stage_names(dataset: Dataset, split: Split) -> list[str]:
    """Names of a split's second-stage files without suffix, sorted."""
    folder = dataset.second_stage_folder(split.name)
    return sorted(path.stem for path in folder.glob("[!.]*.pkl") if path.is_file())


def check_second_stage(
    dataset: Dataset,
    split: Split,
    logged: LoggedFrames,
    *,
    map_of: MapOf,
    workers: int,
    decode: bool,
    done: Callable[[], None],
) -> SecondStageReport | None:
    """Checks what follows the scenes of a split; None if nothing does.

    Args:
        logged: frames of the logs that the split draws on.
        map_of: the map of a city, None if it cannot be read.
        decode: also decode every image and every sweep.
        done: called after each file.
    """
    folder = dataset.second_stage_folder(split.name)
    if not split.stage_pairs and not folder.is_dir():
        return None
    pairs = sum(len(group.second) for group in split.stage_pairs)
    report = SecondStageReport(split.name, len(split.stage_pairs), pairs)
    if not folder.is_dir():
        message = "expected the second-stage scenes of the mapping, found no folder"
        remedy = "fetch it, or the split cannot be evaluated"
        report.gathered.add([Finding("warning", "second.folder", _short(dataset, folder), None, "", message, remedy)])
        return report
    report.gathered.add(_foreign(dataset, folder))
    scenes: dict[str, SceneFacts] = {}
    repeated = []
    work = partial(check_scene, dataset, split.name, decode, map_of)
    for facts in spread(work, second_stage_names(dataset, split), workers):
        _take(report, facts)
        if facts.token is not None:
            earlier = scenes.setdefault(facts.token, facts)
            repeated += [] if earlier is facts else [(facts, earlier)]
        done()
    report.gathered.add(_repeated(split, facts, earlier) for facts, earlier in repeated)
    report.gathered.add(merged(_mapping_findings(dataset, split, scenes, logged)))
    for sensor in report.missing.not_fetched(report.frames):  # a fact of the table
        report.gathered.drop(LOST_RULE, sensor)
    report.size_bytes = _size(folder) + _size(dataset.sensor_folder(split.name))
    return report


def _short(dataset: Dataset, path: Path) -> str:
    return str(path.relative_to(dataset.root) if path.is_relative_to(dataset.root) else path)


def _size(folder: Path) -> int:
    """Bytes of all files below a folder, 0 if there is none."""
    paths = (Path(top, name) for top, _, names in os.walk(folder) for name in names)
    return sum(path.stat().st_size for path in paths if path.is_file())


def _foreign(dataset: Dataset, folder: Path) -> Iterator[Finding]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.suffix != ".pkl" or not entry.is_file():
            message = "expected scene pickles alone, found something else"
            remedy = "move it elsewhere"
            yield Finding("warning", "second.foreign", _short(dataset, entry), None, "", message, remedy)


def _take(report: SecondStageReport, facts: SceneFacts) -> None:
    report.scenes += 1
    report.frames += facts.frames
    report.missing.add(facts.missing)
    report.gathered.add(facts.findings)


def _repeated(split: Split, facts: SceneFacts, earlier: SceneFacts) -> Finding:
    message = f"expected a token in one file, found {facts.token!r} in {earlier.name}.pkl, too"
    key, remedy = "scene_metadata.initial_token", "remove one of the files"
    return Finding("error", "second.repeated", scene_label(split.name, facts.name), None, key, message, remedy)


def _mapping_findings(
    dataset: Dataset, split: Split, scenes: Mapping[str, SceneFacts], logged: LoggedFrames
) -> Iterator[Finding]:
    """What does not fit between the mapping of a split, its scenes and its logs."""
    mapping = _Mapping(_short(dataset, dataset.splits_root / f"{split.name}.yaml"), split, scenes, logged)
    if not split.stage_pairs:
        yield mapping.breach("warning", "second.mapping", "expected groups of both stages, found none")
        return
    for group in split.stage_pairs:
        yield from mapping.group(group)
    mapped = {token for group in split.stage_pairs for token in group.second_tokens}
    for token in sorted(scenes.keys() - mapped):
        message = f"expected a token of {MAPPING_KEY}, found {token[:40]!r}, which no group has"
        yield mapping.scene("warning", "second.unused", scenes[token], "scene_metadata.initial_token", message)


@dataclass(frozen=True, slots=True)
class _Mapping:
    """The mapping of a split with what it speaks of.

    Attributes:
        label: the split file.
        scenes: by token.
    """

    label: str
    split: Split
    scenes: Mapping[str, SceneFacts]
    logged: LoggedFrames

    def breach(self, severity: Severity, rule: str, message: str, remedy: str = _FILE_REMEDY) -> Finding:
        """A finding about the split file."""
        return Finding(severity, rule, self.label, None, MAPPING_KEY, message, remedy)

    def scene(self, severity: Severity, rule: str, facts: SceneFacts, key: str, message: str) -> Finding:
        """A finding about a scene file."""
        return Finding(severity, rule, scene_label(self.split.name, facts.name), None, key, message, REMEDY)

    def group(self, group: StagePair) -> Iterator[Finding]:
        """All findings about one pair of the first stage and what follows it."""
        first = self.logged.find(group.now), self.logged.find(group.previous)
        for token, frame in zip((group.now, group.previous), first, strict=True):
            if frame is None:
                message = f"expected the first-stage token {token!r} in a log of {self.split.data_split}, found none"
                yield self.breach("error", "second.first_stage", message, "fetch the log, or correct the file")
        now, previous = first
        if now is not None and previous is not None:
            message = f"expected {group.now!r} 0.5 s behind {group.previous!r} in one log"
            if now.log_name != previous.log_name:
                yield self.breach("error", "second.first_stage", f"{message}, found another log")
            elif not _neighbours(now.time_us, previous.time_us):
                yield self.breach("error", "second.first_stage", f"{message}, found {_apart(now, previous)}")
        if not _PAIRS[0] <= len(group.second) <= _PAIRS[1]:
            message = f"expected {_PAIRS[0]} to {_PAIRS[1]} pairs a group, found {len(group.second)} of {group.now!r}"
            yield self.breach("note", "second.group_size", message, "nothing to do: weights are of what is there")
        for tokens in group.second:
            yield from self._pair(tokens, first)

    def _pair(self, tokens: tuple[str, str], first: tuple[LoggedFrame | None, LoggedFrame | None]) -> Iterator[Finding]:
        found = [self.scenes.get(token) for token in tokens]
        for token, facts, origin in zip(tokens, found, first, strict=True):
            if facts is None:
                message = f"expected the scene {token!r} in a file, found none"
                yield self.breach("error", "second.lost", message, "fetch or generate the scenes again")
            elif origin is not None:
                yield from self._origin(facts, origin)
        now, previous = found
        if now is None or previous is None:
            return
        for key in ("log_name", "map_name"):
            ours, theirs = getattr(now, key), getattr(previous, key)
            if None not in (ours, theirs) and ours != theirs:
                message = f"expected {theirs!r}, as in {previous.name}.pkl of the same pair, found {ours!r}"
                yield self.scene("error", "second.pair", now, f"scene_metadata.{key}", message)
        if now.time_us is not None and previous.time_us is not None and not _neighbours(now.time_us, previous.time_us):
            message = f"expected 0.5 s behind {previous.name}.pkl of the same pair, found {_apart(now, previous)}"
            yield self.scene("error", "second.pair", now, "timestamp", message)

    def _origin(self, facts: SceneFacts, first: LoggedFrame) -> Iterator[Finding]:
        """What of a scene does not fit to the first-stage scene that it follows."""
        if facts.log_name not in (None, first.log_name):
            message = f"expected {first.log_name!r}, which has {first.token!r} of the first stage, found another log"
            yield self.scene("error", "second.origin", facts, "scene_metadata.log_name", message)
        if facts.original_initial not in (None, first.token):
            message = f"expected {first.token!r} of the first stage, found {facts.original_initial!r}"
            yield self.scene("warning", "second.origin", facts, _INITIAL, message)
        final = self.logged.at(first.log_name, first.number + self.split.scene_filter.num_future_frames)
        if final is None:
            message = f"expected the first stage to have a last frame behind {first.token!r}, found the log's end"
            yield self.breach("warning", "second.first_stage", message)
        elif facts.original not in (None, final.token):
            message = f"expected {final.token!r}, the last frame of the first stage, or the official loader leaves the"
            yield self.scene("warning", "second.origin", facts, _ORIGINAL, f"{message} scene out, found another")
        if facts.time_us is not None and first.time_us >= 0:
            later_s = (facts.time_us - first.time_us) / 1e6
            if abs(later_s - _LATER_S) > _JITTER_S:
                message = f"expected {_LATER_S} s behind the first stage, found {later_s:.2f} s"
                yield self.scene("warning", "second.origin", facts, "timestamp", message)


def _neighbours(later_us: int, earlier_us: int) -> bool:
    """As extended comfort demands it; times that are not known are not judged."""
    return later_us < 0 or earlier_us < 0 or bool(are_pair(later_us - earlier_us))


def _apart(later: SceneFacts | LoggedFrame, earlier: SceneFacts | LoggedFrame) -> str:
    return f"{((later.time_us or 0) - (earlier.time_us or 0)) / 1e6:.2f} s"
