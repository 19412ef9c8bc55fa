"""Rules for the frames of a second-stage scene, and for what the others do after the last one.

The parts of a frame are read independently of each other, so that each breach is found.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.checks.cameras import camera_breaches
from irl_vla.dataset.checks.findings import Breach
from irl_vla.dataset.checks.order import GAP_S
from irl_vla.dataset.layout import below
from irl_vla.dataset.log import parse_boxes, parse_camera, parse_cameras, parse_traffic_lights
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.dataset.second_stage import (
    ANNOTATION_KEYS,
    LIGHTS_KEY,
    TOKEN_LENGTH,
    TRACKS_KEY,
    cameras_as_in_logs,
    parse_detections,
    parse_ego_status,
    parse_statuses,
    sweep_of,
)
from irl_vla.errors import LogFormatError
from irl_vla.geometry import Floats
from irl_vla.scene import CAMERA_NAMES, FUTURE_FRAMES, HISTORY_FRAMES, Boxes, MapView

#: By their 17 digits the official evaluator tells second-stage scenes.
SECOND_TOKEN: Final = re.compile("[0-9a-f]{17}")
#: What readers' errors end with; findings have remedies of their own.
_READERS_REMEDY: Final = re.compile("; (fetch|generate)[^;]*$")
_READERS_PLACE: Final = re.compile(r"(frame \d+|\.): ")
#: Python refuses to spell whole numbers of thousands of digits.
_LARGEST_ID: Final = 2**63
_SHORTEST_STEP_S: Final = 0.4
#: Objects lie nearer than this to the ego; those in another frame of reference do not.
_FURTHEST_M: Final = 500.0
#: A scene without a lane this near belongs to another map, or the map has another projection.
_NEAREST_LANE_M: Final = 100.0


def tried(rule: str, raw: RawFrame, parse: Callable[..., object], *rest: object) -> Iterator[Breach]:
    """The error of a reader as a breach, if it has one."""
    try:
        parse(raw, *rest)
    except LogFormatError as error:
        yield "error", rule, *key_and_text(error, raw.path)


def key_and_text(error: Exception, path: Path) -> tuple[str, str]:
    """Key and text of a reader's error without its file, frame and remedy, which findings have on their own."""
    text = _READERS_PLACE.sub("", str(error).removeprefix(f"{path}: "), count=1)
    key, _, rest = _READERS_REMEDY.sub("", text).partition(": ")
    return (key, rest) if rest and " " not in key else ("", _READERS_REMEDY.sub("", text))


def frame_breaches(raw: RawFrame, view: MapView | None) -> Iterator[Breach]:
    """What does not fit in one frame.

    Args:
        view: the map, None if it cannot be read (which is another finding).
    """
    broken = [breach for rule, parse in _PARTS.items() for breach in tried(rule, raw, parse)]
    yield from broken
    if broken:
        return
    token, ego = raw.text("token"), raw.inner("ego_status")
    if not SECOND_TOKEN.fullmatch(token):
        is_fatal = raw.index == HISTORY_FRAMES - 1 and len(token) != TOKEN_LENGTH
        text = f"expected {TOKEN_LENGTH} hex digits, found {token[:40]!r}"
        yield "error" if is_fatal else "warning", "second.token", "token", text
    is_global = ego.values.get("in_global_frame")
    if not (isinstance(is_global, bool | np.bool_) and is_global):
        text = f"expected True, since poses are global, found {describe(is_global)}"
        yield "error", "second.ego", "ego_status.in_global_frame", text
    for connector, is_red in raw.sequence("traffic_lights"):
        is_id = isinstance(connector, int | np.integer) and not isinstance(connector, bool)
        if not (is_id and isinstance(is_red, bool | np.bool_)):
            text = f"expected pairs of int and bool, found {describe((connector, is_red))}"
            yield "error", "second.lights", "traffic_lights", text
    yield from _annotations(raw)
    yield from _cameras(raw)
    if view is not None:
        yield from _strangers(raw, view)


