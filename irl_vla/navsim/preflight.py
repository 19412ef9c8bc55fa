"""Pre-flight of a submission file: what the leaderboard would stumble over, found before it is sent."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from irl_vla.navsim.devkit_types import Trajectory, TrajectorySampling
from irl_vla.navsim.submission import (
    FIRST_STAGE,
    HEADER_KEYS,
    OFFICIAL_NAMES,
    ONE_STAGE,
    SECOND_STAGE,
    SplitTokens,
    SubmissionFile,
)
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S

_PROTOCOL: Final = 4
_HORIZON_S: Final = FUTURE_FRAMES * PLAN_INTERVAL_S
_TOLERANCE_S: Final = 1e-6
_EXAMPLES: Final = 3
#: What the devkit's own scripts have in the header until somebody fills it in.
_PLACEHOLDERS: Final = ("MUST_SET", "???")


@dataclass(frozen=True, slots=True)
class SubmissionFinding:
    """One thing that does not fit.

    Attributes:
        check: "protocol", "names", "header", "lists", "tokens", "class", "poses" or "sampling".
        where: key or list of the file.
        examples: of the tokens concerned, the first ones.
        count: of the tokens concerned; 1 where it is not about tokens.
    """

    check: str
    where: str
    expected: str
    found: str
    examples: tuple[str, ...] = ()
    count: int = 1


def check_submission(file: SubmissionFile, expected: SplitTokens | None) -> list[SubmissionFinding]:
    """Everything that is wrong with a submission, in the order of the file.

    Args:
        expected: the scenes of the split; None leaves tokens uncompared.
    """
    findings = [*_encoding(file), *_header(file.content), *_lists(file.content)]
    stages = stage_plans(file.content)
    findings += _tokens(stages, expected)
    for key, entries in stages.items():
        findings += _entries(key, entries)
    return findings


def stage_plans(content: Mapping[Any, Any]) -> dict[str, list[tuple[Any, Any]]]:
    """(token, trajectory) of every element of every list of predictions, by the list's key."""
    stages = {}
    for key in (ONE_STAGE, FIRST_STAGE, SECOND_STAGE):
        elements = content.get(key)
        if isinstance(elements, (list, tuple)):
            stages[key] = [pair for item in elements if isinstance(item, dict) for pair in item.items()]
    return stages


def _encoding(file: SubmissionFile) -> Iterator[SubmissionFinding]:
    if not 2 <= file.protocol <= _PROTOCOL:
        yield SubmissionFinding("protocol", "file", f"pickle protocol {_PROTOCOL}", f"protocol {file.protocol}")
    for module, name in file.names:
        if (module, name) in OFFICIAL_NAMES:
            continue
        if module.startswith("numpy._core"):
            wanted = f"{module.replace('numpy._core', 'numpy.core')}.{name}, which numpy 1.23 knows"
        else:
            wanted = "names of the official environment only"
        yield SubmissionFinding("names", "file", wanted, f"{module}.{name}")


def _header(content: Mapping[Any, Any]) -> Iterator[SubmissionFinding]:
    for key in HEADER_KEYS.values():
        value = content.get(key)
        if key not in content:
            yield SubmissionFinding("header", key, "the key", "none")
        elif not _is_text(value) or not value or value in _PLACEHOLDERS:
            yield SubmissionFinding("header", key, "text", _short(value))


def _lists(content: Mapping[Any, Any]) -> Iterator[SubmissionFinding]:
    """One list of predictions, or both of two stages; one dictionary in each."""
    present = [key for key in (ONE_STAGE, FIRST_STAGE, SECOND_STAGE) if key in content]
    if present not in ([ONE_STAGE], [FIRST_STAGE, SECOND_STAGE]):
        wanted = f"{ONE_STAGE} alone, or {FIRST_STAGE} and {SECOND_STAGE}"
        yield SubmissionFinding("lists", "file", wanted, " and ".join(present) or "none of them")
    for key in sorted({str(key) for key in content} - {*HEADER_KEYS.values(), ONE_STAGE, FIRST_STAGE, SECOND_STAGE}):
        yield SubmissionFinding("lists", key, "keys of the header and of predictions only", "another key")
    for key in present:
        elements = content[key]
        if not isinstance(elements, (list, tuple)):
            yield SubmissionFinding("lists", key, "a list", _short(elements))
        elif len(elements) != 1:
            yield SubmissionFinding("lists", key, "one element (several seeds are not supported)", str(len(elements)))
        elif not isinstance(elements[0], dict):
            yield SubmissionFinding("lists", key, "a dictionary of token to trajectory", _short(elements[0]))
        elif not elements[0]:
            yield SubmissionFinding("lists", key, "plans", "an empty dictionary")


