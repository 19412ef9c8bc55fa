"""Relations of rolled-out plans to what perception sees: geometry without parameters, which the reward model reads.

For each step of a rollout: where the ego's box stands on the fields of the map, how near it comes to each object's
predicted futures, and the same for who drives straight on (time to collision), with the exceptions of the score: who is
hit from behind or stands is not at fault (``epdms.collision``). Compiled, because a policy asks for thousands of plans.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irl_vla.epdms.polygons import EGO_HALF_LENGTH_M, EGO_HALF_WIDTH_M, compiled
from irl_vla.epdms.records import ROLLOUT_STEPS, STEP_S
from irl_vla.geometry import PACIFICA, Floats
from irl_vla.policy.sight import Sight
from irl_vla.scene import FUTURE_FRAMES, OBJECT_NAMES, PLAN_INTERVAL_S, ROAD_FIELDS

#: What is said of each step, in the order of the last axis. Metres, m/s; chances in [0, 1].
RELATIONS: Final = (
    "drivable_m",  # of the corner that is farthest out: distance to the border of the drivable area
    "on_route_m",  # of the box centre: distance to the border of the lanes of the route
    "intersection_m",  # of the box centre
    "rear_intersection_m",  # of the rear axle
    "lane_offset_m",  # of the box centre
    "progress_m",  # of the box centre since the start
    "red_light_m",  # of the corner that is farthest in
    "off_lane_s",  # for how long the box centre has been beside the centreline, outside of intersections
    "wrong_way_m",  # driven off the lanes of the route, outside of intersections, within the last second
    "speed_mps",
    "fault_gap_m",  # to the nearest object that the ego would be at fault for hitting
    "gap_m",  # to the nearest object
    "ttc_gap_m",  # to the nearest object ahead, for who drives straight on for up to 0.9 s
    "ttc_beside_gap_m",  # to the nearest one that is not behind
    "fault_chance",  # that the ego hits one that it is at fault for, over all futures and their spread
    "ttc_chance",
)
#: Every other step of a rollout: 0.2 s.
STRIDE: Final = 2
STEPS: Final = (ROLLOUT_STEPS - 1) // STRIDE + 1
#: Gaps are cut here: what is farther off does not matter.
REACH_M: Final = 6.0

_DRIVABLE, _ROUTE, _INTERSECTION, _OFFSET, _PROGRESS, _RED = range(len(ROAD_FIELDS))
_MOVING_KINDS: Final = np.array([name in ("vehicle", "pedestrian", "bicycle") for name in OBJECT_NAMES])
_LEAST_SCORE: Final = 0.15
_MOVING_MPS: Final = 0.4  # a predicted velocity below is noise
_STOPPED_MPS: Final = 0.05
_TURNING_MPS: Final = 0.6  # an object's heading follows its path from here on
_TOUCHING_M: Final = -0.3  # deeper in the ego at the start is no object
_AHEAD_RAD: Final = np.deg2rad(30.0)
_BEHIND_RAD: Final = np.deg2rad(150.0)
_TTC_OFFSETS: Final = (0, 3, 6, 9)
_TTC_STARTS: Final = 16  # in steps of STRIDE: the evaluator begins no test later than 3.1 s
_LANE_M: Final = 0.5
_WINDOW: Final = 5  # steps of a second
_START_SPREAD_M: Final = 0.1
_RADIUS_M: Final = float(np.hypot(EGO_HALF_LENGTH_M, EGO_HALF_WIDTH_M))
_REAR_TO_CENTRE_M: Final = PACIFICA.rear_axle_to_centre


class SeenObjects(NamedTuple):
    """N objects of a scene over the 41 steps of a rollout, F futures each.

    Attributes:
        poses: (N, F, 41, 3) box centres and headings, ego frame; the likeliest future first.
        half: (N, 2) half length and width.
        chances: (N, F) of the futures, times that of the object being there.
        spread_m: (N, 41).
        moving: (N,) True for what a collision from behind is not the ego's fault with.
    """

    poses: Floats
    half: Floats
    chances: Floats
    spread_m: Floats
    moving: NDArray[np.bool_]


class Ego(NamedTuple):
    """Centre of the ego's box, cosine and sine of its heading, and its speed."""

    x: float
    y: float
    cos: float
    sin: float
    speed: float


