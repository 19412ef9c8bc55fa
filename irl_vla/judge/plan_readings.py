"""Ways to read the numbers of a plan file other than as they should be meant."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import PACIFICA, Floats, compose, rotate
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S

TIMES_S: Final[Floats] = np.arange(1, FUTURE_FRAMES + 1, dtype=np.float64) * PLAN_INTERVAL_S
#: Below this speed the velocity says little about where the ego will be.
SLOW_MPS: Final = 2.0
#: How near plans must come to a witness: to the human and the ego as shares of the way, at the start in metres.
NEAR: Final[dict[str, float]] = {"human": 0.1, "ego": 0.15, "start": 0.5}
#: What a policy that is only too slow, too fast, or brakes hard might look like must fit better.
_NEAR_ALIKE: Final[dict[str, float]] = NEAR | {"human": 0.02, "ego": 0.07}
_NEAR_ADDED: Final[dict[str, float]] = NEAR | {"ego": 0.07}
#: A fitted number fits a little better than a known one without being righter.
_FITTED: Final = 0.03
#: Hard braking moves the first pose by 0.75 m: a smaller offset may be honest.
_OFFSET_M: Final = 1.0
_OFFSET_SPREAD_M: Final = 0.6
_OFFSET_SHARE: Final = 0.8
#: Of the box centre.
_CENTRE_SPREAD_M: Final = 0.35
#: By so much of the offset the next step may differ from the ego's: more, and it is another pace, not another origin.
_OFFSET_GROWS: Final = 0.35
_UNITS: Final[Mapping[float, str]] = {
    100.0: "are they in centimetres?",
    1000.0: "are they in millimetres?",
    0.01: "were they divided by 100?",
    0.001: "are they in kilometres?",
    1 / 0.3048: "are they in feet?",
    0.3048: "were metres taken for feet?",
    3.6: "were km/h taken for m/s?",
    1 / 3.6: "were m/s taken for km/h?",
    1 / 0.0254: "are they in inches?",
    1 / 0.9144: "are they in yards?",
}


@dataclass(frozen=True, slots=True, eq=False)
class PlanSample:
    """Plans of a file and what is known about their scenes.

    Attributes:
        plans: (N, 8, 3) x, y, heading, as given.
        velocity_mps: (N, 2) of the ego now, in the ego frame.
        human: (N, 8, 3) the logged drive in the ego frame; anything where it is not known.
        known: (N,) True where ``human`` is real.
    """

    plans: Floats
    velocity_mps: Floats
    human: Floats
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A way to read the numbers of a file.

    Attributes:
        words: how the message begins.
        question: how it ends.
        move: (N, 8, 3) plans as given to (N, 8, 2) positions in the ego frame.
        times_s: (8,) when these are reached.
        witnesses: whom to ask; a slow policy would look like some other readings to the ego's velocity.
        near: by witness, the error that the transformed plans must keep.
        penalty: see ``_FITTED``.
    """

    code: str
    words: str
    question: str
    move: Callable[[Floats], Floats]
    times_s: Floats = field(default_factory=lambda: TIMES_S)
    witnesses: tuple[str, ...] = ("human", "ego")
    near: Mapping[str, float] = field(default_factory=lambda: NEAR)
    penalty: float = 0.0


def _turned(angle_rad: float) -> Callable[[Floats], Floats]:
    return lambda plans: rotate(plans[..., :2], angle_rad)


def _times(factors: tuple[float, float]) -> Callable[[Floats], Floats]:
    return lambda plans: plans[..., :2] * np.array(factors)


def _as_they_are(plans: Floats) -> Floats:
    return plans[..., :2]


def _swapped(plans: Floats) -> Floats:
    return plans[..., 1::-1]


def _added_up(plans: Floats) -> Floats:
    return np.cumsum(plans[..., :2], axis=-2)


def _chained(plans: Floats) -> Floats:
    """Every pose relative to the one before, in its frame."""
    poses = [plans[:, 0]]
    for index in range(1, plans.shape[1]):
        poses.append(compose(poses[-1], plans[:, index]))
    return np.stack(poses, axis=1)[..., :2]


def _box_centre(plans: Floats) -> Floats:
    """From the frame and the place of the box centre to those of the rear axle."""
    ahead = PACIFICA.rear_axle_to_centre
    heading = plans[..., 2]
    return plans[..., :2] - ahead * np.stack([np.cos(heading) - 1, np.sin(heading)], axis=-1)


def _apart(interval_s: float, hint: str) -> Reading:
    words = f"as poses {interval_s:g} s apart"
    question = f"are they {interval_s * FUTURE_FRAMES:g} s long{hint}? Eight poses 0.5 s apart are expected"
    near_half = 0.3 < interval_s < 0.9  # so much slower or faster a policy may be, too
    return Reading(
        code=f"interval_{interval_s:g}s",
        words=words,
        question=question,
        move=_as_they_are,
        times_s=interval_s / PLAN_INTERVAL_S * TIMES_S,
        witnesses=("human",) if near_half else ("human", "ego"),
        near=_NEAR_ALIKE if near_half else NEAR,
    )


