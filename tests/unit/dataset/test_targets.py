from dataclasses import replace

import numpy as np
import pytest
import shapely

from irl_vla.dataset.config import TargetConfig
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.targets import (
    PATH_ACTIONS,
    RASTER_CLASSES,
    SPEED_ACTIONS,
    box_targets,
    build_targets,
    map_raster,
    meta_action,
)
from irl_vla.dataset.views import shifted_scene
from irl_vla.geometry import compose
from irl_vla.scene import Area, Scene

from .example import CITY, LOG, log_frames, strip

CONFIG = TargetConfig(x_min_m=-20, x_max_m=60, y_min_m=-20, y_max_m=20, cell_m=0.5, line_width_m=0.5)


@pytest.fixture(scope="module")
def scene(dataset):
    return next(iter_scenes(dataset, "train"))  # current ego at x = 25, y = -2, heading 0


def cell(raster, name, x, y):
    row, column = int((x - CONFIG.x_min_m) / CONFIG.cell_m), int((y - CONFIG.y_min_m) / CONFIG.cell_m)
    return raster[RASTER_CLASSES.index(name), row, column]


def test_raster_at_known_places(dataset, scene):
    raster = map_raster(scene, load_map(dataset, CITY), CONFIG)
    assert raster.shape == (7, 160, 80)
    assert raster.dtype == np.uint8
    assert set(np.unique(raster)) == {0, 1}
    # ego frame: right lane y -2..2, left lane y 2..6, car park x -25..-5, y 6..16
    assert cell(raster, "drivable", 0.1, 0.1) == 1
    assert cell(raster, "drivable", 30.1, 5.1) == 1
    assert cell(raster, "drivable", 30.1, -4.1) == 0
    assert cell(raster, "drivable", -10.1, 10.1) == 1
    assert cell(raster, "drivable", 10.1, 10.1) == 0
    assert cell(raster, "centreline", 30.1, 0.1) == 1
    assert cell(raster, "centreline", 30.1, 4.1) == 1
    assert cell(raster, "centreline", 30.1, 1.4) == 0
    assert cell(raster, "boundary", 30.1, 2.1) == 1
    assert cell(raster, "boundary", 30.1, 0.1) == 0
    assert cell(raster, "crosswalk", 67.1 - 0.1 - 10, 0.1) == 0
    assert not raster[RASTER_CLASSES.index("walkway")].any()


def test_raster_ahead_shows_junction_and_red_light(dataset):
    *_, last = iter_scenes(dataset, "train")  # current ego at x = 45
    raster = map_raster(last, load_map(dataset, CITY), CONFIG)
    assert cell(raster, "crosswalk", 47.1, 0.1) == 1  # x 90..94
    assert cell(raster, "crosswalk", 43.9, 0.1) == 0
    assert cell(raster, "stop_line", 54.1, 0.1) == 1  # x 98..100
    assert cell(raster, "red_connector", 57.1, 0.1) == 1  # from x 100 on
    assert cell(raster, "red_connector", 53.1, 0.1) == 0
    dark = replace(last.current, traffic_lights=((31, False),))
    green = replace(last, frames=(*last.frames[:3], dark, *last.frames[4:]))
    assert not map_raster(green, load_map(dataset, CITY), CONFIG)[RASTER_CLASSES.index("red_connector")].any()


def test_area_of_the_raster_is_that_of_the_map(dataset, scene):
    raster = map_raster(scene, load_map(dataset, CITY), CONFIG)
    road, park = 8 * 80, 15 * 10  # square metres inside the region
    area = raster[RASTER_CLASSES.index("drivable")].sum() * CONFIG.cell_m**2
    assert area == pytest.approx(road + park, rel=0.08)  # OpenCV paints cells that the border touches


def test_turning_the_ego_turns_the_raster(dataset, scene):
    """With the ego turned to face left, the road runs sideways."""
    ego = scene.current.ego
    turned = replace(scene.current, ego=replace(ego, pose_global=ego.pose_global + np.array([0, 0, np.pi / 2])))
    raster = map_raster(
        replace(scene, frames=(*scene.frames[:3], turned, *scene.frames[4:])), load_map(dataset, CITY), CONFIG
    )
    assert cell(raster, "drivable", 5.1, 15.1) == 1  # left lane is ahead, the road's past is to the left
    assert cell(raster, "drivable", -4.1, 0.1) == 0
    assert cell(raster, "centreline", 0.1, 15.1) == 1


def test_holes_stay_empty(dataset, scene):
    view = load_map(dataset, CITY)
    outer, hole = strip(25, 55, -17, -7), strip(35, 45, -14, -10)
    ring = shapely.Polygon(outer.exterior, [hole.exterior])
    with_hole = replace(view, areas={**view.areas, "WALKWAY": {"1": Area("1", ring)}}, _trees={})
    raster = map_raster(scene, with_hole, CONFIG)
    assert cell(raster, "walkway", 5.1, -10.1) == 1
    assert cell(raster, "walkway", 15.1, -10.1) == 0


def test_boxes_inside_the_region(scene):
    found = box_targets(scene, CONFIG)
    np.testing.assert_allclose(found.boxes, [[5, 4, 0.8, 4.5, 1.9, 1.6, 0.1, 3, 0]])
    assert found.classes.tolist() == [0]
    assert found.track_tokens == ("00000000000000aa",)
    assert len(box_targets(scene, CONFIG.model_copy(update={"x_max_m": 5.0})).boxes) == 0