def relate(sight: Sight, rollouts: Floats) -> NDArray[np.float32]:
    """Relations of the plans of B scenes.

    Args:
        sight: of the scenes.
        rollouts: (B, P, 41, 11) in the ego frame of each, as ``comfort.rollouts_of`` gives them.

    Returns:
        (B, P, 21, 16) in the order of ``RELATIONS``.
    """
    found = np.zeros((*rollouts.shape[:2], STEPS, len(RELATIONS)), np.float32)
    grid = np.array([sight.layout.x_min_m, sight.layout.y_min_m, sight.layout.cell_m])
    for scene, states in enumerate(rollouts):
        _relate_roads(states, sight.fields[scene], grid, found[scene])
        _relate_objects(states, seen_objects(sight, scene), found[scene])
    return found


def seen_objects(sight: Sight, scene: int) -> SeenObjects:
    """Objects of a scene that are likely enough to be there, and do not stand inside the ego."""
    boxes, scores = sight.boxes[scene].astype(np.float64), sight.object_scores[scene].astype(np.float64)
    kinds, there = scores.argmax(-1), scores.max(-1)
    here = Ego(_REAR_TO_CENTRE_M, 0.0, 1.0, 0.0, 0.0)
    gaps = np.array([_gap(here, 0.0, box[[0, 1, 6]], box[3:5] / 2) for box in boxes])
    kept = np.flatnonzero((there > _LEAST_SCORE) & (gaps > _TOUCHING_M))
    boxes, order = boxes[kept], np.argsort(-sight.future_chances[scene][kept], axis=1, kind="stable")
    futures = np.take_along_axis(sight.futures[scene][kept].astype(np.float64), order[..., None, None], axis=1)
    chances = np.take_along_axis(sight.future_chances[scene][kept].astype(np.float64), order, axis=1)
    start = np.broadcast_to(boxes[:, None, None, :2], (*futures.shape[:2], 1, 2))
    spread = sight.future_spread_m[scene][kept].astype(np.float64)
    speed = np.hypot(boxes[:, 7], boxes[:, 8])
    return SeenObjects(
        poses=_at_every_step(np.concatenate([start, futures], axis=2), boxes[:, 6]),
        half=np.ascontiguousarray(boxes[:, 3:5] / 2),
        chances=chances * there[kept, None],
        spread_m=_between(np.concatenate([np.full((len(kept), 1), _START_SPREAD_M), spread], axis=1)[..., None])[
            ..., 0
        ],
        moving=_MOVING_KINDS[kinds[kept]] & (speed > _MOVING_MPS),
    )


def _between(knots: Floats) -> Floats:
    """(..., 9, d) values at 0 .. 4 s, as (..., 41, d)."""
    place = np.arange(ROLLOUT_STEPS) * STEP_S / PLAN_INTERVAL_S
    low = np.minimum(place.astype(np.int64), FUTURE_FRAMES - 1)
    share = (place - low)[:, None]
    return np.asarray(knots[..., low, :] * (1 - share) + knots[..., low + 1, :] * share)


def _at_every_step(knots: Floats, heading: Floats) -> Floats:
    """(N, F, 41, 3) poses along positions (N, F, 9, 2); who hardly moves keeps its heading (N,)."""
    step = np.diff(knots, axis=2)
    course = np.arctan2(step[..., 1], step[..., 0])
    course = np.where(np.cos(course - heading[:, None, None]) < 0, course + np.pi, course)  # it drives backwards
    moves = np.hypot(step[..., 0], step[..., 1]) > _TURNING_MPS * PLAN_INTERVAL_S
    course = np.where(moves, course, heading[:, None, None])
    place = np.arange(ROLLOUT_STEPS) * STEP_S / PLAN_INTERVAL_S
    low = np.minimum(place.astype(np.int64), FUTURE_FRAMES - 1)
    return np.ascontiguousarray(np.concatenate([_between(knots), course[..., low, None]], axis=-1))


