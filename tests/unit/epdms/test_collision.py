import numpy as np
import pytest

from irl_vla.epdms.collision import (
    CollisionType,
    ContactScores,
    angle_to,
    collision_type,
    occupancy,
    occupancy_of,
    red_lights,
    replay_tracks,
    score_contacts,
    score_red_lights,
)
from irl_vla.epdms.polygons import fill_ego_box
from irl_vla.epdms.records import ROLLOUT_STEPS, Tracks
from irl_vla.epdms.road_rules import AREA_NAMES, MULTIPLE_LANES, REAR_AXLE_IN_INTERSECTION

from .straight_road import CENTRE_M, HALF_LENGTH_M, polygons, rectangle, states, tracks

FRONT_M = CENTRE_M + HALF_LENGTH_M  # rear axle to front bumper


def contacts(rollout: np.ndarray, objects: Tracks, *flags: int) -> ContactScores:
    areas = np.zeros((1, ROLLOUT_STEPS, len(AREA_NAMES)), np.bool_)
    areas[:, :, list(flags)] = True
    return score_contacts(rollout[None], areas, occupancy_of(objects))


def test_driving_into_a_stopped_car_is_at_fault_at_the_step_of_contact() -> None:
    # 10 m/s, bumper at 4.049; the car's rear at 14.5: contact once 4.049 + t >= 14.5, so at step 11.
    result = contacts(states(10.0), tracks(("vehicle", 16.5, 0.0, 0.0, 0)))
    assert (result.nc[0], result.collision_step[0]) == (0.0, 11)
    # TTC looks up to 0.9 s ahead: 9 m earlier, at step 2.
    assert (result.ttc[0], result.ttc_step[0]) == (0.0, 2)


def test_static_objects_cost_half() -> None:
    result = contacts(states(10.0), tracks(("traffic_cone", 16.5, 0.0, 0.0, 0)))
    assert result.nc[0] == 0.5


def test_being_hit_from_behind_or_while_standing_is_not_at_fault() -> None:
    behind = contacts(states(1.0), tracks(("vehicle", -8.0, 0.0, 5.0, 0)))
    assert (behind.nc[0], behind.collision_step[0], behind.ttc[0]) == (1.0, -1, 1.0)
    standing = contacts(states(0.0), tracks(("vehicle", 20.0, 0.0, -10.0, 0)))
    assert (standing.nc[0], standing.ttc[0]) == (1.0, 1.0)


def test_a_blameless_contact_is_never_blamed_later() -> None:
    """The car runs into the ego from behind, passes through it to its front: still ignored."""
    objects = tracks(("vehicle", -10.0, 0.0, 20.0, 0))
    assert contacts(states(5.0), objects).nc[0] == 1.0
    appearing_ahead = tracks(("vehicle", -10.0, 0.0, 20.0, 9))
    assert contacts(states(5.0), appearing_ahead).nc[0] == 0.0


def test_lateral_contact_counts_only_astray() -> None:
    """A car of the same speed drifts in from the left, beside the ego."""
    objects = tracks(("vehicle", CENTRE_M, 4.0, 5.0, 0))
    objects.poses[0, :, 1] -= 0.1 * np.arange(ROLLOUT_STEPS)
    assert contacts(states(5.0), objects).nc[0] == 1.0
    astray = contacts(states(5.0), objects, MULTIPLE_LANES)
    # Contact when the gap of 4 - 1 - 1.1485 is closed at 0.1 m a step.
    assert (astray.nc[0], astray.collision_step[0]) == (0.0, 19)


def test_velocity_of_the_first_sight_classifies_for_good() -> None:
    """A car alongside, standing when first seen, counts as standing although it moves now."""
    objects = tracks(("vehicle", CENTRE_M, 4.0, 5.0, 0))
    objects.poses[0, :, 1] -= 0.1 * np.arange(ROLLOUT_STEPS)
    objects.velocities[0, 0] = 0.0
    assert contacts(states(5.0), objects).nc[0] == 0.0


