"""Golden cases that no recorded row holds: values that follow from the specification by hand, worked out beside them.

Most are touching shapes and values exactly on a bound, which random scenes never hit. The section is that of the
evaluator's specification.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Final, cast
from unittest.mock import patch

import numpy as np

from irl_vla.epdms import inputs
from irl_vla.epdms.collision import Occupancy, occupancy_of, red_lights, replay_tracks
from irl_vla.epdms.comfort import extended_comfort, history_comfort, history_rows
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.road_rules import road_geometry
from irl_vla.epdms.store import PreparedStore
from irl_vla.epdms.subscores import RolloutScores, score_rollouts
from irl_vla.epdms.two_stage import second_stage_weights
from irl_vla.geometry import Floats
from irl_vla.judge.official.observation import Observation

from ..unit.driving.straight_map import straight_map
from ..unit.epdms import driving_scene, straight_road

_ROAD: Final = straight_road.rectangle(-50.0, -2.0, 150.0, 2.0)
_FRONT_M: Final = straight_road.CENTRE_M + straight_road.HALF_LENGTH_M  # rear axle to front bumper, 4.049


def scored(
    rollout: Floats,
    objects: Occupancy | None = None,
    layers: tuple[tuple[str, bool, Floats], ...] = (),
    red: tuple[Floats, ...] = (),
) -> RolloutScores:
    """Scores one rollout (41, 11) on the straight road, or on other polygons."""
    scene = straight_road.scene(layers=layers, red=red)
    roads = road_geometry(scene.polygons, scene.polygon_layer, scene.polygon_on_route, scene.centerline)
    objects = occupancy_of(straight_road.tracks()) if objects is None else objects
    return score_rollouts(rollout[None], roads, objects, red_lights(scene.red_lights, scene.red_active))


def touching_at_start() -> Iterator[Observation]:
    """§4: a box that touches the ego's at the start is removed. §6: touching counts as a collision."""
    # Front bumper at x = 0 where the rear axle is at -4.049; a box of 4 m centred at x = 2 begins at x = 0.
    # The bumper is computed as (-4.049 + 1.461) + 2.588 = 0 exactly.
    ego = straight_road.states(0.0, x=-_FRONT_M)
    objects = straight_road.tracks(("vehicle", 2.0, 0.0, 0.0, 0))
    yield Observation("touching_at_start.kept", [len(replay_tracks(objects, ego[0, :3]))], [0])
    # At 1 m/s (so not a stopped ego) it is a collision with a stopped track from the first step.
    ego[:, 3] = 1.0
    ego[1:, 0] -= 10.0
    result = scored(ego, occupancy_of(objects))
    yield Observation("touching_at_start.nc", result.nc, [0.0])
    yield Observation("touching_at_start.step", result.collision_step, [0])


def touching_red() -> Iterator[Observation]:
    """§8: touching a red polygon with the bumper is a violation, at the first step too; coming from it is none."""
    ego = straight_road.states(0.0, x=-_FRONT_M)
    red = straight_road.rectangle(0.0, -2.0, 20.0, 2.0)
    yield Observation("touching_red.tlc", scored(ego, red=(red,)).tlc, [0.0])
    gone = ego.copy()
    gone[1:, 0] -= 10.0
    yield Observation("touching_red.first_step", scored(gone, red=(red,)).tlc, [0.0])
    yield Observation("touching_red.apart", scored(ego - np.eye(11)[0] * 1e-6, red=(red,)).tlc, [1.0])


def inside_red() -> Iterator[Observation]:
    """§8: standing inside of a red polygon, far from its edges, is a violation."""
    red = straight_road.rectangle(-40.0, -20.0, 40.0, 20.0)
    yield Observation("inside_red.tlc", scored(straight_road.states(0.0), red=(red,)).tlc, [0.0])


def corner_on_boundary() -> Iterator[Observation]:
    """§5: points on a boundary are outside, so a road that ends at the bumper is left."""
    # Front corners lie at x = 0, where the road ends.
    road = straight_road.rectangle(-50.0, -2.0, 0.0, 2.0)
    layers = (("ROADBLOCK", False, road), ("LANE", True, road))
    ego = straight_road.states(0.0, x=-_FRONT_M)
    yield Observation("corner_on_boundary.dac", scored(ego, layers=layers).dac, [0.0])
    yield Observation("corner_on_boundary.inside", scored(ego - np.eye(11)[0] * 1e-6, layers=layers).dac, [1.0])


