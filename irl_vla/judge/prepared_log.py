"""The scenes of one log, prepared for scoring, and what is noted of where they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self

from irl_vla.dataset.config import ViewConfig
from irl_vla.dataset.fingerprint import content_hashes
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import city_path, load_map
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.views import scene_views
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.store import ShardEntry
from irl_vla.errors import MapError, SceneError
from irl_vla.ledger.files import content_hash
from irl_vla.scene import Scene


@dataclass(frozen=True, slots=True)
class FailedScene:
    """A scene (or view) that has no prepared record, and why."""

    token: str
    log_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class PreparedLog:
    """The scenes of a log.

    Attributes:
        scenes: each followed by its views.
        failed: scenes that could not be prepared.
        maps: city to hash of its map file, of the cities that the scenes lie in.
    """

    scenes: tuple[PreparedScene, ...]
    failed: tuple[FailedScene, ...]
    maps: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LogReport:
    """What became of a log; the notes of its shard.

    Attributes:
        log_hash: of the log file; a shard of another content is made again.
        taken: hash of the tokens that were asked for, empty for all that the split selects.
        scenes: prepared ones, in the shard.
        failed: scenes that could not be prepared.
        maps: city to hash of its map file, of the cities that the scenes lie in.
        second_stage: token to hash of the file, of the second-stage scenes behind the log.
        broken: why the log could not be read; empty if it could.
    """

    log_hash: str
    taken: str
    scenes: int
    failed: tuple[FailedScene, ...] = ()
    maps: Mapping[str, str] = field(default_factory=dict)
    second_stage: Mapping[str, str] = field(default_factory=dict)
    broken: str = ""

    @property
    def content(self) -> str:
        """Hash of all files that the scenes of the log came from, and of whether they could be read."""
        # Not of why they could not: the reason names folders of one machine.
        return content_hash([self.log_hash, dict(self.maps), dict(self.second_stage), bool(self.broken)])

    @property
    def file_hashes(self) -> list[str]:
        """Of the log, its maps and its second-stage scenes."""
        return [self.log_hash, *self.maps.values(), *self.second_stage.values()]

    @classmethod
    def of(cls, entry: ShardEntry) -> Self:
        """Of a shard."""
        failed = tuple(FailedScene(**item) for item in entry.notes["failed"])
        return cls(**{**entry.notes, "failed": failed})


def prepare_log(
    dataset: Dataset, split: str, name: str, tokens: Sequence[str] | None, views: ViewConfig | None, *, seed: int
) -> PreparedLog:
    """Prepares the scenes of one log and of the second stage behind it, each followed by its views, in this process.

    Args:
        dataset: where the log is.
        split: name of the split.
        name: of the log.
        tokens: only these scenes; None prepares all.
        views: configuration of shifted-ego views, if they are wanted.
        seed: of the views.
    """
    prepared: list[PreparedScene] = []
    failed: list[FailedScene] = []
    maps: dict[str, str] = {}
    for original in iter_scenes(dataset, split, tokens, logs=[name]):
        city = original.map_name
        if city not in maps:
            maps[city] = _map_hash(dataset, city)
        map_view = load_map(dataset, city)
        for scene in _with_views(original, views, seed):
            try:
                prepared.append(prepare_scene(scene, map_view))
            except SceneError as error:
                failed.append(FailedScene(scene.token, name, str(error)))
    return PreparedLog(tuple(prepared), tuple(failed), maps)


def _map_hash(dataset: Dataset, city: str) -> str:
    """Of the file that is about to be loaded; empty if there is none, of which loading says more."""
    path = map_file(dataset, city)
    if path is None:
        return ""
    status = path.stat()
    return _hash_of_state(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _hash_of_state(path: Path, size: int, modified_ns: int) -> str:
    del size, modified_ns  # only part of the cache's key
    return content_hashes([path], None)[path]


def map_file(dataset: Dataset, city: str) -> Path | None:
    """A city's map, None if there is none."""
    try:
        path = city_path(dataset.maps_root, city)
    except MapError:
        return None
    return path if path.is_file() else None


def _with_views(scene: Scene, views: ViewConfig | None, seed: int) -> list[Scene]:
    # Nobody drove second-stage scenes, so there is no path from which their views could be shifted.
    return [scene] if views is None or scene.is_synthetic else [scene, *scene_views(scene, views, seed)]
