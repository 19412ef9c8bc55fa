"""What a scenario kind is named after comes about in its drives: facts read off the records, not off the scripts."""

from functools import lru_cache
from itertools import pairwise, product

import numpy as np
import pytest
import shapely

from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre, wrap_angle
from irl_vla.world.drive import drive
from irl_vla.world.drivers import EGO, Scenario
from irl_vla.world.frames import LogStamp, make_frames
from irl_vla.world.interaction import CLEARANCE, GREEN, RED
from irl_vla.world.lane_changes import RAMP
from irl_vla.world.moments import Moment
from irl_vla.world.roads.network import Network, kerb_side
from irl_vla.world.scenarios import KINDS
from irl_vla.world.tracks import lane_paths
from tests.unit.world.test_roads import make_network
from tests.unit.world.test_traffic import recorded

Drive = tuple[Scenario, list[Moment]]
SEEDS = (1, 2, 3, 4)
STANDS_MPS = 0.3


def drives(kind: str) -> list[Drive]:
    return [recorded(kind, seed) for seed in SEEDS]


@lru_cache
def left_hand(family: str) -> Network:
    return make_network(family, city="sg-one-north")


@lru_cache
def driven_on_the_left(kind: str, family: str, seed: int) -> Drive:
    return drive(left_hand(family), kind, 28, np.random.default_rng(seed))


def on_path(path: Floats, point: Floats) -> tuple[float, float]:
    """Arc length of a point beside a path (V, 3) of 1 m steps, and how far left of it it is, in metres."""
    nearest = int(np.argmin(np.linalg.norm(path[:, :2] - point[:2], axis=1)))
    x, y, heading = path[nearest]
    dx, dy = point[0] - x, point[1] - y
    return nearest + dx * np.cos(heading) + dy * np.sin(heading), dy * np.cos(heading) - dx * np.sin(heading)


def before_ego(scenario: Scenario, moments: list[Moment], points: Floats) -> tuple[Floats, Floats]:
    """Of (T, 2 or 3) points at the moments: (T,) metres along the ego's first path from its front, and to its left."""
    path = scenario.drivers[EGO].path
    rows = []
    for moment, point in zip(moments, points, strict=True):
        along, aside = on_path(path, point)
        rows.append((along - on_path(path, moment.ego.pose)[0] - PACIFICA.front_length, aside))
    ahead, aside = np.array(rows).T
    return ahead, aside


def focus_poses(scenario: Scenario, moments: list[Moment]) -> Floats:
    return np.stack([moment.poses[scenario.focus] for moment in moments])


def ego_speeds(moments: list[Moment]) -> Floats:
    return np.array([moment.ego.speed_mps for moment in moments])


def hardest_braking(moments: list[Moment]) -> float:
    return min(moment.ego.acceleration_mps2 for moment in moments)


def to_line(scenario: Scenario, moment: Moment) -> float:
    """Metres from the ego's front to its stop line."""
    along, _ = on_path(scenario.drivers[EGO].path, moment.ego.pose)
    return scenario.route.junction_m[0] - along - PACIFICA.front_length


def test_lead_stop_the_leader_slows_down_and_the_ego_with_it() -> None:
    stood = 0
    for scenario, moments in drives("lead_stop"):
        speeds = np.array([moment.speeds[scenario.focus] for moment in moments])
        ahead, aside = before_ego(scenario, moments, focus_poses(scenario, moments))
        slowest = int(np.argmin(speeds))
        assert speeds[slowest] < 0.6 * speeds[0]
        assert 0.0 < ahead[slowest] < 60.0
        assert abs(aside[slowest]) < 1.0  # in the ego's lane
        assert hardest_braking(moments) < -1.0
        stood += speeds[slowest] < STANDS_MPS
    assert stood


def test_hard_brake_is_harder_than_anybody_brakes_otherwise() -> None:
    braked = [
        min(moment.accelerations[scenario.focus] for moment in moments)
        for scenario, moments in drives("hard_brake")
        if scenario.focus > 0
    ]
    assert len(braked) >= 2
    assert max(braked) < -3.5


