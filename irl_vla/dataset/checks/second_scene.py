"""Rules for the file of one second-stage scene: what stops a reader (errors) and what does not fit (warnings).

Not checked, since nobody has said what official files hold there: timestamps of the objects and lights behind the last
frame, the number of future frames in the metadata, log-style files of the same scenes, and the table of attributes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar

import numpy as np

from irl_vla.dataset.checks.fields import TOKEN
from irl_vla.dataset.checks.findings import Breach, Finding, merged
from irl_vla.dataset.checks.pickle import check_pickle
from irl_vla.dataset.checks.second_frames import (
    frame_breaches,
    future_breaches,
    items,
    key_and_text,
    step_breaches,
    tried,
)
from irl_vla.dataset.checks.sensors import MissingSensors, SensorFiles
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.log import parse_city
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.dataset.second_stage import LIGHTS_KEY, TRACKS_KEY, cameras_as_in_logs, scene_values, sweep_of
from irl_vla.errors import LogFormatError
from irl_vla.scene import CITIES, HISTORY_FRAMES, MapView

_Value = TypeVar("_Value")
MapOf: TypeAlias = Callable[[str], MapView | None]
REMEDY: Final = "fetch or generate the scene again"
_REMEDIES: Final = {
    "second.name": "nothing to do: a scene is found by what its file says, more slowly",
    "second.route_ids": "use the maps of the release that the scenes were made with",
    "second.light_ids": "use the maps of the release that the scenes were made with",
    "second.place": "use the maps of the release that the scenes were made with, and check their projection",
}
_ORIGINALS: Final = ("corresponding_original_scene", "corresponding_original_initial_token")
#: Keys of the metadata, and how they are read.
_METADATA: Final[Mapping[str, Callable[..., object]]] = {
    **dict.fromkeys(("log_name", "scene_token", "initial_token", *_ORIGINALS), RawFrame.text),
    **dict.fromkeys(("num_history_frames", "num_future_frames"), RawFrame.integer),
    "map_name": parse_city,
}


@dataclass(frozen=True, slots=True)
class SceneFacts:
    """What one scene says that other files must agree with; small, because it travels between processes.

    Attributes:
        name: of the file, without suffix.
        token: of the current frame; None, like the other texts, where it cannot be read.
        original, original_initial: tokens of the logged frame of the same time, and of the first-stage scene.
        time_us: of the current frame.
        frames: those whose sensors were looked for.
        missing: what these lack.
    """

    name: str
    token: str | None = None
    log_name: str | None = None
    map_name: str | None = None
    original: str | None = None
    original_initial: str | None = None
    time_us: int | None = None
    frames: int = 0
    missing: MissingSensors = field(default_factory=MissingSensors)
    findings: tuple[Finding, ...] = ()


def scene_label(split: str, name: str) -> str:
    """A scene's file in findings."""
    return f"{split}/synthetic_scene_pickles/{name}.pkl"


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # numbers out of all proportion are findings
def check_scene(dataset: Dataset, split: str, decode: bool, map_of: MapOf, name: str) -> SceneFacts:
    """Checks one scene file and the sensor files that it names.

    Args:
        decode: also decode the sensor files.
        map_of: the map of a city, None if it cannot be read (which is another check's finding).
        name: of the file, without suffix.
    """
    path, label = dataset.second_stage_folder(split) / f"{name}.pkl", scene_label(split, name)
    try:
        whole = RawFrame(path, 0, scene_values(path))
    except LogFormatError as error:
        message = ": ".join(part for part in key_and_text(error, path) if part)
        return SceneFacts(name, findings=(Finding("error", "second.file", label, None, "", message, REMEDY),))
    found: list[tuple[int | None, Breach]] = [(None, breach) for breach in _records(whole)]
    metadata = whole.inner("scene_metadata") if isinstance(whole.values.get("scene_metadata"), dict) else None
    view = None
    if metadata is not None:
        found += [(None, breach) for breach in _metadata(metadata, name, items(whole, "frames"))]
        city = _read(metadata, "map_name", parse_city)
        view = None if city is None else map_of(city)
    listed = enumerate(items(whole, "frames"))
    frames = [RawFrame(path, index, item) for index, item in listed if isinstance(item, dict)]
    found += _all_frames(whole, frames, view)
    sensors = SensorFiles(dataset.sensor_folder(split), label, decode)
    for raw in frames:
        sensors.look(_as_logged(raw))
    pickle_findings = [replace(item, rule="second.pickle", remedy=REMEDY) for item in check_pickle(path, label)]
    findings = [_finding(label, index, breach) for index, breach in found]
    return replace(
        _facts(name, metadata, frames),
        missing=sensors.missing,
        findings=tuple(merged([*pickle_findings, *findings, *sensors.findings])),
    )


