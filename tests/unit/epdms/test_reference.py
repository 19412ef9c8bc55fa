"""PDM-Closed on a straight road; its agreement with the official planner is tested on golden files."""

import numpy as np
import pytest

from irl_vla.epdms.following import forecast
from irl_vla.epdms.inputs import Moment, plan_scene
from irl_vla.epdms.reference import nearest_objects
from irl_vla.epdms.tracks import FrameObjects, frame_objects

from ..driving.straight_map import CHAIN, straight_map
from .driving_scene import SPEED_MPS, frame

FRONT_M = 4.049


def plan(*objects, red=(), lane_count=2, speed=SPEED_MPS, offset=0.0):
    item = frame(3, objects=objects)
    state = np.zeros(11)
    state[:4] = 10.0, offset, 0.0, speed
    return plan_scene(straight_map(lane_count), Moment("scene", state, CHAIN, frame_objects(item), red)).reference


def test_on_a_free_road_the_fastest_proposal_on_the_centreline_wins():
    reference = plan()
    assert reference.chosen == 4
    assert (reference.scores <= reference.scores[4]).all()
    speed = np.diff(reference.poses[:, 0]) / 0.1
    assert speed[-1] == pytest.approx(10.0, abs=0.8)  # the limit of the lane
    assert not reference.poses[:, 1].any()


def test_the_first_step_brakes_whatever_is_ahead():
    """The planner's first leader stands at arc length 0 (a quirk of the evaluator)."""
    states = plan().states
    np.testing.assert_allclose(states[:, 1, 1], SPEED_MPS - 0.3)
    np.testing.assert_allclose(states[:, 1, 0], 10.0 + 0.1 * SPEED_MPS)


def test_paths_lie_on_the_lane_and_one_metre_to_either_side():
    rollouts = plan(offset=0.5).rollouts
    end = rollouts[:, -1, 1].reshape(3, 5)
    np.testing.assert_allclose(end[:, -1], [0.0, -1.0, 1.0], atol=0.1)


def test_it_stops_behind_a_standing_car():
    reference = plan(("vehicle", "parked", 40.0, 0.0, 0.0, 0.0))
    assert reference.poses[-1, 0] + FRONT_M < 38.0
    assert (reference.details.nc == 1).all()


def test_cars_beside_the_corridor_do_not_matter():
    np.testing.assert_array_equal(plan(("vehicle", "other", 30.0, 4.0, 0.0, 0.0)).states[:5], plan().states[:5])


def test_it_stops_before_a_red_connector_and_not_before_a_green_one():
    reference = plan(red=("ab0",))
    assert reference.poses[-1, 0] + FRONT_M < 40.0
    assert reference.details.tlc[reference.chosen] == 1
    assert plan().poses[-1, 0] > 40.0


def test_what_touches_the_ego_is_ignored():
    reference = plan(("pedestrian", "inside", 11.0, 0.0, 0.0, 0.0))
    assert reference.touched == ("inside",)
    np.testing.assert_array_equal(reference.poses, plan().poses)


def test_a_red_connector_is_ignored_by_who_stands_within():
    item = frame(3)
    state = np.zeros(11)
    state[:4] = 55.0, 0.0, 0.0, 5.0
    moment = Moment("scene", state, CHAIN, frame_objects(item), ("ab0",))
    reference = plan_scene(straight_map(), moment).reference
    assert reference.touched == ("red_light_ab0",)
    assert not reference.details.tlc.any()  # the sub-score does not forgive
    assert reference.poses[-1, 0] > 60.0


def test_the_order_of_objects_does_not_matter():
    generator = np.random.default_rng(0)
    cars = [
        ("vehicle", f"c{i}", float(x), float(y), 0.0, 3.0) for i, (x, y) in enumerate(generator.uniform(-9, 90, (9, 2)))
    ]
    cars.append(("bicycle", "b", 35.0, 0.0, 0.0, 2.0))
    first = plan(*cars)
    for _ in range(3):
        generator.shuffle(cars)
        again = plan(*cars)
        assert again.chosen == first.chosen
        np.testing.assert_array_equal(again.poses, first.poses)


def some_objects(kinds, positions, velocities):
    count = len(kinds)
    return FrameObjects(
        tokens=tuple(str(i) for i in range(count)),
        kinds=np.array(kinds, np.int64),
        sizes=np.ones((count, 2)),
        poses=np.concatenate([positions, np.zeros((count, 1))], axis=1),
        velocities=np.array(velocities, np.float64),
    )


def test_only_the_nearest_objects_are_seen():
    x = np.arange(1.0, 121.0)[::-1]
    kinds = np.repeat([0, 1, 2, 3, 6], 24)
    kinds = np.random.default_rng(0).permutation(kinds)
    objects = some_objects(kinds, np.stack([x, np.zeros(120)], axis=-1), np.zeros((120, 2)))
    seen = nearest_objects(objects, np.zeros(2))
    distance = seen.poses[:, 0]
    assert distance.max() <= 100
    assert np.bincount(seen.kinds)[2] == 10  # bicycles are limited to ten
    groups = np.where(seen.kinds >= 3, -1, seen.kinds)  # static objects come first
    assert (np.diff(groups) >= 0).all()
    for group in set(groups.tolist()):
        assert (np.diff(distance[groups == group]) > 0).all()


def test_objects_drive_along_their_heading_forwards_or_backwards():
    velocities = [[3.0, 0.0], [-3.0, 0.0], [3.0, 4.0], [0.0, 0.0]]
    poses = forecast(some_objects([0] * 4, np.zeros((4, 2)), velocities))
    np.testing.assert_allclose(poses[:, 5, 0], [3.0, -3.0, 5.0, 0.0], atol=1e-12)  # after 1 s, with the whole speed
    np.testing.assert_allclose(poses[..., 1:], 0.0, atol=1e-9)


def test_leaders_are_looked_up_every_second_step():
    leaders = plan(("vehicle", "ahead", 40.0, 0.0, 0.0, 3.0)).leaders
    assert not leaders[:, 1].any()
    np.testing.assert_array_equal(leaders[:, 3::2], leaders[:, 2:-1:2])
    np.testing.assert_allclose(leaders[:5, 2:, 1], 3.0)
    # At step 2 the car's rear is at 40 + 0.2 * 3 - 2 m; the arc length of a leader is that of our own rear axle,
    # advanced by the distance between the boxes.
    np.testing.assert_allclose(leaders[:5, 2, 0], 38.6 - FRONT_M)


def test_on_a_free_road_the_end_of_the_path_leads():
    leaders = plan().leaders
    np.testing.assert_allclose(leaders[:, 2:], np.broadcast_to([200.0, 0.0, 2.588], leaders[:, 2:].shape))
