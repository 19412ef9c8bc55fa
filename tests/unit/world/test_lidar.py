"""What the LiDAR must measure: exact distances without noise, the nearer thing first, materials by intensity."""

import numpy as np
import pytest
import shapely
from pydantic import ValidationError

from irl_vla.world.lidar import CURB_HEIGHT_M, cast_lidar
from irl_vla.world.sensor_config import LidarConfig

from .sensor_scenes import frame_of, map_of, moved, straight_lane

EXACT = LidarConfig(range_noise_m=0.0, dropout=0.0)
#: Paved everywhere in range, so that the ground is the plane z = 0.
PLAZA = map_of(areas={"CARPARK_AREA": [shapely.box(-200.0, -200.0, 200.0, 200.0)]})


def cast(*objects, config=EXACT, view=PLAZA, seed=0, pose=(0.0, 0.0, 0.0)):
    return cast_lidar(frame_of(*objects, pose=pose), view, config, np.random.default_rng(seed)).astype(np.float64)


def azimuths(sweep):
    return np.arctan2(sweep[1], sweep[0] - EXACT.mount_x_m)


def wall(x, y=0.0, *, length=1.0, width=20.0, height=5.0, heading=0.0):
    return ("generic_object", (x, y, height / 2, length, width, height, heading))


class TestDistances:
    def test_a_wall_is_met_at_its_face(self):
        sweep = cast(wall(15.5))
        on_wall = (np.abs(azimuths(sweep)) < np.radians(30)) & (sweep[2] > 0.01)
        assert on_wall.sum() > 200
        np.testing.assert_allclose(sweep[0, on_wall], 15.0, atol=1e-5)

    def test_a_turned_wall_lies_on_its_plane(self):
        heading = 0.6
        sweep = cast(wall(15.0, 4.0, heading=heading))
        normal = np.array([np.cos(heading), np.sin(heading)])
        standing = (sweep[2] > 0.01) & (np.abs(azimuths(sweep)) < 0.5)
        along = (sweep[:2, standing].T - np.array([15.0, 4.0])) @ normal
        np.testing.assert_allclose(along[np.abs(along) < 0.6], -0.5, atol=1e-5)
        assert (np.abs(along) < 0.6).sum() > 100

    def test_the_ground_is_a_plane_of_circles(self):
        sweep = cast()
        np.testing.assert_allclose(sweep[2], 0.0, atol=1e-5)
        radius = np.hypot(sweep[0] - EXACT.mount_x_m, sweep[1])
        lowest = radius[sweep[4] == 0]
        np.testing.assert_allclose(lowest, 1.9 / np.tan(np.radians(24.0)), rtol=1e-5)
        assert len(lowest) == EXACT.azimuths

    def test_rays_over_a_low_box_hit_its_roof_or_the_ground_behind(self):
        sweep = cast(("generic_object", (9.0, 0.0, 0.5, 6.0, 4.0, 1.0, 0.0)))
        ahead = np.abs(sweep[1]) < 0.3
        roof = ahead & (np.abs(sweep[2] - 1.0) < 1e-5)
        assert roof.any()
        assert (sweep[0, roof] >= 6.0 - 1e-5).all()
        assert (sweep[0, roof] <= 12.0 + 1e-5).all()
        front = ahead & (sweep[2] > 1e-4) & (sweep[2] < 1.0 - 1e-4)
        np.testing.assert_allclose(sweep[0, front], 6.0, atol=1e-5)
        assert (ahead & (sweep[0] > 12.0) & (np.abs(sweep[2]) < 1e-5)).any()

    def test_a_car_has_a_bonnet_lower_than_its_roof(self):
        sweep = cast(("vehicle", (10.0, 0.0, 0.75, 4.6, 1.9, 1.5, np.pi)))
        ahead = (np.abs(sweep[1]) < 0.5) & (sweep[0] > 7.0) & (sweep[0] < 13.0) & (sweep[2] > 0.02)
        bumper = ahead & (sweep[2] < 0.58 * 1.5 - 1e-4)
        np.testing.assert_allclose(sweep[0, bumper], 7.7, atol=1e-5)
        assert (sweep[0, ahead & (sweep[2] > 0.9)] > 8.5).all()

    def test_nothing_beyond_the_range(self):
        sweep = cast(wall(60.5, height=20.0), config=EXACT.with_overrides({"max_range_m": 40.0}))
        assert np.linalg.norm(sweep[:3] - [[1.0], [0.0], [1.9]], axis=0).max() < 40.0


