"""Paints what the cameras see of a frame: sky, ground, objects and traffic lights, without a GPU.

The world is flat: the ground is the plane z = 0 of the ego frame. It is warped from the map's cached texture, one
depth band at a time; everything that stands on it is painted back to front as shaded polygons. The same frame, map
and rig always give the same pixels: the grain of the sensor is seeded by the frame's token.
"""

import weakref
import zlib
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats
from irl_vla.scene import Frame, MapView
from irl_vla.world.facets import Facets, facets_around, painting_order
from irl_vla.world.ground_texture import LEVELS, Ground, Window, ground_of, level_px_per_m
from irl_vla.world.rig import Mount, Rig

Image = NDArray[np.uint8]

NEAR_M: Final = 0.2
_GROUND_RANGE_M: Final = 120.0
_HAZE: Final = np.array([188.0, 198.0, 208.0])
_ZENITH: Final = np.array([96.0, 142.0, 204.0])
_SHADOW: Final = np.array([42.0, 43.0, 47.0])
_HAZE_SCALE_M: Final = 85.0
_LAMP_HAZE_SHARE: Final = 0.15
_FINE_DETAIL_PX: Final = 9.0
_GRAIN_SIZE: Final = 512
_GRAIN_STRENGTH: Final = 2.0
_SUBPIXEL_BITS: Final = 4
_SKYLINE_STEPS: Final = 2048


@dataclass(frozen=True, slots=True, eq=False)
class _Lens:
    """What depends on a mount alone.

    Attributes:
        sky: (h, w, 3) the empty sky, haze from the horizon down.
        horizon: first image row that may show ground.
        haze: (h, w) float32 share of haze over the ground.
        column_headings: (w,) heading of the columns relative to the ego.
        row_elevations: (h,) elevation angle of the rows at the image centre.
        ground_from_pixel: (3, 3) homography from pixels to points of the ground in the ego frame.
        bands: rows first, last, texture level and vertical oversampling of the depth bands, far to near.
    """

    sky: Image
    horizon: int
    haze: NDArray[np.float32]
    column_headings: Floats
    row_elevations: Floats
    ground_from_pixel: Floats
    bands: tuple[tuple[int, int, int, int], ...]
    level_reach_m: Floats


_LENSES: "weakref.WeakKeyDictionary[Mount, _Lens]" = weakref.WeakKeyDictionary()


def paint_cameras(frame: Frame, map_view: MapView, rig: Rig, braking: frozenset[str] = frozenset()) -> dict[str, Image]:
    """Paints the cameras of a rig.

    Args:
        braking: track tokens of vehicles whose brake lamps are lit.

    Returns:
        (height, width, 3) uint8 RGB by camera name.
    """
    ground = ground_of(map_view)
    facets = facets_around(frame, map_view, braking)
    windows: dict[int, Window] = {}
    pictures = {}
    for name, mount in rig.mounts.items():
        lens = _lens(mount)
        picture = lens.sky.copy()
        _paint_skyline(picture, lens, float(frame.ego.pose_global[2]))
        _paint_ground(picture, lens, ground, frame.ego.pose_global, windows)
        _paint_facets(picture, facets, mount)
        _add_grain(picture, f"{frame.token}/{name}")
        pictures[name] = picture
    return pictures


def haze_share(distance_m: Floats) -> Floats:
    """Share of haze in the colour of something at a distance, in [0, 1)."""
    return np.asarray(1.0 - np.exp(-((np.maximum(distance_m, 0.0) / _HAZE_SCALE_M) ** 1.5)))


def _lens(mount: Mount) -> _Lens:
    if mount not in _LENSES:
        _LENSES[mount] = _build_lens(mount)
    return _LENSES[mount]


