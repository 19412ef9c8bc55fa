"""Scenes of a split: listed, streamed log by log, or loaded one at a time.

The scenes of a two-stage split are the logged ones of its first stage and, behind those of each log, the second-stage
scenes that its mapping ties to them.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from irl_vla.dataset.layout import Dataset, below
from irl_vla.dataset.log import Log, read_log
from irl_vla.dataset.second_stage import read_second_stage, scene_path
from irl_vla.dataset.splits import LogLayout, SceneRef, Split, StagePair, read_layouts, read_split
from irl_vla.errors import LogFormatError, SceneError
from irl_vla.scene import Scene

__all__ = [
    "SceneRef",
    "iter_scenes",
    "load_scene",
    "logs_of",
    "refs_of",
    "scene_refs",
    "second_stage_scene",
    "split_logs",
    "windows",
]

logger = logging.getLogger(__name__)

#: Logs of the private test splits carry no annotations.
UNANNOTATED_PREFIX: Final = "private_test"


def split_logs(dataset: Dataset, split: str) -> list[str]:
    """Names of the logs that a split draws on, sorted; the unit for spreading work over processes.

    Raises:
        LogFormatError: if the log folder, or a log that the split names, is missing.
    """
    return logs_of(dataset, read_split(dataset, split))


def logs_of(dataset: Dataset, selection: Split) -> list[str]:
    """As :func:`split_logs`, of a split that has been read."""
    split = selection.name
    folder = dataset.log_folder(selection.data_split)
    present = sorted(path.stem for path in folder.glob("*.pkl"))
    if not present:
        raise LogFormatError(f"{folder}: expected <log>.pkl files, found none; split {split!r} needs them")
    if selection.scene_filter.log_names is None:
        return present
    absent = sorted(set(selection.scene_filter.log_names) - set(present))
    if absent:
        raise LogFormatError(
            f"{folder}: split {split!r} names {len(absent)} logs that are missing, first {absent[0]!r}"
        )
    return sorted(set(selection.scene_filter.log_names))


def scene_refs(dataset: Dataset, split: str, logs: Sequence[str] | None = None) -> list[SceneRef]:
    """All scenes of a split in the order of :func:`iter_scenes`; frames are not converted.

    Raises:
        LogFormatError: if a log breaks the format, or two scenes share a token.
    """
    return refs_of(dataset, read_split(dataset, split), logs)


def refs_of(dataset: Dataset, selection: Split, logs: Sequence[str] | None = None) -> list[SceneRef]:
    """As :func:`scene_refs`, of a split that has been read."""
    found: dict[str, SceneRef] = {}
    for ref, _ in windows(dataset, selection, logs):
        if ref.token in found:
            raise LogFormatError(
                f"split {selection.name!r}: expected a token once, found {ref.token} in the logs "
                f"{found[ref.token].log_name} and {ref.log_name}; remove one of them"
            )
        found[ref.token] = ref
    return list(found.values())


def iter_scenes(
    dataset: Dataset, split: str, tokens: Collection[str] | None = None, logs: Sequence[str] | None = None
) -> Iterator[Scene]:
    """Streams the scenes of a split, one log in memory at a time, ordered by log name and time.

    Args:
        tokens: only these scenes; None yields all.
        logs: only these logs (of :func:`split_logs`); None yields all.

    Raises:
        LogFormatError: if a log breaks the format.
        SceneError: at the end, if a token asked for was not found.
    """
    wanted = None if tokens is None else set(tokens)
    selection = read_split(dataset, split)
    for ref, log in windows(dataset, selection, logs):
        if wanted is None or ref.token in wanted:
            yield second_stage_scene(dataset, selection, ref) if log is None else _scene(selection, log, ref)
            if wanted is not None:
                wanted.discard(ref.token)
                if not wanted:
                    return
    if wanted:
        raise SceneError(f"{min(wanted)}: expected in split {split!r}, not found ({len(wanted)} such tokens)")


def load_scene(dataset: Dataset, split: str, token: str) -> Scene:
    """Loads one scene; the split's index and the last logs are kept in memory.

    Raises:
        SceneError: if the split has no such token.
    """
    split_path = below(dataset.splits_root, f"{split}.yaml", "split")
    selection = _recent_split(dataset, split, split_path.stat().st_mtime_ns if split_path.is_file() else 0)
    folder = dataset.log_folder(selection.data_split)
    ref = _index(dataset, selection, folder.stat().st_mtime_ns if folder.is_dir() else 0).get(token)
    if ref is None:
        raise SceneError(f"{token}: expected in split {split!r}, not found")
    if ref.token in _second_tokens(selection):
        return second_stage_scene(dataset, selection, ref)
    path = folder / f"{ref.log_name}.pkl"
    return _scene(selection, _recent_log(path, path.stat().st_mtime_ns, _annotated(selection)), ref)


@lru_cache(maxsize=8)
def _recent_split(dataset: Dataset, name: str, modified_ns: int) -> Split:
    del modified_ns  # only part of the cache's key, as below
    return read_split(dataset, name)


# Keyed by identity of the split (eq=False), which changes with its file; a new log changes the folder's time.
@lru_cache(maxsize=8)
def _index(dataset: Dataset, split: Split, folder_modified_ns: int) -> dict[str, SceneRef]:
    del folder_modified_ns
    return {ref.token: ref for ref in refs_of(dataset, split)}


@lru_cache(maxsize=4)
def _recent_log(path: Path, modified_ns: int, annotated: bool) -> Log:
    del modified_ns
    return read_log(path, annotated=annotated)


def _annotated(split: Split) -> bool:
    return not split.data_split.startswith(UNANNOTATED_PREFIX)


def windows(dataset: Dataset, selection: Split, logs: Sequence[str] | None) -> Iterator[tuple[SceneRef, Log | None]]:
    """The official window rule: every ``step`` frames a window; short and routeless ones are dropped.

    Second-stage scenes follow those of the log that they belong to, without a log.
    """
    rule = selection.scene_filter
    if rule.include_synthetic_scenes and not selection.stage_pairs:
        logger.warning("split %s: its file has no mapping of second-stage scenes; logged scenes only", selection.name)
    layouts = read_layouts(dataset)
    pair_of = {token: pair for pair in selection.stage_pairs for token in (pair.now, pair.previous)}
    kept = None if rule.tokens is None else frozenset(rule.tokens)
    left = rule.max_scenes
    for name in logs_of(dataset, selection) if logs is None else logs:
        if left == 0:
            return
        path = dataset.log_folder(selection.data_split) / f"{name}.pkl"
        log = read_log(path, annotated=_annotated(selection))
        layout = layouts.get(name, LogLayout(layout=name, kind=""))
        pairs: dict[StagePair, SceneRef] = {}
        for start in range(0, len(log) - rule.num_frames + 1, rule.step):
            current = start + rule.num_history_frames - 1
            token = log.token(current)
            if (rule.has_route and not log.has_route(current)) or (kept is not None and token not in kept):
                continue
            if left == 0:
                break
            left = None if left is None else left - 1
            ref = SceneRef(token, name, current, log.map_name(current), layout.layout, layout.kind)
            if token in pair_of:
                pairs[pair_of[token]] = ref
            yield ref, log
        for pair, ref in pairs.items():
            for token in pair.second_tokens:
                yield SceneRef(token, name, rule.num_history_frames - 1, ref.map_name, layout.layout, ""), None


def _second_tokens(split: Split) -> frozenset[str]:
    return frozenset(token for pair in split.stage_pairs for token in pair.second_tokens)


def second_stage_scene(dataset: Dataset, split: Split, ref: SceneRef) -> Scene:
    """Reads the second-stage scene that a split's mapping names.

    Raises:
        LogFormatError: if its file is missing, broken, or of another log or city.
    """
    path = scene_path(dataset, split.name, ref.token)
    scene = read_second_stage(path, split.name, ref.group)
    found = (scene.token, scene.log_name, scene.map_name)
    if found != (ref.token, ref.log_name, ref.map_name):
        raise LogFormatError(
            f"{path}: scene_metadata: expected token, log and map of the split's mapping "
            f"({ref.token}, {ref.log_name}, {ref.map_name}), found {', '.join(found)}; fetch or generate it again"
        )
    return scene


def _scene(split: Split, log: Log, ref: SceneRef) -> Scene:
    start = ref.index - split.scene_filter.num_history_frames + 1
    return Scene(
        token=ref.token,
        log_name=ref.log_name,
        map_name=ref.map_name,
        group=ref.group,
        kind=ref.kind,
        data_split=split.data_split,
        frames=tuple(log.frame(index) for index in range(start, start + split.scene_filter.num_frames)),
        num_history=split.scene_filter.num_history_frames,
    )
