"""Faults of a plan file as a whole: one transformation of all plans that fits the ego and the human far better.

Single plans may be as bad as they like. Only what is the same in nearly all plans is a fault of the file: an axis that
points the other way, poses at other times, another unit, another origin, headings of another kind. Two witnesses are
asked: the human's drive where it is known, and the ego's velocity, which no car leaves within half a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.judge.plan_readings import AS_GIVEN, READINGS, SLOW_MPS, TIMES_S, PlanSample, Reading, moved_origin, scaled
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S

Bools = NDArray[np.bool_]

#: Fewer plans that tell two readings apart prove nothing about a file.
FEWEST: Final = 5
#: Of the plans that tell, so many must be for the transformation ...
SHARE: Final = 0.8
#: ... that is, err with it at most so much of what they err as given.
BETTER: Final = 0.4

#: So long the ego keeps about its velocity.
_EGO_S: Final = 1.5
#: Difference of the errors, by witness as in ``NEAR``, from which a plan tells.
_TELLS: Final[Mapping[str, float]] = {"human": 0.02, "ego": 0.05, "start": 0.5}
#: Plans that err more against the ego drive elsewhere.
_FOLLOWS: Final = 0.35


@dataclass(frozen=True, slots=True)
class PlanFinding:
    """A fault of the whole file.

    Attributes:
        code: short name of the fault.
        message: for people: figures with and without the transformation, and what to look at.
        share: of the plans that tell, 0 to 1.
        numbers: the figures of the message.
    """

    code: str
    message: str
    share: float
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Errors:
    """What a reading makes of every plan; NaN where a witness has nothing to say.

    Attributes:
        of: by witness, (N,): human and ego, mean over poses of the distance as a share of the way so far; start, metres
            between the first pose and where the ego's velocity leads.
        metres: (N,) mean distance from the human's.
        changed: by witness, (N,) how far the plans are moved, as shares of their way and in metres; infinite where they
            stay and their times change.
    """

    of: Mapping[str, Floats]
    metres: Floats
    changed: Mapping[str, Floats]


def find_position_fault(sample: PlanSample) -> PlanFinding | None:
    """The one transformation of positions or times that explains the file best, or None if none does."""
    given = _errors(sample, AS_GIVEN)
    best: tuple[float, PlanFinding] | None = None
    for reading in (*READINGS, *scaled(sample), *moved_origin(sample)):
        errors = _errors(sample, reading)
        support = _support(reading, given, errors)
        if support is None:
            continue
        rank = reading.penalty + sum(_mean(errors.of[name]) for name in ("human", "ego"))
        if best is None or rank < best[0] - 1e-6:
            best = rank, _finding(reading, given, errors, support)
    return _far_away(sample) if best is None else best[1]


def tells_for(given: Floats, moved: Floats, changed: Floats, limits: tuple[float, float]) -> tuple[Bools, Bools] | None:
    """Which plans tell two readings apart, and which of them are for the second; None if those prove nothing.

    Args:
        given, moved: (N,) errors under both readings, NaN where unknown.
        changed: (N,) how far the second reading moves the plan itself; what drowns in its usual error tells nothing.
        limits: difference of the errors from which a plan counts; what the median of ``moved`` must keep.
    """
    tells, near = limits
    known = ~(np.isnan(given) | np.isnan(moved))
    if known.sum() < FEWEST:
        return None
    clear = changed > (1 + 1 / BETTER) * np.median(moved[known])
    telling = known & clear & (np.abs(np.where(known, given - moved, 0.0)) > tells)
    if telling.sum() < FEWEST:
        return None
    support = telling & (np.where(known, moved, np.inf) <= BETTER * np.where(known, given, 0.0))
    if support.sum() < SHARE * telling.sum() or np.median(moved[telling]) > near:
        return None
    return telling, support


def follows_ego(sample: PlanSample) -> bool:
    """False if most plans drive elsewhere than the ego from the start; their paths then say nothing about headings."""
    error = _errors(sample, AS_GIVEN).of["ego"]
    return bool(np.isnan(error).all() or np.nanmedian(error) < _FOLLOWS)


def _keeps_speed(sample: PlanSample) -> Bools:
    """(N,) True where the second pose is about as far from the first as the ego drives in that time."""
    way = PLAN_INTERVAL_S * np.linalg.norm(sample.velocity_mps, axis=-1)
    step = np.linalg.norm(sample.plans[:, 1, :2] - sample.plans[:, 0, :2], axis=-1)
    return np.asarray(np.abs(step - way) < 0.3 + 0.4 * way)


def _far_away(sample: PlanSample) -> PlanFinding | None:
    """Plans that drive as fast as the ego, but somewhere else."""
    way = PLAN_INTERVAL_S * np.linalg.norm(sample.velocity_mps, axis=-1)
    distance = np.linalg.norm(sample.plans[:, 0, :2], axis=-1)
    far = distance > 2 * way + 10.0
    if len(far) < FEWEST or far.mean() < SHARE or _keeps_speed(sample)[far].mean() < SHARE:
        return None
    numbers = {"first_pose_m": float(np.median(distance)), "expected_m": float(np.median(way))}
    message = (
        f"these plans begin {numbers['first_pose_m']:.0f} m from the ego, where its speed leads "
        f"{numbers['expected_m']:.1f} m in half a second ({far.sum()} of {len(far)} plans): are they in global "
        "coordinates, or relative to another moment?"
    )
    return PlanFinding("far_away", message, float(far.mean()), numbers)


def _errors(sample: PlanSample, reading: Reading) -> _Errors:
    positions, times = reading.move(sample.plans), reading.times_s
    count = len(positions)
    metres, human, ego = (np.full(count, np.nan) for _ in range(3))
    judged = times <= TIMES_S[-1]
    if sample.known.any():
        drive = np.concatenate([np.zeros((count, 1, 2)), sample.human[..., :2]], axis=1)[sample.known]
        steps = np.linalg.norm(np.diff(drive, axis=1), axis=-1, keepdims=True)
        drive = np.concatenate([drive, np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0), (0, 0)))], axis=-1)
        at = _interpolated(drive, times[judged])
        apart = np.linalg.norm(positions[sample.known][:, judged] - at[..., :2], axis=-1)
        metres[sample.known] = apart.mean(axis=1)
        human[sample.known] = (apart / (1.0 + at[..., 2])).mean(axis=1)
    speed = np.linalg.norm(sample.velocity_mps, axis=-1)
    moving, soon = speed >= SLOW_MPS, times <= max(_EGO_S, np.sort(times)[1])
    away = np.linalg.norm(positions - sample.velocity_mps[:, None] * times[:, None], axis=-1)[moving][:, soon]
    ego[moving] = (away / (speed[moving, None] * np.maximum(times[soon], PLAN_INTERVAL_S))).mean(axis=1)
    start = np.linalg.norm(positions[:, 0] - PLAN_INTERVAL_S * sample.velocity_mps, axis=-1)
    return _Errors({"human": human, "ego": ego, "start": start}, metres, _changed(sample, reading, positions))


def _changed(sample: PlanSample, reading: Reading, positions: Floats) -> dict[str, Floats]:
    if reading.times_s is not TIMES_S:
        return dict.fromkeys(_TELLS, np.full(len(positions), np.inf))
    moved = np.linalg.norm(positions - sample.plans[..., :2], axis=-1)
    way = np.linalg.norm(np.diff(positions, axis=1, prepend=np.zeros((len(positions), 1, 2))), axis=-1).cumsum(axis=1)
    share = (moved / (1.0 + way)).mean(axis=1)
    return {"human": share, "ego": share, "start": moved[:, 0]}


def _interpolated(drive: Floats, times_s: Floats) -> Floats:
    """Rows of (N, 9, C), at 0, 0.5 .. 4.0 s, at other times."""
    before = np.minimum((times_s / PLAN_INTERVAL_S).astype(np.int64), FUTURE_FRAMES - 1)
    part = (times_s / PLAN_INTERVAL_S - before)[:, None]
    return drive[:, before] * (1 - part) + drive[:, before + 1] * part


def _support(reading: Reading, given: _Errors, moved: _Errors) -> tuple[str, Bools, Bools] | None:
    """The first witness who is for the reading, with the plans that tell; None if none is, or another is against it."""
    found: tuple[str, Bools, Bools] | None = None
    for name, tells in _TELLS.items():
        before, after = given.of[name], moved.of[name]
        against = np.nan_to_num(after - before) > tells
        if name != "start" and against.sum() >= FEWEST and _mean(after) > _mean(before):
            return None
        limits = tells, reading.near[name]
        votes = tells_for(before, after, moved.changed[name], limits) if name in reading.witnesses else None
        if found is None and votes is not None:
            found = (name, *votes)
    return found


def _finding(reading: Reading, given: _Errors, moved: _Errors, votes: tuple[str, Bools, Bools]) -> PlanFinding:
    witness, telling, support = votes
    share = float(support.sum() / telling.sum())
    of_plans = f"{support.sum()} of {telling.sum()} plans that this changes"
    if not np.isnan(given.metres[telling]).any():
        after, before = (float(np.median(errors.metres[telling])) for errors in (moved, given))
        figures = f"{reading.words} these plans lie {after:.1f} m from the human's, as given {before:.1f} m"
        numbers = {"after_m": after, "before_m": before}
    elif witness == "start":
        after, before = (float(np.median(errors.of["start"][telling])) for errors in (moved, given))
        figures = f"{reading.words} these plans begin {after:.1f} m from where the ego drives, as given {before:.1f} m"
        numbers = {"after_m": after, "before_m": before}
    else:
        after, before = (100 * float(np.median(errors.of["ego"][telling])) for errors in (moved, given))
        figures = (
            f"{reading.words} these plans leave the ego's velocity by {after:.0f} % in the first {_EGO_S:g} s, "
            f"as given by {before:.0f} %"
        )
        numbers = {"after_percent": after, "before_percent": before}
    return PlanFinding(reading.code, f"{figures} ({of_plans}): {reading.question}", share, numbers)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.minimum(known, 2.0).mean()) if known.size else 0.0