def test_futures_are_where_the_log_has_the_track_seen_from_now(scene):
    found = box_targets(scene, CONFIG)
    steps = [frame for frame in scene.future[:8] if "00000000000000aa" in frame.objects.track_tokens]
    assert 0 < len(steps) < 9
    assert found.future_known.sum() == len(steps)
    here = scene.current.ego.pose_global
    for index, frame in enumerate(scene.future[:8]):
        if not found.future_known[0, index]:
            assert not found.futures[0, index].any()
            continue
        box = frame.objects.boxes[frame.objects.track_tokens.index("00000000000000aa")]
        np.testing.assert_allclose(
            compose(here, found.futures[0, index]), compose(frame.ego.pose_global, box[[0, 1, 6]])
        )


def arc(length, turn, steps=8):
    """Poses on a circular arc."""
    s = length * np.arange(1, steps + 1) / steps
    if turn == 0:
        return np.column_stack([s, 0 * s, 0 * s])
    radius = length / turn
    return np.column_stack([radius * np.sin(s / radius), radius * (1 - np.cos(s / radius)), s / radius])


def sideways(offset, length=40.0):
    """A smooth change of lane."""
    x = length * np.arange(1, 9) / 8
    y = offset * (1 - np.cos(np.pi * x / length)) / 2
    return np.column_stack([x, y, np.arctan2(np.gradient(y), np.gradient(x))])


def braking(speed, deceleration):
    t = 0.5 * np.arange(1, 9)
    return np.column_stack([speed * t - deceleration * t**2 / 2, 0 * t, 0 * t])


@pytest.mark.parametrize(
    ("plan", "speed", "expected"),
    [
        (arc(40, 0), 10.0, ("keep", "straight")),
        (arc(40, 0), 7.0, ("accelerate", "straight")),
        (braking(10, 1.0), 10.0, ("decelerate", "straight")),
        (braking(8, 2.0), 8.0, ("stop", "straight")),
        (np.zeros((8, 3)), 0.0, ("stop", "straight")),
        (arc(20, 0.5), 5.0, ("keep", "left")),
        (arc(20, -0.5), 5.0, ("keep", "right")),
        (arc(20, 3.5), 5.0, ("keep", "left")),
        (arc(60, 0.2), 15.0, ("keep", "straight")),  # 6 m to the side, but along a bend
        (sideways(3.5), 10.0, ("keep", "lane change left")),
        (sideways(-3.5), 10.0, ("keep", "lane change right")),
        (sideways(1.0), 10.0, ("keep", "straight")),
    ],
)
def test_meta_action(plan, speed, expected):
    found = meta_action(plan, speed, TargetConfig())
    assert (SPEED_ACTIONS[found.speed], PATH_ACTIONS[found.path]) == expected


def test_meta_action_mirrors():
    mirror = np.array([1, -1, -1])
    for plan in (arc(20, 0.5), sideways(3.5), arc(60, 0.2)):
        left, right = (meta_action(item, 10.0, TargetConfig()) for item in (plan, plan * mirror))
        assert left.speed == right.speed
        assert PATH_ACTIONS[right.path] == PATH_ACTIONS[left.path].replace("left", "right")


def test_all_targets(dataset, scene):
    targets = build_targets(scene, load_map(dataset, CITY), CONFIG)
    assert targets.meta_action == (0, 0)
    assert targets.raster.shape == (7, *CONFIG.grid_shape)
    cut = replace(scene, frames=scene.frames[:11])
    assert build_targets(cut, load_map(dataset, CITY), CONFIG).meta_action == (-1, -1)


def test_the_meta_action_of_a_shifted_view_is_that_of_its_way_back(dataset):
    """At 1 m/s from 1 m beside the path: half way back after 4 s. The logged poses from there are a jump of 1 m."""
    scene = Scene("f3", LOG, CITY, LOG, "", "mini", tuple(log_frames(12, speed=1.0)))
    view = shifted_scene(scene, np.array([0.0, 1.0, 0.0]))
    config = CONFIG.model_copy(update={"lane_change_m": 0.75})
    jump = scene.human_plan() - [0.0, 1.0, 0.0]
    straight = (SPEED_ACTIONS.index("keep"), PATH_ACTIONS.index("straight"))
    assert meta_action(jump, 1.0, config).path == PATH_ACTIONS.index("lane change right")
    assert build_targets(view, load_map(dataset, CITY), config).meta_action == straight
    assert build_targets(scene, load_map(dataset, CITY), config).meta_action == straight


def test_raster_does_not_depend_on_where_the_world_lies(dataset, scene):
    """Moving map and ego together changes nothing."""
    view = load_map(dataset, CITY)
    motion = np.array([500.0, -300.0, 0.0])

    def shift(items, *lines):
        return {
            key: replace(
                item,
                polygon=shapely.transform(item.polygon, lambda xy: xy + motion[:2]),
                **{name: getattr(item, name) + motion[:2] for name in lines},
            )
            for key, item in items.items()
        }

    lines = ("baseline", "left_boundary", "right_boundary")
    moved = replace(
        view,
        lanes=shift(view.lanes, *lines),
        lane_connectors=shift(view.lane_connectors, *lines),
        roadblocks=shift(view.roadblocks),
        areas={name: shift(items) for name, items in view.areas.items()},
        _trees={},
    )
    ego = scene.current.ego
    current = replace(scene.current, ego=replace(ego, pose_global=compose(motion, ego.pose_global)))
    there = replace(scene, frames=(*scene.frames[:3], current, *scene.frames[4:]))
    np.testing.assert_array_equal(map_raster(there, moved, CONFIG), map_raster(scene, view, CONFIG))
