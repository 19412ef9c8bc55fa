"""Splits on disk: which windows of which logs belong together, and the layouts of generated logs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from irl_vla.config import validated
from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.layout import Dataset, below
from irl_vla.dataset.raw_frame import describe
from irl_vla.errors import ConfigError, LogFormatError
from irl_vla.ledger.files import write_text
from irl_vla.scene import FUTURE_FRAMES

LAYOUTS_NAME: Final = "layouts.json"
#: Key of a two-stage split file that says which scenes belong together.
MAPPING_KEY: Final = "reactive_all_mapping"
#: Fields of the official filter that concern second-stage scenes, which are kept in their own files.
SECOND_STAGE_FIELDS: Final = (
    "all_mapping",
    "synthetic_scene_tokens",
    "reactive_synthetic_initial_tokens",
    "non_reactive_synthetic_initial_tokens",
)
_TOKEN: Final = re.compile("[0-9a-f]{16,17}")
#: Every window of a log with 1.5 s of history and the 4 s that are judged.
WHOLE_FOLDER: Final = SceneFilter(num_future_frames=FUTURE_FRAMES, frame_interval=1)


@dataclass(frozen=True, slots=True)
class StagePair:
    """Two first-stage scenes half a second apart, and the second-stage scenes that start where they may lead.

    Attributes:
        now, previous: tokens of the first stage.
        second: (now, previous) tokens of the second stage.
    """

    now: str
    previous: str
    second: tuple[tuple[str, str], ...]

    @property
    def second_tokens(self) -> tuple[str, ...]:
        """All tokens of the second stage, those of a pair beside each other."""
        return tuple(token for pair in self.second for token in pair)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens of both stages, the first stage first."""
        return (self.now, self.previous, *self.second_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A named selection of scenes.

    Attributes:
        data_split: folder below ``navsim_logs`` and ``sensor_blobs``.
        stage_pairs: of a two-stage split (the official "mapping"); empty for all others.
    """

    name: str
    data_split: str
    scene_filter: SceneFilter
    stage_pairs: tuple[StagePair, ...] = ()


@dataclass(frozen=True, slots=True)
class LogLayout:
    """What a generated log was made of: the road ``layout`` (unit of independence) and the scenario ``kind``."""

    layout: str
    kind: str


@dataclass(frozen=True, slots=True)
class SceneRef:
    """Where a scene is found.

    Attributes:
        index: of the current frame in its log, or in the file of a second-stage scene.
        group, kind: as in :class:`irl_vla.scene.Scene`.
    """

    token: str
    log_name: str
    index: int
    map_name: str
    group: str
    kind: str


def read_split(dataset: Dataset, name: str) -> Split:
    """Reads ``<splits_root>/<name>.yaml``, with its filter embedded or named the way the official files do it.

    A name without a file that is a folder of logs means all of its windows, as a fresh download has them.

    Raises:
        ConfigError: if there is neither, or the file names an unknown filter field.
    """
    path = below(dataset.splits_root, f"{name}.yaml", "split")
    if not path.is_file() and dataset.log_folder(name).is_dir():
        return Split(name, name, WHOLE_FOLDER)
    values = _load_yaml(path)
    data_split = values.get("data_split")
    if not isinstance(data_split, str):
        raise ConfigError(f"{path}: data_split: expected a folder name, found {describe(data_split)}")
    below(dataset.root, data_split, "data_split")
    scene_filter = values.get("scene_filter")
    source = path
    if scene_filter is None:
        source = below(dataset.splits_root, f"scene_filter/{_named_filter(path, values)}.yaml", "scene_filter")
        scene_filter = _load_yaml(source)
    fields = {
        key: value
        for key, value in _mapping(scene_filter, f"{source}: scene_filter").items()
        if not key.startswith("_") and key not in SECOND_STAGE_FIELDS  # "_target_" and "_convert_" are hydra's
    }
    rule = validated(SceneFilter, fields, source=str(source))
    return Split(name, data_split, rule, _stage_pairs(path, values) if rule.include_synthetic_scenes else ())


def all_windows(split: str) -> str:
    """Name of the split with every window of a split that was narrowed to the scenes worth judging."""
    return f"{split}_all"


def write_split(
    root: Path, name: str, data_split: str, scene_filter: SceneFilter, stage_pairs: Sequence[StagePair] = ()
) -> Path:
    """Writes ``<root>/train_test_split/<name>.yaml`` with the filter embedded; returns the path."""
    path = root / "train_test_split" / f"{name}.yaml"
    write_text(path, split_text(data_split, scene_filter, stage_pairs))
    return path


def split_text(data_split: str, scene_filter: SceneFilter, stage_pairs: Sequence[StagePair] = ()) -> str:
    """A split file with the filter embedded, as YAML.

    With ``stage_pairs`` it is a two-stage split, whose filter includes synthetic scenes. The official devkit makes its
    filter from the file by ``_target_``. Tokens are quoted, as in the official files: hydra takes 12e4567890123456 for
    a number.
    """
    official = {"_target_": "navsim.common.dataclasses.SceneFilter", "_convert_": "all"}
    values: dict[str, Any] = {"data_split": data_split, "scene_filter": official | scene_filter.model_dump(mode="json")}
    if stage_pairs:
        second = [token for pair in stage_pairs for token in pair.second_tokens]
        values["scene_filter"] |= {
            "include_synthetic_scenes": True,
            "synthetic_scene_tokens": second,
            "reactive_synthetic_initial_tokens": second,
        }
        values[MAPPING_KEY] = [
            [pair.now, pair.previous, [list(tokens) for tokens in pair.second]] for pair in stage_pairs
        ]
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def read_layouts(dataset: Dataset) -> dict[str, LogLayout]:
    """Layout and kind of each generated log, by log name; empty for data without ``layouts.json``.

    Raises:
        LogFormatError: if the file is not a mapping of ``{"layout": str, "kind": str}``.
    """
    path = dataset.root / LAYOUTS_NAME
    if not path.is_file():
        return {}
    try:
        layouts = {name: LogLayout(**entry) for name, entry in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LogFormatError(
            f'{path}: expected {{log: {{"layout": ..., "kind": ...}}}}, found otherwise ({error})'
        ) from error
    for name, entry in layouts.items():
        if not isinstance(entry.layout, str) or not isinstance(entry.kind, str):
            raise LogFormatError(f"{path}: {name}: expected layout and kind as texts, found {entry}")
    return layouts


def write_layouts(root: Path, layouts: Mapping[str, LogLayout]) -> None:
    """Writes ``<root>/layouts.json``."""
    entries = {name: {"layout": layouts[name].layout, "kind": layouts[name].kind} for name in sorted(layouts)}
    write_text(root / LAYOUTS_NAME, json.dumps(entries, indent=1))


class _Dumper(yaml.SafeDumper):
    """Quotes what looks like a token."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if _TOKEN.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _load_yaml(path: Path) -> dict[str, Any]:
    # The C loader reads the 103,288 tokens of navtrain in a second; the Python one takes a minute.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        values = yaml.load(path.read_bytes(), Loader=loader)
    except FileNotFoundError as error:
        known = sorted(item.stem for item in path.parent.glob("*.yaml"))
        raise ConfigError(f"{path}: no such split; there are: {', '.join(known) or 'none'}") from error
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    return _mapping(values, str(path))


def _mapping(values: Any, place: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: expected a mapping, found {type(values).__name__}")
    for key in values:
        if not isinstance(key, str):
            raise ConfigError(f"{place}: expected texts as keys, found {describe(key)}")
    return values


def _listed(values: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    """A list that may be missing."""
    found = values.get(key) or []
    if not isinstance(found, list):
        raise ConfigError(f"{path}: {key}: expected a list, found {describe(found)}")
    return found


def _stage_pairs(path: Path, values: Mapping[str, Any]) -> tuple[StagePair, ...]:
    """The mapping of a two-stage split; a split without one (the private ones) has no second stage to judge."""
    pairs: list[StagePair] = []
    seen: set[str] = set()
    for item in _listed(values, MAPPING_KEY, path):
        try:
            now, previous, second = item
            pair = StagePair(now, previous, tuple((first, before) for first, before in second))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{path}: {MAPPING_KEY}: expected [now, previous, [[now, previous], ...]], found {describe(item)}"
            ) from error
        for token in pair.tokens:
            if not isinstance(token, str) or token in seen:
                raise ConfigError(f"{path}: {MAPPING_KEY}: expected tokens, each of them once, found {token!r}")
            seen.add(token)
        if not pair.second:
            raise ConfigError(f"{path}: {MAPPING_KEY}: {now}: expected second-stage pairs, found none")
        pairs.append(pair)
    return tuple(pairs)


def _named_filter(path: Path, values: Mapping[str, Any]) -> str:
    for entry in _listed(values, "defaults", path):
        if isinstance(entry, dict) and isinstance(entry.get("scene_filter"), str):
            return str(entry["scene_filter"])
    raise ConfigError(f"{path}: scene_filter: expected an embedded mapping or a hydra default, found neither")