def wrong_way_bounds() -> Iterator[Observation]:
    """§9: 1 below 2 m, 0.5 below 6 m, else 0: exactly 2 m and exactly 6 m belong to the worse side."""
    nowhere = (("ROADBLOCK", False, _ROAD),)
    for metres, ddc in ((0.25 * 7, 1.0), (0.25 * 8, 0.5), (0.75 * 7, 0.5), (0.75 * 8, 0.0)):
        # Eight or seven steps of a quarter or three quarters of a metre; binary fractions add up exactly.
        step = 0.75 if metres > 2 else 0.25
        ego = straight_road.states(1.0)
        ego[:, 0] = -straight_road.CENTRE_M + np.minimum(step * np.arange(41), metres)
        yield Observation(f"wrong_way_bounds.{metres}", scored(ego, layers=nowhere).ddc, [ddc])


def seen_standing() -> Iterator[Observation]:
    """§4: an object's speed is that of the first step in which it occurs: seen standing, it always stands."""
    # A car beside the ego as in off_the_road_sideways; a lateral contact in one lane is nobody's fault.
    big = straight_road.rectangle(-50.0, -50.0, 150.0, 50.0)
    layers = (("ROADBLOCK", False, big), ("LANE", True, big))
    objects = straight_road.tracks(("vehicle", straight_road.CENTRE_M, 2.0, 5.0, 3))
    velocities = objects.velocities.copy()
    for seen, later, nc in ((0.0, 5.0, 0.0), (5.0, 0.0, 1.0)):
        velocities[0, :3, 0] = velocities[0, 4:, 0] = later  # absent before step 3
        velocities[0, 3, 0] = seen
        result = scored(straight_road.states(5.0), occupancy_of(replace(objects, velocities=velocities)), layers)
        yield Observation(f"seen_standing.{seen}", result.nc, [nc])


def hit_from_the_side_first() -> Iterator[Observation]:
    """§11: an object whose first hit is no violation is ignored, though it is straight ahead later."""
    big = straight_road.rectangle(-50.0, -50.0, 150.0, 50.0)
    layers = (("ROADBLOCK", False, big), ("LANE", True, big))
    # Beside the ego at first, 54 degrees off the heading as seen from the rear axle; from step 5 on it stands 20 m
    # ahead, where an ego at 10 m/s hits it.
    objects = straight_road.tracks(("vehicle", straight_road.CENTRE_M, 2.0, 10.0, 0))
    poses = objects.poses.copy()
    poses[0, 5:, :2] = 25.0, 0.0
    for first, ttc in ((0, 1.0), (5, 0.0)):
        present = np.arange(41)[None] >= first
        crossing = occupancy_of(replace(objects, poses=poses, present=present))
        yield Observation(
            f"hit_from_the_side_first.{ttc}", scored(straight_road.states(10.0), crossing, layers).ttc, [ttc]
        )


def off_the_road_sideways() -> Iterator[Observation]:
    """§6: a lateral contact is the ego's fault off the drivable area, though it is in no lane at all."""
    # A car 4 m long drives beside the ego, its centre level with the ego's and 2 m to the left: 1 + 1.1485 m > 2 m.
    objects = straight_road.tracks(("vehicle", straight_road.CENTRE_M, 2.0, 5.0, 0))
    ego = straight_road.states(5.0)
    nowhere = (("INTERSECTION", False, straight_road.rectangle(500.0, 0.0, 501.0, 1.0)),)
    big = straight_road.rectangle(-50.0, -50.0, 150.0, 50.0)
    everywhere = (("ROADBLOCK", False, big), ("LANE", True, big))
    for layers, nc in ((nowhere, 0.0), (everywhere, 1.0)):
        yield Observation(f"off_the_road_sideways.{nc}", scored(ego, occupancy_of(objects), layers).nc, [nc])


def lanes_alone() -> Iterator[Observation]:
    """§5: lanes and connectors do not make a place drivable; the roadblock around them does."""
    for layer, dac in (("LANE", 0.0), ("LANE_CONNECTOR", 0.0), ("ROADBLOCK", 1.0), ("INTERSECTION", 1.0)):
        result = scored(straight_road.states(5.0), layers=((layer, True, _ROAD),))
        yield Observation(f"lanes_alone.{layer}", result.dac, [dac])


def off_the_road_at_first() -> Iterator[Observation]:
    """§7: the current state counts, though every later one is on the road."""
    ego = straight_road.states(5.0)
    ego[0, 1] = 10.0
    yield Observation("off_the_road_at_first.dac", scored(ego).dac, [0.0])


