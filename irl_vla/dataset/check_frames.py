"""Rules for the frames of one log: what stops a reader (errors) and what does not fit together (warnings)."""

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.findings import Finding, Severity
from irl_vla.dataset.layout import below
from irl_vla.dataset.log import (
    parse_boxes,
    parse_camera,
    parse_cameras,
    parse_city,
    parse_ego,
    parse_traffic_lights,
)
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.errors import LogFormatError
from irl_vla.geometry import Floats
from irl_vla.scene import CAMERA_NAMES, MapView

#: Longer steps between frames are gaps: the official two-frame comfort refuses them.
GAP_S: Final = 0.55
_SHORTEST_STEP_S: Final = 0.4
#: A log whose first ego pose has no lane this near belongs to another map, or the map has another projection.
_NEAREST_LANE_M: Final = 100.0
_ROTATION_TOLERANCE: Final = 1e-3
_POSITION_TOLERANCE_M: Final = 1e-3
#: Keys that the official files have and nobody reads.
_UNREAD_KEYS: Final = (
    "frame_idx",
    "log_token",
    "scene_name",
    "scene_token",
    "vehicle_name",
    "can_bus",
    "lidar2ego_translation",
    "lidar2ego_rotation",
    "sample_prev",
    "sample_next",
    "ego2global",
    "lidar2ego",
    "lidar2global",
)
_REMEDY: Final = "fetch or generate the log again"

#: What a rule found in a frame: severity, rule, key, "expected ..., found ...".
_Breach = tuple[Severity, str, str, str]


def _lidar_path(raw: RawFrame) -> None:
    if raw.get("lidar_path") is not None:
        below(Path(), raw.text("lidar_path"), "lidar_path")


def _camera(name: str) -> Callable[[RawFrame], object]:
    def parse(raw: RawFrame) -> None:
        cameras = raw.inner("cams")
        if isinstance(cameras.values.get(name), dict) and cameras.values[name]:
            below(Path(), parse_camera(cameras.inner(name)).path, f"cams.{name}.data_path")

    return parse


#: Parts of a frame that are read independently of each other, so that each breach is found.
_PARTS: Final[Mapping[str, Callable[[RawFrame], object]]] = {
    "frame.token": lambda raw: raw.text("token"),
    "frame.timestamp": lambda raw: raw.integer("timestamp"),
    "frame.log_name": lambda raw: raw.text("log_name"),
    "frame.map": parse_city,
    "frame.route": lambda raw: raw.texts("roadblock_ids"),
    "frame.ego": parse_ego,
    "frame.lights": parse_traffic_lights,
    "frame.lidar_path": _lidar_path,
    "frame.cameras": lambda raw: parse_cameras(raw.inner("cams")),
    **{f"frame.{name}": _camera(name) for name in CAMERA_NAMES},
}


def check_frames(
    path: Path, label: str, frames: Sequence[Any], annotated: bool, map_of: Callable[[str], MapView | None]
) -> list[Finding]:
    """All findings about the frames of a log, one a frame and rule.

    Args:
        label: name of the file in findings.
        annotated: False if the split's frames need no annotations.
        map_of: the map of a city, None if it cannot be read (which is another check's finding).
    """
    found: list[Finding] = []
    tokens: set[str] = set()
    whole: list[RawFrame] = []
    for index, item in enumerate(frames):
        if not isinstance(item, dict):
            found.append(
                Finding("error", "frame", label, index, "", f"expected a dict, found {describe(item)}", _REMEDY)
            )
            continue
        raw = RawFrame(path, index, item)
        breaches = list(_broken_parts(raw, annotated))
        found += [_finding(label, index, breach) for breach in breaches]
        if any(severity == "error" for severity, *_ in breaches):
            continue
        found += [_finding(label, index, breach) for breach in _inconsistencies(raw, path.stem)]
        if raw.text("token") in tokens:
            breach = ("error", "frame.token", "token", f"expected a token used once, found {raw.text('token')} again")
            found.append(_finding(label, index, breach))  # type: ignore[arg-type]
        tokens.add(raw.text("token"))
        whole.append(raw)
    for before, after in pairwise(whole):
        if after.index == before.index + 1:
            found += [_finding(label, after.index, breach) for breach in _order(before, after)]
    return found + [_finding(label, index, breach) for index, breach in _strangers(whole, map_of)]


def _finding(label: str, index: int, breach: _Breach) -> Finding:
    severity, rule, key, message = breach
    return Finding(severity, rule, label, index, key, message, _REMEDIES.get(rule, _REMEDY))


def _broken_parts(raw: RawFrame, annotated: bool) -> Iterator[_Breach]:
    for rule, parse in _PARTS.items():
        try:
            parse(raw)
        except LogFormatError as error:
            yield "error", rule, *_key_and_message(raw, error)
    if annotated or "anns" in raw.values:
        try:
            parse_boxes(raw.inner("anns"))
        except LogFormatError as error:
            yield "error", "frame.anns", *_key_and_message(raw, error)


def _key_and_message(raw: RawFrame, error: LogFormatError) -> tuple[str, str]:
    """Key and text of an error without its file, frame and remedy, which findings have on their own."""
    text = str(error).removeprefix(f"{raw.path}: frame {raw.index}: ").removeprefix(".: ")
    key, _, rest = text.partition(": ")
    return key, rest.removesuffix(f"; {_REMEDY}")


def _inconsistencies(raw: RawFrame, log_name: str) -> Iterator[_Breach]:
    """What reads well and is still not as the format says."""
    token = raw.text("token")
    if len(token) not in (16, 17) or not set(token) <= set(string.hexdigits):
        yield "warning", "frame.token", "token", f"expected 16 hex digits, found {token[:40]!r}"
    if raw.text("log_name") != log_name:
        yield "warning", "frame.log_name", "log_name", f"expected the file's name, found {raw.text('log_name')!r}"
    if raw.values["lidar_path"] is None:
        yield (
            "warning",
            "frame.lidar_path",
            "lidar_path",
            "expected a path (the official loader stops here), found None",
        )
    absent = [key for key in _UNREAD_KEYS if key not in raw.values]
    if absent:
        yield "note", "frame.unread_keys", absent[0], f"expected as in official files, found no {', '.join(absent)}"
    yield from _transforms(raw)
    yield from _objects(raw)
    yield from _lenses(raw)


def _transforms(raw: RawFrame) -> Iterator[_Breach]:
    """The pose is stored three times over; other readers may take another one than ours."""
    rotation = raw.floats("ego2global_rotation", (4,))
    norm = float(np.linalg.norm(rotation))
    if abs(norm - 1.0) > _ROTATION_TOLERANCE:
        yield "warning", "frame.pose", "ego2global_rotation", f"expected a quaternion of norm 1, found {norm:.4f}"
    expected = np.eye(4)
    expected[:3, :3] = _matrix(rotation / norm)
    expected[:3, 3] = raw.floats("ego2global_translation", (3,))
    for key, shape in (("ego2global", (4, 4)), ("lidar2ego", (4, 4)), ("lidar2global", (4, 4)), ("can_bus", (18,))):
        if key in raw.values:
            try:
                raw.floats(key, shape)
            except LogFormatError as error:
                yield "warning", "frame.pose", *_key_and_message(raw, error)
                return
    if "ego2global" in raw.values and not _close(raw.floats("ego2global", (4, 4)), expected):
        yield "warning", "frame.pose", "ego2global", "expected translation and rotation as a matrix, found another one"
    if {"ego2global", "lidar2ego", "lidar2global"} <= set(raw.values):
        product = _product(raw.floats("ego2global", (4, 4)), raw.floats("lidar2ego", (4, 4)))
        if not _close(raw.floats("lidar2global", (4, 4)), product):
            yield "warning", "frame.pose", "lidar2global", "expected ego2global @ lidar2ego, found another matrix"


