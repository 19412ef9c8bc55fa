"""Rules for the frames of one log: what stops a reader (errors) and what does not fit together (warnings)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.checks.cameras import camera_breaches
from irl_vla.dataset.checks.fields import LOG_NAME, field_breaches
from irl_vla.dataset.checks.findings import REMEDY, Breach, Finding, breach_of
from irl_vla.dataset.checks.motion import motion_breaches
from irl_vla.dataset.checks.order import order_breaches
from irl_vla.dataset.checks.pickle import check_pickle
from irl_vla.dataset.checks.pose import pose_breaches
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
from irl_vla.scene import CAMERA_NAMES, MapView

#: A log whose first ego pose has no lane this near belongs to another map, or the map has another projection.
_NEAREST_LANE_M: Final = 100.0


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


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # numbers out of all proportion are findings
def check_frames(
    path: Path, label: str, frames: Sequence[Any], annotated: bool, map_of: Callable[[str], MapView | None]
) -> list[Finding]:
    """All findings about the frames of a log, one a frame and rule.

    Args:
        label: name of the file in findings.
        annotated: False if the split's frames need no annotations.
        map_of: the map of a city, None if it cannot be read (which is another check's finding).
    """
    found = check_pickle(path, label)
    if not LOG_NAME.fullmatch(path.stem):
        message = f"expected YYYY.MM.DD.hh.mm.ss_veh-NAME_START_END, found {path.stem!r}"
        found.append(Finding("note", "log.name", label, None, "", message, "nothing to do: names are names"))
    tokens: set[str] = set()
    whole: list[RawFrame] = []
    for index, item in enumerate(frames):
        if not isinstance(item, dict):
            found.append(
                Finding("error", "frame", label, index, "", f"expected a dict, found {describe(item)}", REMEDY)
            )
            continue
        raw = RawFrame(path, index, item)
        broken = [_finding(label, index, breach) for breach in _broken_parts(raw, annotated)]
        found += broken
        if broken:
            continue
        rules = (field_breaches(raw, path.stem), pose_breaches(raw), camera_breaches(raw))
        found += [_finding(label, index, breach) for breaches in rules for breach in breaches]
        if raw.text("token") in tokens:
            breach = ("error", "frame.token", "token", f"expected a token used once, found {raw.text('token')} again")
            found.append(_finding(label, index, breach))  # type: ignore[arg-type]
        tokens.add(raw.text("token"))
        whole.append(raw)
    for rule in (order_breaches(whole), motion_breaches(whole), _strangers(whole, map_of)):
        found += [_finding(label, index, breach) for index, breach in rule]
    return found


def _finding(label: str, index: int, breach: Breach) -> Finding:
    severity, rule, key, message = breach
    return Finding(severity, rule, label, index, key, message, _REMEDIES.get(rule, REMEDY))


def _broken_parts(raw: RawFrame, annotated: bool) -> Iterator[Breach]:
    for rule, parse in _PARTS.items():
        try:
            parse(raw)
        except LogFormatError as error:
            yield "error", rule, *breach_of(error, raw.path, raw.index)
    if annotated or "anns" in raw.values:
        try:
            parse_boxes(raw.inner("anns"))
        except LogFormatError as error:
            yield "error", "frame.anns", *breach_of(error, raw.path, raw.index)


def _strangers(frames: Sequence[RawFrame], map_of: Callable[[str], MapView | None]) -> Iterator[tuple[int, Breach]]:
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
    "frame.scene_name": "nothing to do: nobody reads it",
    "frame.paths": "nothing to do if the files lie there",
    "frame.motion": "correct units and frames of reference where the log is made",
}
