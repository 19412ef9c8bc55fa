"""What the cameras must show: boxes at closed-form pixels, lamps in their colours, the nearer thing in front."""

import numpy as np
import pytest
import shapely

from irl_vla.errors import ConfigError
from irl_vla.scene import CAMERA_NAMES, MapView
from irl_vla.world.cameras import haze_share, paint_cameras
from irl_vla.world.facets import painting_order
from irl_vla.world.ground_texture import Material, ground_of
from irl_vla.world.rig import Mount, Rig, default_rig, rig_cameras
from irl_vla.world.road_paint import crosswalk_stripes, dashes, lane_markings, stop_strip
from irl_vla.world.shapes import MESHES, solid_blocks
from irl_vla.world.signal_heads import HEAD_SIZE_M, SIGNAL_MESHES, fixtures

from .sensor_scenes import frame_of, map_of, moved, straight_lane

FIELD = map_of()
RIG = default_rig(("CAM_F0",), 480, 270)


def pixel(mount: Mount, point: tuple[float, float, float]) -> tuple[float, float]:
    """Column and row of an ego point, by the textbook pinhole."""
    x, y, z = mount.rotation.T @ (np.array(point) - mount.translation_m)
    return (
        mount.intrinsic[0, 0] * x / z + mount.intrinsic[0, 2],
        mount.intrinsic[1, 1] * y / z + mount.intrinsic[1, 2],
    )


def changed(*objects, **more) -> np.ndarray:
    """(270, 480) True where objects change the empty field; the grain is the same in both pictures."""
    with_objects = paint_cameras(frame_of(*objects, **more), FIELD, RIG)["CAM_F0"].astype(int)
    empty = paint_cameras(frame_of(), FIELD, RIG)["CAM_F0"].astype(int)
    return np.abs(with_objects - empty).sum(axis=2) > 12


def crate(x, y, *, length=1.0, width=2.0, height=2.0, heading=0.0):
    return ("generic_object", (x, y, height / 2, length, width, height, heading))