@compiled
def _ego_at(state: Floats) -> Ego:
    """The ego in a state (11,) of a rollout."""
    cos, sin = np.cos(state[2]), np.sin(state[2])
    x, y = state[0] + _REAR_TO_CENTRE_M * cos, state[1] + _REAR_TO_CENTRE_M * sin
    return Ego(x, y, cos, sin, np.hypot(state[3], state[4]))


@compiled
def _gap(ego: Ego, ahead_m: float, pose: Floats, half: Floats) -> float:
    """Signed distance of the ego's box, moved straight on, and another along their axes; below 0 where they overlap.

    Args:
        ahead_m: by which the ego is moved.
        pose, half: (3,) and (2,) of the other box.
    """
    dx, dy = pose[0] - ego.x - ahead_m * ego.cos, pose[1] - ego.y - ahead_m * ego.sin
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    along, across = abs(ego.cos * cos + ego.sin * sin), abs(ego.cos * sin - ego.sin * cos)
    ahead, aside = abs(dx * ego.cos + dy * ego.sin), abs(dy * ego.cos - dx * ego.sin)
    gap = max(
        ahead - EGO_HALF_LENGTH_M - half[0] * along - half[1] * across,
        aside - EGO_HALF_WIDTH_M - half[0] * across - half[1] * along,
    )
    ahead, aside = abs(dx * cos + dy * sin), abs(dy * cos - dx * sin)
    gap = max(gap, ahead - half[0] - EGO_HALF_LENGTH_M * along - EGO_HALF_WIDTH_M * across)
    return float(max(gap, aside - half[1] - EGO_HALF_LENGTH_M * across - EGO_HALF_WIDTH_M * along))


@compiled
def _angle(ego: Ego, pose: Floats) -> float:
    """Angle (0 .. pi) between the ego's heading and the way from its rear axle to a point."""
    dx = pose[0] - ego.x + _REAR_TO_CENTRE_M * ego.cos
    dy = pose[1] - ego.y + _REAR_TO_CENTRE_M * ego.sin
    return float(abs(np.arctan2(dy * ego.cos - dx * ego.sin, dx * ego.cos + dy * ego.sin)))


@compiled
def _chance(gap: float, spread_m: float) -> float:
    """Chance that boxes meet whose expected gap is off by so much."""
    return float(1.0 / (1.0 + np.exp(min(gap / (0.1 + 0.5 * spread_m), 30.0))))


@compiled
def _sample(field: NDArray[np.float32], grid: Floats, x: float, y: float) -> float:
    """Bilinear value of a field (rows, columns); points outside take that of the edge."""
    row = min(max((x - grid[0]) / grid[2] - 0.5, 0.0), field.shape[0] - 1.0)
    column = min(max((y - grid[1]) / grid[2] - 0.5, 0.0), field.shape[1] - 1.0)
    i, j = min(int(row), field.shape[0] - 2), min(int(column), field.shape[1] - 2)
    a, b = row - i, column - j
    low = field[i, j] * (1 - b) + field[i, j + 1] * b
    return float(low * (1 - a) + (field[i + 1, j] * (1 - b) + field[i + 1, j + 1] * b) * a)


@compiled
def _relate_roads(states: Floats, fields: NDArray[np.float32], grid: Floats, found: NDArray[np.float32]) -> None:
    """Fills the relations to the map of the plans of a scene; states (P, 41, 11), found (P, 21, 16)."""
    driven = np.zeros(STEPS)
    for p in range(len(states)):
        off_s, start, last = 0.0, 0.0, _ego_at(states[p, 0])
        for t in range(STEPS):
            state, row = states[p, t * STRIDE], found[p, t]
            ego = _ego_at(state)
            _relate_corners(ego, fields, grid, row)
            row[1] = _sample(fields[_ROUTE], grid, ego.x, ego.y)
            row[2] = _sample(fields[_INTERSECTION], grid, ego.x, ego.y)
            row[3] = _sample(fields[_INTERSECTION], grid, state[0], state[1])
            row[4] = _sample(fields[_OFFSET], grid, ego.x, ego.y)
            progress = _sample(fields[_PROGRESS], grid, ego.x, ego.y)
            start = progress if t == 0 else start
            row[5] = progress - start
            in_lanes = row[2] < 0.0
            if in_lanes:  # the score neither counts nor forgets what happens in intersections
                off_s = off_s + STRIDE * STEP_S if abs(row[4]) > _LANE_M else 0.0
            driven[t] = np.hypot(ego.x - last.x, ego.y - last.y) if in_lanes and row[1] < 0.0 else 0.0
            last = ego
            row[7], row[8], row[9] = off_s, driven[max(0, t - _WINDOW + 1) : t + 1].sum(), ego.speed