def _tokens(
    stages: Mapping[str, Sequence[tuple[Any, Any]]], expected: SplitTokens | None
) -> Iterator[SubmissionFinding]:
    """Tokens that are no text, occur twice, or are not those of the split."""
    tokens = {key: [token for token, _ in entries] for key, entries in stages.items()}
    for key, found in tokens.items():
        yield from _about("tokens", key, "text", "another type", [_short(t) for t in found if not isinstance(t, str)])
    texts = {key: [token for token in found if isinstance(token, str)] for key, found in tokens.items()}
    times = Counter(token for found in texts.values() for token in found)
    twice = [token for token, count in times.items() if count > 1]
    yield from _about("tokens", "file", "every token once", "duplicate tokens", twice)
    if expected is None:
        return
    two_stage = expected.second is not None
    if stages and two_stage != (ONE_STAGE not in stages):
        wanted = f"{FIRST_STAGE} and {SECOND_STAGE}" if two_stage else ONE_STAGE
        split = "two-stage" if two_stage else "one-stage"
        yield SubmissionFinding("lists", "file", f"{wanted}: the split is {split}", " and ".join(stages))
    for key, wanted_tokens in _wanted(expected, texts):
        known = frozenset(wanted_tokens)
        there = frozenset(texts[key])
        missing = [token for token in wanted_tokens if token not in there]
        unknown = [token for token in texts[key] if token not in known]
        yield from _about("tokens", key, "every token of the split", "missing tokens", missing)
        yield from _about("tokens", key, "tokens of the split only", "unknown tokens", unknown)


def _wanted(expected: SplitTokens, texts: Mapping[str, object]) -> list[tuple[str, Sequence[str]]]:
    """What each list of the file should hold; a second stage that the split does not list is not compared."""
    wanted: dict[str, Sequence[str]] = {FIRST_STAGE: expected.first, ONE_STAGE: expected.first}
    if expected.second:
        wanted[SECOND_STAGE] = expected.second
    return [(key, wanted[key]) for key in texts if key in wanted]


def _entries(key: str, entries: Sequence[tuple[Any, Any]]) -> Iterator[SubmissionFinding]:
    """What is wrong with single trajectories, those with the same trouble together."""
    troubles: dict[tuple[str, str, str], list[str]] = {}
    for token, trajectory in entries:
        for trouble in _trajectory(trajectory):
            troubles.setdefault(trouble, []).append(str(token))
    for (check, wanted, found), tokens in troubles.items():
        yield from _about(check, key, wanted, found, tokens)


def _trajectory(trajectory: Any) -> Iterator[tuple[str, str, str]]:
    """(check, expected, found) of one trajectory."""
    if not isinstance(trajectory, Trajectory):
        yield "class", "navsim.common.dataclasses.Trajectory", type(trajectory).__name__
        return
    sampling, poses = trajectory.trajectory_sampling, trajectory.poses
    times = _sampling_times(sampling)
    if times is None:
        yield "sampling", "a TrajectorySampling with numbers in its three fields", _short(sampling)
    else:
        count, horizon_s, interval_s = times
        if abs(count * interval_s - horizon_s) > _TOLERANCE_S:
            yield (
                "sampling",
                "num_poses * interval_length = time_horizon",
                f"{count:g} * {interval_s:g} != {horizon_s:g}",
            )
        elif horizon_s < _HORIZON_S - _TOLERANCE_S:
            yield "sampling", f"a horizon of {_HORIZON_S:g} s (the plan is held beyond it)", f"{horizon_s:g} s"
    if not isinstance(poses, np.ndarray):
        yield "poses", "an array", type(poses).__name__
        return
    wanted = FUTURE_FRAMES if times is None else round(times[0])
    if poses.shape != (wanted, 3):
        yield "poses", f"shape ({wanted}, 3)", f"shape {poses.shape}"
    if poses.dtype != np.float32:
        yield "poses", "float32", str(poses.dtype)
    if poses.dtype.kind not in "fiu" or not np.isfinite(poses).all():
        yield "poses", "finite numbers", "others"


def _sampling_times(sampling: Any) -> tuple[float, float, float] | None:
    """(num_poses, time_horizon, interval_length), or None where that is not what it holds."""
    if not isinstance(sampling, TrajectorySampling):
        return None
    values = (sampling.num_poses, sampling.time_horizon, sampling.interval_length)
    numbers = [value for value in values if isinstance(value, (int, float, np.number)) and np.isfinite(value)]
    if len(numbers) < len(values) or numbers[0] < 1 or numbers[0] != int(numbers[0]):
        return None
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _about(check: str, where: str, expected: str, found: str, tokens: Iterable[str]) -> Iterator[SubmissionFinding]:
    """One finding for all tokens concerned, none for none."""
    concerned = list(tokens)
    if concerned:
        yield SubmissionFinding(check, where, expected, found, tuple(concerned[:_EXAMPLES]), len(concerned))


def _is_text(value: Any) -> bool:
    """Text, or texts: the devkit's scripts leave authors as they were given."""
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value))


def _short(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else f"{text[:57]}..."