def _camera(name: str) -> Callable[[RawFrame], object]:
    def parse(raw: RawFrame) -> None:
        cameras = cameras_as_in_logs(raw)
        if isinstance(cameras.values.get(name), dict) and cameras.values[name]:
            below(Path(), parse_camera(cameras.inner(name)).path, f"camera_dict.{name}.data_path")

    return parse


def _sweep(raw: RawFrame) -> None:
    value, path = raw.get("lidar_path"), sweep_of(raw)
    if path is not None:
        below(Path(), path, "lidar_path")
    elif value is not None:
        raw.fail("lidar_path", "a path or None", describe(value))


_PARTS: Final[Mapping[str, Callable[[RawFrame], object]]] = {
    "second.token": lambda raw: raw.text("token"),
    "second.timestamp": lambda raw: raw.integer("timestamp"),
    "second.route": lambda raw: raw.texts("roadblock_ids"),
    "second.lights": parse_traffic_lights,
    "second.annotations": lambda raw: parse_boxes(raw.inner("annotations"), ANNOTATION_KEYS),
    "second.ego": parse_ego_status,
    "second.lidar_path": _sweep,
    "second.cameras": lambda raw: parse_cameras(cameras_as_in_logs(raw)),
    **{f"second.{name}": _camera(name) for name in CAMERA_NAMES},
}


def _annotations(raw: RawFrame) -> Iterator[Breach]:
    annotations = raw.inner("annotations")
    objects = parse_boxes(annotations, ANNOTATION_KEYS)
    yield from _boxes(objects, "annotations.boxes", "the ego frame", np.zeros(2))
    for key in ("instance_tokens", "track_tokens"):
        tokens = annotations.sequence(key)
        if not all(isinstance(item, str) for item in tokens):
            yield "warning", "second.annotations", f"annotations.{key}", "expected strings, found something else"
            continue
        repeated = [item for item, count in Counter(tokens).items() if count > 1]
        if repeated:
            text = f"expected each once a frame, found {repeated[0][:40]!r} twice"
            yield "warning", "second.annotations", f"annotations.{key}", text


def _boxes(objects: Boxes, key: str, frame: str, origin: Floats) -> Iterator[Breach]:
    sizes, away = objects.boxes[:, 3:6], objects.boxes[:, :2] - origin
    if (sizes <= 0).any():
        row = int(np.flatnonzero((sizes <= 0).any(axis=1))[0])
        yield "warning", "second.boxes", key, f"expected sizes above 0, found {sizes[row]}"
    far = np.flatnonzero(~(np.hypot(away[:, 0], away[:, 1]) <= _FURTHEST_M))
    if len(far):
        text = f"expected positions in {frame}, within {_FURTHEST_M:.0f} m of the ego"
        yield "warning", "second.boxes", key, f"{text}, found {objects.boxes[far[0], :2]}"


def _cameras(raw: RawFrame) -> Iterator[Breach]:
    stored = raw.inner("camera_dict").values
    missing = [name.lower() for name in CAMERA_NAMES if name.lower() not in stored]
    if missing:
        text = f"expected all eight cameras in lower case, found no {', '.join(missing)}"
        yield "error", "second.cameras", "camera_dict", text
    logged = RawFrame(raw.path, raw.index, {"cams": dict(cameras_as_in_logs(raw).values)})
    for severity, rule, key, message in camera_breaches(logged):
        yield severity, rule.replace("frame", "second"), key.lower().replace("cams", "camera_dict", 1), message


