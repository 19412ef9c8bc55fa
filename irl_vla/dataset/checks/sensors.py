"""Looks for the sensor files that the frames of a log name, and on request into them."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from irl_vla.dataset.checks.contents import image_faults, sweep_faults
from irl_vla.dataset.checks.findings import Finding, Severity
from irl_vla.dataset.layout import below
from irl_vla.dataset.log import parse_camera
from irl_vla.dataset.raw_frame import RawFrame
from irl_vla.dataset.sensors import decode_image, parse_sweep
from irl_vla.errors import LogFormatError
from irl_vla.scene import CAMERA_NAMES, Camera

LIDAR: Final = "LiDAR"
SENSORS: Final = (*CAMERA_NAMES, LIDAR)
LOST_RULE: Final = "sensor.lost"


@dataclass(slots=True)
class MissingSensors:
    """Frames that lack a sensor, by sensor.

    Attributes:
        absent: those whose entry names no file.
        lost: those whose file is not there.
    """

    absent: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def of(self, sensor: str) -> int:
        """Frames without this sensor, whether or not their entry names a file."""
        return self.absent.get(sensor, 0) + self.lost.get(sensor, 0)

    def add(self, other: Self) -> None:
        """Takes in what other frames lack."""
        for total, counts in ((self.absent, other.absent), (self.lost, other.lost)):
            for sensor, count in counts.items():
                total[sensor] = total.get(sensor, 0) + count

    def not_fetched(self, frames: int) -> list[str]:
        """Sensors that files are named of, and that none of so many frames has."""
        return [sensor for sensor in self.lost if self.of(sensor) == frames]


class SensorFiles:
    """Looks for the sensor files of a log, a folder listing at a time.

    Attributes:
        size_bytes: of the files that are there.
        findings: one a frame and sensor.
    """

    def __init__(self, root: Path, label: str, decode: bool) -> None:
        self._absent: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self.size_bytes = 0
        self.findings: list[Finding] = []
        self._root, self._label, self._decode = root, label, decode
        self._sizes: dict[Path, dict[str, int]] = {}

    @property
    def missing(self) -> MissingSensors:
        """What the frames so far lack."""
        return MissingSensors(dict(self._absent), dict(self._lost))

    def look(self, frame: RawFrame) -> None:
        """Counts what a frame has and lacks; entries that cannot be read are findings of the frame already."""
        for sensor, named in _named_files(frame).items():
            if named is None:
                self._absent[sensor] += 1
                continue
            relative = named if isinstance(named, str) else named.path
            try:
                path = below(self._root, relative, sensor)
            except LogFormatError:
                self._absent[sensor] += 1
                continue
            size = self._folder(path.parent).get(path.name)
            if size is None:
                self._lost[sensor] += 1
                self._add("warning", LOST_RULE, frame, sensor, f"expected the file {relative}, found none")
                continue
            self.size_bytes += size
            if size == 0:
                message = f"expected a file with content, found {path.name} empty"
                self._add("error", "sensor.content", frame, sensor, message)
            elif self._decode:
                self._look_inside(frame, sensor, path, named)

    def _look_inside(self, frame: RawFrame, sensor: str, path: Path, named: str | Camera) -> None:
        try:
            if isinstance(named, Camera):
                decode_image(path)
                faults = image_faults(path, named)
            else:
                data = path.read_bytes()
                faults = sweep_faults(data, parse_sweep(data, path))
        except LogFormatError as error:
            self._add("error", "sensor.content", frame, sensor, str(error))
            return
        for severity, message in faults:
            self._add(severity, "sensor.content", frame, sensor, f"{path.name}: {message}")

    def _add(self, severity: Severity, rule: str, frame: RawFrame, sensor: str, message: str) -> None:
        remedy = "fetch the sensor data again, or paint it: irl-vla render"
        self.findings.append(Finding(severity, rule, self._label, frame.index, sensor, message, remedy))

    def _folder(self, folder: Path) -> dict[str, int]:
        if folder not in self._sizes:
            try:
                with os.scandir(folder) as entries:
                    self._sizes[folder] = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            except (FileNotFoundError, NotADirectoryError):
                self._sizes[folder] = {}
        return self._sizes[folder]


def _named_files(frame: RawFrame) -> dict[str, Camera | str | None]:
    """Sensor to what names its file: a camera, or the path of a sweep; None without one."""
    cameras = frame.values.get("cams")
    named: dict[str, Camera | str | None] = dict.fromkeys(SENSORS)
    for name in CAMERA_NAMES:
        if isinstance(cameras, dict) and isinstance(cameras.get(name), dict) and cameras[name]:
            try:
                named[name] = parse_camera(frame.inner("cams").inner(name))
            except LogFormatError:
                continue
    lidar = frame.values.get("lidar_path")
    named[LIDAR] = lidar if isinstance(lidar, str) and lidar else None
    return named
