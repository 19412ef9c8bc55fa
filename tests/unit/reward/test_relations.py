"""Relations on a straight road against values by hand, and against the score."""

import numpy as np
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import score_plans
from irl_vla.geometry import PACIFICA
from irl_vla.policy.sight import read_sight
from irl_vla.reward.comfort import rollouts_of
from irl_vla.reward.relations import REACH_M, RELATIONS, relate
from irl_vla.scene import SUBSCORES

from .roads import SIGHT, START_US, history, scene, sight_columns, straight

FRONT_M = PACIFICA.front_length


def relations_of(item, plans, speed_mps, **changed):
    """Name to (P, 21)."""
    sight = read_sight({**sight_columns([item]), **changed}, SIGHT)
    found = relate(sight, rollouts_of(history(speed_mps), plans, START_US)[None])[0]
    return dict(zip(RELATIONS, np.moveaxis(found, -1, 0), strict=True))


def test_driving_on_in_lane_has_values_that_can_be_told_by_hand():
    found = relations_of(scene("free", 5.0), straight(5.0)[None], 5.0)
    half_width = PACIFICA.width / 2
    assert found["drivable_m"][0] == pytest.approx(1.75 - half_width, abs=0.15)
    assert found["on_route_m"][0] == pytest.approx(1.75, abs=0.5)  # between cells the ridge is rounded off
    assert found["lane_offset_m"][0] == pytest.approx(0.0, abs=0.05)
    assert found["progress_m"][0] == pytest.approx(5.0 * 0.2 * np.arange(21), abs=0.3)
    assert found["speed_mps"][0] == pytest.approx(5.0, abs=0.1)
    assert (found["intersection_m"] == -4.0).all()
    assert (found["red_light_m"] == -4.0).all()
    assert (found["off_lane_s"] == 0).all()
    assert (found["wrong_way_m"] == 0).all()
    for name in ("fault_gap_m", "gap_m", "ttc_gap_m", "ttc_beside_gap_m"):
        assert (found[name] == REACH_M).all()
    assert (found["fault_chance"] == 0).all()


def test_a_parked_car_comes_nearer_and_time_to_collision_looks_ahead():
    found = relations_of(scene("parked", 5.0, 20.0), straight(5.0)[None], 5.0)
    gap = 20.0 - 2.25 - FRONT_M - 5.0 * 0.2 * np.arange(21)
    shown = (gap < REACH_M) & (gap > 0)
    assert found["gap_m"][0][shown] == pytest.approx(gap[shown], abs=0.1)
    ahead = np.clip(gap - 0.9 * 5.0, None, REACH_M)
    in_time = (np.arange(21) <= 16) & (ahead > 0)
    assert found["ttc_gap_m"][0][in_time] == pytest.approx(ahead[in_time], abs=0.15)
    chance = found["fault_chance"][0]
    assert chance[0] < 0.01
    assert chance[gap < -0.5].min() > 0.9
    assert (np.diff(chance) >= -1e-6).all()


def test_who_is_hit_from_behind_is_not_at_fault_but_touched():
    columns = sight_columns([scene("behind", 5.0, 20.0)])
    columns["boxes"][0, 0, [0, 7]] = [-8.0, 12.0]  # a car that closes in from behind
    columns["futures"][0, 0, 0, :, 0] = -8.0 + 12.0 * 0.5 * np.arange(1, 9)
    found = relations_of(scene("behind", 5.0), straight(5.0)[None], 5.0, **columns)
    touched = int(np.flatnonzero(found["gap_m"][0] < 0)[0])
    assert touched == 4  # 4.6 m apart, 7 m/s faster: 0.7 s
    assert (found["fault_gap_m"][0][: touched + 1] == REACH_M).all()
    columns["boxes"][0, 0, 7], columns["futures"][0, 0, 0, :, 0] = 0.0, -8.0  # it stands: nobody comes near
    assert relations_of(scene("behind", 5.0), straight(5.0)[None], 5.0, **columns)["gap_m"].min() > 0


def test_chances_follow_the_futures():
    columns = sight_columns([scene("parked", 5.0, 20.0)])
    columns["future_chances"][:] = 0.25
    found = relations_of(scene("parked", 5.0, 20.0), straight(5.0)[None], 5.0, **columns)
    assert found["fault_chance"][0][-1] == pytest.approx(0.25, abs=0.01)
    columns["object_scores"][:] *= 0.5
    found = relations_of(scene("parked", 5.0, 20.0), straight(5.0)[None], 5.0, **columns)
    assert found["fault_chance"][0][-1] == pytest.approx(0.125, abs=0.01)


def test_verdicts_are_those_of_the_score():
    generator = np.random.default_rng(0)
    for obstacle_m in (None, 18.0, 30.0):
        item = scene("any", 8.0, obstacle_m)
        values = np.stack(
            [generator.uniform(2, 12, 200), generator.uniform(-4, 2, 200), generator.uniform(-0.03, 0.03, 200)]
        )
        plans = np.stack([straight(*value) for value in values.T])
        found, raw = relations_of(item, plans, 8.0), score_plans(item, plans, ScorerConfig()).raw
        told = {
            "nc": found["fault_gap_m"].min(1) >= 0,
            "dac": found["drivable_m"].min(1) >= 0,
            "ddc": found["wrong_way_m"].max(1) < 2,
            "lk": found["off_lane_s"].max(1) < 2,
            "ttc": found["ttc_gap_m"].min(1) >= 0,
        }
        for name, verdict in told.items():
            assert (verdict == (raw[:, SUBSCORES.index(name)] == 1)).mean() > 0.93, (name, obstacle_m)
