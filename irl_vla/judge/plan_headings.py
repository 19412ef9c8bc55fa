"""Headings of a plan file as a whole, compared with where the plans themselves drive."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from irl_vla.geometry import Floats, wrap_angle
from irl_vla.judge.plan_checks import FEWEST, SHARE, PlanFinding, tells_for

#: A shorter step has no direction.
_STEP_M: Final = 0.5
#: Such a path turns ...
_TURNS_RAD: Final = 0.15
#: ... and is no scribble: from step to step its bend changes by less than this share of its turn.
_UNEVEN: Final = 0.35
_ZERO_RAD: Final = 1e-3
_TELLS_RAD: Final = 0.03
_NEAR_RAD: Final = 0.1
#: A constant of every plan's own takes up small errors of any kind.
_GLOBAL_TELLS_RAD: Final = 0.2

_Reread = Callable[[Floats, Floats], Floats]


def find_heading_fault(plans: Floats) -> PlanFinding | None:
    """What is wrong with the headings of all plans (N, 8, 3), or None; the positions must be right."""
    path = path_headings(plans[..., :2])
    missing = _missing(plans[..., 2], path)
    if missing is not None:
        return missing
    before = _error(plans[..., 2], path)
    always = np.full(len(plans), np.inf)
    best: tuple[float, PlanFinding] | None = None
    for code, (words, question, reread) in _READINGS.items():
        after = _error(reread(plans[..., 2], path), path)
        tells = _GLOBAL_TELLS_RAD if reread is _from_the_path else _TELLS_RAD
        votes = tells_for(before, after, always, (tells, _NEAR_RAD))
        if votes is None:
            continue
        telling, support = votes
        rank = float(np.nanmean(np.minimum(after, 2.0)))
        if best is None or rank < best[0] - 2e-3:
            figures = [float(np.degrees(np.median(errors[telling]))) for errors in (after, before)]
            message = (
                f"{words} the headings lie {figures[0]:.1f} degrees from where the paths lead, as given "
                f"{figures[1]:.1f} ({support.sum()} of {telling.sum()} plans that this changes): {question}"
            )
            share = float(support.sum() / telling.sum())
            best = rank, PlanFinding(code, message, share, {"after_deg": figures[0], "before_deg": figures[1]})
    return None if best is None else best[1]


def path_headings(positions: Floats) -> Floats:
    """(N, 8) heading of a path (N, 8, 2) from the origin: at every pose that of an arc through its neighbours.

    NaN where the path hardly moves.
    """
    steps = np.diff(positions, axis=1, prepend=np.zeros((len(positions), 1, 2)))
    moves = np.linalg.norm(steps, axis=-1) > _STEP_M
    direction = np.where(moves, np.arctan2(steps[..., 1], steps[..., 0]), np.nan)
    bend = wrap_angle(np.diff(direction, axis=1))
    bend = np.concatenate([bend, bend[:, -1:]], axis=1)  # the last pose has no neighbour
    return wrap_angle(direction + bend / 2)


def _missing(headings: Floats, path: Floats) -> PlanFinding | None:
    bends = np.nan_to_num(wrap_angle(np.diff(path, axis=1)))
    turned = np.nanmax(np.abs(np.nan_to_num(path)), axis=1)
    uneven = np.abs(np.diff(bends, axis=1)).max(axis=1)
    turns = (turned > _TURNS_RAD) & (uneven < _UNEVEN * turned)
    zero = turns & (np.abs(headings).max(axis=1) < _ZERO_RAD)
    if turns.sum() < FEWEST or zero.sum() < SHARE * turns.sum():
        return None
    most = float(np.degrees(turned[zero].max()))
    message = (
        f"the heading is 0 in {zero.sum()} of {turns.sum()} plans that turn, while their paths turn by up to "
        f"{most:.0f} degrees: are the headings missing?"
    )
    return PlanFinding("heading_missing", message, float(zero.sum() / turns.sum()), {"turned_deg": most})


def _error(headings: Floats, path: Floats) -> Floats:
    """(N,) mean difference over the poses that have both, NaN without any."""
    apart = np.abs(wrap_angle(headings - path))
    known = ~np.isnan(apart)
    total, count = np.where(known, apart, 0.0).sum(axis=1), known.sum(axis=1)
    mean: Floats = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return mean


def _later(headings: Floats) -> Floats:
    """Those of the pose after."""
    return np.concatenate([headings[:, 1:], np.full((len(headings), 1), np.nan)], axis=1)


def _earlier(headings: Floats) -> Floats:
    return np.concatenate([np.full((len(headings), 1), np.nan), headings[:, :-1]], axis=1)


def _between(one: Floats, other: Floats) -> Floats:
    return one + wrap_angle(other - one) / 2


def _from_the_path(headings: Floats, path: Floats) -> Floats:
    """With a constant of every plan's own."""
    found = ~np.isnan(path)
    first = found.argmax(axis=1)[:, None]
    return headings + np.take_along_axis(path - headings, first, axis=1)


#: Code to: how the message begins, how it ends, and headings and path (N, 8) to headings. Equally good: the first.
_READINGS: Final[Mapping[str, tuple[str, str, _Reread]]] = {
    "heading_degrees": ("taken for degrees", "are they in degrees?", lambda h, _: np.radians(h)),
    "heading_sign": ("with the other sign", "do they count clockwise?", lambda h, _: -h),
    "heading_from_y": (
        "turned by 90 degrees to the left",
        "are they measured from the y axis?",
        lambda h, _: h + np.pi / 2,
    ),
    "heading_to_y": ("turned by 90 degrees to the right", "is 0 to the right of the ego?", lambda h, _: h - np.pi / 2),
    "heading_compass": (
        "measured from 90 degrees clockwise",
        "do they count clockwise from the y axis?",
        lambda h, _: np.pi / 2 - h,
    ),
    "heading_back": ("turned by 180 degrees", "do they point backwards?", lambda h, _: h + np.pi),
    "heading_segment": (
        "taken half a step later",
        "are they of the step that leads to the pose, or the positions of the centre of the box?",
        lambda h, _: _between(h, _later(h)),
    ),
    "heading_late": ("taken one pose later", "are they those of the pose before?", lambda h, _: _later(h)),
    "heading_next_segment": (
        "taken half a step earlier",
        "are they of the step that leaves the pose?",
        lambda h, _: _between(h, _earlier(h)),
    ),
    "heading_early": ("taken one pose earlier", "are they those of the pose after?", lambda h, _: _earlier(h)),
    "heading_steps": ("added up", "is every heading given relative to the one before?", lambda h, _: np.cumsum(h, 1)),
    "heading_global": (
        "with a constant of every plan's own",
        "are they global, or relative to another pose?",
        _from_the_path,
    ),
}
