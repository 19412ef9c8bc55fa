"""Rules for the fields of one frame that reads well: exact types, tokens, names, paths and objects.

Types are those of the official files. Our own reader is more generous, other readers are not: ``bool("False")`` is true
in all of them, and a position in float32 is off by a quarter of a metre.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, TypeAlias

import numpy as np

from irl_vla.dataset.checks.findings import Breach
from irl_vla.dataset.log import parse_boxes, parse_cameras
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.scene import CAMERA_NAMES, CITIES

#: Logs have 16 digits; the official evaluator takes 17 for a second-stage scene.
TOKEN: Final = re.compile("[0-9a-f]{16}")
LOG_NAME: Final = re.compile(r"\d{4}(\.\d{2}){5}_veh-\w+_\d+_\d+")
_SCENE_NAME: Final = re.compile(r"log-\d{4}-.+")
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
#: Annotated objects lie nearer than this to the ego; global coordinates do not.
_FURTHEST_M: Final = 500.0


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64


def _is_list_or_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) or _is_numbers(value)


def _is_command(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "iu"


_Type: TypeAlias = tuple[str, Callable[[Any], bool]]
#: Key to what it must be. Positions and rotations may be lists, as some of the official ones are.
_TYPES: Final[Mapping[str, _Type]] = {
    "frame_idx": ("an int", _is_whole),
    **dict.fromkeys(("log_token", "scene_name", "scene_token", "vehicle_name"), ("a text", _is_text)),
    **dict.fromkeys(("sample_prev", "sample_next"), ("a text or None", _is_text_or_none)),
    **dict.fromkeys(("can_bus", "ego2global", "lidar2ego", "lidar2global"), ("a float64 array", _is_numbers)),
    **dict.fromkeys(
        ("ego2global_translation", "ego2global_rotation", "lidar2ego_translation", "lidar2ego_rotation"),
        ("float64 numbers", _is_list_or_numbers),
    ),
    "ego_dynamic_state": ("a list of floats", _is_list),
    "driving_command": ("whole numbers", _is_command),
    "roadblock_ids": ("a list of texts", _is_texts),
    "traffic_lights": ("a list", _is_list),
}
_ANNOTATION_TYPES: Final[Mapping[str, _Type]] = {
    "gt_boxes": ("a float64 array", _is_numbers),
    "gt_velocity_3d": ("a float64 array", _is_numbers),
    "gt_names": ("an array of texts", lambda value: isinstance(value, np.ndarray) and value.dtype.kind == "U"),
    "instance_tokens": ("a list of texts", _is_texts),
    "track_tokens": ("a list of texts", _is_texts),
}


def field_breaches(raw: RawFrame, log_name: str) -> Iterator[Breach]:
    """What reads well and is still not as the format says."""
    absent = [key for key in _UNREAD_KEYS if key not in raw.values]
    if absent:
        yield "note", "frame.unread_keys", absent[0], f"expected as in official files, found no {', '.join(absent)}"
    yield from _mistyped(raw.values, _TYPES, "")
    yield from _lights(raw)
    yield from _names(raw, log_name)
    yield from _paths(raw, log_name)
    yield from _objects(raw)


def _mistyped(values: Mapping[str, Any], types: Mapping[str, _Type], prefix: str) -> Iterator[Breach]:
    for key, (expected, fits) in types.items():
        if key in values and not fits(values[key]):
            yield "warning", "frame.type", f"{prefix}{key}", f"expected {expected}, found {describe(values[key])}"


def _lights(raw: RawFrame) -> Iterator[Breach]:
    for connector, is_red in raw.sequence("traffic_lights"):
        if not (_is_whole(connector) and isinstance(is_red, bool | np.bool_)):
            text = f"expected pairs of int and bool, found {describe((connector, is_red))}"
            yield "error", "frame.type", "traffic_lights", text
            return


def _names(raw: RawFrame, log_name: str) -> Iterator[Breach]:
    for key in ("token", "log_token", "scene_token"):
        token = raw.values.get(key, "0" * 16)
        if isinstance(token, str) and not TOKEN.fullmatch(token):
            yield "warning", "frame.token", key, f"expected 16 hex digits, found {token[:40]!r}"
    if raw.text("log_name") != log_name:
        yield "warning", "frame.log_name", "log_name", f"expected the file's name, found {raw.text('log_name')!r}"
    if raw.text("map_location") not in CITIES:
        text = f"expected one of {', '.join(CITIES)} (the official loader stops here), found an alias"
        yield "error", "frame.map", "map_location", text
    scene = raw.values.get("scene_name")
    if isinstance(scene, str) and not _SCENE_NAME.fullmatch(scene):
        yield "note", "frame.scene_name", "scene_name", f"expected log-NNNN-NAME, found {scene[:40]!r}"


def _paths(raw: RawFrame, log_name: str) -> Iterator[Breach]:
    cameras = raw.inner("cams")
    missing = [name for name in CAMERA_NAMES if name not in cameras.values]
    if missing:
        text = f"expected all eight cameras (the official loader stops here), found no {', '.join(missing)}"
        yield "error", "frame.cameras", "cams", text
    for name, camera in parse_cameras(cameras).items():
        parts = PurePosixPath(camera.path).parts
        if len(parts) != 3 or parts[:2] != (log_name, name) or not parts[2].endswith(".jpg"):
            text = f"expected {log_name}/{name}/TOKEN.jpg, found {camera.path!r}"
            yield "note", "frame.paths", f"cams.{name}.data_path", text
    sweep = raw.values["lidar_path"]
    if sweep is None:
        text = "expected a path (the official loader stops here), found None"
        yield "warning", "frame.lidar_path", "lidar_path", text
    elif sweep != f"{log_name}/MergedPointCloud/{raw.text('token')}.pcd":
        text = f"expected {log_name}/MergedPointCloud/{raw.text('token')}.pcd, found {sweep!r}"
        yield "note", "frame.paths", "lidar_path", text


def _objects(raw: RawFrame) -> Iterator[Breach]:
    if "anns" not in raw.values:
        return
    annotations = raw.inner("anns")
    objects = parse_boxes(annotations)
    if len(objects) == 0:
        return  # official files have arrays of any type for no objects
    yield from _mistyped(annotations.values, _ANNOTATION_TYPES, "anns.")
    sizes = objects.boxes[:, 3:6]
    if (sizes <= 0).any():
        row = int(np.flatnonzero((sizes <= 0).any(axis=1))[0])
        yield "warning", "frame.boxes", "anns.gt_boxes", f"expected sizes above 0, found {sizes[row]}"
    far = np.flatnonzero(~(np.hypot(objects.boxes[:, 0], objects.boxes[:, 1]) <= _FURTHEST_M))
    if len(far):
        text = f"expected positions in the ego frame, within {_FURTHEST_M:.0f} m, found {objects.boxes[far[0], :3]}"
        yield "warning", "frame.boxes", "anns.gt_boxes", text
    yield from _object_tokens("anns.track_tokens", "a track once a frame", objects.track_tokens)
    yield from _object_tokens(
        "anns.instance_tokens", "another one for each box", annotations.sequence("instance_tokens")
    )


def _object_tokens(key: str, expected: str, tokens: Sequence[Any]) -> Iterator[Breach]:
    if not all(isinstance(token, str) for token in tokens):
        yield "warning", "frame.tracks", key, "expected strings, found something else"
        return
    repeated = [token for token, count in Counter(tokens).items() if count > 1]
    strange = [token for token in tokens if not TOKEN.fullmatch(token)]
    if repeated:
        yield "warning", "frame.tracks", key, f"expected {expected}, found {repeated[0][:40]!r} twice"
    elif strange:
        yield "warning", "frame.tracks", key, f"expected 16 hex digits, found {strange[0][:40]!r}"
