"""Car following along a path, as PDM-Closed's proposals do it.

Its quirks decide on the reference trajectory, so they are kept: leaders are looked up every second step in a forecast
of 0.2 s steps; the first step follows a leader at arc length 0; and the proposals of one path share a row of leader
data that is cleared once a step only, so that a velocity or a rear length found for one proposal leaks to the next.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import shapely

from irl_vla.driving.idm import pdm_acceleration
from irl_vla.driving.path import LanePath, corridor
from irl_vla.epdms.polygons import (
    EGO_HALF_LENGTH_M,
    EGO_HALF_WIDTH_M,
    Bools,
    Ints,
    box_meets_polygon,
    compiled,
    fill_ego_box,
    squared_distance,
)
from irl_vla.epdms.records import REFERENCE_STEPS, ROLLOUT_STEPS, STEP_S, Polygons
from irl_vla.epdms.tracks import FrameObjects
from irl_vla.geometry import Floats, box_corners, wrap_angle

SAMPLE_STEPS: Final = 2  # 10 Hz steps a forecast sample
SAMPLES: Final = 1 + (REFERENCE_STEPS - 1) // SAMPLE_STEPS

_HORIZON_S: Final = STEP_S * (REFERENCE_STEPS - 1)
_PATH_START_M: Final = 1e-5
_acceleration = compiled(pdm_acceleration)


class Obstacles(NamedTuple):
    """A objects and R red lights over the samples of the forecast; lights come after the objects.

    Attributes:
        poses: (A, SAMPLES, 3) box centres.
        rings: (A, SAMPLES, 5, 2) closed boxes, counter-clockwise.
        speeds, headings: (A,) as now, not turned where an object moves backwards.
        light_vertices, light_offsets: as in ``records.Polygons``.
        ignored: (A + R,) never leaders: what touches the ego now.
    """

    poses: Floats
    rings: Floats
    speeds: Floats
    headings: Floats
    light_vertices: Floats
    light_offsets: Ints
    ignored: Bools


class Course(NamedTuple):
    """A path and the obstacles in its corridor.

    Attributes:
        points, headings, progress_m: as in ``LanePath``.
        starts: (SAMPLES + 1,) hits ``starts[j]:starts[j + 1]`` are those of sample j.
        obstacle: (H,) index into ``Obstacles`` of every hit, in the order in which the index found them.
        centre_m: (H,) arc length of its centre.
    """

    points: Floats
    headings: Floats
    progress_m: Floats
    starts: Ints
    obstacle: Ints
    centre_m: Floats


class Proposals(NamedTuple):
    """F proposals along one path.

    Attributes:
        targets_mps: (F,) target speeds.
        states: (F, 51, 2) arc length and speed.
        leaders: (F, 51, 3) arc length and speed of the leader and length to be left behind it, used to reach a step.
    """

    targets_mps: Floats
    states: Floats
    leaders: Floats


def forecast(objects: FrameObjects) -> Floats:
    """Poses (A, SAMPLES, 3) at 0.2 s steps of objects that keep speed and heading (or drive backwards)."""
    speeds = np.hypot(objects.velocities[:, 0], objects.velocities[:, 1])
    course = np.arctan2(objects.velocities[:, 1], objects.velocities[:, 0])
    backwards = np.abs(wrap_angle(objects.poses[:, 2] - course)) >= np.pi / 2
    heading = objects.poses[:, 2] + np.where(backwards, np.pi, 0.0)
    distance = speeds[:, None] * (STEP_S * SAMPLE_STEPS * np.arange(SAMPLES))
    poses = np.repeat(objects.poses[:, None], SAMPLES, axis=1)
    poses[..., 0] += distance * np.cos(heading)[:, None]
    poses[..., 1] += distance * np.sin(heading)[:, None]
    return poses


def obstacles_of(
    objects: FrameObjects, lights: Polygons, light_shapes: Sequence[shapely.Polygon], ego_box: shapely.Polygon
) -> Obstacles:
    """Forecasts objects and notes which obstacles the ego already touches (lights: lies within)."""
    poses = forecast(objects)
    corners = box_corners(poses, objects.sizes[:, None, 0], objects.sizes[:, None, 1])
    rings = np.ascontiguousarray(np.concatenate([corners, corners[..., :1, :]], axis=-2))
    touched = shapely.intersects(shapely.polygons(rings[:, 0]), ego_box)
    inside = shapely.within(ego_box, np.array(light_shapes, dtype=object))
    return Obstacles(
        poses=poses,
        rings=rings,
        speeds=np.hypot(objects.velocities[:, 0], objects.velocities[:, 1]),
        headings=objects.poses[:, 2].copy(),
        light_vertices=lights.vertices,
        light_offsets=lights.offsets,
        ignored=np.concatenate([touched, inside]).astype(np.bool_),
    )


def sample_trees(obstacles: Obstacles, light_shapes: Sequence[shapely.Polygon]) -> list[shapely.STRtree]:
    """One index a forecast sample; the order of its hits decides between leaders at equal distance."""
    boxes = np.asarray(shapely.polygons(obstacles.rings))
    return [shapely.STRtree([*boxes[:, sample], *light_shapes]) for sample in range(SAMPLES)]


def course_along(
    path: LanePath, start_m: float, top_speed_mps: float, obstacles: Obstacles, trees: Sequence[shapely.STRtree]
) -> Course:
    """Finds the obstacles that a vehicle on a path may meet within five seconds.

    Args:
        path: to be followed.
        start_m: arc length now.
        top_speed_mps: the fastest proposal's target speed.
        obstacles: forecast.
        trees: of :func:`sample_trees`.
    """
    strip = corridor(path, start_m, start_m + top_speed_mps * _HORIZON_S, EGO_HALF_WIDTH_M)
    shapely.prepare(strip)
    rows: list[Ints] = []
    for tree in trees:
        hits = tree.query(strip, predicate="intersects").astype(np.int64)
        rows.append(hits[~obstacles.ignored[hits]])
    counts = [len(hits) for hits in rows]
    obstacle, sample = np.concatenate(rows), np.repeat(np.arange(SAMPLES), counts)
    centres = np.empty((len(obstacle), 2))
    moving = obstacle < len(obstacles.poses)
    centres[moving] = obstacles.poses[obstacle[moving], sample[moving], :2]
    centres[~moving] = shapely.get_coordinates(shapely.centroid(trees[0].geometries[obstacle[~moving]]))
    return Course(
        points=path.points,
        headings=path.headings,
        progress_m=path.progress_m,
        starts=np.cumsum([0, *counts], dtype=np.int64),
        obstacle=obstacle,
        centre_m=np.ascontiguousarray(path.project(centres)),
    )


def follow(course: Course, start_m: float, speed_mps: float, targets_mps: Floats, obstacles: Obstacles) -> Proposals:
    """Rolls out proposals for 41 steps; later rows of ``states`` and ``leaders`` stay zero.

    Args:
        course: path and obstacles.
        start_m, speed_mps: arc length and speed now.
        targets_mps: (F,) positive, in the order in which the shared row of leader data is passed on.
        obstacles: forecast.
    """
    proposals = Proposals(
        targets_mps=np.ascontiguousarray(targets_mps, np.float64),
        states=np.zeros((len(targets_mps), REFERENCE_STEPS, 2)),
        leaders=np.zeros((len(targets_mps), REFERENCE_STEPS, 3)),
    )
    proposals.states[:, 0] = start_m, speed_mps
    _advance(course, obstacles, proposals, 1, ROLLOUT_STEPS)
    return proposals


def continued(course: Course, proposals: Proposals, chosen: int, obstacles: Obstacles) -> Floats:
    """(51, 2) arc length and speed of one proposal over the reference's whole horizon, on its own from step 41."""
    alone = Proposals(*(rows[chosen : chosen + 1].copy() for rows in proposals))
    _advance(course, obstacles, alone, ROLLOUT_STEPS, REFERENCE_STEPS)
    final: Floats = alone.states[0]
    return final