AS_GIVEN: Final = Reading("as_given", "as given", "", _as_they_are)
#: In the order in which equally good explanations are preferred.
READINGS: Final[Sequence[Reading]] = (
    Reading("y_right", "mirrored at the x axis", "is y to the right?", _times((1, -1))),
    Reading("turned_right", "turned by 90 degrees to the right", "is x to the right, y ahead?", _turned(-np.pi / 2)),
    Reading("turned_left", "turned by 90 degrees to the left", "is x to the left, y behind?", _turned(np.pi / 2)),
    Reading("axes_swapped", "with x and y swapped", "is x to the left, y ahead?", _swapped),
    Reading("x_back", "mirrored at the y axis", "does x point backwards?", _times((-1, 1))),
    Reading("turned_round", "turned by 180 degrees", "does x point backwards and y to the right?", _times((-1, -1))),
    Reading(
        "current_pose",
        "taken half a second earlier",
        "they begin at (0, 0, 0) half a second from now while the ego moves: is the current pose in the plan?",
        _as_they_are,
        TIMES_S - PLAN_INTERVAL_S,
    ),
    Reading(
        "first_pose_missing",
        "taken half a second later",
        "is the pose of 0.5 s left out, so that they begin at 1.0 s?",
        _as_they_are,
        TIMES_S + PLAN_INTERVAL_S,
    ),
    Reading("reversed", "from the last pose to the first", "is the order reversed?", _as_they_are, TIMES_S[::-1]),
    Reading(
        "displacements",
        "added up",
        "is every pose given relative to the one before?",
        _added_up,
        near=_NEAR_ADDED,
    ),
    Reading(
        "chained",
        "chained pose by pose",
        "is every pose given in the frame of the one before?",
        _chained,
        near=_NEAR_ADDED,
        penalty=1e-3,
    ),
    Reading(
        "box_centre_frame",
        "moved from the centre of the box to the rear axle",
        "are they of the box centre, in its frame?",
        _box_centre,
        witnesses=("human",),
        near=NEAR | {"human": 0.04},
    ),
    _apart(0.1, ", at 10 Hz"),
    _apart(0.05, ", at 20 Hz"),
    _apart(0.2, ", at 5 Hz"),
    _apart(0.25, ", at 4 Hz"),
    _apart(1.0, ", at 1 Hz"),
    _apart(0.375, ""),
    _apart(0.625, ""),
    _apart(0.75, ""),
)


def scaled(sample: PlanSample) -> list[Reading]:
    """The factor between the plans and the witnesses, if it is far from one."""
    speed = np.linalg.norm(sample.velocity_mps, axis=-1)
    moving = speed >= SLOW_MPS
    way, plans = np.zeros((len(speed), 3, 2)), sample.plans[:, :3, :2]
    way[:] = sample.velocity_mps[:, None] * TIMES_S[:3, None]
    way[sample.known] = sample.human[sample.known, :3, :2]
    length = np.einsum("nkc,nkc->n", way, way)
    moving &= length > 0
    if not moving.any():
        return []
    factor = float(np.median(np.einsum("nkc,nkc->n", plans, way)[moving] / length[moving]))
    if factor <= 0 or 0.4 < factor < 1 / 0.4:  # so slow or fast a policy may be
        return []
    unit = min(_UNITS, key=lambda known: abs(np.log(factor / known)))
    named = abs(np.log(factor / unit)) < 0.05
    factor = unit if named else factor
    question = _UNITS[unit] if named else "are they in metres, and not normalised?"
    divided = (1 / factor, 1 / factor)
    return [Reading("factor", f"divided by {factor:.3g}", question, _times(divided), penalty=_FITTED)]


def moved_origin(sample: PlanSample) -> list[Reading]:
    """An offset from where the ego's velocity leads that is the same in nearly all plans: on the body, or beside it."""
    step = sample.plans[:, 1, :2] - sample.plans[:, 0, :2] - PLAN_INTERVAL_S * sample.velocity_mps
    aside = sample.plans[:, 0, :2] - PLAN_INTERVAL_S * sample.velocity_mps
    found = []
    for on_body in (True, False):
        offsets = rotate(aside, -sample.plans[:, 0, 2]) if on_body else aside
        offset = np.median(offsets, axis=0)
        size = np.linalg.norm(offset)
        near = np.linalg.norm(offsets - offset, axis=-1) < _OFFSET_SPREAD_M
        apace = np.linalg.norm(np.median(step, axis=0)) < _OFFSET_GROWS * size
        if size >= _OFFSET_M and near.mean() >= _OFFSET_SHARE and apace:
            found.append(_offset_by(offset, on_body))
    return found


def _offset_by(offset: Floats, on_body: bool) -> Reading:
    centre = on_body and np.abs(offset - [PACIFICA.rear_axle_to_centre, 0.0]).max() < _CENTRE_SPREAD_M
    words = (
        f"moved by {-offset[0]:+.2f} m ahead and {-offset[1]:+.2f} m to the left, which brings them to the rear axle,"
    )
    question = "are they of the centre of the box?" if centre else "have they another origin (a sensor, the bumper)?"

    def move(plans: Floats) -> Floats:
        return plans[..., :2] - (rotate(offset, plans[..., 2]) if on_body else offset)

    code = "box_centre" if centre else "origin"
    return Reading(code, words, question, move, witnesses=("start",), penalty=_FITTED)