def crawling() -> Iterator[Observation]:
    """§11: from 0.005 m/s on an ego that touches something ahead fails; below nothing is tested."""
    # A car of 4 m from 1 m behind the ego's front on.
    objects = straight_road.tracks(("vehicle", _FRONT_M + 1.0, 0.0, 0.0, 0))
    for speed, ttc in ((0.004, 1.0), (0.006, 0.0), (0.04, 0.0)):
        yield Observation(f"crawling.{speed}", scored(straight_road.states(speed), occupancy_of(objects)).ttc, [ttc])


def reversing() -> Iterator[Observation]:
    """§11: speed is a magnitude: a reversing ego is pushed ahead, too."""
    # The car begins 1 m ahead of the bumper; 0.9 s at 2 m/s are 1.8 m.
    objects = straight_road.tracks(("vehicle", _FRONT_M + 3.0, 0.0, 0.0, 0))
    yield Observation("reversing.ttc", scored(straight_road.states(-2.0), occupancy_of(objects)).ttc, [0.0])


def straight_ahead() -> Iterator[Observation]:
    """§6: a cosine that rounding lifts above 1 has no angle, so that the object is neither ahead nor behind."""
    # Heading found by trial: cos^2 + sin^2 rounds to 1 + 2^-52. The object stands on the heading's ray.
    heading = next(
        angle
        for angle in np.linspace(0.1, 1.4, 4000)
        if _cosine_ahead(angle) > 1.0 and _cosine_ahead(angle) < 1.0 + 1e-12
    )
    ego = straight_road.states(5.0)
    ego[:, :2] = 0.0
    ego[:, 2] = heading
    cos, sin = np.cos(heading), np.sin(heading)
    objects = straight_road.tracks(("vehicle", 0.0, 0.0, 0.0, 0))
    poses = objects.poses.copy()
    poses[..., 0], poses[..., 1] = 8.0 * cos, 8.0 * sin
    big = straight_road.rectangle(-50.0, -50.0, 50.0, 50.0)
    result = scored(ego, occupancy_of(replace(objects, poses=poses)), (("ROADBLOCK", False, big), ("LANE", True, big)))
    yield Observation("straight_ahead.ttc", result.ttc, [1.0])


def _cosine_ahead(angle: float) -> float:
    """Cosine of the angle to a point 8 m ahead, in the order of operations that the evaluator takes."""
    dx, dy = 8.0 * np.cos(angle), 8.0 * np.sin(angle)
    norm = np.sqrt(dx * dx + dy * dy)
    return float(np.cos(angle) * (dx / norm) + np.sin(angle) * (dy / norm))


def comfort_bounds() -> Iterator[Observation]:
    """§13: bounds are strict, and signals are rounded to 8 decimals before they are compared."""
    # A polynomial filter leaves a constant as it is, and its derivatives are 0.
    past = np.zeros((14, 11))
    for acceleration, hc in ((2.40, 0.0), (2.40 - 4e-9, 0.0), (2.40 - 6e-9, 1.0), (-4.05, 0.0), (-4.05 + 6e-9, 1.0)):
        past[:, 5] = acceleration
        rollout = np.zeros((1, 41, 11))
        rollout[..., 5] = acceleration
        yield Observation(f"comfort_bounds.{acceleration}", history_comfort(rollout, past), [hc])


def history_at_rest() -> Iterator[Observation]:
    """§13: history rows have no steering rate, yaw rate and yaw acceleration, whatever the states say."""
    times, past = 500_000 * np.arange(4), np.ones((4, 11))
    rows = history_rows(times, past)
    # 0, 0.1 .. 1.4 s without the last; all but the last three columns are constant 1.
    yield Observation("history_at_rest.rows", rows, np.tile([1.0] * 8 + [0.0] * 3, (14, 1)), 1e-12)