def test_tailgater_somebody_is_close_behind() -> None:
    for scenario, moments in drives("tailgater"):
        ahead, aside = before_ego(scenario, moments, focus_poses(scenario, moments))
        behind = -ahead - PACIFICA.length - scenario.drivers[scenario.focus].size_m[0] / 2
        closest = int(np.argmin(np.where(np.isnan(behind), np.inf, behind)))
        assert behind[closest] > 0.0
        assert abs(aside[closest]) < 1.5
        assert behind[closest] < 1.2 * moments[closest].speeds[scenario.focus] + 5.0


def test_cut_in_somebody_comes_from_the_next_lane_to_before_the_ego() -> None:
    for scenario, moments in drives("cut_in"):
        width = scenario.network.layout.arms[0].lane_width_m
        ahead, aside = before_ego(scenario, moments, focus_poses(scenario, moments))
        assert abs(aside[0]) > 0.7 * width
        entered = np.flatnonzero(np.abs(aside) < 0.5)
        assert len(entered)
        assert 0.0 < ahead[entered[0]] < 60.0


def test_red_light_the_ego_brakes_for_it_and_does_not_cross() -> None:
    for scenario, moments in drives("red_light"):
        axis = scenario.network.layout.arms[scenario.network.movements[scenario.route.movement].from_arm].axis
        lights = np.array([moment.lights[axis] for moment in moments])
        distances = np.array([to_line(scenario, moment) for moment in moments])
        red_ahead = (lights == RED) & (distances > 0.0)
        assert ego_speeds(moments)[red_ahead].min() < 2.5
        assert min(moment.ego.acceleration_mps2 for moment in np.array(moments)[lights != GREEN]) < -1.0
        crosses = np.flatnonzero((distances[1:] < 0.0) & (distances[:-1] >= 0.0))
        assert (lights[1:][crosses] != RED).all()


@pytest.mark.parametrize("kind", ["cruise", "lead_stop", "red_light", "green_light", "turn_left"])
def test_no_vehicle_enters_a_junction_at_red(kind: str) -> None:
    checked = 0
    for scenario, moments in drives(kind):
        if scenario.signal is None:
            continue
        axes = [arm.axis for arm in scenario.network.layout.arms]
        for earlier, now in pairwise(moments):
            tracks = now.state.tracks
            for index, driver in enumerate(scenario.drivers):
                axis = axes[scenario.network.movements[tracks.movements[index]].from_arm]
                if (
                    index == EGO
                    or earlier.state.tracks is not tracks
                    or not earlier.lights[axis] == now.lights[axis] == RED
                ):
                    continue
                front = np.array([item.state.along[index] for item in (earlier, now)]) + driver.size_m[0] / 2
                assert not front[0] < tracks.enters[index] - 0.5 < tracks.enters[index] + 0.5 < front[1]
                checked += 1
    assert checked > 100


def test_green_light_is_crossed_at_green() -> None:
    for scenario, moments in drives("green_light"):
        axis = scenario.network.layout.arms[scenario.network.movements[scenario.route.movement].from_arm].axis
        distances = [to_line(scenario, moment) for moment in moments]
        crossed = next(k for k in range(1, len(moments)) if distances[k] < 0.0 <= distances[k - 1])
        assert moments[crossed].lights[axis] in (GREEN, CLEARANCE)
        assert moments[crossed - 1].lights[axis] == GREEN


@pytest.mark.parametrize(("kind", "side"), [("turn_left", 1.0), ("turn_right", -1.0)])
def test_turns_turn_to_their_side(kind: str, side: float) -> None:
    for scenario, moments in drives(kind):
        enter, leave = scenario.route.junction_m
        passed = [on_path(scenario.drivers[EGO].path, moment.ego.pose)[0] for moment in moments]
        assert passed[0] < enter
        assert passed[-1] > (enter + leave) / 2
        turned = np.unwrap([moment.ego.heading for moment in moments])
        assert side * (turned - turned[0]).max() > 0.8 if side > 0 else (turned - turned[0]).min() < -0.8


def test_stop_sign_is_obeyed_at_the_line() -> None:
    for scenario, moments in drives("stop_sign"):
        distances = np.array([to_line(scenario, moment) for moment in moments])
        assert distances[0] > 0.0
        halted = ego_speeds(moments)[(distances > -0.5) & (distances < 25.0)]
        assert halted.min() < 1.0  # between two moments it stands
        assert len(halted) >= 3


