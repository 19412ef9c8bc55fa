"""What the ground looks like: the map rasterised into cached square tiles of materials and colours.

Cameras warp the colours into their images, the LiDAR reads the materials. Both see the same ground, and each part of
a map is drawn once, however many frames look at it. Tiles exist at several levels of detail (a mip pyramid), so that
far ground costs little and does not flicker.
"""

import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from irl_vla.dataset.maps.content import STOP_KINDS
from irl_vla.geometry import Floats
from irl_vla.scene import Area, MapView
from irl_vla.world.road_paint import Marking, crosswalk_stripes, lane_markings, stop_strip, yield_blocks

Image = NDArray[np.uint8]


class Material(IntEnum):
    """What a point of the ground is made of."""

    GRASS = 0
    WALKWAY = 1
    CURB = 2
    CARPARK = 3
    ROAD = 4
    WHITE_PAINT = 5
    YELLOW_PAINT = 6


#: RGB and strength of the grain, by material.
_COLOURS: Final = np.array(
    [[104, 122, 76], [158, 152, 144], [186, 184, 178], [104, 103, 104], [78, 79, 83], [228, 228, 224], [222, 178, 58]],
    dtype=np.uint8,
)
_GRAIN: Final = np.array([13.0, 6.0, 6.0, 5.0, 4.5, 5.0, 5.0], dtype=np.float32)
#: Materials that stand a curb's height above the road.
RAISED: Final = (Material.GRASS, Material.WALKWAY, Material.CURB)

_FINEST_PX_PER_M: Final = 16.0
LEVELS: Final = 4
_TILE_PX: Final = 512
_OVERSAMPLING: Final = 2
_CACHED_TILES: Final = 64
_CURB_WIDTH_M: Final = 0.3
_MARKING_WIDTH_M: Final = 0.15
_SUBPIXEL_BITS: Final = 4
_MATERIAL_LEVEL: Final = 2  # 8 samples a metre with the oversampling: enough for a 0.15 m line

