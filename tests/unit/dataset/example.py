"""A small data set made with the project's own writers: a road of two lanes, a connector, and a lane behind it."""

from pathlib import Path

import numpy as np
import shapely

from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.log import LogMeta, write_log
from irl_vla.dataset.maps.content import (
    CITY_EPSG,
    AreaRow,
    BoundaryRow,
    ConnectorRow,
    GroupConnectorRow,
    GroupRow,
    LaneRow,
    MapContent,
    StopRow,
)
from irl_vla.dataset.maps.writer import map_path, write_index, write_map
from irl_vla.dataset.sensors import write_image, write_sweep
from irl_vla.dataset.splits import LogLayout, write_layouts, write_split
from irl_vla.ledger.files import content_hash
from irl_vla.scene import Boxes, Camera, EgoStatus, Frame

CITY = "us-nv-las-vegas-strip"
ORIGIN = np.array([664_000.0, 3_998_000.0])  # Las Vegas in EPSG:32611
LOG = "2024.01.01.00.00.00_veh-01_0_1"
FORWARD_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # camera axes -> ego axes


def strip(x0, x1, y0, y1):
    """A rectangle along the road, relative to ORIGIN."""
    return shapely.box(ORIGIN[0] + x0, ORIGIN[1] + y0, ORIGIN[0] + x1, ORIGIN[1] + y1)


def line(x0, x1, y):
    return ORIGIN + np.array([[x0, y], [(x0 + x1) / 2, y], [x1, y]])


def map_content():
    """Lanes 11 (y 0..4) and 12 (y -4..0) over x 0..100, connector 31 from lane 12 to lane 13 over x 100..120."""
    boundaries = {1: (0, 100, 4), 2: (0, 100, 0), 3: (0, 100, -4), 4: (100, 120, 0), 5: (100, 120, -4)}
    boundaries |= {6: (120, 200, 0), 7: (120, 200, -4)}
    return MapContent(
        lanes=(
            LaneRow(11, 21, 0, strip(0, 100, 0, 4), line(0, 100, 2), 1, 2, 15.0),
            LaneRow(12, 21, 1, strip(0, 100, -4, 0), line(0, 100, -2), 2, 3, None),
            LaneRow(13, 22, 0, strip(120, 200, -4, 0), line(120, 200, -2), 6, 7, 10.0),
        ),
        connectors=(ConnectorRow(31, 12, 13, 41, strip(100, 120, -4, 0), line(100, 120, -2), 4, 5, 51, 12.5, (61,)),),
        groups=(GroupRow(21, strip(0, 100, -4, 4), 1, 3), GroupRow(22, strip(120, 200, -4, 0), 6, 7)),
        group_connectors=(GroupConnectorRow(41, 21, 22, strip(100, 120, -4, 0), 4, 5, 51),),
        boundaries=tuple(BoundaryRow(key, line(*value), 2 if key == 1 else 0) for key, value in boundaries.items()),
        intersections=(AreaRow(51, strip(100, 120, -4, 4), 1),),
        stop_lines=(StopRow(61, strip(98, 100, -4, 0), 2, (12,)),),
        crosswalks=(AreaRow(71, strip(90, 94, -4, 4)),),
        carparks=(AreaRow(81, strip(0, 20, 4, 14)),),
    )


def frame(index, *, log=LOG, speed=10.0, cameras=True, lidar=True):
    """The ego drives east in the right lane from x = 10; a car stands at x = 30, 4 m to the left of the ego's line."""
    x = 10.0 + 0.5 * speed * index
    token = content_hash([log, index])
    camera = Camera(
        path=f"{log}/CAM_F0/{token}.jpg",
        rotation=FORWARD_CAMERA,
        translation_m=np.array([1.6, 0.0, 1.5]),
        intrinsic=np.array([[80.0, 0.0, 47.5], [0.0, 80.0, 26.5], [0.0, 0.0, 1.0]]),
        distortion=np.zeros(5),
    )
    return Frame(
        token=token,
        timestamp_us=1_000_000 + 500_000 * index,
        ego=EgoStatus(np.array([ORIGIN[0] + x, ORIGIN[1] - 2.0, 0.0]), np.array([speed, 0.0]), np.array([0.5, 0.0]), 1),
        objects=Boxes(
            boxes=np.array([[30.0 - x, 4.0, 0.8, 4.5, 1.9, 1.6, 0.1]]),
            names=("vehicle",),
            velocity_mps=np.array([[3.0, 0.0, 0.0]]),
            track_tokens=("00000000000000aa",),
        ),
        traffic_lights=((31, True),),
        roadblock_ids=("21", "41", "22"),
        cameras={"CAM_F0": camera} if cameras else {},
        lidar_path=f"{log}/MergedPointCloud/{token}.pcd" if lidar else None,
    )


def log_frames(count=16, **options):
    return [frame(index, **options) for index in range(count)]


def write_example(root: Path, logs=(LOG,), count=16, sensors=True) -> Dataset:
    """Writes maps, logs, sensors and the split "train" (every frame a window) and returns the opened data set."""
    write_index(root / "maps")
    write_map(map_path(root / "maps", CITY), map_content(), CITY_EPSG[CITY])
    for log in logs:
        frames = log_frames(count, log=log)
        write_log(root / "navsim_logs/mini" / f"{log}.pkl", frames, LogMeta(log, CITY))
        if sensors:
            for item in frames:
                write_image(root / "sensor_blobs/mini" / item.cameras["CAM_F0"].path, gradient())
                write_sweep(root / "sensor_blobs/mini" / item.lidar_path, sweep())
    write_layouts(root, {logs[0]: LogLayout("straight-1", "follow")})
    write_split(root, "train", "mini", SceneFilter(num_future_frames=8, frame_interval=1))
    return open_dataset(DataConfig(root=root), environment={})


def gradient(height=54, width=96):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    return image


def sweep():
    """Three points: ahead, left, and low behind."""
    return np.array([[10, 0, -5], [0, 3, 0], [0, 0.5, -1], [10, 20, 255], [0, 1, 2], [0, 0, 1]], np.float32)
