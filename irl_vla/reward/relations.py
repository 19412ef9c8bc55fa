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
_AHEAD_COS: Final = float(np.cos(np.deg2rad(30.0)))
_BEHIND_COS: Final = float(np.cos(np.deg2rad(150.0)))
_TTC_OFFSETS: Final = (0, 3, 6, 9)
_TTC_STARTS: Final = 16  # in steps of STRIDE: the evaluator begins no test later than 3.1 s
_LANE_M: Final = 0.5
_WINDOW: Final = 5  # steps of a second
_FRAME_STEPS: Final = round(PLAN_INTERVAL_S / STEP_S)
_START_SPREAD_M: Final = 0.1
_RADIUS_M: Final = float(np.hypot(EGO_HALF_LENGTH_M, EGO_HALF_WIDTH_M))
_REAR_TO_CENTRE_M: Final = PACIFICA.rear_axle_to_centre


class SeenObjects(NamedTuple):
    """N objects of each scene (or of one, without B) over the 41 steps of a rollout, F futures each.

    Attributes:
        there: (B, N) True for who is likely enough to be there, and does not stand inside the ego.
        poses: (B, N, F, 41, 4) box centres, cosine and sine of headings, ego frame; the likeliest future first.
        bounds: (B, N, 4) of all these centres: x min, y min, x max, y max.
        half: (B, N, 2) half length and width.
        chances: (B, N, F) of the futures, times that of the object being there.
        spread_m: (B, N, 41).
        moving: (B, N) True for what a collision from behind is not the ego's fault with.
    """

    there: NDArray[np.bool_]
    poses: Floats
    bounds: Floats
    half: Floats
    chances: Floats
    spread_m: Floats
    moving: NDArray[np.bool_]


class Box(NamedTuple):
    """Centre of an object's box, cosine and sine of its heading, half of its length and width."""

    x: float
    y: float
    cos: float
    sin: float
    half_length: float
    half_width: float


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
    objects = seen_objects(sight)
    for scene, states in enumerate(rollouts):
        _relate_roads(states, sight.fields[scene], grid, found[scene])
        _relate_objects(states, SeenObjects(*(part[scene] for part in objects)), found[scene])
    return found


def seen_objects(sight: Sight) -> SeenObjects:
    """Objects of B scenes."""
    boxes, scores = sight.boxes.astype(np.float64), sight.object_scores.astype(np.float64)
    order = np.argsort(-sight.future_chances, axis=-1, kind="stable")
    futures = np.take_along_axis(sight.futures, order[..., None, None], axis=-3).astype(np.float64)
    chances = np.take_along_axis(sight.future_chances, order, axis=-1).astype(np.float64)
    start = np.broadcast_to(boxes[..., None, None, :2], (*futures.shape[:3], 1, 2))
    knots = np.concatenate([start, futures], axis=-2)
    poses = np.empty((*futures.shape[:3], ROLLOUT_STEPS, 4))
    _follow(knots, boxes[..., 6], poses)
    spread = np.concatenate([np.full((*boxes.shape[:2], 1), _START_SPREAD_M), sight.future_spread_m], axis=-1)
    likely = scores.max(-1)
    return SeenObjects(
        there=(likely > _LEAST_SCORE) & (_gaps_at_start(boxes) > _TOUCHING_M),
        poses=poses,
        bounds=np.concatenate([knots.min(axis=(2, 3)), knots.max(axis=(2, 3))], axis=-1),
        half=boxes[..., 3:5] / 2,
        chances=chances * likely[..., None],
        spread_m=_between(spread),
        moving=_MOVING_KINDS[scores.argmax(-1)] & (np.hypot(boxes[..., 7], boxes[..., 8]) > _MOVING_MPS),
    )


@compiled
def _gaps_at_start(boxes: Floats) -> Floats:
    """(B, N) gaps of the ego, where it stands, to boxes (B, N, 9)."""
    ego, gaps = Ego(_REAR_TO_CENTRE_M, 0.0, 1.0, 0.0, 0.0), np.empty(boxes.shape[:2])
    for b in range(len(boxes)):
        for n in range(boxes.shape[1]):
            box, half = boxes[b, n], boxes[b, n, 3:5] / 2
            gaps[b, n] = _gap(ego, 0.0, Box(box[0], box[1], np.cos(box[6]), np.sin(box[6]), half[0], half[1]))
    return gaps