def _matrix(rotation: Floats) -> Floats:
    """Rotation matrix (3, 3) of a unit quaternion (4,) w, x, y, z."""
    w, x, y, z = rotation
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _product(left: Floats, right: Floats) -> Floats:
    """The matrix product; numbers out of all proportion give infinity or NaN, which are close to nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        product: Floats = left @ right
    return product


def _close(found: Floats, expected: Floats) -> bool:
    return bool(
        np.abs(found[:3, :3] - expected[:3, :3]).max() < _ROTATION_TOLERANCE
        and np.abs(found[:3, 3] - expected[:3, 3]).max() < _POSITION_TOLERANCE_M
    )


def _objects(raw: RawFrame) -> Iterator[_Breach]:
    if "anns" not in raw.values:
        return
    annotations = raw.inner("anns")
    objects = parse_boxes(annotations)
    if (objects.boxes[:, 3:6] <= 0).any():
        row = int(np.flatnonzero((objects.boxes[:, 3:6] <= 0).any(axis=1))[0])
        yield "warning", "frame.boxes", "anns.gt_boxes", f"expected sizes above 0, found {objects.boxes[row, 3:6]}"
    if len(set(objects.track_tokens)) < len(objects):
        yield "warning", "frame.tracks", "anns.track_tokens", "expected a track once a frame, found one twice"
    if not all(isinstance(token, str) for token in annotations.sequence("instance_tokens")):
        yield "warning", "frame.tracks", "anns.instance_tokens", "expected strings, found something else"


def _lenses(raw: RawFrame) -> Iterator[_Breach]:
    for name, camera in parse_cameras(raw.inner("cams")).items():
        key = f"cams.{name}"
        if not np.abs(_product(camera.rotation, camera.rotation.T) - np.eye(3)).max() <= _ROTATION_TOLERANCE:
            yield (
                "warning",
                "frame.calibration",
                f"{key}.sensor2lidar_rotation",
                "expected a rotation, found a distortion",
            )
        if camera.intrinsic[0, 0] <= 0 or camera.intrinsic[1, 1] <= 0 or camera.intrinsic[2].tolist() != [0, 0, 1]:
            yield "error", "frame.calibration", f"{key}.cam_intrinsic", "expected a pinhole matrix, found another one"


def _order(before: RawFrame, after: RawFrame) -> Iterator[_Breach]:
    """What neighbouring frames must have in common."""
    step_s = (after.integer("timestamp") - before.integer("timestamp")) / 1e6
    if step_s <= 0:
        yield "error", "frame.timestamp", "timestamp", f"expected a later time than the frame before, found {step_s} s"
    elif step_s > GAP_S:
        yield "warning", "frame.gap", "timestamp", f"expected 0.5 s since the frame before, found {step_s:.2f} s"
    elif step_s < _SHORTEST_STEP_S:
        yield "warning", "frame.step", "timestamp", f"expected 0.5 s since the frame before, found {step_s:.2f} s"
    if parse_city(before) != parse_city(after):
        yield "warning", "frame.map", "map_location", "expected one city a log, found another than the frame before"
    previous = after.values.get("sample_prev")
    if previous is not None and not (isinstance(previous, str) and previous == before.text("token")):
        yield "warning", "frame.links", "sample_prev", "expected the token of the frame before or None, found another"
    first, second = before.values.get("frame_idx"), after.values.get("frame_idx")
    scenes = before.values.get("scene_token"), after.values.get("scene_token")
    same_scene = all(isinstance(scene, str) for scene in scenes) and scenes[0] == scenes[1]
    if same_scene and isinstance(first, int) and isinstance(second, int) and second <= first:
        yield "warning", "frame.links", "frame_idx", f"expected to rise within a scene, found {first}, {second}"


def _strangers(frames: Sequence[RawFrame], map_of: Callable[[str], MapView | None]) -> Iterator[tuple[int, _Breach]]:
    """Ids that the map does not have, and an ego that drives beside it."""
    for raw in frames:
        view = map_of(parse_city(raw))
        if view is None:
            continue
        unknown = [
            block
            for block in raw.texts("roadblock_ids")
            if block not in view.roadblocks and block not in view.roadblock_connectors
        ]
        if unknown:
            text = f"expected ids of lane groups or their connectors, found {len(unknown)} others, first {unknown[0]!r}"
            yield raw.index, ("error", "map.route_ids", "roadblock_ids", text)
        lights = [connector for connector, _ in parse_traffic_lights(raw) if str(connector) not in view.lane_connectors]
        if lights:
            text = f"expected ids of lane connectors, found {len(lights)} others, first {lights[0]}"
            yield raw.index, ("warning", "map.light_ids", "traffic_lights", text)
        if raw is frames[0]:
            x, y, _ = parse_ego(raw).pose_global
            if not any(view.query(layer, x, y, _NEAREST_LANE_M) for layer in ("LANE", "LANE_CONNECTOR")):
                text = (
                    f"expected a lane of {view.name} within {_NEAREST_LANE_M:.0f} m of ({x:.0f}, {y:.0f}), found none"
                )
                yield raw.index, ("error", "map.ego", "ego2global_translation", text)


_REMEDIES: Final = {
    "map.route_ids": "use the maps of the release that the logs were made with",
    "map.light_ids": "use the maps of the release that the logs were made with",
    "map.ego": "use the maps of the release that the logs were made with, and check their projection",
    "frame.gap": "nothing to do if frames were dropped on purpose; scenes run across gaps",
    "frame.step": "resample the log to 2 Hz",
    "frame.log_name": "rename the file to the log's name",
    "frame.lidar_path": "write the path where the sweep would lie; render or fetch the sensors",
    "frame.unread_keys": "nothing to do: nobody reads them",
}