@compiled
def _fill_pose(course: Course, distance: float, state: Floats) -> None:
    """Writes the path's pose at an arc length to ``state[:3]``; see ``LanePath.poses_at``."""
    arcs = course.progress_m
    distance = min(max(distance, _PATH_START_M), arcs[-1])
    high = max(1, min(len(arcs) - 1, int(np.searchsorted(arcs, distance))))
    low = high - 1
    fraction = (distance - arcs[low]) / (arcs[high] - arcs[low])
    state[0] = course.points[low, 0] + fraction * (course.points[high, 0] - course.points[low, 0])
    state[1] = course.points[low, 1] + fraction * (course.points[high, 1] - course.points[low, 1])
    state[2] = course.headings[low] + fraction * (course.headings[high] - course.headings[low])


@compiled
def _distance(box: Floats, ring: Floats) -> float:
    """Distance between the ego's box (6, 2), as of ``fill_ego_box``, and a closed ring (n, 2); 0 if they meet."""
    if box_meets_polygon(box[:4], ring, 0, len(ring)):
        return 0.0
    squared = np.inf
    for i in range(4):
        for j in range(len(ring) - 1):
            squared = min(squared, squared_distance(box[i], ring[j], ring[j + 1]))
            squared = min(squared, squared_distance(ring[j], box[i], box[(i + 1) % 4]))
    return float(np.sqrt(squared))


