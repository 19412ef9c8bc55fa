"""Stop and give-way signs beside the stop lines of a map, as fixtures for the cameras."""

import weakref
from typing import Final

import numpy as np
import shapely

from irl_vla.dataset.maps.content import STOP_KINDS
from irl_vla.geometry import Floats, rotate
from irl_vla.scene import Area, Lane, MapView
from irl_vla.world.roads.layout import KERB_MARGIN_M, LEFT_HAND_CITIES
from irl_vla.world.shapes import Face, Point, Rgb, block, disc, mesh
from irl_vla.world.signal_heads import Fixture

_SIGN_SIZE_M: Final = (0.2, 1.2, 3.2)
_BESIDE_KERB_M: Final = 0.6
_MESHES: Final = {STOP_KINDS.index("stop_sign"): "stop_sign", STOP_KINDS.index("yield"): "yield_sign"}
_RED: Final = (196, 30, 36)
_WHITE: Final = (236, 236, 232)
_STEEL: Final = (120, 124, 128)


def road_signs(map_view: MapView) -> tuple[Fixture, ...]:
    """The signs of a whole map, made once and kept as long as the map lives."""
    if map_view not in _SIGNS:
        found = [_sign(map_view, area) for area in map_view.areas.get("STOP_LINE", {}).values() if area.kind in _MESHES]
        _SIGNS[map_view] = tuple(sign for sign in found if sign is not None)
    return _SIGNS[map_view]


_SIGNS: "weakref.WeakKeyDictionary[MapView, tuple[Fixture, ...]]" = weakref.WeakKeyDictionary()


def _sign(map_view: MapView, area: Area) -> Fixture | None:
    """The sign at the kerb beside a stop line; None where no lane ends at it."""
    ids, tree = map_view.tree("LANE")
    lanes = [map_view.lanes[ids[index]] for index in sorted(tree.query(area.polygon, predicate="intersects"))]
    ending = [lane for lane in lanes if shapely.distance(shapely.Point(lane.baseline[-1, :2]), area.polygon) < 0.5]
    if not ending:
        return None
    step = ending[0].baseline[-1, :2] - ending[0].baseline[-2, :2]
    heading = float(np.arctan2(step[1], step[0]))
    side = 1.0 if map_view.name in LEFT_HAND_CITIES else -1.0
    edges = [edge for edge in (_edge(lane, side) for lane in ending) if edge is not None]
    if not edges:
        return None
    outward = rotate(np.array([0.0, side]), heading)
    foot = max(edges, key=lambda edge: float(edge @ outward)) + (KERB_MARGIN_M + _BESIDE_KERB_M) * outward
    return Fixture(_MESHES[area.kind], np.array([*foot, 0.0]), heading, _SIGN_SIZE_M)


def _edge(lane: Lane, side: float) -> Floats | None:
    boundary = lane.left_boundary if side > 0 else lane.right_boundary
    return None if boundary is None else boundary[-1, :2]


def _backed(front: Face) -> list[Face]:
    """A plate that shows ``front`` to the traffic (-x) and steel to the others."""
    return [Face(front.corners[::-1], _STEEL), front]


def _triangle(half_width: float, low: float, high: float, x: float, colour: Rgb) -> Face:
    corners: tuple[Point, ...] = ((x, 0.0, low), (x, -half_width, high), (x, half_width, high))
    return Face(corners, colour)


_POST: Final = block((-0.25, 0.25), (-0.04, 0.04), (0.0, 0.7), _STEEL)
_OCTAGON: Final = (0.5, 0.5 * _SIGN_SIZE_M[1] / _SIGN_SIZE_M[2])
SIGN_MESHES: Final = {
    "stop_sign": mesh(
        [
            *_POST,
            *_backed(Face(disc((-0.3, 0.0, 0.8), _OCTAGON, "-x", _WHITE).corners, _WHITE)),
            Face(disc((-0.4, 0.0, 0.8), (0.9 * _OCTAGON[0], 0.9 * _OCTAGON[1]), "-x", _RED).corners, _RED),
        ]
    ),
    "yield_sign": mesh(
        [
            *_POST,
            *_backed(_triangle(0.5, 0.66, 0.99, -0.3, _RED)),
            _triangle(0.28, 0.75, 0.945, -0.4, _WHITE),
        ]
    ),
}
