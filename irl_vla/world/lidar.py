"""A spinning LiDAR: rays from the roof meet the blocks of objects or the ground, whichever is nearer.

The casting is 2.5-D: boxes are cut by each azimuth in the plane, then every ring is tested against the heights of the
cut. Road is flat at z = 0, everything beside it stands on a curb of ``CURB_HEIGHT_M``. Intensities tell paint,
asphalt, curb and grass apart. The output has NAVSIM's rows x, y, z, intensity (0..255), ring, lidar id.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats, rotate
from irl_vla.scene import Boxes, Frame, MapView
from irl_vla.world.ground_texture import RAISED, Ground, Material, ground_of
from irl_vla.world.sensor_config import LidarConfig
from irl_vla.world.shapes import solid_blocks

CURB_HEIGHT_M: Final = 0.12
_CURB_BISECTIONS: Final = 6

#: Reflected intensity by ``Material``, and by object name.
_GROUND_INTENSITY: Final = np.array([46.0, 34.0, 60.0, 16.0, 10.0, 120.0, 96.0])
_OBJECT_INTENSITY: Final = {
    "vehicle": 70.0,
    "pedestrian": 40.0,
    "bicycle": 55.0,
    "traffic_cone": 150.0,
    "barrier": 90.0,
    "czone_sign": 190.0,
}
_OTHER_INTENSITY: Final = 50.0


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """Oriented blocks relative to the sensor's foot: (N, 3) pose, (N, 2) half extents, (N, 2) heights, intensity."""

    poses: Floats
    half_extents: Floats
    heights: Floats
    intensities: Floats


class _Rays(NamedTuple):
    """Azimuths (A,) in the ego frame and slopes (R,), the rise a metre of the rings, lowest first."""

    azimuths: Floats
    slopes: Floats


class _Returns(NamedTuple):
    """Horizontal distance (A, R) of the nearest surface on each ray, inf without one, and its intensity (A, R)."""

    reach: Floats
    intensity: Floats


def cast_lidar(
    frame: Frame, map_view: MapView, config: LidarConfig, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Casts one sweep.

    Returns:
        (6, n) float32 x, y, z (ego frame, metres), intensity (0..255), ring (0 is the lowest), lidar id (0); sorted
        by azimuth, then ring. Rays without a return and dropped returns are left out.
    """
    rays = _rays(config)
    returns = _block_hits(_blocks(frame.objects, config), rays, config.mount_height_m)
    returns = _ground_hits(returns, rays, frame, ground_of(map_view), config)
    azimuths, slopes = rays
    stretch = np.sqrt(1.0 + slopes**2)
    distance = returns.reach * stretch
    returned = distance < config.max_range_m
    azimuth_index, ring = np.nonzero(returned)
    hit = distance[azimuth_index, ring]
    hit = hit + generator.normal(0.0, 1.0, len(hit)) * config.range_noise_m
    brightness = returns.intensity[azimuth_index, ring] * generator.uniform(0.85, 1.15, len(hit))
    kept = generator.random(len(hit)) >= config.dropout
    horizontal = hit / stretch[ring]
    sweep = np.stack(
        [
            config.mount_x_m + horizontal * np.cos(azimuths[azimuth_index]),
            horizontal * np.sin(azimuths[azimuth_index]),
            config.mount_height_m + horizontal * slopes[ring],
            np.clip(brightness, 0.0, 255.0),
            ring.astype(np.float64),
            np.zeros(len(hit)),
        ]
    )
    return sweep[:, kept].astype(np.float32)


def _blocks(objects: Boxes, config: LidarConfig) -> _Blocks:
    boxes = objects.boxes.reshape(-1, 7)
    near = np.flatnonzero(np.hypot(boxes[:, 0] - config.mount_x_m, boxes[:, 1]) < config.max_range_m)
    poses, halves, heights, intensities = [], [], [], []
    for index in near:
        x, y, _, length, width, height, heading = boxes[index]
        name = objects.names[index]
        shape = solid_blocks(name, length, height)
        centres = np.stack([(shape[:, 0] + shape[:, 1]) * length, (shape[:, 2] + shape[:, 3]) * width], axis=1) / 2
        offsets = rotate(centres, heading)
        count = len(shape)
        poses.append(
            np.column_stack([x - config.mount_x_m + offsets[:, 0], y + offsets[:, 1], np.full(count, heading)])
        )
        halves.append((shape[:, [1, 3]] - shape[:, [0, 2]]) * np.array([length, width]) / 2)
        heights.append(shape[:, 4:6] * height)
        intensities.append(np.full(count, _OBJECT_INTENSITY.get(name, _OTHER_INTENSITY)))
    if not poses:
        return _Blocks(np.zeros((0, 3)), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    return _Blocks(*(np.concatenate(part) for part in (poses, halves, heights, intensities)))


def _rays(config: LidarConfig) -> _Rays:
    azimuths = np.arange(config.azimuths, dtype=np.float64) * (2 * np.pi / config.azimuths)
    elevations = np.linspace(config.lowest_deg, config.highest_deg, config.rings, dtype=np.float64)
    return _Rays(azimuths, np.tan(np.radians(elevations)))


def _block_hits(blocks: _Blocks, rays: _Rays, sensor_height: float) -> _Returns:
    """The nearest block on each ray."""
    azimuths, slopes = rays
    shape = (len(azimuths), len(slopes))
    entry, leave = _slab_cuts(blocks, azimuths)
    azimuth_index, block_index = np.nonzero(entry < leave)  # sorted by azimuth: one run of blocks an azimuth
    if not len(azimuth_index):
        return _Returns(np.full(shape, np.inf), np.zeros(shape))
    near = entry[azimuth_index, block_index][:, None]
    far = leave[azimuth_index, block_index][:, None]
    low, high = blocks.heights[block_index].T[:, :, None]
    height_near = sensor_height + slopes * near
    height_far = sensor_height + slopes * far
    # Through a side where the ray enters between floor and roof, else down through the roof.
    with np.errstate(divide="ignore"):
        roof = (high - sensor_height) / slopes
    through_side = (height_near >= low) & (height_near <= high)
    through_roof = (height_near > high) & (height_far < high)
    distance = np.where(through_side, near, np.where(through_roof, roof, np.inf))
    starts = np.flatnonzero(np.r_[True, np.diff(azimuth_index) > 0])
    nearest = np.minimum.reduceat(distance, starts, axis=0)
    counts = np.diff(np.r_[starts, len(azimuth_index)])
    is_nearest = (distance == np.repeat(nearest, counts, axis=0)) & np.isfinite(distance)
    brightness = np.maximum.reduceat(
        np.where(is_nearest, blocks.intensities[block_index][:, None], 0.0), starts, axis=0
    )
    reach, intensity = np.full(shape, np.inf), np.zeros(shape)
    reach[azimuth_index[starts]] = nearest
    intensity[azimuth_index[starts]] = brightness
    return _Returns(reach, intensity)


def _slab_cuts(blocks: _Blocks, azimuths: Floats) -> tuple[Floats, Floats]:
    """(A, N) distances at which each azimuth enters and leaves each block; entry >= leave where it misses.

    A sensor inside a block (entry below 0) sees through it: that is the ego's own body or a broken annotation.
    """
    heading = blocks.poses[:, 2]
    cos, sin = np.cos(heading), np.sin(heading)
    origin_x = -(blocks.poses[:, 0] * cos + blocks.poses[:, 1] * sin)
    origin_y = blocks.poses[:, 0] * sin - blocks.poses[:, 1] * cos
    direction_x = np.outer(np.cos(azimuths), cos) + np.outer(np.sin(azimuths), sin)
    direction_y = np.outer(np.sin(azimuths), cos) - np.outer(np.cos(azimuths), sin)
    tiny = 1e-12
    inverse_x = 1.0 / np.where(np.abs(direction_x) < tiny, tiny, direction_x)
    inverse_y = 1.0 / np.where(np.abs(direction_y) < tiny, tiny, direction_y)
    half_x, half_y = blocks.half_extents.T
    spread_x, spread_y = half_x * np.abs(inverse_x), half_y * np.abs(inverse_y)
    middle_x, middle_y = -origin_x * inverse_x, -origin_y * inverse_y
    entry = np.maximum(middle_x - spread_x, middle_y - spread_y)
    leave = np.minimum(middle_x + spread_x, middle_y + spread_y)
    return np.where(entry > 0, entry, np.inf), leave


def _ground_hits(returns: _Returns, rays: _Rays, frame: Frame, ground: Ground, config: LidarConfig) -> _Returns:
    """Fills in the rays that meet the ground before any block."""
    azimuths, slopes = rays
    reach, intensity = returns.reach.copy(), returns.intensity.copy()
    falling = slopes < 0
    with np.errstate(divide="ignore"):
        flat = np.where(falling, -config.mount_height_m / slopes, np.inf)
    limit = config.max_range_m / np.sqrt(1.0 + slopes**2)
    azimuth_index, ring = np.nonzero((flat < limit) & (flat < reach + CURB_HEIGHT_M / np.maximum(-slopes, 1e-9)))
    directions = np.stack([np.cos(azimuths), np.sin(azimuths)], axis=1)[azimuth_index]
    foot = np.array([config.mount_x_m, 0.0])

    def materials(distance: Floats, members: NDArray[np.int64]) -> NDArray[np.uint8]:
        points = foot + directions[members] * distance[:, None]
        heading = frame.ego.pose_global[2]
        return ground.materials_at(frame.ego.pose_global[:2] + rotate(points, heading))

    distance = flat[ring]
    found = materials(distance, np.arange(len(ring)))
    # Raised ground is met earlier: on its surface, or at the face of the curb if the surface begins further on.
    raised = np.flatnonzero(np.isin(found, RAISED))
    lower, upper = (config.mount_height_m - CURB_HEIGHT_M) / -slopes[ring[raised]], distance[raised]
    on_surface = np.isin(materials(lower, raised), RAISED)
    distance[raised[on_surface]] = lower[on_surface]
    faces = raised[~on_surface]
    lower, upper = lower[~on_surface], upper[~on_surface]
    for _ in range(_CURB_BISECTIONS):
        middle = (lower + upper) / 2
        beyond = np.isin(materials(middle, faces), RAISED)
        lower, upper = np.where(beyond, lower, middle), np.where(beyond, middle, upper)
    distance[faces], found[faces] = upper, Material.CURB
    nearer = distance < reach[azimuth_index, ring]
    azimuth_index, ring = azimuth_index[nearer], ring[nearer]
    reach[azimuth_index, ring] = distance[nearer]
    intensity[azimuth_index, ring] = _GROUND_INTENSITY[found[nearer]]
    return _Returns(reach, intensity)