@compiled
def _relate_corners(ego: Ego, fields: NDArray[np.float32], grid: Floats, row: NDArray[np.float32]) -> None:
    """Fills what the corners of the ego's box decide."""
    row[0], row[6] = np.inf, -np.inf
    for corner in range(4):
        ahead = EGO_HALF_LENGTH_M if corner < 2 else -EGO_HALF_LENGTH_M
        aside = EGO_HALF_WIDTH_M if corner % 2 == 0 else -EGO_HALF_WIDTH_M
        x, y = ego.x + ahead * ego.cos - aside * ego.sin, ego.y + ahead * ego.sin + aside * ego.cos
        row[0] = min(row[0], _sample(fields[_DRIVABLE], grid, x, y))
        row[6] = max(row[6], _sample(fields[_RED], grid, x, y))


@compiled
def _relate_objects(states: Floats, objects: SeenObjects, found: NDArray[np.float32]) -> None:
    """Fills the relations to the objects of a scene."""
    for p in range(len(states)):
        for t in range(STEPS):
            ego, row = _ego_at(states[p, t * STRIDE]), found[p, t]
            row[10:14] = REACH_M
            unharmed, in_time = 1.0, 1.0
            for n in range(len(objects.half)):
                unharmed *= 1.0 - min(_fault_chance(ego, objects, n, t * STRIDE, row), 1.0)
                if t <= _TTC_STARTS and ego.speed >= _STOPPED_MPS:
                    in_time *= 1.0 - min(_ttc_chance(ego, objects, n, t * STRIDE, row), 1.0)
            row[14], row[15] = 1.0 - unharmed, 1.0 - in_time


@compiled
def _fault_chance(ego: Ego, objects: SeenObjects, n: int, t: int, row: NDArray[np.float32]) -> float:
    """Chance that the ego hits object ``n`` at step ``t`` and is at fault; notes the gaps to its likeliest future."""
    chance, far = 0.0, REACH_M + _RADIUS_M + objects.half[n].sum()
    for f in range(objects.poses.shape[1]):
        pose = objects.poses[n, f, t]
        if (pose[0] - ego.x) ** 2 + (pose[1] - ego.y) ** 2 > far * far:
            continue
        gap = _gap(ego, 0.0, pose, objects.half[n])
        excused = ego.speed < _STOPPED_MPS or (objects.moving[n] and _angle(ego, pose) > _BEHIND_RAD)
        if f == 0:
            row[11] = min(row[11], gap)
        if excused:
            continue
        if f == 0:
            row[10] = min(row[10], gap)
        chance += objects.chances[n, f] * _chance(gap, objects.spread_m[n, t])
    return chance


@compiled
def _ttc_chance(ego: Ego, objects: SeenObjects, n: int, t: int, row: NDArray[np.float32]) -> float:
    """Chance that driving straight on from step ``t`` leads into object ``n``; notes gaps to its likeliest future."""
    chance, far = 0.0, REACH_M + _RADIUS_M + objects.half[n].sum()
    for offset in _TTC_OFFSETS:
        pose, ahead_m = objects.poses[n, 0, min(t + offset, ROLLOUT_STEPS - 1)], ego.speed * STEP_S * offset
        dx, dy = pose[0] - ego.x - ahead_m * ego.cos, pose[1] - ego.y - ahead_m * ego.sin
        if dx * dx + dy * dy > far * far:
            continue
        angle = _angle(ego, pose)
        if angle >= _BEHIND_RAD:
            continue
        gap = _gap(ego, ahead_m, pose, objects.half[n])
        row[13] = min(row[13], gap)
        if angle < _AHEAD_RAD:
            row[12] = min(row[12], gap)
            chance = max(chance, objects.chances[n, 0] * _chance(gap, objects.spread_m[n, t]))
    return chance