_ROAD_LAYERS: Final = ("ROADBLOCK", "ROADBLOCK_CONNECTOR", "LANE", "LANE_CONNECTOR", "INTERSECTION")
_YIELD: Final = STOP_KINDS.index("yield")
_PARKING_LAYERS: Final = ("GENERIC_DRIVABLE", "CARPARK_AREA")


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A square of ground; rows run along +y, columns along +x of the map frame.

    Attributes:
        colours: (512, 512, 3) uint8 RGB.
        materials: (1024, 1024) uint8 of ``Material``.
    """

    colours: Image
    materials: Image


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A cut-out of one level: colours (rows, columns, 3), the map point of its corner, texels a metre."""

    colours: Image
    corner_global: Floats
    px_per_m: float


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The tiles of one map, drawn when first looked at; the least recently used are dropped."""

    _map_view: "weakref.ReferenceType[MapView]"
    _markings: dict[str, tuple[Marking, ...]] = field(default_factory=dict)
    _tiles: "OrderedDict[tuple[int, int, int], Tile]" = field(default_factory=OrderedDict)

    def tile(self, level: int, column: int, row: int) -> Tile:
        """The tile of a level (0 is the finest) at a place of its grid."""
        key = (level, column, row)
        if key not in self._tiles:
            self._tiles[key] = self._draw(*key)
            while len(self._tiles) > _CACHED_TILES:
                self._tiles.popitem(last=False)
        self._tiles.move_to_end(key)
        return self._tiles[key]

    def window(self, level: int, centre_global: Floats, half_width_m: float) -> Window:
        """Colours of at least the square around a point of the map."""
        px_per_m = level_px_per_m(level)
        low = np.floor((centre_global[:2] - half_width_m) * px_per_m).astype(int)
        high = np.ceil((centre_global[:2] + half_width_m) * px_per_m).astype(int)
        colours = np.empty((high[1] - low[1], high[0] - low[0], 3), np.uint8)
        first, last = low // _TILE_PX, (high - 1) // _TILE_PX
        for row in range(first[1], last[1] + 1):
            for column in range(first[0], last[0] + 1):
                start = np.array([column, row]) * _TILE_PX
                begin, end = np.maximum(start, low), np.minimum(start + _TILE_PX, high)
                source = self.tile(level, column, row).colours
                (x0, y0), (x1, y1) = begin - low, end - low
                (u0, v0), (u1, v1) = begin - start, end - start
                colours[y0:y1, x0:x1] = source[v0:v1, u0:u1]
        return Window(colours, low / px_per_m, px_per_m)

    def materials_at(self, points_global: Floats) -> Image:
        """(n,) materials of map points (n, 2)."""
        px_per_m = level_px_per_m(_MATERIAL_LEVEL) * _OVERSAMPLING
        texels = np.floor(points_global * px_per_m).astype(np.int64)
        tiles, inside = np.divmod(texels, _TILE_PX * _OVERSAMPLING)
        materials = np.empty(len(texels), np.uint8)
        first = tiles.min(axis=0, initial=0)
        number = (tiles[:, 1] - first[1]) * (1 << 20) + tiles[:, 0] - first[0]
        for value in np.unique(number):
            members = number == value
            row, column = divmod(int(value), 1 << 20)
            source = self.tile(_MATERIAL_LEVEL, column + int(first[0]), row + int(first[1])).materials
            materials[members] = source[inside[members, 1], inside[members, 0]]
        return materials

    def _draw(self, level: int, column: int, row: int) -> Tile:
        map_view = self._map_view()
        if map_view is None:
            raise ReferenceError("the map of this ground is gone")
        size_m = _TILE_PX / level_px_per_m(level)
        corner = np.array([column, row]) * size_m
        canvas = _Canvas(corner, level_px_per_m(level) * _OVERSAMPLING)
        (x, y), half_m = (corner + size_m / 2).tolist(), size_m / 2 + 1.0
        found = {
            layer: [map_view.layer(layer)[key].polygon for key in map_view.query(layer, x, y, half_m)]
            for layer in (*_PARKING_LAYERS, *_ROAD_LAYERS, "WALKWAY", "CROSSWALK")
        }
        lines = [map_view.areas["STOP_LINE"][key] for key in map_view.query("STOP_LINE", x, y, half_m)]
        _draw_surfaces(canvas, found)
        for lane_id in map_view.query("LANE", x, y, half_m):
            if lane_id not in self._markings:
                self._markings[lane_id] = lane_markings(map_view, map_view.lanes[lane_id])
            for marking in self._markings[lane_id]:
                paint = Material.YELLOW_PAINT if marking.yellow else Material.WHITE_PAINT
                canvas.lines(marking.strokes, paint, _MARKING_WIDTH_M)
        _draw_areas(canvas, found["CROSSWALK"], lines)
        return Tile(_coloured(canvas.materials), canvas.materials)


_GROUNDS: "weakref.WeakKeyDictionary[MapView, Ground]" = weakref.WeakKeyDictionary()


def ground_of(map_view: MapView) -> Ground:
    """The ground of a map, made once and kept as long as the map lives."""
    if map_view not in _GROUNDS:
        _GROUNDS[map_view] = Ground(weakref.ref(map_view))
    return _GROUNDS[map_view]


def level_px_per_m(level: int) -> float:
    """Texels a metre of a level; each level halves the one before."""
    return float(_FINEST_PX_PER_M / 2**level)


class _Canvas:
    """A tile's materials while they are drawn, in map coordinates."""

    def __init__(self, corner_global: Floats, px_per_m: float) -> None:
        self._corner, self._px_per_m = corner_global, px_per_m
        size = _TILE_PX * _OVERSAMPLING
        self.materials: Image = np.full((size, size), Material.GRASS, np.uint8)

    def fill(self, polygon: shapely.Polygon | shapely.MultiPolygon, material: Material) -> None:
        """Fills a polygon, holes left out."""
        for part in shapely.get_parts(polygon):
            if isinstance(part, shapely.Polygon) and not part.is_empty:
                rings = [self._fixed(np.asarray(ring.coords)) for ring in (part.exterior, *part.interiors)]
                cv2.fillPoly(self.materials, rings, int(material), cv2.LINE_8, _SUBPIXEL_BITS)

    def outline(self, polygons: list[shapely.Polygon], material: Material, width_m: float) -> None:
        """Draws the rings of polygons, those of holes too."""
        rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
        self.lines(tuple(np.asarray(ring.coords) for ring in rings), material, width_m)

    def lines(self, strokes: tuple[Floats, ...], material: Material, width_m: float) -> None:
        """Draws open polylines (V, 2), at least one sample wide."""
        width = max(round(width_m * self._px_per_m), 1)
        fixed = [self._fixed(stroke) for stroke in strokes]
        cv2.polylines(self.materials, fixed, False, int(material), width, cv2.LINE_8, _SUBPIXEL_BITS)

    def _fixed(self, points: Floats) -> NDArray[np.int32]:
        pixels = (points[:, :2] - self._corner) * self._px_per_m - 0.5
        return np.round(pixels * 2**_SUBPIXEL_BITS).astype(np.int32)


