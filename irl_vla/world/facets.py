"""Everything that stands on the ground, as coloured polygons in the ego frame, and the order to paint it in."""

import zlib
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats, box_corners, relative_to, rotate
from irl_vla.scene import Boxes, Frame, MapView
from irl_vla.world.road_signs import SIGN_MESHES, road_signs
from irl_vla.world.shapes import MESHES, mesh_name
from irl_vla.world.signal_heads import SIGNAL_MESHES, fixtures

_VIEW_RANGE_M: Final = 80.0
_ALL_MESHES: Final = MESHES | SIGNAL_MESHES | SIGN_MESHES
_SUN_GLOBAL: Final = np.array([0.45, 0.3, 0.84])  # unit vector towards the sun, map frame
_AMBIENT: Final = 0.58
_PAINTS: Final = np.array(
    [
        [226, 228, 230], [188, 192, 198], [122, 128, 136], [46, 48, 54], [164, 34, 38],
        [38, 74, 142], [36, 92, 72], [206, 186, 148], [90, 110, 150], [214, 150, 44],
    ],
    dtype=np.float64,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Facets:
    """Polygons of the things around the ego, in the ego frame.

    Attributes:
        corners: (F, 8, 3) counter-clockwise from outside, the last one repeated.
        counts: (F,) corners in use.
        normals: (F, 3) outward, any length.
        colours: (F, 3) RGB, shaded by the sun.
        lit: (F,) shines by itself.
        fine: (F,) not worth painting from afar.
        owner: (F,) index of the thing; facets of one thing are neighbours and in painting order.
        footprints: (O, 4, 2) ground rectangles of the things.
        shadows: (O,) True where the thing stands on the ground and darkens it.
    """

    corners: Floats
    counts: NDArray[np.int64]
    normals: Floats
    colours: Floats
    lit: NDArray[np.bool_]
    fine: NDArray[np.bool_]
    owner: NDArray[np.int64]
    footprints: Floats
    shadows: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Things:
    """Placed shapes: mesh names, (O, 4) base x, y, z and heading in the ego frame, (O, 3) sizes, (O, 3) paints."""

    meshes: tuple[str, ...]
    bases: Floats
    sizes: Floats
    paints: Floats


class _Part(NamedTuple):
    """The rows that the things of one mesh give to ``Facets``."""

    corners: Floats
    counts: NDArray[np.int64]
    normals: Floats
    colours: Floats
    lit: NDArray[np.bool_]
    fine: NDArray[np.bool_]
    owner: NDArray[np.int64]


def facets_around(frame: Frame, map_view: MapView, braking: frozenset[str]) -> Facets:
    """The facets of all objects, traffic lights and road signs within 80 m of the ego.

    Args:
        braking: track tokens of vehicles whose brake lamps are lit.
    """
    objects = _objects(frame.objects, braking)
    lights = _fixtures(frame, map_view)
    things = _Things(
        objects.meshes + lights.meshes,
        np.concatenate([objects.bases, lights.bases]),
        np.concatenate([objects.sizes, lights.sizes]),
        np.concatenate([objects.paints, lights.paints]),
    )
    return _facets(things, float(frame.ego.pose_global[2]))


def painting_order(footprints: Floats, eye: Floats) -> NDArray[np.int64]:
    """Back-to-front order of ground rectangles seen from a point.

    Two rectangles with a line between them that has the eye on one side are ordered by it; the far one goes first.
    Where no line decides, or lines form a cycle, the more distant centre goes first.

    Args:
        footprints: (O, 4, 2) corners, counter-clockwise.
        eye: (2,) viewpoint.

    Returns:
        (O,) indices, to be painted in this order.
    """
    edges = np.roll(footprints, -1, axis=1) - footprints
    outward = np.stack([edges[..., 1], -edges[..., 0]], axis=-1)
    offsets = np.einsum("oek,oek->oe", outward, footprints)
    eye_outside = outward @ eye > offsets + 1e-9
    beyond = np.einsum("oek,pck->opec", outward, footprints) - offsets[:, None, :, None]
    apart = beyond.min(axis=3) > -0.02  # [o, p, e]: all of p lies outside edge e of o, up to 2 cm of overlap
    hidden = (apart & ~eye_outside[:, None]).any(axis=2)  # [o, p]: p lies beyond o
    hiding = (apart & eye_outside[:, None]).any(axis=2)  # [o, p]: p stands on the eye's side of o
    in_front = (hidden | hiding.T) & ~(hiding | hidden.T)  # [o, p]: o must be painted after p
    waiting = in_front.sum(axis=1)
    distance = np.linalg.norm(footprints.mean(axis=1) - eye, axis=1)
    left = np.ones(len(footprints), dtype=bool)
    order = np.empty(len(footprints), np.int64)
    for position in range(len(footprints)):
        free = left & (waiting == 0)
        candidates = free if free.any() else left
        chosen = int(np.argmax(np.where(candidates, distance, -1.0)))
        order[position] = chosen
        left[chosen] = False
        waiting = waiting - in_front[:, chosen]
    return order


def _objects(objects: Boxes, braking: frozenset[str]) -> _Things:
    boxes = objects.boxes.reshape(-1, 7)
    near = np.flatnonzero(np.hypot(boxes[:, 0], boxes[:, 1]) < _VIEW_RANGE_M)
    boxes = boxes[near]
    meshes, paints = [], []
    for index, box in zip(near, boxes, strict=True):
        token = objects.track_tokens[index]
        meshes.append(mesh_name(objects.names[index], box[3], box[5], token in braking))
        paints.append(_PAINTS[zlib.crc32(token.encode()) % len(_PAINTS)])
    bases = np.stack([boxes[:, 0], boxes[:, 1], np.zeros(len(boxes)), boxes[:, 6]], axis=1)
    return _Things(tuple(meshes), bases, boxes[:, 3:6], np.array(paints).reshape(-1, 3))


def _fixtures(frame: Frame, map_view: MapView) -> _Things:
    found = [*fixtures(frame.traffic_lights, map_view), *road_signs(map_view)]
    poses = np.array([[*item.position_global[:2], item.heading_global] for item in found]).reshape(-1, 3)
    poses = relative_to(frame.ego.pose_global, poses)
    near = np.flatnonzero(np.hypot(poses[:, 0], poses[:, 1]) < _VIEW_RANGE_M)
    height = np.array([found[index].position_global[2] for index in near])
    bases = np.stack([poses[near, 0], poses[near, 1], height, poses[near, 2]], axis=1)
    sizes = np.array([found[index].size_m for index in near]).reshape(-1, 3)
    return _Things(tuple(found[index].mesh for index in near), bases, sizes, np.zeros((len(near), 3)))


def _facets(things: _Things, ego_heading: float) -> Facets:
    """Stretches, turns and shades the meshes; one pass a kind of mesh."""
    if not things.meshes:
        return _no_facets()
    parts: list[_Part] = []
    sun = np.array([*rotate(_SUN_GLOBAL[:2], -ego_heading), _SUN_GLOBAL[2]])
    for name in dict.fromkeys(things.meshes):
        members = np.array([index for index, mesh in enumerate(things.meshes) if mesh == name])
        shape = _ALL_MESHES[name]
        bases = things.bases[members]
        corners = shape.corners * things.sizes[members, None, None]
        corners[..., :2] = rotate(corners[..., :2], bases[:, None, None, 3])
        corners += bases[:, None, None, :3]
        normals = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
        facing = normals @ sun / np.maximum(np.linalg.norm(normals, axis=-1), 1e-12)
        shade = np.where(shape.lit, 1.0, _AMBIENT + (1 - _AMBIENT) * np.maximum(facing, 0.0))
        colours = np.where(shape.painted[:, None], things.paints[members, None], shape.colours) * shade[..., None]
        count = len(members)
        parts.append(
            _Part(
                corners=corners.reshape(-1, *corners.shape[2:]),
                counts=np.tile(shape.counts, count),
                normals=normals.reshape(-1, 3),
                colours=colours.reshape(-1, 3),
                lit=np.tile(shape.lit, count),
                fine=np.tile(shape.fine, count),
                owner=np.repeat(members, len(shape.counts)),
            )
        )
    joined = _Part(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return Facets(
        **joined._asdict(),
        footprints=box_corners(things.bases[:, [0, 1, 3]], things.sizes[:, 0], things.sizes[:, 1]),
        shadows=things.bases[:, 2] == 0,
    )


def _no_facets() -> Facets:
    empty, none = np.zeros(0, np.int64), np.zeros(0, bool)
    return Facets(
        np.zeros((0, 8, 3)), empty, np.zeros((0, 3)), np.zeros((0, 3)), none, none, empty, np.zeros((0, 4, 2)), none
    )
