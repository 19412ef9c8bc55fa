from dataclasses import replace

import numpy as np
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.records import ROLLOUT_STEPS
from irl_vla.epdms.scorer import score_in_context, score_plans, scoring_context, with_traffic
from irl_vla.epdms.traffic import reactive_tracks
from irl_vla.errors import SceneError
from irl_vla.scene import SUBSCORES

from ..driving.straight_map import straight_map
from . import straight_road
from .driving_scene import frame, moved_map, moved_scene, scene, scene_of, undo
from .straight_road import plan, states
from .test_drivers import with_lane

REACTIVE = ScorerConfig(traffic="reactive")
CAR = ("vehicle", "car", 20.0, 0.0, 0.0, 5.0)
FAR = states(0.0, x=-60.0)  # an ego that is in range, but in nobody's way


def prepared(*objects, view=None):
    return prepare_scene(scene(objects=objects), view or straight_map())


def path(tracks, token):
    """(41,) x of an object, NaN where it is absent."""
    row = tracks.tokens.index(token)
    return np.where(tracks.present[row], tracks.poses[row, :, 0], np.nan)


def speed(tracks, token):
    return tracks.velocities[tracks.tokens.index(token), :, 0]


def test_a_free_vehicle_follows_the_driver_model():
    """By hand: the lane's last knot is x = 38, so the gap is 38 - 20 - half a length."""
    tracks = reactive_tracks(prepared(CAR), FAR)
    desired = 1 + 1.5 * 5 + 5 * 5 / (2 * np.sqrt(2))
    acceleration = 1 - (5 / 10) ** 4 - (desired / (38 - 20 - 2)) ** 2
    assert path(tracks, "car")[:2].tolist() == [20.0, 20.5]
    assert speed(tracks, "car")[1] == pytest.approx(5 + 0.1 * acceleration)
    assert path(tracks, "car")[2] == pytest.approx(20.5 + 0.1 * (5 + 0.1 * acceleration))


def test_nobody_drives_beyond_the_last_but_one_vertex_of_the_lane():
    x = path(reactive_tracks(prepared(("vehicle", "car", 34.0, 0.0, 0.0, 9.0)), FAR), "car")
    assert x.max() == 38.0
    assert (np.diff(x) >= 0).all()


def test_vehicles_brake_for_the_ego():
    slow = ("vehicle", "car", 20.0, 0.0, 0.0, 3.0)
    blocked = reactive_tracks(prepared(slow), states(0.0, x=30.0))
    free = reactive_tracks(prepared(slow), FAR)
    assert path(blocked, "car")[-1] < path(free, "car")[-1] - 2.0
    # The evaluator's box reaches half a length to either side of the rear axle.
    assert path(blocked, "car")[-1] + 2.0 < 30.0 - straight_road.HALF_LENGTH_M


def test_the_ego_is_seen_one_step_late():
    late = np.concatenate([FAR[:1], states(0.0, x=30.0)[1:]])
    seen, unseen = reactive_tracks(prepared(CAR), late), reactive_tracks(prepared(CAR), FAR)
    assert speed(seen, "car")[1] == speed(unseen, "car")[1]
    assert speed(seen, "car")[2] < speed(unseen, "car")[2]
    assert path(seen, "car")[2] == path(unseen, "car")[2]  # positions advance with the old speed
    assert path(seen, "car")[3] < path(unseen, "car")[3]


def test_a_follower_keeps_behind_its_leader():
    queue = (("vehicle", "leader", 32.0, 0.0, 0.0, 0.0), ("vehicle", "follower", 20.0, 0.0, 0.0, 4.0))
    tracks = reactive_tracks(prepared(*queue), FAR)
    gap = path(tracks, "leader") - path(tracks, "follower")
    assert (gap > 4.0).all()
    alone = reactive_tracks(prepared(queue[1]), FAR)
    assert speed(tracks, "follower")[5] < speed(alone, "follower")[5]


def test_a_vehicle_left_behind_never_comes_back():
    ego = FAR.copy()
    ego[10, 0] = -200.0
    x = path(reactive_tracks(prepared(CAR), ego), "car")
    assert np.isfinite(x[:11]).all()
    assert np.isnan(x[11:]).all()


def test_what_stands_is_absent_while_a_driver_touches_it():
    standing = ("vehicle", "standing", 28.0, 2.05, 0.0, 0.0)
    ready = prepared(("vehicle", "car", 20.0, 0.0, 0.0, 6.0), standing)
    assert np.isfinite(path(reactive_tracks(ready, FAR), "standing")).all()  # 5 cm apart
    sizes = ready.tracks.sizes.copy()
    sizes[ready.tracks.tokens.index("car"), 1] = 2.4
    x = path(reactive_tracks(replace(ready, tracks=replace(ready.tracks, sizes=sizes)), FAR), "standing")
    assert np.isfinite(x[:2]).all()
    assert np.isnan(x).any()
    car = path(reactive_tracks(replace(ready, tracks=replace(ready.tracks, sizes=sizes)), FAR), "car")
    np.testing.assert_array_equal(np.isnan(x)[1:], (np.abs(car - 28.0) <= 4.0)[1:])


def test_moving_vehicles_without_a_lane_are_there_at_the_start_only():
    x = path(reactive_tracks(prepared(("vehicle", "lost", 25.0, 30.0, 0.0, 3.0)), FAR), "lost")
    assert x[0] == 25.0
    assert np.isnan(x[1:]).all()


