"""Objects of logged frames in the global frame, and their tracks at 10 Hz."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.epdms.records import ROLLOUT_STEPS, Tracks
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats, compose, rotate
from irl_vla.scene import OBJECT_NAMES, Frame

#: Kinds below this value move (vehicle, pedestrian, bicycle); the others are static.
AGENT_KINDS: Final = 3
STEPS_PER_FRAME: Final = 5  # 10 Hz steps between 2 Hz frames; true timestamps are ignored, as in the evaluator
TRACK_FRAMES: Final = 1 + (ROLLOUT_STEPS - 1) // STEPS_PER_FRAME

_EGO_NAME: Final = "ego"


@dataclass(frozen=True, slots=True, eq=False)
class FrameObjects:
    """Objects of one frame, sorted by kind (stable), global frame.

    Attributes:
        tokens: N track tokens.
        kinds: (N,) official type value 0..6.
        sizes: (N, 2) length and width.
        poses: (N, 3) box centre, heading in (-pi, pi].
        velocities: (N, 2); zero for static objects.
    """

    tokens: tuple[str, ...]
    kinds: NDArray[np.int64]
    sizes: Floats
    poses: Floats
    velocities: Floats

    def __len__(self) -> int:
        return len(self.tokens)


def frame_objects(frame: Frame) -> FrameObjects:
    """Moves a frame's annotated boxes to the global frame; the ego's own box is left out.

    Raises:
        SceneError: if an object has an unknown name, or two share a token.
    """
    unknown = set(frame.objects.names) - {*OBJECT_NAMES, _EGO_NAME}
    if unknown:
        raise SceneError(
            f"frame {frame.token}: expected object names out of {', '.join(OBJECT_NAMES)}, found {min(unknown)!r}"
        )
    twice = [token for token, times in Counter(frame.objects.track_tokens).items() if times > 1]
    if twice:
        raise SceneError(f"frame {frame.token}: expected a token of its own for every object, found {twice[0]!r} twice")
    kinds = np.array([len(OBJECT_NAMES) if n == _EGO_NAME else OBJECT_NAMES.index(n) for n in frame.objects.names], int)
    order = np.argsort(kinds, kind="stable")
    order = order[kinds[order] < len(OBJECT_NAMES)]
    boxes = frame.objects.boxes.reshape(-1, 7)[order]
    poses = compose(frame.ego.pose_global, boxes[:, [0, 1, 6]])
    poses[:, 2] = np.arctan2(np.sin(poses[:, 2]), np.cos(poses[:, 2]))
    velocities = rotate(frame.objects.velocity_mps.reshape(-1, 3)[order, :2], frame.ego.pose_global[2])
    velocities[kinds[order] >= AGENT_KINDS] = 0.0
    return FrameObjects(
        tokens=tuple(frame.objects.track_tokens[index] for index in order),
        kinds=kinds[order],
        sizes=boxes[:, 3:5],
        poses=poses,
        velocities=velocities,
    )


def interpolate_tracks(frames: Sequence[FrameObjects]) -> Tracks:
    """Tracks at 10 Hz from frames at 2 Hz.

    Poses and velocities are linear between the frames in which a token occurs, also across gaps, and absent before the
    first and after the last one. A token of a single frame stands still for all 41 steps (the evaluator's rule). Kind
    and size are those of the first frame.

    Args:
        frames: the current frame and the eight that follow it.
    """
    seen: dict[str, list[tuple[int, int]]] = {}
    for index, objects in enumerate(frames):
        for row, token in enumerate(objects.tokens):
            seen.setdefault(token, []).append((index, row))
    kind_of = {token: int(frames[places[0][0]].kinds[places[0][1]]) for token, places in seen.items()}
    tokens = tuple(sorted(seen, key=kind_of.__getitem__))
    sizes = [frames[index].sizes[row] for index, row in (seen[token][0] for token in tokens)]
    poses, velocities = np.zeros((len(tokens), ROLLOUT_STEPS, 3)), np.zeros((len(tokens), ROLLOUT_STEPS, 2))
    present = np.zeros((len(tokens), ROLLOUT_STEPS), np.bool_)
    for a, token in enumerate(tokens):
        knots = np.array([[*frames[i].poses[row], *frames[i].velocities[row]] for i, row in seen[token]])
        steps = STEPS_PER_FRAME * np.array([index for index, _ in seen[token]])
        if len(steps) == 1:
            steps, knots = np.array([0, ROLLOUT_STEPS - 1]), np.repeat(knots, 2, axis=0)
        span = slice(steps[0], steps[-1] + 1)
        poses[a, span], velocities[a, span] = _between(steps, knots)
        present[a, span] = True
    return Tracks(
        tokens=tokens,
        kinds=np.array([kind_of[token] for token in tokens], np.int64),
        sizes=np.array(sizes).reshape(-1, 2),
        poses=poses,
        velocities=velocities,
        present=present,
    )


def _between(steps: NDArray[np.int64], knots: Floats) -> tuple[Floats, Floats]:
    """Poses (n, 3) and velocities (n, 2) at all steps from the first to the last knot (k, 5)."""
    values = knots.copy()
    values[:, 2] = np.unwrap(values[:, 2])
    queries = np.arange(steps[0], steps[-1] + 1)
    high = np.clip(np.searchsorted(steps, queries, side="left"), 1, len(steps) - 1)
    low = high - 1
    slope = (values[high] - values[low]) / (steps[high] - steps[low])[:, None]
    dense = values[low] + slope * (queries - steps[low])[:, None]
    dense[:, 2] = np.arctan2(np.sin(dense[:, 2]), np.cos(dense[:, 2]))
    return dense[:, :3], dense[:, 3:]
