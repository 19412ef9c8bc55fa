"""A scene on the straight map of the driving tests: the ego drives along lane a0 from x = 10 at 8 m/s."""

import numpy as np
import shapely.affinity

from irl_vla.geometry import compose, relative_to, rotate
from irl_vla.scene import Boxes, EgoStatus, Frame, MapView, Scene

SPEED_MPS = 8.0
TIME_US = 1_600_000_000_000_000
NOW = 3


def frame(index, *, objects=(), route=("a", "ab", "b", "bc", "c"), lights=(), speed=SPEED_MPS):
    """Frame 3 is the current one; objects are (name, token, x, y, heading, vx) of 4 m x 2 m, global, x at frame 3."""
    x = 10.0 + 0.5 * speed * (index - NOW)
    ego = np.array([x, 0.0, 0.0])
    boxes = np.zeros((len(objects), 7))
    for row, (_, _, ox, oy, heading, vx) in enumerate(objects):
        boxes[row] = [ox + 0.5 * vx * (index - NOW) - x, oy, 0.8, 4.0, 2.0, 1.6, heading]
    return Frame(
        token=f"f{index:02d}",
        timestamp_us=TIME_US + 500_000 * (index - NOW),
        ego=EgoStatus(ego, np.array([speed, 0.0]), np.zeros(2), 1),
        objects=Boxes(
            boxes=boxes,
            names=tuple(item[0] for item in objects),
            velocity_mps=np.array([[item[5], 0.0, 0.0] for item in objects]).reshape(-1, 3),
            track_tokens=tuple(item[1] for item in objects),
        ),
        traffic_lights=lights,
        roadblock_ids=route,
        cameras={},
        lidar_path=None,
    )


def scene(token="0123456789abcdef", count=12, **options):
    frames = tuple(frame(index, **options) for index in range(count))
    return scene_of(frames, token)


def scene_of(frames, token="0123456789abcdef"):
    return Scene(token, "log", "straight", "straight", "", "mini", frames)


def moved_map(view, by):
    """The map after turning by ``by[2]`` and shifting by ``by[:2]``."""
    matrix = [np.cos(by[2]), -np.sin(by[2]), np.sin(by[2]), np.cos(by[2]), by[0], by[1]]

    def moved(items):
        result = {}
        for key, item in items.items():
            changes = {"polygon": shapely.affinity.affine_transform(item.polygon, matrix)}
            if hasattr(item, "baseline"):
                changes["baseline"] = rotate(item.baseline, by[2]) + by[:2]
            result[key] = type(item)(**{name: getattr(item, name) for name in item.__slots__} | changes)
        return result

    return MapView(
        view.name,
        *(moved(view.layer(layer)) for layer in ("LANE", "LANE_CONNECTOR", "ROADBLOCK", "ROADBLOCK_CONNECTOR")),
        {layer: moved(items) for layer, items in view.areas.items()},
    )


def moved_scene(original, by):
    def moved(item):
        pose = compose(by, item.ego.pose_global)
        ego = EgoStatus(pose, item.ego.velocity_mps, item.ego.acceleration_mps2, item.ego.command)
        return Frame(**{name: getattr(item, name) for name in item.__slots__} | {"ego": ego})

    return scene_of(tuple(moved(item) for item in original.frames), original.token)


def undo(poses, by):
    """Poses of the moved world in the original one."""
    return relative_to(by, poses)