def _all_frames(
    whole: RawFrame, frames: Sequence[RawFrame], view: MapView | None
) -> Iterator[tuple[int | None, Breach]]:
    """Breaches with the index of their frame, None for those of what comes behind the last one."""
    sound = []
    for raw in frames:
        breaches = list(frame_breaches(raw, view))
        yield from ((raw.index, breach) for breach in breaches)
        if all(severity != "error" for severity, *_ in breaches):
            sound.append(raw)
    yield from step_breaches(sound)
    last = sound[-1] if sound and sound[-1] is frames[-1] else None
    yield from ((None, breach) for breach in future_breaches(whole, last, view))


def _finding(label: str, index: int | None, breach: Breach) -> Finding:
    severity, rule, key, message = breach
    return Finding(severity, rule, label, index, key, message, _REMEDIES.get(rule, REMEDY))


def _records(whole: RawFrame) -> Iterator[Breach]:
    """The four records of a file, and that there are frames."""
    yield from tried("second.keys", whole, RawFrame.inner, "scene_metadata")
    for key in ("frames", TRACKS_KEY, LIGHTS_KEY):
        yield from tried("second.keys", whole, RawFrame.sequence, key)
    frames = items(whole, "frames")
    if len(frames) < HISTORY_FRAMES:
        text = f"expected {HISTORY_FRAMES} or more, the current one included, found {len(frames)}"
        yield "error", "second.frames", "frames", text
    for item in frames:
        if not isinstance(item, dict):
            yield "error", "second.frames", "frames", f"expected dicts, found {describe(item)}"


def _metadata(metadata: RawFrame, name: str, frames: Sequence[object]) -> Iterator[Breach]:
    for key, parse in _METADATA.items():
        yield from tried("second.metadata", metadata, parse, key)
    history = _read(metadata, "num_history_frames", RawFrame.integer)
    if history not in (None, HISTORY_FRAMES):
        text = f"expected {HISTORY_FRAMES}, the current one included, found {history}"
        yield "error", "second.metadata", "scene_metadata.num_history_frames", text
    city = _read(metadata, "map_name", parse_city)
    if city is not None and metadata.values["map_name"] not in CITIES:
        text = f"expected one of {', '.join(CITIES)} (the official loader stops here), found an alias"
        yield "error", "second.metadata", "scene_metadata.map_name", text
    token, scene_token = (_read(metadata, key, RawFrame.text) for key in ("initial_token", "scene_token"))
    current = frames[HISTORY_FRAMES - 1] if len(frames) >= HISTORY_FRAMES else None
    if token is not None and isinstance(current, dict) and current.get("token") != token:
        text = f"expected the current frame's {describe(current.get('token'))}, found {token[:40]!r}"
        yield "error", "second.token", "scene_metadata.initial_token", text
    if scene_token not in (None, name):
        text = f"expected {name[:40]!r}, the file's name, found {describe(scene_token)}"
        yield "note", "second.name", "scene_metadata.scene_token", text
    for key in _ORIGINALS:
        original = _read(metadata, key, RawFrame.text)
        if original is not None and not TOKEN.fullmatch(original):
            text = f"expected the 16 hex digits of a logged frame, found {original[:40]!r}"
            yield "warning", "second.metadata", f"scene_metadata.{key}", text


def _facts(name: str, metadata: RawFrame | None, frames: Sequence[RawFrame]) -> SceneFacts:
    facts = SceneFacts(name, frames=len(frames))
    current = next((raw for raw in frames if raw.index == HISTORY_FRAMES - 1), None)
    if current is not None:
        facts = replace(facts, time_us=_read(current, "timestamp", RawFrame.integer))
    if metadata is None:
        return facts
    return replace(
        facts,
        token=_read(metadata, "initial_token", RawFrame.text),
        log_name=_read(metadata, "log_name", RawFrame.text),
        map_name=_read(metadata, "map_name", parse_city),
        original=_read(metadata, _ORIGINALS[0], RawFrame.text),
        original_initial=_read(metadata, _ORIGINALS[1], RawFrame.text),
    )


def _read(raw: RawFrame, key: str, parse: Callable[[RawFrame, str], _Value]) -> _Value | None:
    """The value of a key; None if it cannot be read, which is a finding already."""
    try:
        return parse(raw, key)
    except LogFormatError:
        return None


def _as_logged(raw: RawFrame) -> RawFrame:
    """The sensors of a frame under the keys of logs."""
    cameras = cameras_as_in_logs(raw).values if isinstance(raw.values.get("camera_dict"), dict) else {}
    sweep = sweep_of(raw) if "lidar_path" in raw.values else None
    return RawFrame(raw.path, raw.index, {"cams": dict(cameras), "lidar_path": sweep})