def test_crossing_comes_from_the_minor_road() -> None:
    for scenario, moments in drives("crossing"):
        move = scenario.network.movements[scenario.route.movement]
        assert (scenario.network.layout.arms[move.from_arm].axis, move.sign) == (1, "yield")
        assert to_line(scenario, moments[0]) > 0.0 > to_line(scenario, moments[-1])


def test_roundabouts_are_driven_around_counter_clockwise() -> None:
    entered = 0
    for scenario, moments in drives("roundabout"):
        ring, centre = scenario.network.layout.ring, scenario.network.layout.centre
        assert ring is not None
        poses = np.stack([moment.ego.pose for moment in moments])
        out = poses[:, :2] - centre
        inside = np.linalg.norm(out, axis=1) < ring.radius_m + 1.5
        counter_clockwise = out[:, 0] * np.sin(poses[:, 2]) - out[:, 1] * np.cos(poses[:, 2])
        assert (counter_clockwise[inside] > 0.0).all()
        assert np.linalg.norm(out, axis=1).min() > ring.island_m
        entered += bool(inside.any())
    assert entered >= 3  # others may keep the ego waiting


def test_merge_leads_from_the_ramp_into_the_main_road() -> None:
    from_ramp = 0
    for scenario, moments in drives("merge"):
        network = scenario.network
        if network.movements[scenario.route.movement].from_arm != RAMP:
            continue
        from_ramp += 1
        (ramp,) = network.inbound[RAMP]
        main = shapely.MultiLineString(
            [chain.line for chain in (*network.inbound[0], *network.outbound[1])]
            + [move.line for move in network.movements]
        )
        assert shapely.distance(shapely.Point(moments[0].ego.pose[:2]), shapely.LineString(ramp.line)) < 1.0
        assert shapely.distance(shapely.Point(moments[-1].ego.pose[:2]), main) < 1.0
        if to_line(scenario, moments[-1]) > 5.0:  # it has left the acceleration lane before its end
            assert shapely.distance(shapely.Point(moments[-1].ego.pose[:2]), shapely.LineString(ramp.line)) > 1.0
    assert from_ramp >= 2


def test_lane_drop_ends_with_one_lane_less() -> None:
    for scenario, moments in drives("lane_drop"):
        network = scenario.network
        move = network.movements[scenario.route.movement]
        assert len(network.outbound[move.to_arm]) == len(network.inbound[move.from_arm]) - 1
        assert to_line(scenario, moments[0]) > 0.0


def walked_across(scenario: Scenario, moments: list[Moment], index: int) -> list[int]:
    """Moments at which a walker is in the ego's lane while the ego has yet to come."""
    half = scenario.network.layout.arms[0].lane_width_m / 2
    ahead, aside = before_ego(scenario, moments, np.stack([moment.walkers[index] for moment in moments]))
    walks = np.array([moment.walker_speeds[index] > 0.0 for moment in moments])
    return [int(k) for k in np.flatnonzero(walks & (np.abs(aside) < half) & (ahead > 0.0) & (ahead < 60.0))]


@pytest.mark.parametrize("kind", ["jaywalker", "occlusion"])
def test_somebody_crosses_the_lane_and_the_ego_brakes(kind: str) -> None:
    crossed = 0
    for scenario, moments in drives(kind):
        if scenario.focus < 0:  # stays at the kerb
            assert all(not walked_across(scenario, moments, k) for k, w in enumerate(scenario.walkers) if w.jaywalks)
            continue
        assert scenario.walkers[scenario.focus].jaywalks
        if walked_across(scenario, moments, scenario.focus):
            crossed += 1
            assert hardest_braking(moments) < -1.0
    assert crossed >= 2