def _draw_surfaces(canvas: _Canvas, found: dict[str, list[shapely.Polygon]]) -> None:
    for polygon in found["WALKWAY"]:
        canvas.fill(polygon, Material.WALKWAY)
    # Outlines first: what the fills leave of them is the rim of the union, where the curb stands.
    for layer in (*_PARKING_LAYERS, *_ROAD_LAYERS):
        canvas.outline(found[layer], Material.CURB, 2 * _CURB_WIDTH_M)
    for layers, material in ((_PARKING_LAYERS, Material.CARPARK), (_ROAD_LAYERS, Material.ROAD)):
        for layer in layers:
            for polygon in found[layer]:
                canvas.fill(polygon, material)


def _draw_areas(canvas: _Canvas, crosswalks: list[shapely.Polygon], lines: list[Area]) -> None:
    for polygon in crosswalks:
        for stripe in crosswalk_stripes(polygon):
            canvas.fill(stripe, Material.WHITE_PAINT)
    for line in lines:
        blocks = yield_blocks(line.polygon) if line.kind == _YIELD else [stop_strip(line.polygon)]
        for painted in blocks:
            canvas.fill(painted, Material.WHITE_PAINT)


def _coloured(materials: Image) -> Image:
    """(512, 512, 3) colours of (1024, 1024) materials, averaged over the samples and grained."""
    samples = cv2.LUT(cv2.merge([materials] * 3), _COLOUR_TABLE)
    colours = cv2.resize(samples, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA)
    step = _OVERSAMPLING
    grain = _GRAIN[materials[::step, ::step]] * _GRAIN_FIELD
    return np.asarray(np.clip(colours + grain[..., None], 0, 255), np.uint8)


def _grain_field() -> NDArray[np.float32]:
    """(512, 512) fixed grain of unit size: fine speckle on broad blotches."""
    generator = np.random.default_rng(20220)
    blotches = np.asarray(generator.standard_normal((32, 32)), np.float32)
    broad = cv2.resize(np.tile(blotches, (3, 3)), (3 * _TILE_PX, 3 * _TILE_PX), interpolation=cv2.INTER_CUBIC)
    fine = np.asarray(generator.standard_normal((_TILE_PX, _TILE_PX)), np.float32)
    return np.asarray(0.7 * fine + 0.7 * broad[_TILE_PX : 2 * _TILE_PX, _TILE_PX : 2 * _TILE_PX], np.float32)


_GRAIN_FIELD: Final = _grain_field()
_COLOUR_TABLE: Final = np.pad(_COLOURS, ((0, 256 - len(_COLOURS)), (0, 0)))[None]
