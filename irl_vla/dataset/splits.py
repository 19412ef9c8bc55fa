"""Splits on disk: which windows of which logs belong together, and the layouts of generated logs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from irl_vla.artifact import write_text
from irl_vla.config import validated
from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.layout import Dataset, below
from irl_vla.errors import ConfigError, LogFormatError
from irl_vla.scene import FUTURE_FRAMES

LAYOUTS_NAME: Final = "layouts.json"
#: Fields of the official filter that concern second-stage scenes, which are kept in their own files.
SECOND_STAGE_FIELDS: Final = (
    "all_mapping",
    "synthetic_scene_tokens",
    "reactive_synthetic_initial_tokens",
    "non_reactive_synthetic_initial_tokens",
)
#: Every window of a log with 1.5 s of history and the 4 s that are judged.
WHOLE_FOLDER: Final = SceneFilter(num_future_frames=FUTURE_FRAMES, frame_interval=1)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A named selection of scenes.

    Attributes:
        data_split: folder below ``navsim_logs`` and ``sensor_blobs``.
        second_stage: the two-stage keys of the file as they stand (mappings and token lists); empty without any.
    """

    name: str
    data_split: str
    scene_filter: SceneFilter
    second_stage: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogLayout:
    """What a generated log was made of: the road ``layout`` (unit of independence) and the scenario ``kind``."""

    layout: str
    kind: str


@dataclass(frozen=True, slots=True)
class SceneRef:
    """Where a scene is found.

    Attributes:
        index: of the current frame in its log.
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
        return Split(name, name, WHOLE_FOLDER, {})
    values = _load_yaml(path)
    data_split = values.get("data_split")
    if not isinstance(data_split, str):
        raise ConfigError(f"{path}: data_split: expected a folder name, found {data_split!r}")
    below(dataset.root, data_split, "data_split")
    scene_filter = values.get("scene_filter")
    source = path
    if scene_filter is None:
        source = below(dataset.splits_root, f"scene_filter/{_named_filter(path, values)}.yaml", "scene_filter")
        scene_filter = _load_yaml(source)
    if not isinstance(scene_filter, dict):
        raise ConfigError(f"{source}: scene_filter: expected a mapping, found {type(scene_filter).__name__}")
    second_stage = {key: scene_filter[key] for key in SECOND_STAGE_FIELDS if scene_filter.get(key) is not None}
    second_stage |= {key: value for key, value in values.items() if key.endswith("all_mapping") and value is not None}
    fields = {
        key: value
        for key, value in scene_filter.items()
        if not key.startswith("_") and key not in SECOND_STAGE_FIELDS  # "_target_" and "_convert_" are hydra's
    }
    return Split(name, data_split, validated(SceneFilter, fields, source=str(source)), second_stage)


def write_split(root: Path, name: str, data_split: str, scene_filter: SceneFilter) -> Path:
    """Writes ``<root>/train_test_split/<name>.yaml`` with the filter embedded; returns the path."""
    path = root / "train_test_split" / f"{name}.yaml"
    values = {"data_split": data_split, "scene_filter": scene_filter.model_dump(mode="json")}
    write_text(path, yaml.safe_dump(values, sort_keys=False))
    return path


def read_layouts(dataset: Dataset) -> dict[str, LogLayout]:
    """Layout and kind of each generated log, by log name; empty for data without ``layouts.json``.

    Raises:
        LogFormatError: if the file is not a mapping of ``{"layout": str, "kind": str}``.
    """
    path = dataset.root / LAYOUTS_NAME
    if not path.is_file():
        return {}
    try:
        return {name: LogLayout(**entry) for name, entry in json.loads(path.read_text()).items()}
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise LogFormatError(
            f'{path}: expected {{log: {{"layout": ..., "kind": ...}}}}, found otherwise ({error})'
        ) from error


def write_layouts(root: Path, layouts: Mapping[str, LogLayout]) -> None:
    """Writes ``<root>/layouts.json``."""
    entries = {name: {"layout": layouts[name].layout, "kind": layouts[name].kind} for name in sorted(layouts)}
    write_text(root / LAYOUTS_NAME, json.dumps(entries, indent=1))


def _load_yaml(path: Path) -> dict[str, Any]:
    # The C loader reads the 103,288 tokens of navtrain in a second; the Python one takes a minute.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        values = yaml.load(path.read_bytes(), Loader=loader)
    except FileNotFoundError as error:
        known = sorted(item.stem for item in path.parent.glob("*.yaml"))
        raise ConfigError(f"{path}: no such split; there are: {', '.join(known) or 'none'}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping, found {type(values).__name__}")
    return values


def _named_filter(path: Path, values: Mapping[str, Any]) -> str:
    for entry in values.get("defaults") or ():
        if isinstance(entry, dict) and isinstance(entry.get("scene_filter"), str):
            return str(entry["scene_filter"])
    raise ConfigError(f"{path}: scene_filter: expected an embedded mapping or a hydra default, found neither")