def test_occlusion_a_van_hides_who_is_about_to_cross() -> None:
    hidden = 0
    for scenario, moments in drives("occlusion"):
        index = next(k for k, walker in enumerate(scenario.walkers) if walker.jaywalks)
        vans = [item for item in scenario.still if item.name == "vehicle" and item.size_m[2] > 2.3]
        bodies = [shapely.Polygon(box_corners(item.pose, item.size_m[0], item.size_m[1])) for item in vans]
        first = moments[0]
        sight = shapely.LineString([rear_axle_to_centre(first.ego.pose)[:2], first.walkers[index][:2]])
        hidden += any(sight.intersects(body) for body in bodies)
        waits = shapely.Point(scenario.walkers[index].line[0])
        assert 0.3 < min(waits.distance(body) for body in bodies) < 1.6
    assert hidden >= 3


def test_pedestrian_somebody_crosses_at_the_crosswalk_and_the_ego_lets_them() -> None:
    met = 0
    for scenario, moments in drives("pedestrian"):
        met += any(walked_across(scenario, moments, k) for k in range(len(scenario.walkers)))
        for walker in scenario.walkers:
            zebra = shapely.union_all([row.polygon for row in scenario.network.content.crosswalks])
            assert shapely.LineString(walker.line).intersection(zebra.buffer(0.1)).length > 0.9 * walker.length_m
    assert met >= 2


def test_parked_cars_stand_in_a_row_beside_the_way() -> None:
    for scenario, moments in drives("parked"):
        passed = [on_path(scenario.drivers[EGO].path, moments[k].ego.pose)[0] for k in (0, -1)]
        beside = [on_path(scenario.drivers[EGO].path, item.pose) for item in scenario.still if item.name == "vehicle"]
        near = [along for along, aside in beside if passed[0] < along < passed[1] + 30.0 and 2.0 < abs(aside) < 5.2]
        assert len(near) >= 3


@pytest.mark.parametrize("kind", ["double_parked", "construction"])
def test_something_stands_in_the_lane_that_the_ego_goes_around(kind: str) -> None:
    for scenario, moments in drives(kind):
        path = scenario.drivers[EGO].path
        body = shapely.LineString(path[:, :2]).buffer(PACIFICA.width / 2 + 0.4)
        things = shapely.polygons(
            [box_corners(item.pose, item.size_m[0], item.size_m[1]) for item in scenario.blocking]
        )
        in_the_way = shapely.intersects(body, things)
        assert in_the_way.any()
        for moment in moments:
            ego = shapely.Polygon(box_corners(moment.poses[EGO], PACIFICA.length, PACIFICA.width))
            assert not shapely.intersects(ego, things).any()


def test_cyclist_rides_ahead_near_the_kerb_slower_than_cars() -> None:
    for scenario, moments in drives("cyclist"):
        assert scenario.drivers[scenario.focus].name == "bicycle"
        ahead, aside = before_ego(scenario, moments, focus_poses(scenario, moments))
        assert ahead[0] > 0.0
        assert aside[0] * kerb_side(scenario.network) > 0.5
        assert max(moment.speeds[scenario.focus] for moment in moments) < 6.0
        assert ahead[~np.isnan(ahead)].min() < 25.0  # the ego catches up


def test_follow_the_ego_has_somebody_before_it() -> None:
    for _, moments in drives("follow"):
        gaps = []
        for moment in moments:
            positions = [on_path(moment.ego_path, pose) for pose in moment.poses[1:] if not np.isnan(pose[0])]
            own = on_path(moment.ego_path, moment.ego.pose)[0]
            gaps.append(
                min((along - own for along, aside in positions if abs(aside) < 1.5 and along > own), default=1e6)
            )
        assert np.median(gaps) < 50.0


def test_curve_bends_while_the_ego_slows_for_it() -> None:
    for _, moments in drives("curve"):
        turned = np.unwrap([moment.ego.heading for moment in moments])
        assert np.ptp(turned) > 0.2
        assert max(abs(moment.ego.lateral_acceleration_mps2) for moment in moments) > 0.8


def test_nobody_is_where_somebody_or_something_else_is() -> None:
    """Of the boxes that a log tells, that is, vehicles, people and things alike."""
    for kind, seed in product(KINDS, SEEDS[:2]):
        scenario, moments = recorded(kind, seed)
        stamp = LogStamp("log", 0, 0)
        for frame in make_frames(scenario, moments, stamp, range_m=90.0, rig=None, has_lidar=False):
            boxes = frame.objects.boxes
            bodies = list(shapely.polygons(box_corners(boxes[:, [0, 1, 6]], boxes[:, 3], boxes[:, 4])))
            first, second = shapely.STRtree(bodies).query(bodies, predicate="intersects")
            assert not (first < second).any(), (kind, seed, frame.timestamp_us)