def test_ttc_needs_the_object_ahead_unless_in_an_intersection() -> None:
    """A car crosses from the left just behind the nose: 45 degrees off the heading when the boxes first meet."""
    objects = tracks(("vehicle", 3.0, 3.5, 0.0, 0))
    objects.poses[0, :, 2] = -np.pi / 2
    objects.poses[0, 9:, 1] = 2.5
    objects.velocities[:] = [0.0, -5.0]
    rollout = states(0.5)
    assert contacts(rollout, objects).ttc[0] == 1.0
    assert contacts(rollout, objects, REAR_AXLE_IN_INTERSECTION).ttc[0] == 0.0


def test_ttc_does_not_test_the_full_second() -> None:
    def reach(gap_m: float) -> float:
        rollout = states(0.0)
        rollout[:, 3] = 10.0  # a speed without motion keeps the tested distance at 9 m
        return float(contacts(rollout, tracks(("vehicle", FRONT_M + gap_m + 2.0, 0.0, 0.0, 0))).ttc[0])

    assert (reach(8.99), reach(9.01)) == (0.0, 1.0)


def test_initially_ignored_objects_do_not_count() -> None:
    items = tracks(("vehicle", 16.5, 0.0, 0.0, 0))
    objects = occupancy(
        items.poses, items.sizes, items.present, items.kinds, items.velocities[:, 0], ignored=np.array([True])
    )
    result = score_contacts(states(10.0)[None], np.zeros((1, 41, 5), np.bool_), objects)
    assert (result.nc[0], result.ttc[0]) == (1.0, 1.0)


def test_replay_removes_what_touches_the_ego_at_the_start_only() -> None:
    nose = FRONT_M + 2.0  # exactly touching the bumper
    items = tracks(("vehicle", nose, 0.0, 0.0, 0), ("vehicle", nose + 0.01, 0.0, 0.0, 0), ("vehicle", 0.0, 0.0, 0.0, 1))
    assert replay_tracks(items, np.zeros(3)).tokens == ("track1", "track2")


@pytest.mark.parametrize(
    ("speed", "name", "track_speed", "pose", "expected"),
    [
        (0.05, "vehicle", 5.0, (5.0, 0.0), CollisionType.STOPPED_EGO),
        (5.0, "vehicle", 0.05, (5.0, 0.0), CollisionType.STOPPED_TRACK),
        (5.0, "barrier", 5.0, (5.0, 0.0), CollisionType.STOPPED_TRACK),
        (5.0, "vehicle", 5.0, (-3.0, 0.0), CollisionType.ACTIVE_REAR),
        (5.0, "vehicle", 5.0, (5.0, 0.0), CollisionType.ACTIVE_FRONT),
        (5.0, "vehicle", 5.0, (1.0, 2.0), CollisionType.ACTIVE_LATERAL),
    ],
)
def test_collision_types(
    speed: float, name: str, track_speed: float, pose: tuple[float, float], expected: CollisionType
) -> None:
    objects = occupancy_of(tracks((name, *pose, track_speed, 0)))
    box = np.empty((6, 2))
    state = states(speed)[0]
    fill_ego_box(state, box)
    assert collision_type(state, box, objects, 0, 0) == expected


def test_angle_is_undefined_at_the_rear_axle() -> None:
    assert np.isnan(angle_to(np.zeros(11), 0.0, 0.0))
    assert angle_to(np.zeros(11), 0.0, -2.0) == pytest.approx(np.pi / 2)


def test_red_light_counts_while_red_and_even_without_motion() -> None:
    line = polygons([rectangle(20.0, -2.0, 30.0, 2.0)])
    red = np.zeros((1, ROLLOUT_STEPS), np.bool_)
    red[0, :10] = True  # the nose is there at step 16
    rollout = states(10.0)[None]
    assert score_red_lights(rollout, red_lights(line, red))[0] == 1.0
    assert score_red_lights(rollout, red_lights(line, ~red))[0] == 0.0
    standing_inside = polygons([rectangle(-1.0, -1.0, 1.0, 1.0)])
    assert score_red_lights(states(0.0)[None], red_lights(standing_inside, red))[0] == 0.0