def _strangers(raw: RawFrame, view: MapView) -> Iterator[Breach]:
    """Ids that the map does not have, and an ego that drives beside it."""
    known = view.roadblocks.keys() | view.roadblock_connectors.keys()
    unknown = [block for block in raw.texts("roadblock_ids") if block not in known]
    if unknown:
        text = f"expected ids of lane groups or their connectors, found {len(unknown)} others, first {unknown[0]!r}"
        yield "error", "second.route_ids", "roadblock_ids", text
    yield from _lights(parse_traffic_lights(raw), "traffic_lights", view)
    x, y, _ = parse_ego_status(raw).pose_global
    if not any(view.query(layer, x, y, _NEAREST_LANE_M) for layer in ("LANE", "LANE_CONNECTOR")):
        text = f"expected a lane of {view.name} within {_NEAREST_LANE_M:.0f} m of ({x:.0f}, {y:.0f}), found none"
        yield "error", "second.place", "ego_status.ego_pose", text


def _lights(lights: Sequence[tuple[int, bool]], key: str, view: MapView) -> Iterator[Breach]:
    is_known = [0 <= connector <= _LARGEST_ID and str(connector) in view.lane_connectors for connector, _ in lights]
    unknown = [connector for (connector, _), known in zip(lights, is_known, strict=True) if not known]
    if unknown:
        text = f"expected ids of lane connectors, found {len(unknown)} others, first {describe(unknown[0])}"
        yield "warning", "second.light_ids", key, text


def step_breaches(frames: Sequence[RawFrame]) -> Iterator[tuple[int, Breach]]:
    """What does not fit between frames that could be read, with the frame's index."""
    tokens = [raw.text("token") for raw in frames]
    for before, after in pairwise(frames):
        if after.index != before.index + 1:
            continue
        step_s = (after.integer("timestamp") - before.integer("timestamp")) / 1e6
        text = f"expected 0.5 s since the frame before, found {step_s:.2f} s"
        if step_s <= 0:
            yield after.index, ("error", "second.timestamp", "timestamp", text)
        elif not _SHORTEST_STEP_S <= step_s <= GAP_S:
            yield after.index, ("warning", "second.timestamp", "timestamp", text)
        if after.text("token") in tokens[: frames.index(after)]:
            text = f"expected a token used once, found {after.text('token')[:40]!r} again"
            yield after.index, ("error", "second.token", "token", text)


def future_breaches(whole: RawFrame, ego: RawFrame | None, view: MapView | None) -> Iterator[Breach]:
    """What does not fit in the two lists that continue a scene behind its last frame.

    Args:
        ego: the last frame, None if it could not be read.
    """
    stored = max(len(items(whole, "frames")) - HISTORY_FRAMES, 0)
    tracks, lights = items(whole, TRACKS_KEY), items(whole, LIGHTS_KEY)
    wanted = max(FUTURE_FRAMES - stored, 0)
    if len(tracks) < wanted:
        yield "error", "second.future", TRACKS_KEY, f"expected {wanted} or more, 4 s to judge, found {len(tracks)}"
    if len(lights) < min(len(tracks), wanted):
        yield "warning", "second.future", LIGHTS_KEY, f"expected as many as {TRACKS_KEY}, found {len(lights)}"
    origin = None if ego is None else parse_ego_status(ego).pose_global[:2]
    for index, item in enumerate(tracks):
        try:
            objects = parse_detections(whole.path, index, item)
        except LogFormatError as error:
            yield "error", "second.future", TRACKS_KEY, ": ".join(key_and_text(error, whole.path))
            continue
        if origin is not None:
            yield from _boxes(objects, TRACKS_KEY, "the global frame", origin)
    for index, item in enumerate(lights):
        try:
            found = parse_statuses(whole.path, index, item)
        except LogFormatError as error:
            yield "error", "second.future", LIGHTS_KEY, ": ".join(key_and_text(error, whole.path))
            continue
        if view is not None:
            yield from _lights(found, LIGHTS_KEY, view)


def items(whole: RawFrame, key: str) -> Sequence[Any]:
    """A list of a file; empty if it is none, which is another finding."""
    try:
        return whole.sequence(key)
    except LogFormatError:
        return ()