def test_later_vehicles_do_not_exist_and_other_objects_move_as_logged():
    walker, late = ("pedestrian", "walker", 25.0, 6.0, 0.0, 1.0), ("vehicle", "late", 25.0, 0.0, 0.0, 5.0)
    frames = [frame(index, objects=(walker,) if index < 6 else (walker, late)) for index in range(12)]
    once = ("pedestrian", "once", 30.0, 6.0, 0.0, 0.0)
    frames[7] = frame(7, objects=(walker, late, once))
    ready = prepare_scene(scene_of(tuple(frames)), straight_map())
    tracks = reactive_tracks(ready, FAR)
    assert "late" in ready.tracks.tokens
    assert tracks.tokens == ("walker", "once")
    np.testing.assert_allclose(path(tracks, "walker"), 25 + 0.1 * np.arange(ROLLOUT_STEPS))
    # Seen in a single frame, it stands everywhere but in the current frame, which is as annotated.
    assert np.flatnonzero(np.isnan(path(tracks, "once"))).tolist() == [0]


def test_the_world_can_be_turned_and_shifted():
    by = np.array([664_000.0, 3_998_000.0, 2.1])
    objects = (CAR, ("vehicle", "leader", 30.0, 0.5, 0.0, 2.0), ("vehicle", "standing", 25.0, 9.0, 1.0, 0.0))
    here = prepared(*objects)
    there = prepare_scene(moved_scene(scene(objects=objects), by), moved_map(straight_map(), by))
    ego = states(3.0, x=-20.0)
    turned = ego.copy()
    cos, sin = np.cos(by[2]), np.sin(by[2])
    turned[:, :2] = ego[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + by[:2]
    turned[:, 2] = by[2]
    expected, found = reactive_tracks(here, ego), reactive_tracks(there, turned)
    np.testing.assert_array_equal(found.present, expected.present)
    seen = expected.present
    np.testing.assert_allclose(undo(found.poses, by)[seen], expected.poses[seen], atol=1e-6)


def test_each_plan_and_the_human_meet_their_own_traffic():
    ready = prepared(CAR)
    plans = np.stack([plan(8.0), plan(2.0)])
    together = score_plans(ready, plans, REACTIVE)
    for row in range(2):
        alone = score_plans(ready, plans[row : row + 1], REACTIVE)
        np.testing.assert_array_equal(alone.raw[0], together.raw[row])
        given = with_traffic(scoring_context(ready), reactive_tracks(ready, together.rollouts[row]))
        np.testing.assert_array_equal(
            score_in_context(given, plans[row : row + 1], ScorerConfig()).raw[0], alone.raw[0]
        )
    human = score_plans(ready, ready.human_plan[None], REACTIVE)
    exact = [index for index, name in enumerate(SUBSCORES) if name not in ("ep", "hc", "ec")]
    np.testing.assert_array_equal(human.raw[0, exact], together.human[exact])
    assert score_plans(ready, plans, ScorerConfig(traffic="reactive", human_filter=False)).human is None
    assert score_plans(ready, np.zeros((0, 8, 3)), REACTIVE).raw.shape == (0, 9)


def test_a_plan_that_outruns_the_numbers_fails_alone():
    plans = np.stack([plan(8.0), plan(1e200), plan(8.0)])
    scored = score_plans(prepared(CAR), plans, REACTIVE)
    assert list(scored.failures) == [1]
    assert "0123456789abcdef" in scored.failures[1]
    assert np.isnan(scored.score).tolist() == [False, True, False]
    assert np.isnan(scored.raw[1]).all()
    assert np.isnan(scored.filtered[1]).all()
    np.testing.assert_array_equal(scored.raw[0], scored.raw[2])


@pytest.mark.parametrize(
    ("knots", "message"),
    [([0.0, 40.0], "at least two knots under vehicle car"), ([0.0, 2.0, 40.0], "vehicle car in its own corridor")],
)
def test_where_the_evaluator_fails_every_plan_does_by_name(knots, message):
    line = np.stack([knots, np.zeros(len(knots))], axis=-1)
    ready = prepared(CAR, view=with_lane(straight_map(), "a0", baseline=line))
    scored = score_plans(ready, np.stack([plan(8.0), plan(2.0)]), REACTIVE)
    assert sorted(scored.failures) == [0, 1]
    assert message in scored.failures[0]
    assert ready.token in scored.failures[0]
    assert np.isnan(scored.score).all()
    assert np.isfinite(score_plans(ready, plan(8.0)[None], ScorerConfig()).score).all()
    with pytest.raises(SceneError, match=message):
        reactive_tracks(ready, FAR)


def test_a_scene_without_lanes_is_refused_by_token():
    with pytest.raises(SceneError, match="straight: expected the lanes"):
        score_plans(straight_road.scene(), plan(8.0)[None], REACTIVE)


def test_entries_whose_name_is_part_of_a_vehicles_are_not_seen_by_it():
    """The evaluator takes a token for a list of tokens to be left out."""

    def last(leader):
        queue = (("vehicle", leader, 30.0, 0.0, 0.0, 0.0), ("vehicle", "car12", 20.0, 0.0, 0.0, 5.0))
        return path(reactive_tracks(prepared(*queue), FAR), "car12")[-1]

    assert last("car1") > last("car9") + 1.0
