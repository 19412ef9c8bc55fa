"""Where everything of a data set lies on disk, and the rule that nothing outside of it is ever opened."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from irl_vla.dataset.config import DataConfig
from irl_vla.errors import ConfigError, LogFormatError

#: Split files of the official devkit, below its root.
DEVKIT_SPLITS: Final = "navsim/planning/script/config/common/train_test_split"

#: Bytes that Linux allows in a file name, and characters in a path below a root.
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 3000


@dataclass(frozen=True, slots=True)
class Dataset:
    """An opened data set: its folders only, so it is cheap to send to workers.

    Attributes:
        root: holds ``navsim_logs``, ``sensor_blobs`` and, for generated data, ``layouts.json``.
        maps_root: holds the map index and one folder a city.
        splits_root: holds ``<split>.yaml``; need not exist, every folder of logs is a split of its own name.
        left_out: names of logs that are treated as if no split had them.
    """

    root: Path
    maps_root: Path
    splits_root: Path
    left_out: frozenset[str] = frozenset()

    def log_folder(self, data_split: str) -> Path:
        """Folder of the log pickles of a data split."""
        return below(self.root, f"navsim_logs/{data_split}", "data_split")

    def second_stage_folder(self, split: str) -> Path:
        """Folder of the second-stage scenes of a two-stage split, one pickle a scene."""
        return below(self.root, f"{split}/synthetic_scene_pickles", "split")

    def sensor_folder(self, data_split: str) -> Path:
        """Folder to which image and sweep paths of a data split are relative.

        Second-stage scenes have the two-stage split as theirs, which keeps its sensors in a folder of its own.
        """
        own = below(self.root, f"{data_split}/sensor_blobs", "data_split")
        return own if own.is_dir() else below(self.root, f"sensor_blobs/{data_split}", "data_split")


def open_dataset(config: DataConfig, environment: Mapping[str, str] | None = None) -> Dataset:
    """Resolves the folders of a data set.

    Args:
        environment: official environment variables; by default the process's own.

    Raises:
        ConfigError: if no root is given, or a folder does not exist.
    """
    variables = os.environ if environment is None else environment
    root = config.root or _variable_path(variables, "OPENSCENE_DATA_ROOT")
    if root is None:
        raise ConfigError("data.root: expected a folder, found nothing; set it or OPENSCENE_DATA_ROOT")
    from_variables = config.root is None
    maps = config.maps_root or (_variable_path(variables, "NUPLAN_MAPS_ROOT") if from_variables else None)
    splits = config.splits_root or root / "train_test_split"
    if config.splits_root is None and not splits.is_dir():
        devkit = _variable_path(variables, "NAVSIM_DEVKIT_ROOT")
        splits = devkit / DEVKIT_SPLITS if devkit else splits
    dataset = Dataset(root=root, maps_root=maps or root / "maps", splits_root=splits)
    for key, folder in (("root", dataset.root), ("maps_root", dataset.maps_root)):
        if not folder.is_dir():
            raise ConfigError(
                f"data.{key}: expected a folder, found none at {folder}; "
                "generate a data set or correct the path (docs/data.md)"
            )
    return dataset


def below(root: Path, relative: str, key: str) -> Path:
    """Joins a path that comes from data to a root.

    A pickle or YAML file can thus name no place outside of the root. Symbolic links are followed: only somebody who may
    write below the root can have put them there, and large sensor folders often lie on another disk.

    Raises:
        LogFormatError: if ``relative`` is empty, absolute, climbs with ``..`` or can be no file name.
    """
    parts = PurePosixPath(relative).parts
    if not parts or parts[0].startswith("/") or ".." in parts or "\0" in relative or "\\" in relative:
        raise LogFormatError(f"{root}: {key}: expected a path below this folder, found {relative[:200]!r}")
    try:
        fits = len(relative) <= _LONGEST_PATH and all(len(part.encode()) <= _LONGEST_NAME for part in parts)
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise LogFormatError(f"{root}: {key}: expected a path that a file can have, found {relative[:200]!r}")
    return root.joinpath(*parts)


def _variable_path(variables: Mapping[str, str], name: str) -> Path | None:
    return Path(variables[name]).expanduser() if variables.get(name) else None