def extended_bounds() -> Iterator[Observation]:
    """§16: a difference exactly on its threshold is comfortable; a rounding half goes to the even number of steps."""
    quiet, firm = np.zeros((41, 11)), np.zeros((41, 11))
    # A filter leaves a constant as it is. Of the pairs that are 0.7 m/s2 apart this one is it in float64, too.
    quiet[:, 5], firm[:, 5] = 0.1, 0.8
    yield Observation("extended_bounds.equal", [extended_comfort(firm, quiet, 0.5)], [True])
    firm[:, 5] += 2e-8
    yield Observation("extended_bounds.above", [extended_comfort(firm, quiet, 0.5)], [False])
    # 0.45 s are 4.5 steps, hence 4: with a heading that swings every 9 steps a shift of 4 or 5 is not the same.
    later, earlier = np.zeros((41, 11)), np.zeros((41, 11))
    earlier[:, 2] = 0.05 * np.sin(0.7 * np.arange(41))
    later[:37, 2] = earlier[4:, 2]
    yield Observation("extended_bounds.half", [extended_comfort(later, earlier, 0.45)], [True])


def far_second_stage() -> Iterator[Observation]:
    """§18: kernel weights that add up to 1e-8 or less are replaced by equal ones."""
    # exp(-d^2 / 0.2) at 1.95 m and 2.1 m: 5.5e-9 and 2.7e-10, in sum below 1e-8; at 1.9 m: 1.4e-8.
    far = second_stage_weights(np.zeros(2), np.array([[1.95, 0.0], [2.1, 0.0]]))
    yield Observation("far_second_stage.uniform", far, [0.5, 0.5])
    near = second_stage_weights(np.zeros(2), np.array([[1.9, 0.0], [2.1, 0.0]]))
    share = 1 / (1 + np.exp((1.9**2 - 2.1**2) / 0.2))
    yield Observation("far_second_stage.kernel", near, [share, 1 - share], 1e-12)


def endpoint_of_a_plan() -> Iterator[Observation]:
    """§18: the second stage is weighted by where the plan ends, whether or not the rollout gets there."""
    from irl_vla.judge.one_stage import FrameId
    from irl_vla.judge.two_stage import _score

    scene, plan = straight_road.scene(), straight_road.plan(2.0)  # 8 m; from 10 m/s the vehicle rolls on beyond
    store = cast("PreparedStore", {scene.token: scene})
    scored = _score(store, FrameId(scene.token, "log", "log", ""), plan, ScorerConfig())
    yield Observation("endpoint_of_a_plan.endpoint", scored.endpoint, [8.0, 0.0])


def inputs_of_a_scene() -> Iterator[Observation]:
    """§1: red lights are held for five steps and looked up on the logged route; the map is cut by a square."""
    frames = [driving_scene.frame(index) for index in range(12)]
    # The current frame is the fourth: red there are steps 0-4, in the sixth (two later) 10-14, in the last step 40.
    for index in (3, 5, 11):
        frames[index] = replace(frames[index], traffic_lights=(("ab0", True), ("bc0", True)))
    frames[3] = replace(frames[3], roadblock_ids=("a", "ab", "b"))  # bc0 is not on the route
    # No reference is looked at here, and planning one takes seconds without a compiler.
    with patch.object(inputs, "plan_reference", lambda *_, **__: SimpleNamespace(poses=np.zeros((51, 3)))):
        prepared = inputs.prepare_scene(driving_scene.scene_of(tuple(frames)), straight_map())
    steps = np.flatnonzero(prepared.red_active[0])
    yield Observation("inputs_of_a_scene.lights", [len(prepared.red_lights)], [1])
    yield Observation("inputs_of_a_scene.red", steps, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 40])
    # The motion of a log's ego has no steering, no yaw rate and no yaw acceleration.
    yield Observation("inputs_of_a_scene.ego", prepared.ego_state, [10, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0])
    # Around (20, 0) the square ends at x = 120, where block bc begins: it touches. Around (20, 80) it still does,
    # though bc is 124 m away as the crow flies. Two blocks, their four lanes, four connectors, a junction and a yard.
    for y in (0.0, 80.0):
        area = inputs.drivable_map(straight_map(2), np.array([20.0, y]))
        yield Observation(f"inputs_of_a_scene.map.{y}", [len(area.ids), "bc0" in area.ids], [12, True])


#: By name; together they say what the recorded rows leave open.
CASES: Final[dict[str, Callable[[], Iterator[Observation]]]] = {
    case.__name__: case
    for case in (
        touching_at_start,
        touching_red,
        inside_red,
        corner_on_boundary,
        wrong_way_bounds,
        seen_standing,
        hit_from_the_side_first,
        off_the_road_sideways,
        lanes_alone,
        off_the_road_at_first,
        crawling,
        reversing,
        straight_ahead,
        comfort_bounds,
        history_at_rest,
        extended_bounds,
        far_second_stage,
        endpoint_of_a_plan,
        inputs_of_a_scene,
    )
}