def _build_lens(mount: Mount) -> _Lens:
    inverse = np.linalg.inv(mount.intrinsic)
    rows, columns = np.mgrid[0 : mount.height, 0 : mount.width].astype(np.float64)
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ (mount.rotation @ inverse).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    down, height = rays[..., 2], float(mount.translation_m[2])
    distance = np.where(down < -1e-6, height / np.maximum(-down, 1e-6), np.inf)
    haze = haze_share(np.minimum(distance, 1e4)).astype(np.float32)
    altitude = np.clip(down / 0.35, 0.0, 1.0)[..., None] ** 0.7
    sky = (_HAZE * (1 - altitude) + _ZENITH * altitude).astype(np.uint8)
    x_axis, y_axis, z_axis = mount.rotation
    x, y, z = mount.translation_m
    ground_from_pixel = np.stack([x * z_axis - z * x_axis, y * z_axis - z * y_axis, z_axis]) @ inverse
    below = np.flatnonzero((down < 0).any(axis=1))
    horizon = int(below[0]) if len(below) else mount.height
    bands, reach = _depth_bands(mount, horizon)
    middle = mount.height // 2
    return _Lens(
        sky=sky,
        horizon=horizon,
        haze=haze,
        column_headings=np.arctan2(rays[middle, :, 1], rays[middle, :, 0]),
        row_elevations=np.arcsin(down[:, mount.width // 2]),
        ground_from_pixel=ground_from_pixel,
        bands=bands,
        level_reach_m=reach,
    )


def _depth_bands(mount: Mount, horizon: int) -> tuple[tuple[tuple[int, int, int, int], ...], Floats]:
    """Splits the rows below the horizon by depth, so that a texel is about two pixels wide where its level ends.

    Ground is foreshortened along the line of sight; the rows of far bands are oversampled to average over it.
    """
    focal, height = mount.intrinsic[1, 1], float(mount.translation_m[2])
    depths = [min(focal / (2 * level_px_per_m(level)), _GROUND_RANGE_M) for level in range(LEVELS - 1)]
    depths.append(_GROUND_RANGE_M)
    slant = float(np.hypot(1.0, mount.width / 2 / mount.intrinsic[0, 0])) + 0.05
    bands, lower = [], mount.height
    for level, depth in enumerate(depths):
        upper = int(np.clip(np.ceil(_row_at_depth(mount, depth)), horizon, lower))
        oversampling = int(np.clip(np.ceil(depth / height / 3), 2, 8))
        if upper < lower:
            bands.append((upper, lower, level, oversampling))
        lower = upper
    offset = float(np.linalg.norm(mount.translation_m[:2]))
    return tuple(bands), np.array([depth * slant + offset + 2.0 for depth in depths])


def _row_at_depth(mount: Mount, depth_m: float) -> float:
    """Image row of the ground at a depth, in the middle column."""
    _, _, (_, down, forward) = mount.rotation
    if abs(down) < 1e-6:
        return float(mount.height)
    offset = (-float(mount.translation_m[2]) - forward * depth_m) / down
    return float(mount.intrinsic[1, 2] + mount.intrinsic[1, 1] * offset / depth_m)


def _paint_skyline(picture: Image, lens: _Lens, ego_heading: float) -> None:
    """A far hazy silhouette of buildings and trees, fixed to the directions of the map."""
    first = int(np.searchsorted(-lens.row_elevations, -_SKYLINE_ELEVATIONS.max()))
    if first >= lens.horizon:
        return
    turns = (lens.column_headings + ego_heading) / (2 * np.pi)
    index = (np.floor(turns * _SKYLINE_STEPS) % _SKYLINE_STEPS).astype(np.int64)
    rows = picture[first : lens.horizon]
    covered = lens.row_elevations[first : lens.horizon, None] < _SKYLINE_ELEVATIONS[index]
    rows[covered] = np.broadcast_to(_SKYLINE_COLOURS[index], rows.shape)[covered]


def _paint_ground(picture: Image, lens: _Lens, ground: Ground, ego_pose: Floats, windows: dict[int, Window]) -> None:
    cos, sin = np.cos(ego_pose[2]), np.sin(ego_pose[2])
    map_from_ego = np.array([[cos, -sin, ego_pose[0]], [sin, cos, ego_pose[1]], [0.0, 0.0, 1.0]])
    for first, last, level, oversampling in lens.bands:
        half_width = float(lens.level_reach_m[level])
        if level not in windows or windows[level].colours.shape[0] < 2 * half_width * windows[level].px_per_m:
            windows[level] = ground.window(level, ego_pose, half_width)
        window = windows[level]
        scale, corner = window.px_per_m, window.corner_global
        texel_from_map = np.array(
            [[scale, 0.0, -scale * corner[0] - 0.5], [0.0, scale, -scale * corner[1] - 0.5], [0.0, 0.0, 1.0]]
        )
        first_sample = first + 0.5 / oversampling - 0.5
        pixel_from_sample = np.array([[1.0, 0.0, 0.0], [0.0, 1.0 / oversampling, first_sample], [0.0, 0.0, 1.0]])
        size = (picture.shape[1], (last - first) * oversampling)
        warped = cv2.warpPerspective(
            window.colours,
            texel_from_map @ map_from_ego @ lens.ground_from_pixel @ pixel_from_sample,
            size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        rows = cv2.resize(warped, (size[0], last - first), interpolation=cv2.INTER_AREA)
        haze = lens.haze[first:last]
        picture[first:last] = cv2.blendLinear(rows, lens.sky[first:last], 1.0 - haze, haze)


def _paint_facets(picture: Image, facets: Facets, mount: Mount) -> None:
    eye = mount.translation_m
    visible = _in_view(facets, mount)
    if not len(visible):
        return
    _paint_shadows(picture, facets.footprints[visible[facets.shadows[visible]]], mount)
    rank = np.full(len(facets.footprints), -1)
    rank[visible[painting_order(facets.footprints[visible], eye[:2])]] = np.arange(len(visible))
    towards = np.einsum("fk,fk->f", facets.normals, eye - facets.corners[:, 0]) > 0
    distance = np.linalg.norm(facets.footprints.mean(axis=1) - eye[:2], axis=1)
    extent = np.linalg.norm(facets.footprints[:, 0] - facets.footprints[:, 2], axis=1)
    small = extent * mount.intrinsic[0, 0] / np.maximum(distance, NEAR_M) < _FINE_DETAIL_PX
    wanted = towards & (rank[facets.owner] >= 0) & ~(facets.fine & small[facets.owner])
    chosen = np.flatnonzero(wanted)
    chosen = chosen[np.argsort(rank[facets.owner[chosen]], kind="stable")]
    haze = haze_share(distance)[facets.owner[chosen], None] * np.where(facets.lit[chosen, None], _LAMP_HAZE_SHARE, 1.0)
    colours = facets.colours[chosen] * (1 - haze) + _HAZE * haze
    _fill(picture, _camera_points(facets.corners[chosen], mount), facets.counts[chosen], colours, mount)


def _paint_shadows(picture: Image, footprints: Floats, mount: Mount) -> None:
    """Darkens the ground right under things, which ties them to it."""
    corners = np.concatenate([footprints, np.zeros((*footprints.shape[:2], 1))], axis=2)
    haze = haze_share(np.linalg.norm(footprints.mean(axis=1) - mount.translation_m[:2], axis=1))[:, None]
    colours = _SHADOW * (1 - haze) + _HAZE * haze
    _fill(picture, _camera_points(corners, mount), np.full(len(corners), 4), colours, mount)


def _in_view(facets: Facets, mount: Mount) -> NDArray[np.int64]:
    """Things whose enclosing circle reaches into the horizontal field of view, in front of the camera."""
    centres = facets.footprints.mean(axis=1) - mount.translation_m[:2]
    radius = np.linalg.norm(facets.footprints[:, 0] - facets.footprints[:, 2], axis=1) / 2
    right, forward = mount.rotation[:2, 0], mount.rotation[:2, 2]
    depth, side = centres @ forward, np.abs(centres @ right)
    half = max(mount.intrinsic[0, 2], mount.width - mount.intrinsic[0, 2]) / mount.intrinsic[0, 0]
    reach = np.hypot(1.0, half) * radius
    return np.flatnonzero((depth + radius > NEAR_M) & (side < np.maximum(depth, 0.0) * half + reach))


def _camera_points(corners: Floats, mount: Mount) -> Floats:
    return np.asarray((corners - mount.translation_m) @ mount.rotation)


def _fill(picture: Image, points: Floats, counts: NDArray[np.int64], colours: Floats, mount: Mount) -> None:
    """Fills polygons (F, V, 3) of the camera frame in order, clipped at the near plane."""
    depth = points[..., 2]
    cut, gone = depth.min(axis=1) < NEAR_M, depth.max(axis=1) < NEAR_M
    pixels = _fixed(points, mount)
    paints = np.round(colours).tolist()
    used = counts.tolist()
    for index in np.flatnonzero(~gone).tolist():
        polygon = pixels[index, : used[index]]
        if cut[index]:
            polygon = _fixed(_clipped(points[index, : used[index]]), mount)
        cv2.fillConvexPoly(picture, polygon, paints[index], cv2.LINE_AA, _SUBPIXEL_BITS)


def _fixed(points: Floats, mount: Mount) -> NDArray[np.int32]:
    """Fixed-point pixels of camera points (..., 3); those before the near plane are meaningless."""
    depth = np.maximum(points[..., 2:], NEAR_M)
    scale = np.array([mount.intrinsic[0, 0], mount.intrinsic[1, 1]])
    pixels = points[..., :2] / depth * scale + mount.intrinsic[:2, 2]
    return np.asarray(np.round(pixels * 2**_SUBPIXEL_BITS), np.int32)


def _clipped(polygon: Floats) -> Floats:
    """The part of a polygon (V, 3) beyond the near plane (Sutherland and Hodgman, one plane)."""
    kept = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if start[2] >= NEAR_M:
            kept.append(start)
        if (start[2] >= NEAR_M) != (end[2] >= NEAR_M):
            kept.append(start + (end - start) * (NEAR_M - start[2]) / (end[2] - start[2]))
    return np.array(kept)


def _add_grain(picture: Image, seed_text: str) -> None:
    """Adds sensor noise: a fixed field, cut and mirrored at a place that the text picks."""
    seed = zlib.crc32(seed_text.encode())
    height, width = picture.shape[:2]
    rolled = np.roll(_GRAIN, (seed % _GRAIN_SIZE, seed // _GRAIN_SIZE % _GRAIN_SIZE), axis=(0, 1))
    repeats = (-(-height // _GRAIN_SIZE), -(-width // _GRAIN_SIZE), 1)
    grain = np.tile(rolled, repeats)[:height, :width]
    cv2.add(picture, grain, dst=picture, dtype=cv2.CV_8U)


def _skyline() -> tuple[Floats, NDArray[np.uint8]]:
    """Elevation angle (2048,) and hazy colour (2048, 3) of the silhouette by heading."""
    generator = np.random.default_rng(7)
    elevations, colours = np.zeros(_SKYLINE_STEPS), np.zeros((_SKYLINE_STEPS, 3))
    start = 0
    while start < _SKYLINE_STEPS:
        end = start + int(generator.integers(8, 40))
        is_tree = generator.random() < 0.5
        base = np.array([96.0, 118.0, 84.0] if is_tree else [146.0, 138.0, 130.0]) * generator.uniform(0.8, 1.1)
        elevations[start:end] = np.radians(generator.uniform(0.8, 2.0) if is_tree else generator.uniform(1.2, 4.2))
        colours[start:end] = base * 0.55 + _HAZE * 0.45
        start = end
    return elevations, colours.astype(np.uint8)


_SKYLINE_ELEVATIONS, _SKYLINE_COLOURS = _skyline()
_GRAIN: Final = (
    (np.random.default_rng(11).standard_normal((_GRAIN_SIZE, _GRAIN_SIZE, 1)) * _GRAIN_STRENGTH)
    .round()
    .astype(np.int16)
    .repeat(3, axis=2)
)
