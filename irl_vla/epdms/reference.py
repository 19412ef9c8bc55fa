"""The reference trajectory that EP compares with: PDM-Closed, the rule-based planner of NAVSIM v2.2.

Fifteen proposals (three parallel paths times five target speeds) follow their leaders in a constant-velocity forecast;
they are simulated and scored with the EPDMS of plans, and the best one is driven for five seconds. Every scene gets a
fresh planner: the official one keeps its ignore list from scene to scene, so that its results depend on their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely

from irl_vla.driving.path import LanePath
from irl_vla.epdms.collision import occupancy, red_lights
from irl_vla.epdms.following import SAMPLE_STEPS, Obstacles, continued, course_along, follow, obstacles_of, sample_trees
from irl_vla.epdms.polygons import Bools
from irl_vla.epdms.progress import normalise_progress
from irl_vla.epdms.records import ROLLOUT_STEPS, Polygons
from irl_vla.epdms.road_rules import RoadGeometry
from irl_vla.epdms.rollout import simulate
from irl_vla.epdms.scorer import final_score
from irl_vla.epdms.subscores import RolloutScores, score_rollouts
from irl_vla.epdms.tracks import FrameObjects
from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre

#: Sideways offsets of the paths and fractions of the speed limit; proposal ``5 * path + fraction``.
LATERAL_OFFSETS_M: Final = (0.0, -1.0, 1.0)
SPEED_FRACTIONS: Final = (0.2, 0.4, 0.6, 0.8, 1.0)
#: Where the start lane has no limit.
DEFAULT_SPEED_LIMIT_MPS: Final = 15.0

_RANGE_M: Final = 100.0
_STATIC_LIMIT: Final = 50
_AGENT_LIMITS: Final = (50, 25, 10)  # vehicles, pedestrians, bicycles


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """PDM-Closed's choice and what it chose from (15 proposals).

    Attributes:
        poses: (51, 3) global rear axle at 10 Hz, not simulated; the first lies on its path, not at the ego.
        chosen: index of the proposal.
        scores: (15,) as the planner computes them.
        details: sub-scores of the proposals.
        states: (15, 41, 2) arc length and speed.
        leaders: (15, 41, 3) arc length, speed and rear length of the leader used to reach a step.
        rollouts: (15, 41, 11) simulated.
        touched: tokens of objects and "red_light_<id>" that the ego touches now; they are ignored.
    """

    poses: Floats
    chosen: int
    scores: Floats
    details: RolloutScores
    states: Floats
    leaders: Floats
    rollouts: Floats
    touched: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RedConnectors:
    """Lane connectors that are red now: ids and polygons in two forms."""

    ids: tuple[str, ...]
    shapes: Sequence[shapely.Polygon]
    polygons: Polygons


def plan_reference(
    ego_state: Floats,
    objects: FrameObjects,
    lights: RedConnectors,
    centreline: LanePath,
    *,
    speed_limit_mps: float,
    roads: RoadGeometry,
) -> Reference:
    """Runs the planner.

    Args:
        ego_state: (11,) global.
        objects: of the current frame, all of them.
        lights: red connectors of the repaired route.
        centreline: path over the planned lanes.
        speed_limit_mps: of the start lane, positive.
        roads: drivable map with the repaired route and the centreline.
    """
    centre = rear_axle_to_centre(ego_state[:3])
    observed = nearest_objects(objects, centre[:2])
    ego_box = shapely.Polygon(box_corners(centre, PACIFICA.length, PACIFICA.width))
    obstacles = obstacles_of(observed, lights.polygons, lights.shapes, ego_box)
    trees = sample_trees(obstacles, lights.shapes)
    targets = np.array(SPEED_FRACTIONS) * speed_limit_mps
    paths = [centreline.parallel(offset) if offset else centreline for offset in LATERAL_OFFSETS_M]
    starts = [float(path.project(ego_state[:2])) for path in paths]
    courses = [
        course_along(path, start, float(targets.max()), obstacles, trees)
        for path, start in zip(paths, starts, strict=True)
    ]
    families = [
        follow(course, start, float(ego_state[3]), targets, obstacles)
        for course, start in zip(courses, starts, strict=True)
    ]
    states = np.concatenate([family.states[:, :ROLLOUT_STEPS] for family in families])
    proposals = np.concatenate(
        [path.poses_at(family.states[:, :ROLLOUT_STEPS, 0]) for path, family in zip(paths, families, strict=True)]
    )
    rollouts = simulate(ego_state, proposals)
    details = _score(rollouts, roads, observed, obstacles, lights)
    scores = _total(details)
    chosen = int(scores.argmax())
    path_index, fraction = divmod(chosen, len(targets))
    driven = continued(courses[path_index], families[path_index], fraction, obstacles)
    tokens = np.array([*observed.tokens, *(f"red_light_{light}" for light in lights.ids)], dtype=object)
    return Reference(
        poses=paths[path_index].poses_at(driven[:, 0]),
        chosen=chosen,
        scores=scores,
        details=details,
        states=states,
        leaders=np.concatenate([family.leaders[:, :ROLLOUT_STEPS] for family in families]),
        rollouts=rollouts,
        touched=tuple(tokens[obstacles.ignored]),
    )


def nearest_objects(objects: FrameObjects, centre: Floats) -> FrameObjects:
    """What the planner sees: static objects, vehicles, pedestrians, bicycles, each by distance to ``centre`` (2,).

    Nothing farther than 100 m, and of each group a limited number.
    """
    distance = np.hypot(objects.poses[:, 0] - centre[0], objects.poses[:, 1] - centre[1])
    near = distance <= _RANGE_M
    groups = [(objects.kinds >= len(_AGENT_LIMITS), _STATIC_LIMIT)]
    groups += [(objects.kinds == kind, limit) for kind, limit in enumerate(_AGENT_LIMITS)]
    rows = []
    for members, limit in groups:
        indices = np.flatnonzero(members & near)
        rows.append(indices[np.argsort(distance[indices], kind="stable")][:limit])
    kept = np.concatenate(rows)
    return FrameObjects(
        tokens=tuple(objects.tokens[row] for row in kept),
        kinds=objects.kinds[kept],
        sizes=objects.sizes[kept],
        poses=objects.poses[kept],
        velocities=objects.velocities[kept],
    )


def _score(
    rollouts: Floats, roads: RoadGeometry, observed: FrameObjects, obstacles: Obstacles, lights: RedConnectors
) -> RolloutScores:
    samples = np.arange(ROLLOUT_STEPS) // SAMPLE_STEPS
    present: Bools = np.ones((len(observed), ROLLOUT_STEPS), np.bool_)
    ignored = obstacles.ignored[: len(observed)]
    objects = occupancy(
        obstacles.poses[:, samples], observed.sizes, present, observed.kinds, observed.velocities, ignored=ignored
    )
    red = red_lights(lights.polygons, np.ones((len(lights.ids), ROLLOUT_STEPS), np.bool_))
    return score_rollouts(rollouts, roads, objects, red)


def _total(details: RolloutScores) -> Floats:
    """Scores (15,) with EP compared among the proposals, comfort granted and without extended comfort."""
    best = float((details.progress_m * details.multiplier).max())
    ep = normalise_progress(details.progress_m, details.multiplier, best)
    ones = np.ones(len(ep))
    columns = [details.nc, details.dac, details.ddc, details.tlc, ep, details.ttc, details.lk, ones, ones * np.nan]
    return final_score(np.stack(columns, axis=-1))