class TestRig:
    def test_looks_along_the_headings_of_navsim(self):
        rig = default_rig(CAMERA_NAMES, 480, 270)
        headings = {name: np.degrees(np.arctan2(*mount.rotation[[1, 0], 2])) for name, mount in rig.mounts.items()}
        assert headings["CAM_F0"] == pytest.approx(0)
        assert headings["CAM_L0"] == pytest.approx(55)
        assert headings["CAM_R1"] == pytest.approx(-111)
        assert abs(headings["CAM_B0"]) == pytest.approx(180)

    @pytest.mark.parametrize("name", CAMERA_NAMES)
    def test_rotations_are_proper_and_level(self, name):
        mount = default_rig((name,), 480, 270).mounts[name]
        np.testing.assert_allclose(mount.rotation @ mount.rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(mount.rotation) == pytest.approx(1)
        np.testing.assert_allclose(mount.rotation[:, 1], [0, 0, -1], atol=1e-12)

    def test_full_size_has_the_intrinsics_of_navsim_and_smaller_sizes_keep_the_view(self):
        full = default_rig(("CAM_F0",), 1920, 1080).mounts["CAM_F0"].intrinsic
        np.testing.assert_allclose(full, [[1545, 0, 960], [0, 1545, 560], [0, 0, 1]])
        quarter = default_rig(("CAM_F0",), 480, 270).mounts["CAM_F0"].intrinsic
        np.testing.assert_allclose(quarter[:2], full[:2] / 4)

    def test_camera_records_carry_relative_paths_and_no_distortion(self):
        camera = rig_cameras(RIG, "log-1", "abcd")["CAM_F0"]
        assert camera.path == "log-1/CAM_F0/abcd.jpg"
        assert not camera.distortion.any()
        np.testing.assert_array_equal(camera.intrinsic, RIG.mounts["CAM_F0"].intrinsic)

    def test_refuses_unknown_cameras_and_empty_images(self):
        with pytest.raises(ConfigError, match="CAM_X9"):
            default_rig(("CAM_X9",), 480, 270)
        with pytest.raises(ConfigError, match="0 x 270"):
            default_rig(("CAM_F0",), 0, 270)


class TestProjection:
    def test_a_box_covers_the_pixels_of_its_near_face(self):
        # Near face at x = 10.5, 8.84 m before the camera: 2 m are 386.25 * 2 / 8.84 = 87.4 pixels wide.
        mask = changed(crate(11.0, 0.0))
        left, top = pixel(RIG.mounts["CAM_F0"], (10.5, 1.0, 2.0))
        right, bottom = pixel(RIG.mounts["CAM_F0"], (10.5, -1.0, 0.0))
        assert right - left == pytest.approx(87.4, abs=0.05)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert columns[0] == pytest.approx(left, abs=1.5)
        assert columns[-1] == pytest.approx(right, abs=1.5)
        assert rows[0] == pytest.approx(top, abs=1.5)
        assert rows[-1] == pytest.approx(bottom, abs=1.5)

    def test_stands_on_the_ground_whatever_the_annotated_height(self):
        name, (x, y, z, *rest) = crate(11.0, 0.0)
        sunken = (name, (x, y, z - 0.7, *rest))
        np.testing.assert_array_equal(changed((name, (x, y, z, *rest))), changed(sunken))

    def test_left_is_left(self):
        columns = np.flatnonzero(changed(crate(12.0, 3.0)).any(axis=0))
        assert columns[-1] < 240
        side = default_rig(("CAM_L0", "CAM_R0"), 480, 270)
        pictures = paint_cameras(frame_of(crate(8.0, 8.0)), FIELD, side)
        empty = paint_cameras(frame_of(), FIELD, side)
        assert (pictures["CAM_L0"] != empty["CAM_L0"]).any()
        np.testing.assert_array_equal(pictures["CAM_R0"], empty["CAM_R0"])

    def test_nothing_is_seen_behind_the_camera_or_out_of_range(self):
        assert not changed(crate(-6.0, 0.0), crate(0.9, 0.0), crate(200.0, 0.0)).any()

    def test_a_wall_through_the_camera_plane_is_clipped_at_it(self):
        # From x = -20 to 30 along y = 2; the left border of the picture cuts it 3.2 m ahead.
        mask = changed(crate(5.0, 2.5, length=50.0, width=1.0, height=1.2))
        assert mask[:, 0].any()
        far_end = pixel(RIG.mounts["CAM_F0"], (30.0, 2.0, 0.6))[0]
        assert np.flatnonzero(mask.any(axis=0))[-1] == pytest.approx(far_end, abs=2)
        assert not mask[:, 300:].any()

    def test_a_crosswalk_lies_where_the_homography_says(self):
        stripe = shapely.box(8.0, -4.0, 11.0, 4.0)
        picture = paint_cameras(frame_of(), map_of(areas={"CROSSWALK": [stripe]}), RIG)["CAM_F0"]
        mount = RIG.mounts["CAM_F0"]
        # Stripes are half a metre wide every metre along the long axis: y in [-3.75, -3.25], ... or mirrored.
        columns = [round(pixel(mount, (9.5, y, 0.0))[0]) for y in (-3.5, -3.0, 2.5, 2.0)]
        row = round(pixel(mount, (9.5, 0.0, 0.0))[1])
        bright = picture[row, columns].min(axis=-1) > 170
        assert bright[0] != bright[1]
        assert bright[2] != bright[3]


class TestOcclusion:
    def test_the_nearer_box_hides_the_farther_in_either_order(self):
        near, far = crate(10.0, 0.0), ("traffic_cone", (16.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.0))
        alone = paint_cameras(frame_of(near), FIELD, RIG)["CAM_F0"]
        for objects in ((near, far), (far, near)):
            # A crate has one colour, so that the order in which tokens are given does not matter.
            np.testing.assert_array_equal(paint_cameras(frame_of(*objects), FIELD, RIG)["CAM_F0"], alone)

    def test_a_car_before_the_far_end_of_a_long_truck_is_painted_after_it(self):
        # The truck's near end is closer to the camera than the car, and yet the car is in front.
        truck = [[30.0, 5.0], [0.0, 5.0], [0.0, 2.5], [30.0, 2.5]]
        car = [[22.0, 2.0], [18.0, 2.0], [18.0, 0.0], [22.0, 0.0]]
        for footprints, expected in (([truck, car], [0, 1]), ([car, truck], [1, 0])):
            order = painting_order(np.array(footprints), np.zeros(2))
            assert order.tolist() == expected

    def test_order_survives_overlaps_and_cycles(self):
        generator = np.random.default_rng(0)
        squares = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
        footprints = squares * 2 + generator.uniform(-6, 6, (40, 1, 2)) + np.array([15.0, 0.0])
        assert sorted(painting_order(footprints, np.zeros(2)).tolist()) == list(range(40))

    def test_haze_grows_with_distance(self):
        share = haze_share(np.array([0.0, 10.0, 40.0, 80.0, 1e6]))
        assert share[0] == 0
        assert np.all(np.diff(share) > 0)
        assert share[2] < 0.35
        assert share[-1] == pytest.approx(1)


class TestVehicles:
    CAR = ("vehicle", (14.0, 0.0, 0.75, 4.6, 1.9, 1.5, 0.0))

    def lamp(self, braking: frozenset[str], heading: float = 0.0) -> np.ndarray:
        name, box = self.CAR
        picture = paint_cameras(frame_of((name, (*box[:6], heading))), FIELD, RIG, braking)["CAM_F0"]
        column, row = pixel(RIG.mounts["CAM_F0"], (14.0 - 2.3, 0.36 * 1.9, 0.465 * 1.5))
        return picture[round(row), round(column)].astype(int)

    def test_brake_lamps_are_bright_red_only_for_braking_tokens(self):
        lit, dark = self.lamp(frozenset({"0"})), self.lamp(frozenset({"another"}))
        assert lit[0] > 235
        assert lit[1:].max() < 70
        assert dark[0] < 110
        assert dark[0] - dark[1:].max() > 30

    def test_an_oncoming_car_shows_no_brake_lamps(self):
        red, green, _ = self.lamp(frozenset({"0"}), heading=np.pi)
        assert red - green < 60

    def test_paint_follows_the_track(self):
        first = paint_cameras(frame_of(self.CAR, token="a"), FIELD, RIG)["CAM_F0"].astype(int)
        second = paint_cameras(frame_of(self.CAR, token="b"), FIELD, RIG)["CAM_F0"].astype(int)
        assert np.abs(first - second).max() < 25  # two draws of grain
        assert (first != second).any()

    @pytest.mark.parametrize("name", [*MESHES, *SIGNAL_MESHES])
    def test_faces_look_outward_and_stay_in_their_box(self, name):
        corners, counts = MESHES.get(name, SIGNAL_MESHES.get(name)).corners, (MESHES | SIGNAL_MESHES)[name].counts
        assert np.abs(corners[..., :2]).max() <= 0.5 + 1e-9
        assert corners[..., 2].min() >= -1e-9
        assert corners[..., 2].max() <= 1 + 1e-9
        for face, count in zip(corners, counts, strict=True):
            polygon = face[:count]
            normal = np.cross(polygon[1] - polygon[0], polygon[2] - polygon[0])
            assert np.linalg.norm(normal) > 1e-6
            np.testing.assert_allclose((polygon - polygon[0]) @ normal, 0, atol=1e-9)  # flat
            turns = np.cross(
                np.roll(polygon, -1, axis=0) - polygon, np.roll(polygon, -2, axis=0) - np.roll(polygon, -1, axis=0)
            )
            assert (turns @ normal > -1e-12).all()  # convex and counter-clockwise

    def test_every_object_name_has_blocks_inside_its_box(self):
        for name in ("vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier", "czone_sign", "generic_object"):
            blocks = solid_blocks(name, 4.0, 1.6)
            assert (blocks[:, 0::2] < blocks[:, 1::2]).all()
            assert np.abs(blocks[:, :4]).max() <= 0.5
            assert blocks[:, 5].max() <= 1


def junction(*connector_ids: int) -> MapView:
    """A lane along +x that ends at x = 0 and connectors that start there, all straight on."""
    lane = straight_lane("1", (-60.0, 0.0), (0.0, 0.0))
    ends = {7: (20.0, 0.0), 8: (12.0, 12.0), 9: (20.0, 0.5)}
    connectors = [
        straight_lane(str(key), (0.0, 0.0), ends[key], connector=True, incoming=("1",), bounds=False)
        for key in connector_ids
    ]
    return map_of(lane, *connectors)


class TestTrafficLights:
    @pytest.mark.parametrize(("is_red", "lamp_share"), [(True, 0.835), (False, 0.165)])
    def test_the_lamp_over_the_lane_shows_the_state(self, is_red, lamp_share):
        # Ego 30 m before the line; the head hangs 10 m beyond it, its bottom 3 m up.
        frame = frame_of(pose=(-30.0, 0.0, 0.0), lights=((7, is_red),))
        picture = paint_cameras(frame, junction(7), RIG)["CAM_F0"]
        column, row = pixel(RIG.mounts["CAM_F0"], (39.8, 0.0, 3.0 + HEAD_SIZE_M[2] * lamp_share))
        red, green, _ = picture[round(row), round(column)].astype(int)
        assert (red - green > 120) if is_red else (green - red > 120)

    @pytest.mark.parametrize("is_red", [True, False])
    def test_still_seen_at_40_m_in_half_the_resolution(self, is_red):
        frame = frame_of(pose=(-40.0, 0.0, 0.0), lights=((7, is_red),))
        picture = paint_cameras(frame, junction(7), RIG)["CAM_F0"].astype(int)
        half = picture[:270].reshape(135, 2, 240, 2, 3).mean(axis=(1, 3))
        excess = half[..., 0] - half[..., 1] if is_red else half[..., 1] - half[..., 0]
        assert (excess > 80).sum() >= 8

    def test_cross_traffic_sees_no_lamp(self):
        frame = frame_of(pose=(30.0, 0.0, np.pi), lights=((7, True),))
        picture = paint_cameras(frame, junction(7), RIG)["CAM_F0"].astype(int)
        assert (picture[..., 0] - picture[..., 1]).max() < 60

    def test_no_state_no_light(self):
        assert fixtures((), junction(7)) == []
        assert fixtures(((12345, True),), junction(7)) == []

    def test_connectors_that_agree_share_a_head_and_red_wins_within_a_turn(self):
        heads = [item.mesh for item in fixtures(((7, True), (8, True)), junction(7, 8))]
        assert heads == ["signal_red", "signal_post", "signal_red"]
        heads = [item.mesh for item in fixtures(((7, False), (9, True)), junction(7, 9))]
        assert heads == ["signal_red", "signal_post", "signal_red"]

    def test_turns_that_disagree_have_heads_from_left_to_right(self):
        hung = fixtures(((7, True), (8, False)), junction(7, 8))[:2]
        assert [item.mesh for item in hung] == ["signal_green", "signal_red"]
        assert hung[0].position_global[1] > hung[1].position_global[1]


class TestGround:
    def test_materials_of_a_lane_and_its_surroundings(self):
        view = map_of(straight_lane("1", (-50.0, 0.0), (50.0, 0.0), width_m=6.0))
        points = np.array([[0.0, 0.0], [0.0, 3.0], [0.0, -3.0], [0.0, 3.2], [0.0, 6.0], [300.0, 0.0]])
        expected = [
            Material.ROAD,
            Material.WHITE_PAINT,
            Material.WHITE_PAINT,
            Material.CURB,
            Material.GRASS,
            Material.GRASS,
        ]
        assert ground_of(view).materials_at(points).tolist() == expected

    def test_one_ground_a_map(self):
        assert ground_of(FIELD) is ground_of(FIELD)
        assert ground_of(map_of()) is not ground_of(FIELD)

    def test_lines_dashed_between_lanes_yellow_against_oncoming_solid_at_the_edge(self):
        right = straight_lane("r", (0.0, 0.0), (80.0, 0.0))
        left = straight_lane("l", (0.0, 3.5), (80.0, 3.5))
        oncoming = straight_lane("o", (80.0, 7.0), (0.0, 7.0))
        view = map_of(right, left, oncoming)
        edge, dashed = lane_markings(view, right)[1], lane_markings(view, right)[0]
        assert not edge.yellow
        assert len(edge.strokes) == 1
        assert len(dashed.strokes) == 10  # 80 m, one dash every 8 m
        (yellow,) = lane_markings(view, left)
        assert yellow.yellow

    @pytest.mark.parametrize(("gap_m", "yellow"), [(0.0, True), (1.2, True), (4.0, False)])
    def test_a_double_line_has_a_gap_but_a_wide_median_has_edges(self, gap_m, yellow):
        lane = straight_lane("l", (0.0, 0.0), (80.0, 0.0))
        view = map_of(lane, straight_lane("o", (80.0, 3.5 + gap_m), (0.0, 3.5 + gap_m)))
        assert lane_markings(view, lane)[0].yellow == yellow

    def test_lanes_that_cross_bear_no_lines(self):
        crossing = straight_lane("x", (40.0, -40.0), (40.0, 40.0), width_m=20.0)
        view = map_of(straight_lane("r", (0.0, 0.0), (80.0, 0.0)), crossing)
        assert lane_markings(view, view.lanes["r"]) == ()

    def test_dashes_are_three_metres_long(self):
        strokes = dashes(np.array([[0.0, 0.0], [10.0, 0.0]]))
        np.testing.assert_allclose(strokes, [[[0, 0], [3, 0]], [[8, 0], [10, 0]]])

    def test_half_a_crosswalk_is_painted(self):
        area = shapely.box(0.0, 0.0, 3.0, 8.0)
        stripes = shapely.union_all(crosswalk_stripes(area))
        assert stripes.area == pytest.approx(area.area / 2)
        assert area.buffer(1e-9).covers(stripes)

    def test_deep_stop_polygons_become_a_line(self):
        assert stop_strip(shapely.box(0.0, 0.0, 4.0, 7.0)).area == pytest.approx(0.5 * 7.0)
        assert stop_strip(shapely.box(0.0, 0.0, 0.3, 7.0)).area == pytest.approx(0.3 * 7.0)


class TestDeterminism:
    def test_same_record_same_pixels_other_token_other_grain(self):
        frame = frame_of(crate(12.0, 1.0))
        first, again = (paint_cameras(frame, map_of(), RIG)["CAM_F0"] for _ in range(2))
        np.testing.assert_array_equal(first, again)
        other = paint_cameras(frame_of(crate(12.0, 1.0), token="ffff"), FIELD, RIG)["CAM_F0"]
        assert (first != other).mean() > 0.3

    def test_the_picture_does_not_depend_on_what_was_painted_before(self):
        view = map_of(straight_lane("1", (-50.0, 0.0), (400.0, 0.0)))
        frame = frame_of(pose=(200.0, 0.0, 0.0))
        fresh = paint_cameras(frame, view, RIG)["CAM_F0"]
        for x in range(0, 300, 20):
            paint_cameras(frame_of(pose=(float(x), 0.0, 0.3)), view, RIG)
        np.testing.assert_array_equal(paint_cameras(frame, view, RIG)["CAM_F0"], fresh)

    def test_moving_map_and_ego_together_keeps_what_stands_where(self):
        # Lighting, skyline and texture belong to the map frame; the geometry of a red lamp does not.
        pose = np.array([331_250.0, 4_690_500.0, 0.7])
        view = junction(7)
        here = paint_cameras(frame_of(pose=(0.0, 0.0, 0.0), lights=((7, True),)), _line_25_m_ahead(view), RIG)["CAM_F0"]
        there = paint_cameras(frame_of(pose=pose, lights=((7, True),)), moved(_line_25_m_ahead(view), pose), RIG)[
            "CAM_F0"
        ]
        lamps = [(item[..., 0].astype(int) - item[..., 1] > 120) for item in (here, there)]
        assert lamps[0].sum() > 20
        assert (lamps[0] != lamps[1]).sum() <= 4

    @pytest.mark.parametrize("size", [(64, 36), (256, 144), (960, 540)])
    def test_any_resolution(self, size):
        rig = default_rig(("CAM_F0", "CAM_B0"), *size)
        for picture in paint_cameras(frame_of(crate(12.0, 1.0)), FIELD, rig).values():
            assert picture.shape == (size[1], size[0], 3)
            assert picture.dtype == np.uint8

    def test_a_camera_that_looks_up_sees_no_ground(self):
        mount = RIG.mounts["CAM_F0"]
        up = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        rig = Rig({"CAM_F0": Mount(up, mount.translation_m, mount.intrinsic, 480, 270)})
        picture = paint_cameras(frame_of(crate(12.0, 1.0)), FIELD, rig)["CAM_F0"].astype(int)
        assert (picture[..., 2] > picture[..., 0] + 60).all()


def _line_25_m_ahead(view: MapView) -> MapView:
    """The junction with its stop line 25 m ahead of the origin."""
    return moved(view, np.array([25.0, 0.0, 0.0]))