@pytest.mark.parametrize(
    ("kind", "family", "turned"),
    [("turn_left", "cross_signal", 1.0), ("turn_right", "cross_signal", -1.0), ("turn_right", "cross_priority", -1.0)],
)
def test_turns_on_the_left_of_the_road(kind: str, family: str, turned: float) -> None:
    """The turn across the oncoming traffic is the one to the right there, and the wider one."""
    for seed in SEEDS[:2]:
        scenario, moments = driven_on_the_left(kind, family, seed)
        headings = np.unwrap([moment.ego.heading for moment in moments])
        assert turned * (headings[-1] - headings[0]) > 0.5
        move = scenario.network.movements[scenario.route.movement]
        assert move.turn == kind.removeprefix("turn_")
        lengths = {item.turn: len(item.line) for item in scenario.network.movements}
        assert lengths["right"] > lengths["left"]


def test_roundabouts_are_driven_around_clockwise_where_traffic_keeps_left() -> None:
    scenario, moments = driven_on_the_left("roundabout", "roundabout", 1)
    ring, centre = scenario.network.layout.ring, scenario.network.layout.centre
    assert ring is not None
    poses = np.stack([moment.ego.pose for moment in moments])
    out = poses[:, :2] - centre
    inside = np.linalg.norm(out, axis=1) < ring.radius_m + 1.5
    assert inside.any()
    assert (out[inside, 0] * np.sin(poses[inside, 2]) - out[inside, 1] * np.cos(poses[inside, 2]) < 0.0).all()


def test_everybody_keeps_left_where_traffic_does() -> None:
    """Away from the junction, every vehicle has the middle of the road to its right."""
    for kind, family in (("cruise", "cross_signal"), ("parked", "cross_priority"), ("jaywalker", "bend")):
        scenario, moments = driven_on_the_left(kind, family, 2)
        arms = scenario.network.layout.arms
        checked = 0
        for moment in moments:
            for pose in moment.poses[~np.isnan(moment.poses[:, 0])]:
                places = [(np.linalg.norm(arm.line[10:, :2] - pose[:2], axis=1), arm.line[10:]) for arm in arms]
                distance, line = min(places, key=lambda place: float(place[0].min()))
                if distance.min() > 12.0:
                    continue
                x, y, _ = line[int(distance.argmin())]
                dx, dy = x - pose[0], y - pose[1]
                assert dy * np.cos(pose[2]) - dx * np.sin(pose[2]) < 0.0
                checked += 1
        assert checked > 100


def test_who_steps_out_and_what_is_parked_stands_at_the_left_kerb() -> None:
    for family in ("cross_signal", "cross_priority"):
        network = left_hand(family)
        for lane in lane_paths(network):
            asides = [on_path(lane.path, slot) for slot in network.parking_slots]
            near = [aside for along, aside in asides if 0.0 < along < len(lane.path) - 1 and abs(aside) < 4.0]
            assert all(aside > 0.0 for aside in near)
    scenario, moments = driven_on_the_left("jaywalker", "cross_signal", 1)
    index = next(k for k, walker in enumerate(scenario.walkers) if walker.jaywalks)
    _, aside = before_ego(scenario, moments[:1], moments[0].walkers[index][None])
    assert aside[0] > 1.0


def test_headings_of_vehicles_point_where_they_go() -> None:
    """Between two moments everybody moves along the heading, whatever path they are on."""
    for kind in ("cut_in", "merge", "double_parked", "roundabout"):
        for earlier, now in pairwise(recorded(kind)[1]):
            step = now.poses[:, :2] - earlier.poses[:, :2]
            far = np.flatnonzero(np.nan_to_num(np.linalg.norm(step, axis=1)) > 1.0)
            went = np.arctan2(step[far, 1], step[far, 0])
            middle = earlier.poses[far, 2] + wrap_angle(now.poses[far, 2] - earlier.poses[far, 2]) / 2
            assert np.abs(wrap_angle(went - middle)).max(initial=0.0) < 0.25, kind