class TestOcclusion:
    def test_a_wall_hides_what_is_behind(self):
        hidden = cast(wall(10.5), wall(20.5, width=4.0))
        np.testing.assert_array_equal(hidden, cast(wall(10.5)))

    def test_behind_a_low_wall_a_tall_one_shows_above(self):
        sweep = cast(wall(10.5, height=1.0), wall(20.5, height=5.0))
        far = np.abs(sweep[0] - 20.0) < 1e-4
        assert far.any()
        # The ray that grazes the front wall's rear edge (11, 1.0) comes down to 0.19 m at x = 20.
        assert sweep[2, far].min() >= 1.9 - (1.9 - 1.0) / 10.0 * 19.0 - 1e-4

    def test_no_ground_is_seen_through_a_wall(self):
        sweep = cast(wall(10.5))
        ahead = np.abs(azimuths(sweep)) < np.radians(30)
        assert (sweep[0, ahead] < 10.0 + 1e-4).all()

    def test_the_order_of_objects_does_not_matter(self):
        objects = [
            wall(10.5, 3.0, width=3.0),
            wall(18.0, 0.0, width=6.0),
            ("vehicle", (8, -5, 0.8, 4.5, 1.9, 1.6, 0.4)),
        ]
        np.testing.assert_array_equal(cast(*objects), cast(*objects[::-1]))

    def test_a_box_around_the_sensor_is_not_seen(self):
        np.testing.assert_array_equal(cast(("vehicle", (1.46, 0.0, 0.9, 5.2, 2.3, 1.8, 0.0))), cast())


class TestMaterials:
    LANE = straight_lane("1", (-150.0, 0.0), (150.0, 0.0), width_m=8.0)

    def test_road_grass_and_paint_reflect_differently(self):
        sweep = cast(view=map_of(self.LANE))
        lateral = np.abs(sweep[1])
        road, grass = sweep[3, lateral < 3.7], sweep[3, lateral > 4.5]
        paint = sweep[3, (np.abs(lateral - 4.0) < 0.04) & (sweep[2] < 1e-4)]
        assert road.max() < 15
        assert grass.min() > 30
        assert len(paint) > 3
        assert np.median(paint) > 95

    def test_the_verge_stands_on_a_curb(self):
        sweep = cast(view=map_of(self.LANE))
        lateral, height = np.abs(sweep[1]), sweep[2]
        np.testing.assert_allclose(height[lateral > 4.5], CURB_HEIGHT_M, atol=1e-5)
        np.testing.assert_allclose(height[lateral < 3.9], 0.0, atol=1e-5)
        face = (height > 0.01) & (height < CURB_HEIGHT_M - 0.01)
        assert face.any()
        np.testing.assert_allclose(lateral[face], 4.1, atol=0.15)

    def test_signs_reflect_more_than_people(self):
        def brightness(name):
            sweep = cast((name, (8.0, 0.0, 0.9, 1.0, 1.0, 1.8, 0.0)))
            return np.median(sweep[3, sweep[2] > 0.2])

        assert brightness("czone_sign") > 2 * brightness("pedestrian")

    def test_moving_map_and_ego_together_changes_nothing_but_rounding(self):
        pose = np.array([664_420.0, 3_997_650.0, 2.1])
        view = map_of(self.LANE)
        here, there = cast(view=view), cast(view=moved(view, pose), pose=pose)
        assert here.shape == there.shape
        assert (np.abs(here[:3] - there[:3]).max(axis=0) < 0.2).mean() > 0.97


class TestRecord:
    def test_rows_and_types(self):
        sweep = cast_lidar(frame_of(), PLAZA, LidarConfig(), np.random.default_rng(0))
        assert sweep.shape[0] == 6
        assert sweep.dtype == np.float32
        assert set(np.unique(sweep[4])) <= set(range(24))
        assert sweep[3].min() >= 0
        assert sweep[3].max() <= 255
        assert not sweep[5].any()

    def test_same_generator_state_same_sweep(self):
        noisy = LidarConfig()
        np.testing.assert_array_equal(cast(config=noisy, seed=3), cast(config=noisy, seed=3))
        assert cast(config=noisy, seed=3).shape != cast(config=noisy, seed=4).shape

    def test_noise_and_dropout_have_the_configured_size(self):
        config = LidarConfig(range_noise_m=0.05, dropout=0.2, azimuths=720)
        sweep, exact = cast(config=config), cast(config=EXACT.with_overrides({"azimuths": 720}))
        assert sweep.shape[1] / exact.shape[1] == pytest.approx(0.8, abs=0.02)
        lowest = np.linalg.norm(sweep[:3, sweep[4] == 0] - [[1.0], [0.0], [1.9]], axis=0)
        assert lowest.std() == pytest.approx(0.05, rel=0.15)
        assert lowest.mean() == pytest.approx(1.9 / np.sin(np.radians(24.0)), abs=0.01)

    def test_elevations_must_rise(self):
        with pytest.raises(ValidationError, match="must lie below"):
            LidarConfig(lowest_deg=5.0, highest_deg=-5.0)