@compiled
def _look_ahead(course: Course, obstacles: Obstacles, sample: int, progress: float, shared: Floats) -> None:
    """Updates the row (3,) that all proposals of the path share with the leader seen from ``progress``, if any."""
    state, box = np.zeros(11), np.empty((6, 2))
    _fill_pose(course, progress, state)
    fill_ego_box(state, box)
    nearest, leader = np.inf, -1
    for hit in range(course.starts[sample], course.starts[sample + 1]):
        if course.centre_m[hit] <= progress:
            continue
        obstacle = course.obstacle[hit]
        if obstacle < len(obstacles.speeds):
            distance = _distance(box, obstacles.rings[obstacle, sample])
        else:
            light = obstacle - len(obstacles.speeds)
            start, stop = obstacles.light_offsets[light], obstacles.light_offsets[light + 1]
            distance = _distance(box, obstacles.light_vertices[start:stop])
        if distance < nearest:
            nearest, leader = distance, obstacle
    if leader < 0:
        shared[0], shared[2] = course.progress_m[-1], EGO_HALF_LENGTH_M
        return
    shared[0] = progress + nearest
    if leader < len(obstacles.speeds):  # a red light leaves the speed as it is
        shared[1] = obstacles.speeds[leader] * np.cos(obstacles.headings[leader] - state[2])


@compiled
def _advance(course: Course, obstacles: Obstacles, proposals: Proposals, first: int, stop: int) -> None:
    """Fills states and leaders of the steps from ``first`` up to, without, ``stop``."""
    states, leaders = proposals.states, proposals.leaders
    for k in range(first, stop):
        shared = np.zeros(3)
        for f in range(len(states)):
            progress, speed = states[f, k - 1, 0], states[f, k - 1, 1]
            if k % SAMPLE_STEPS == 0:
                _look_ahead(course, obstacles, k // SAMPLE_STEPS, progress, shared)
                leaders[f, k] = shared
            else:
                leaders[f, k] = leaders[f, k - 1]
            gap = leaders[f, k, 0] - progress - leaders[f, k, 2]
            acceleration = _acceleration(speed, gap, leaders[f, k, 1], proposals.targets_mps[f])
            states[f, k, 0] = progress + STEP_S * speed
            states[f, k, 1] = speed + STEP_S * acceleration
