"""The leaderboard's submission file, written and read without the devkit.

Format: NAVSIM v2.2 (docs/navsim.md). Written so that the official environment (Python 3.9, numpy 1.23) loads it:
protocol 4, numpy 1's names, the official class names. Read by the restricted unpickler.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.safe_pickle import NUMPY_NAMES, read_pickle, write_pickle
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.second_stage import TOKEN_LENGTH
from irl_vla.dataset.splits import read_split
from irl_vla.errors import ConfigError, LogFormatError, SceneError
from irl_vla.geometry import Floats
from irl_vla.navsim.devkit_types import SUBMISSION_CLASSES, Trajectory, TrajectorySampling
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S

ONE_STAGE: Final = "predictions"
FIRST_STAGE: Final = "first_stage_predictions"
SECOND_STAGE: Final = "second_stage_predictions"
#: Names that the official environment resolves; numpy 1 does not know ``numpy._core``.
OFFICIAL_NAMES: Final = frozenset(
    key for key in (*NUMPY_NAMES, *SUBMISSION_CLASSES) if not key[0].startswith("numpy._core")
)
_COUNTRY_KEY: Final = "country / region"
_PROTOCOL_OPCODE: Final = 0x80


@dataclass(frozen=True, slots=True)
class Header:
    """Who submits; the leaderboard shows it."""

    team_name: str
    authors: str
    email: str
    institution: str
    country: str


#: Field of :class:`Header` to key of the file.
HEADER_KEYS: Final[Mapping[str, str]] = {
    item.name: _COUNTRY_KEY if item.name == "country" else item.name for item in fields(Header)
}


@dataclass(frozen=True, slots=True)
class SplitTokens:
    """The scenes that a submission has to plan.

    Attributes:
        first: logged scenes.
        second: second-stage scenes; None for a one-stage split, empty if a two-stage split does not list them.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class SubmissionFile:
    """A submission as its file holds it, nothing checked.

    Attributes:
        protocol: of the pickle.
        names: every (module, name) that the file refers to, in order of first use.
        content: the dictionary; objects of other than the official classes are inert.
    """

    path: Path
    protocol: int
    names: tuple[tuple[str, str], ...]
    content: Mapping[Any, Any]


def write_submission(path: Path, header: Header, plans: Mapping[str, Floats], two_stage: bool) -> None:
    """Writes plans as a submission, atomically.

    Args:
        plans: token to (8, 3) plan in the ego frame, every 0.5 s.
        two_stage: sorts the plans into first and second stage by the length of their token (16 and 17 characters).

    Raises:
        ConfigError: if a field of the header is empty.
        SceneError: if a plan is not a finite (8, 3) array, or there is none.
    """
    empty = [name for name in HEADER_KEYS if not getattr(header, name).strip()]
    if empty:
        raise ConfigError(f"submission header: expected text for {', '.join(empty)}, found none; the leaderboard asks")
    if not plans:
        raise SceneError(f"{path}: expected plans to submit, found none; check the split")
    content: dict[str, Any] = {key: getattr(header, name) for name, key in HEADER_KEYS.items()}
    sampling = TrajectorySampling(FUTURE_FRAMES, FUTURE_FRAMES * PLAN_INTERVAL_S, PLAN_INTERVAL_S)
    whole = {token: Trajectory(_poses(token, plan), sampling) for token, plan in plans.items()}
    if two_stage:
        content[FIRST_STAGE] = [{token: item for token, item in whole.items() if not is_second_stage(token)}]
        content[SECOND_STAGE] = [{token: item for token, item in whole.items() if is_second_stage(token)}]
    else:
        content[ONE_STAGE] = [whole]
    write_pickle(path, content, SUBMISSION_CLASSES)


def read_submission(path: Path) -> SubmissionFile:
    """Reads a submission by the restricted unpickler; foreign classes become inert objects and are noted by name.

    Raises:
        LogFormatError: if the file is missing, cut off, no pickle, or no dictionary.
    """
    seen = _SeenNames({})
    content = read_pickle(path, seen)
    if not isinstance(content, dict):
        raise LogFormatError(
            f"{path}: expected a dictionary of header and predictions, found {type(content).__name__}; "
            "write it with `irl-vla export-submission`"
        )
    with path.open("rb") as stream:
        start = stream.read(2)
    protocol = start[1] if start[0] == _PROTOCOL_OPCODE else 0
    return SubmissionFile(path, protocol, tuple(seen.found), content)


def split_tokens(dataset: Dataset, name: str) -> SplitTokens:
    """The scenes of a split: from the token lists of its file, and where there are none, from its logs.

    Raises:
        ConfigError: if there is no such split.
        LogFormatError: if the logs are asked and break the format.
    """
    split = read_split(dataset, name)
    paired = [token for pair in split.stage_pairs for token in (pair.now, pair.previous)]
    first = split.scene_filter.tokens or paired or [ref.token for ref in scene_refs(dataset, name)]
    logged = tuple(dict.fromkeys(token for token in first if not is_second_stage(token)))
    if not (split.stage_pairs or split.scene_filter.include_synthetic_scenes):
        return SplitTokens(logged, None)
    return SplitTokens(logged, tuple(token for pair in split.stage_pairs for token in pair.second_tokens))


def is_second_stage(token: str) -> bool:
    """True for the 17-character tokens of second-stage scenes, as the devkit tells them apart."""
    return len(token) == TOKEN_LENGTH


def _poses(token: str, plan: Floats) -> Any:
    poses = np.asarray(plan, np.float32)
    if poses.shape != (FUTURE_FRAMES, 3) or not np.isfinite(poses).all():
        raise SceneError(f"{token}: expected a finite ({FUTURE_FRAMES}, 3) plan, found shape {poses.shape}: {plan}")
    return np.ascontiguousarray(poses)


class _SeenNames(Mapping[tuple[str, str], Any]):
    """Allows every name and notes it: known ones are what they are, all others an inert class."""

    def __init__(self, found: dict[tuple[str, str], Any]) -> None:
        self.found = found

    def __getitem__(self, key: tuple[str, str]) -> Any:
        if key not in self.found:
            known = NUMPY_NAMES.get(key) or SUBMISSION_CLASSES.get(key)
            self.found[key] = known or type(".".join(key), (_Inert,), {})
        return self.found[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


class _Inert:
    """What a file makes of a class that is not known here: takes every argument, state and item, and keeps none."""

    def __init__(self, *args: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass
