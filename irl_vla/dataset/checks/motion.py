"""Rules over the frames of a log: positions, velocities, accelerations and headings must tell the same story.

They hold units and frames of reference to account, which single numbers cannot. Single objects may disagree: real
tracks jump. Only what most of a log's moving objects say is a finding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.dataset.checks.findings import Breach
from irl_vla.dataset.checks.order import GAP_S
from irl_vla.dataset.log import parse_boxes, parse_ego
from irl_vla.dataset.raw_frame import RawFrame
from irl_vla.geometry import Floats, rotate, wrap_angle
from irl_vla.scene import Boxes, EgoStatus

#: Steps between frames that are longer (gaps) or shorter (other findings) say nothing of motion.
_STEPS_S: Final = (0.4, GAP_S)
_EGO_TOLERANCE_M: Final = 0.5
_EGO_TOLERANCE_MPS: Final = 2.5
_OBJECT_TOLERANCE_M: Final = 1.0
_HEADING_TOLERANCE_RAD: Final = 0.5
#: Slower vehicles may have any direction of velocity.
_MOVING_MPS: Final = 3.0
#: Fewer observations in a log are no majority.
_FEWEST: Final = 20
_NO_OBJECTS: Final = Boxes(np.zeros((0, 7)), (), np.zeros((0, 3)), ())


@dataclass(frozen=True, slots=True)
class _Moment:
    index: int
    time_s: float
    ego: EgoStatus
    objects: Boxes


def motion_breaches(frames: Sequence[RawFrame]) -> Iterator[tuple[int, Breach]]:
    """What does not fit between the frames of a log, with the frame's index.

    Args:
        frames: those that could be read, in order.
    """
    moments = [_moment(raw) for raw in frames]
    steps = [
        (before, after)
        for before, after in pairwise(moments)
        if after.index == before.index + 1 and _STEPS_S[0] <= after.time_s - before.time_s <= _STEPS_S[1]
    ]
    for before, after in steps:
        yield from ((after.index, breach) for breach in _ego(before, after))
    yield from _majority([(after.index, error) for before, after in steps for error in _jumps(before, after)])
    yield from _headings(moments)
    yield from _kinds(moments)


def _moment(raw: RawFrame) -> _Moment:
    objects = parse_boxes(raw.inner("anns")) if "anns" in raw.values else _NO_OBJECTS
    return _Moment(raw.index, raw.integer("timestamp") / 1e6, parse_ego(raw), objects)


def _ego(before: _Moment, after: _Moment) -> Iterator[Breach]:
    """The rear axle moves by its mean velocity, which changes by the mean acceleration; all in global axes."""
    step_s = after.time_s - before.time_s
    moved = after.ego.pose_global[:2] - before.ego.pose_global[:2]
    velocities = [rotate(moment.ego.velocity_mps, moment.ego.pose_global[2]) for moment in (before, after)]
    accelerations = [rotate(moment.ego.acceleration_mps2, moment.ego.pose_global[2]) for moment in (before, after)]
    expected = (velocities[0] + velocities[1]) / 2 * step_s
    if not np.linalg.norm(moved - expected) <= _EGO_TOLERANCE_M:
        text = (
            f"expected velocities in ego axes that lead {_show(moved)} m from the frame before, found {_show(expected)}"
        )
        yield "warning", "frame.motion", "ego_dynamic_state", text
        return
    gained = velocities[1] - velocities[0]
    expected = (accelerations[0] + accelerations[1]) / 2 * step_s
    if not np.linalg.norm(gained - expected) <= _EGO_TOLERANCE_MPS:
        text = f"expected accelerations in ego axes that add {_show(gained)} m/s, found {_show(expected)}"
        yield "warning", "frame.motion", "ego_dynamic_state", text


def _jumps(before: _Moment, after: _Moment) -> Floats:
    """(N,) distances between where objects are and where their velocities would have brought them, metres."""
    row_of = {token: row for row, token in enumerate(before.objects.track_tokens)}
    pairs = [(row_of[token], row) for row, token in enumerate(after.objects.track_tokens) if token in row_of]
    if not pairs:
        return np.zeros(0)
    first, second = np.array(pairs).T
    (start, velocity), (end, next_velocity) = _global(before, first), _global(after, second)
    moved = (velocity + next_velocity) / 2 * (after.time_s - before.time_s)
    jumps: Floats = np.linalg.norm(end - start - moved, axis=1)
    return jumps


def _global(moment: _Moment, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Positions and velocities (N, 2) of objects in global axes; stored velocities are absolute, along ego axes."""
    x, y, heading = moment.ego.pose_global
    position = rotate(moment.objects.boxes[rows, :2], heading) + np.array([x, y])
    return position, rotate(moment.objects.velocity_mps[rows, :2], heading)


def _majority(jumps: Sequence[tuple[int, float]]) -> Iterator[tuple[int, Breach]]:
    if len(jumps) >= _FEWEST and not np.median([error for _, error in jumps]) <= _OBJECT_TOLERANCE_M:
        index, error = next(item for item in jumps if not item[1] <= _OBJECT_TOLERANCE_M)
        text = (
            "expected absolute velocities along ego axes that lead from box to box, found most of "
            f"{len(jumps)} others, first {error:.1f} m off"
        )
        yield index, ("warning", "frame.motion", "anns.gt_velocity_3d", text)


def _headings(moments: Sequence[_Moment]) -> Iterator[tuple[int, Breach]]:
    """Most vehicles move where they point, in the same frame of reference."""
    found: list[tuple[int, float]] = []
    for moment in moments:
        velocity, boxes = moment.objects.velocity_mps, moment.objects.boxes
        is_vehicle = np.array([name == "vehicle" for name in moment.objects.names], dtype=bool)
        moving = is_vehicle & (np.hypot(velocity[:, 0], velocity[:, 1]) > _MOVING_MPS)
        course = np.arctan2(velocity[moving, 1], velocity[moving, 0])
        found += [(moment.index, float(off)) for off in np.abs(wrap_angle(course - boxes[moving, 6]))]
    if len(found) >= _FEWEST and np.median([off for _, off in found]) > _HEADING_TOLERANCE_RAD:
        index = next(index for index, off in found if off > _HEADING_TOLERANCE_RAD)
        text = f"expected headings in the ego frame, where vehicles move to, found most of {len(found)} others"
        yield index, ("warning", "frame.motion", "anns.gt_boxes", text)


def _kinds(moments: Sequence[_Moment]) -> Iterator[tuple[int, Breach]]:
    """A track is one object."""
    known: dict[str, str] = {}
    for moment in moments:
        for token, name in zip(moment.objects.track_tokens, moment.objects.names, strict=True):
            if known.setdefault(token, name) != name:
                text = f"expected one name a track, found {known[token]} and {name} for {token[:40]!r}"
                yield moment.index, ("warning", "frame.tracks", "anns.gt_names", text)
                break


def _show(vector: Floats) -> str:
    return f"({vector[0]:.1f}, {vector[1]:.1f})"
