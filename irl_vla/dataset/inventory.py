"""Which sensor files the scenes of a split lack; nothing is decoded."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from irl_vla.dataset.config import SensorConfig
from irl_vla.dataset.layout import Dataset, below
from irl_vla.dataset.log import Log
from irl_vla.dataset.scenes import logs_of, second_stage_scene, windows
from irl_vla.dataset.splits import SceneRef, Split, read_split
from irl_vla.dataset.spread import spread

#: Logs of more bytes in all are worth the start of other processes.
_SPREAD_BYTES: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class MissingSensor:
    """A sensor that a policy takes and a scene lacks.

    Attributes:
        sensor: name of the camera, or "sweep" with its history index (3 = current frame).
        path: the file that the log names and that is not there; None if the log names none.
    """

    sensor: str
    path: str | None

    def __str__(self) -> str:
        return f"{self.sensor}: {'not in the log' if self.path is None else f'no file {self.path}'}"


@dataclass(frozen=True, slots=True, eq=False)
class SensorInventory:
    """The scenes of a split, and what some of them lack.

    Attributes:
        log_of: every scene by its token, in the order of the split, to the name of its log.
        missing: by token, of the scenes that lack something.
    """

    log_of: Mapping[str, str]
    missing: Mapping[str, tuple[MissingSensor, ...]]

    @property
    def whole(self) -> tuple[str, ...]:
        """Tokens of the scenes that lack nothing, in the order of the split."""
        return tuple(token for token in self.log_of if token not in self.missing)

    def by_sensor(self) -> Counter[str]:
        """Scenes that lack each sensor."""
        return Counter(item.sensor for items in self.missing.values() for item in items)

    def by_log(self) -> Counter[str]:
        """Scenes that lack anything, by log."""
        return Counter(self.log_of[token] for token in self.missing)

    def describe(self) -> str:
        """One sentence with counts and an example; what is whole is said, too."""
        scenes = len(self.log_of)
        if not self.missing:
            return f"all sensor files of {scenes} scenes are there"
        sensors = ", ".join(f"{name} {count}" for name, count in sorted(self.by_sensor().items()))
        logs = ", ".join(f"{name} {count}" for name, count in self.by_log().most_common(3))
        token, items = next(iter(self.missing.items()))
        return (
            f"{len(self.missing)} of {scenes} scenes lack sensors ({sensors}), in {len(self.by_log())} logs (most in: "
            f"{logs}); e.g. scene {token}: {items[0]}"
        )


def spread_inventory(dataset: Dataset, split: str, sensors: SensorConfig) -> SensorInventory:
    """Looks whether the files are there that an observation of each scene takes.

    Every log of the split is read once, without converting its frames, and every file is looked for with one ``stat``.
    Large logs, as recorded ones are, are read by a process a core (14 GB for ``navtrain``).

    Args:
        sensors: cameras of the current frame, and sweeps of the history.

    Raises:
        ConfigError: if there is no such split.
        LogFormatError: if a log or second-stage scene is missing or broken.
    """
    selection = read_split(dataset, split)
    names, folder = logs_of(dataset, selection), dataset.log_folder(selection.data_split)
    size = sum((folder / f"{name}.pkl").stat().st_size for name in names)
    if selection.scene_filter.max_scenes is not None or size < _SPREAD_BYTES:
        return inventory_of(dataset, selection, sensors, None)
    look = partial(inventory_of, dataset, selection, sensors)
    return joined(list(spread(look, [[name] for name in names], os.cpu_count() or 1)))


def joined(parts: Sequence[SensorInventory]) -> SensorInventory:
    """The inventory of several disjoint sets of logs."""
    return SensorInventory(
        log_of={token: name for part in parts for token, name in part.log_of.items()},
        missing={token: items for part in parts for token, items in part.missing.items()},
    )


def inventory_of(
    dataset: Dataset, selection: Split, sensors: SensorConfig, logs: Sequence[str] | None
) -> SensorInventory:
    """As :func:`spread_inventory`, in this process and of a split that has been read.

    Args:
        logs: only these logs (of ``split_logs``); None takes all.
    """
    log_of, missing = {}, {}
    for ref, log in windows(dataset, selection, logs):
        log_of[ref.token] = ref.log_name
        if log is None:
            files, folder = _second_stage_files(dataset, selection, sensors, ref), dataset.sensor_folder(selection.name)
        else:
            start = ref.index - selection.scene_filter.num_history_frames + 1
            files, folder = _files(log, ref.index, start, sensors), dataset.sensor_folder(selection.data_split)
        if absent := tuple(_absent(folder, files)):
            missing[ref.token] = absent
    return SensorInventory(log_of, missing)


def _files(log: Log, current: int, start: int, sensors: SensorConfig) -> dict[str, str | None]:
    """File of each sensor of a logged scene; None where the log names none."""
    images = log.image_paths(current)
    sweeps = {f"sweep {index}": log.sweep_path(start + index) for index in sensors.lidar_history}
    return {name: images.get(name) for name in sensors.cameras} | sweeps


def _second_stage_files(
    dataset: Dataset, selection: Split, sensors: SensorConfig, ref: SceneRef
) -> dict[str, str | None]:
    scene = second_stage_scene(dataset, selection, ref)
    cameras = scene.current.cameras
    images = {name: cameras[name].path if name in cameras else None for name in sensors.cameras}
    return images | {f"sweep {index}": scene.frames[index].lidar_path for index in sensors.lidar_history}


def _absent(folder: Path, files: Mapping[str, str | None]) -> Iterator[MissingSensor]:
    for sensor, path in files.items():
        if path is None or not below(folder, path, "sensor file").is_file():
            yield MissingSensor(sensor, path)