def _between(knots: Floats) -> Floats:
    """(..., 9) values at 0 .. 4 s, as (..., 41)."""
    low = np.minimum(np.arange(ROLLOUT_STEPS) // _FRAME_STEPS, FUTURE_FRAMES - 1)
    share = np.arange(ROLLOUT_STEPS) / _FRAME_STEPS - low
    return np.asarray(knots[..., low] * (1 - share) + knots[..., low + 1] * share)


@compiled
def _follow(knots: Floats, heading: Floats, poses: Floats) -> None:
    """Fills poses (B, N, F, 41, 4) along positions (B, N, F, 9, 2); who hardly moves keeps its heading (B, N)."""
    for b, n, f in np.ndindex(knots.shape[:3]):
        for k in range(FUTURE_FRAMES):
            x, y = knots[b, n, f, k]
            dx, dy = knots[b, n, f, k + 1, 0] - x, knots[b, n, f, k + 1, 1] - y
            cos, sin, length_m = np.cos(heading[b, n]), np.sin(heading[b, n]), np.sqrt(dx * dx + dy * dy)
            if length_m > _TURNING_MPS * PLAN_INTERVAL_S:
                forward_m = length_m if dx * cos + dy * sin >= 0 else -length_m  # it may drive backwards
                cos, sin = dx / forward_m, dy / forward_m
            for i in range(_FRAME_STEPS + 1):
                pose, share = poses[b, n, f, k * _FRAME_STEPS + i], i / _FRAME_STEPS
                pose[0], pose[1], pose[2], pose[3] = x + share * dx, y + share * dy, cos, sin


@compiled
def _ego_at(state: Floats) -> Ego:
    """The ego in a state (11,) of a rollout."""
    cos, sin = np.cos(state[2]), np.sin(state[2])
    x, y = state[0] + _REAR_TO_CENTRE_M * cos, state[1] + _REAR_TO_CENTRE_M * sin
    return Ego(x, y, cos, sin, np.hypot(state[3], state[4]))


@compiled
def _box(objects: SeenObjects, n: int, future: int, t: int) -> Box:
    """The box of object ``n`` of a scene."""
    pose, half = objects.poses[n, future, t], objects.half[n]
    return Box(pose[0], pose[1], pose[2], pose[3], half[0], half[1])


@compiled
def _gap(ego: Ego, ahead_m: float, box: Box) -> float:
    """Signed distance of the ego's box, moved straight on, and another along their axes; below 0 where they overlap."""
    dx, dy = box.x - ego.x - ahead_m * ego.cos, box.y - ego.y - ahead_m * ego.sin
    along, across = abs(ego.cos * box.cos + ego.sin * box.sin), abs(ego.cos * box.sin - ego.sin * box.cos)
    ahead, aside = abs(dx * ego.cos + dy * ego.sin), abs(dy * ego.cos - dx * ego.sin)
    gap = max(
        ahead - EGO_HALF_LENGTH_M - box.half_length * along - box.half_width * across,
        aside - EGO_HALF_WIDTH_M - box.half_length * across - box.half_width * along,
    )
    ahead, aside = abs(dx * box.cos + dy * box.sin), abs(dy * box.cos - dx * box.sin)
    gap = max(gap, ahead - box.half_length - EGO_HALF_LENGTH_M * along - EGO_HALF_WIDTH_M * across)
    return float(max(gap, aside - box.half_width - EGO_HALF_LENGTH_M * across - EGO_HALF_WIDTH_M * along))


@compiled
def _near(ego: Ego, ahead_m: float, box: Box) -> bool:
    """Whether the ego, moved straight on, may be within ``REACH_M`` of a box."""
    dx, dy = box.x - ego.x - ahead_m * ego.cos, box.y - ego.y - ahead_m * ego.sin
    far = REACH_M + _RADIUS_M + box.half_length + box.half_width
    return bool(dx * dx + dy * dy <= far * far)


@compiled
def _ahead(ego: Ego, box: Box) -> float:
    """Cosine of the angle between the ego's heading and the way from its rear axle to the centre of a box."""
    dx = box.x - ego.x + _REAR_TO_CENTRE_M * ego.cos
    dy = box.y - ego.y + _REAR_TO_CENTRE_M * ego.sin
    return float((dx * ego.cos + dy * ego.sin) / max(np.sqrt(dx * dx + dy * dy), 1e-9))


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
    unharmed, in_time = np.empty(STEPS), np.empty(STEPS)
    for p in range(len(states)):
        egos = [_ego_at(states[p, t * STRIDE]) for t in range(STEPS)]
        swept = _swept(egos)
        unharmed[:], in_time[:], found[p, :, 10:14] = 1.0, 1.0, REACH_M
        for n in range(len(objects.half)):
            far = REACH_M + _RADIUS_M + objects.half[n].sum()
            if not objects.there[n] or _apart(swept, objects.bounds[n], far):
                continue
            _meet(egos, objects, n, unharmed, found[p])
            _close_in(egos, objects, n, in_time, found[p])
        found[p, :, 14], found[p, :, 15] = 1.0 - unharmed, 1.0 - in_time


@compiled
def _swept(egos: list[Ego]) -> tuple[float, float, float, float]:
    """Bounds of where the ego's centre is and would be, driving straight on: x min, y min, x max, y max."""
    x_min, y_min, x_max, y_max = np.inf, np.inf, -np.inf, -np.inf
    for ego in egos:
        ahead_m = ego.speed * STEP_S * _TTC_OFFSETS[-1]
        x, y = ego.x + ahead_m * ego.cos, ego.y + ahead_m * ego.sin
        x_min, y_min = min(x_min, ego.x, x), min(y_min, ego.y, y)
        x_max, y_max = max(x_max, ego.x, x), max(y_max, ego.y, y)
    return x_min, y_min, x_max, y_max


@compiled
def _apart(swept: tuple[float, float, float, float], bounds: Floats, far: float) -> bool:
    """Whether two bounds are farther apart than that along x or y."""
    return bool(
        bounds[0] - swept[2] > far
        or bounds[1] - swept[3] > far
        or swept[0] - bounds[2] > far
        or swept[1] - bounds[3] > far
    )


@compiled
def _meet(egos: list[Ego], objects: SeenObjects, n: int, unharmed: Floats, rows: NDArray[np.float32]) -> None:
    """What object ``n`` does to a plan: notes the gaps to its likeliest future in the plan's rows (21, 16), and lowers
    the chance (21,) that the ego hits nothing that it is at fault for."""
    for t in range(STEPS):
        ego, row, chance = egos[t], rows[t], 0.0
        for f in range(objects.poses.shape[1]):
            box = _box(objects, n, f, t * STRIDE)
            if not _near(ego, 0.0, box):
                continue
            gap = _gap(ego, 0.0, box)
            excused = ego.speed < _STOPPED_MPS or (objects.moving[n] and _ahead(ego, box) < _BEHIND_COS)
            if f == 0:
                row[11] = min(row[11], gap)
            if excused:
                continue
            if f == 0:
                row[10] = min(row[10], gap)
            chance += objects.chances[n, f] * _chance(gap, objects.spread_m[n, t * STRIDE])
        unharmed[t] *= 1.0 - min(chance, 1.0)


@compiled
def _close_in(egos: list[Ego], objects: SeenObjects, n: int, in_time: Floats, rows: NDArray[np.float32]) -> None:
    """The same for who drives straight on from each step: does that lead into the likeliest future of the object?"""
    for t in range(_TTC_STARTS + 1):
        ego, row, chance = egos[t], rows[t], 0.0
        if ego.speed < _STOPPED_MPS:
            continue
        for offset in _TTC_OFFSETS:
            box, ahead_m = _box(objects, n, 0, min(t * STRIDE + offset, ROLLOUT_STEPS - 1)), ego.speed * STEP_S * offset
            if not _near(ego, ahead_m, box):
                continue
            ahead = _ahead(ego, box)
            if ahead <= _BEHIND_COS:
                continue
            gap = _gap(ego, ahead_m, box)
            row[13] = min(row[13], gap)
            if ahead > _AHEAD_COS:
                row[12] = min(row[12], gap)
                chance = max(chance, objects.chances[n, 0] * _chance(gap, objects.spread_m[n, t * STRIDE]))
        in_time[t] *= 1.0 - min(chance, 1.0)
