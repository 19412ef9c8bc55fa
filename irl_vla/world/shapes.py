"""What annotated objects look like: faceted meshes for the cameras, solid blocks for the LiDAR.

Shapes are given in box units: x (forward) and y (left) in [-0.5, 0.5], z in [0, 1] from the ground up, and are
stretched to an object's length, width and height. Both sensors stand every object on the ground (z = 0 of the ego
frame), whatever the height of its annotated centre: the painted world is flat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats

_MAX_CORNERS: Final = 8

Point = tuple[float, float, float]
Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Face:
    """A flat convex polygon, counter-clockwise seen from outside.

    Attributes:
        colour: RGB, None for the object's own paint.
        lit: shines by itself: neither shaded nor dimmed much by haze.
        fine: too small to matter from afar.
    """

    corners: tuple[Point, ...]
    colour: Rgb | None
    lit: bool = False
    fine: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Faces of a shape in painting order: a later face is never behind an earlier one that faces the camera.

    Attributes:
        corners: (F, 8, 3) box units; the last corner is repeated.
        counts: (F,) corners in use.
        colours: (F, 3) RGB; rows that ``painted`` marks take the object's paint.
        painted, lit, fine: (F,) bool, see ``Face``.
    """

    corners: Floats
    counts: NDArray[np.int64]
    colours: Floats
    painted: NDArray[np.bool_]
    lit: NDArray[np.bool_]
    fine: NDArray[np.bool_]


def mesh_name(name: str, length_m: float, height_m: float, braking: bool) -> str:
    """The mesh of an object of ``OBJECT_NAMES``; unknown names are painted as generic objects."""
    if name in ("vehicle", "ego"):
        kind = "truck" if height_m > 2.3 or length_m > 7.0 else "car"
        return f"{kind}_braking" if braking else kind
    return name if name in MESHES else "generic_object"


def solid_blocks(name: str, length_m: float, height_m: float) -> Floats:
    """(K, 6) blocks x0, x1, y0, y1, z0, z1 in box units that stop LiDAR rays."""
    return _SOLIDS.get(mesh_name(name, length_m, height_m, braking=False), _WHOLE_BOX)


def frustum(low: Sequence[float], high: Sequence[float], z: tuple[float, float], colour: Rgb | None) -> list[Face]:
    """The sides and the top of a block whose floor ``low`` and roof ``high`` are x0, x1, y0, y1 rectangles."""
    floor = [(low[0], low[2]), (low[1], low[2]), (low[1], low[3]), (low[0], low[3])]
    roof = [(high[0], high[2]), (high[1], high[2]), (high[1], high[3]), (high[0], high[3])]
    faces = []
    for index in range(4):
        after = (index + 1) % 4
        faces.append(
            Face(((*floor[index], z[0]), (*floor[after], z[0]), (*roof[after], z[1]), (*roof[index], z[1])), colour)
        )
    faces.append(Face(tuple((x, y, z[1]) for x, y in roof), colour))
    return faces


def block(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], colour: Rgb | None) -> list[Face]:
    """The sides and the top of an upright block."""
    return frustum((*x, *y), (*x, *y), z, colour)


def front_panel(x: float, y: tuple[float, float], z: tuple[float, float], colour: Rgb, lit: bool = False) -> Face:
    """A rectangle that looks along +x."""
    (right, left), (low, high) = y, z
    return Face(((x, right, low), (x, left, low), (x, left, high), (x, right, high)), colour, lit, fine=not lit)


def rear_panel(x: float, y: tuple[float, float], z: tuple[float, float], colour: Rgb, lit: bool = False) -> Face:
    """A rectangle that looks along -x."""
    (right, left), (low, high) = y, z
    return Face(((x, left, low), (x, right, low), (x, right, high), (x, left, high)), colour, lit, fine=not lit)


def side_panels(x: tuple[float, float], y: float, z: tuple[float, float], colour: Rgb) -> list[Face]:
    """Rectangles at +y and -y that look outward."""
    (rear, front), (low, high) = x, z
    left = ((front, y, low), (rear, y, low), (rear, y, high), (front, y, high))
    right = ((rear, -y, low), (front, -y, low), (front, -y, high), (rear, -y, high))
    return [Face(left, colour, fine=True), Face(right, colour, fine=True)]


def disc(centre: Point, radii: tuple[float, float], axis: str, colour: Rgb, lit: bool = False) -> Face:
    """An octagon that looks along ``axis``: one of "+y", "-y", "-x"; ``radii`` are sideways and upward."""
    angles = np.arange(8) * np.pi / 4 + np.pi / 8
    across, up = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    x, y, z = centre
    turns = {"-y": (across, 0 * across), "+y": (-across, 0 * across), "-x": (0 * across, -across)}
    along_x, along_y = turns[axis]
    corners = tuple(
        (float(x + dx), float(y + dy), float(z + dz)) for dx, dy, dz in zip(along_x, along_y, up, strict=True)
    )
    return Face(corners, colour, lit, fine=not lit)


def mesh(faces: Sequence[Face]) -> Mesh:
    """Packs faces into arrays."""
    corners = [(*face.corners, *[face.corners[-1]] * (_MAX_CORNERS - len(face.corners))) for face in faces]
    return Mesh(
        corners=np.array(corners, np.float64),
        counts=np.array([len(face.corners) for face in faces]),
        colours=np.array([face.colour or (0, 0, 0) for face in faces], np.float64),
        painted=np.array([face.colour is None for face in faces]),
        lit=np.array([face.lit for face in faces]),
        fine=np.array([face.fine for face in faces]),
    )


_GLASS: Final = (40, 52, 64)
_RUBBER: Final = (24, 24, 26)
_TAIL_LAMP: Final = (112, 16, 18)
_BRAKE_LAMP: Final = (255, 36, 20)
_HEADLAMP: Final = (240, 238, 216)
_SKIN: Final = (206, 158, 128)
_TROUSERS: Final = (52, 58, 84)
_ORANGE: Final = (242, 104, 24)
_WHITE: Final = (232, 232, 230)
_SIGN_RED: Final = (206, 42, 36)
_STEEL: Final = (128, 130, 134)


def _wheels(stations: Sequence[float], radii: tuple[float, float]) -> list[Face]:
    return [
        disc((x, side * 0.5, radii[1]), radii, "+y" if side > 0 else "-y", _RUBBER)
        for x in stations
        for side in (1, -1)
    ]


def _tail_lamps(braking: bool, z: tuple[float, float]) -> list[Face]:
    colour = _BRAKE_LAMP if braking else _TAIL_LAMP
    return [rear_panel(-0.5, y, z, colour, lit=braking) for y in ((0.24, 0.48), (-0.48, -0.24))]


def _car(braking: bool) -> Mesh:
    """Lower body with lamps and wheels, then the tapered cabin with glass all round."""
    faces = block((-0.5, 0.5), (-0.5, 0.5), (0.12, 0.58), None)
    faces += _wheels((-0.31, 0.31), (0.075, 0.21))
    faces += [front_panel(0.5, y, (0.36, 0.5), _HEADLAMP) for y in ((0.26, 0.47), (-0.47, -0.26))]
    faces += [front_panel(0.5, (-0.2, 0.2), (0.2, 0.42), _RUBBER), rear_panel(-0.5, (-0.15, 0.15), (0.3, 0.4), _WHITE)]
    faces += _tail_lamps(braking, (0.38, 0.55))
    low, high = (-0.44, 0.24, -0.46, 0.46), (-0.34, 0.1, -0.38, 0.38)
    *glass, roof = frustum(low, high, (0.58, 0.97), _GLASS)
    faces += [*glass, Face(roof.corners, None)]
    if braking:
        faces.append(
            Face(
                ((-0.35, 0.18, 0.92), (-0.35, -0.18, 0.92), (-0.34, -0.18, 0.97), (-0.34, 0.18, 0.97)),
                _BRAKE_LAMP,
                lit=True,
            )
        )
    return mesh(faces)


def _truck(braking: bool) -> Mesh:
    """A tall box on wheels, also read as a bus or a van: windscreen, side windows, lamps."""
    faces = block((-0.5, 0.5), (-0.5, 0.5), (0.1, 1.0), None)
    faces += _wheels((-0.34, -0.22, 0.33), (0.055, 0.14))
    faces += [
        front_panel(0.5, (-0.44, 0.44), (0.5, 0.84), _GLASS),
        *side_panels((0.36, 0.48), 0.5, (0.52, 0.8), _GLASS),
    ]
    faces += [front_panel(0.5, y, (0.22, 0.3), _HEADLAMP) for y in ((0.28, 0.46), (-0.46, -0.28))]
    faces += [
        rear_panel(-0.5, (-0.4, 0.4), (0.5, 0.82), _GLASS),
        rear_panel(-0.5, (-0.42, 0.42), (0.14, 0.18), _RUBBER),
    ]
    return mesh(faces + _tail_lamps(braking, (0.24, 0.36)))


def _pedestrian() -> Mesh:
    legs = [face for y in ((-0.28, -0.04), (0.04, 0.28)) for face in block((-0.2, 0.2), y, (0.0, 0.48), _TROUSERS)]
    torso = frustum((-0.22, 0.22, -0.36, 0.36), (-0.2, 0.2, -0.44, 0.44), (0.46, 0.84), None)
    return mesh([*legs, *torso, *block((-0.17, 0.17), (-0.17, 0.17), (0.85, 1.0), _SKIN)])


def _cyclist() -> Mesh:
    tyres = [
        disc((x, y, 0.19), (0.19, 0.19), axis, _RUBBER)
        for x in (-0.3, 0.3)
        for y, axis in ((0.04, "+y"), (-0.04, "-y"))
    ]
    hubs = [
        disc((x, y, 0.19), (0.14, 0.14), axis, _STEEL) for x in (-0.3, 0.3) for y, axis in ((0.05, "+y"), (-0.05, "-y"))
    ]
    frame = block((-0.3, 0.3), (-0.05, 0.05), (0.3, 0.38), _SIGN_RED)
    ends = block((-0.48, -0.13), (-0.06, 0.06), (0.02, 0.36), _RUBBER)
    rider = [*block((-0.1, 0.12), (-0.2, 0.2), (0.3, 0.55), _TROUSERS)]
    rider += frustum((-0.14, 0.1, -0.32, 0.32), (0.0, 0.2, -0.38, 0.38), (0.54, 0.84), None)
    return mesh([*ends, *tyres, *hubs, *frame, *rider, *block((0.04, 0.2), (-0.15, 0.15), (0.85, 1.0), _WHITE)])


def _cone() -> Mesh:
    base = block((-0.5, 0.5), (-0.5, 0.5), (0.0, 0.08), _ORANGE)
    bands = ((0.08, 0.4, 0.42, 0.27, _ORANGE), (0.4, 0.62, 0.27, 0.18, _WHITE), (0.62, 1.0, 0.18, 0.06, _ORANGE))
    faces = list(base)
    for z0, z1, low, high, colour in bands:
        faces += frustum((-low, low, -low, low), (-high, high, -high, high), (z0, z1), colour)
    return mesh(faces)


def _barrier() -> Mesh:
    """Red and white stripes on both long sides, wherever the longer extent lies."""
    faces = block((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), _WHITE)
    for step in np.arange(-0.5, 0.5, 0.25):
        stripe = (float(step), float(step) + 0.125)
        faces += side_panels(stripe, 0.5, (0.15, 0.9), _SIGN_RED)
        faces += [front_panel(0.5, stripe, (0.15, 0.9), _SIGN_RED), rear_panel(-0.5, stripe, (0.15, 0.9), _SIGN_RED)]
    return mesh(faces)


def _sign() -> Mesh:
    post = block((-0.1, 0.1), (-0.06, 0.06), (0.0, 0.5), _STEEL)
    return mesh([*post, *block((-0.2, 0.2), (-0.5, 0.5), (0.45, 1.0), _ORANGE)])


MESHES: Final = {
    "car": _car(False),
    "car_braking": _car(True),
    "truck": _truck(False),
    "truck_braking": _truck(True),
    "pedestrian": _pedestrian(),
    "bicycle": _cyclist(),
    "traffic_cone": _cone(),
    "barrier": _barrier(),
    "czone_sign": _sign(),
    "generic_object": mesh(block((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), (142, 112, 78))),
}

_WHOLE_BOX: Final = np.array([[-0.5, 0.5, -0.5, 0.5, 0.0, 1.0]])
_SOLIDS: Final = {
    "car": np.array([[-0.5, 0.5, -0.5, 0.5, 0.0, 0.58], [-0.4, 0.18, -0.42, 0.42, 0.58, 0.97]]),
    "pedestrian": np.array([[-0.22, 0.22, -0.4, 0.4, 0.0, 0.84], [-0.17, 0.17, -0.17, 0.17, 0.84, 1.0]]),
    "bicycle": np.array([[-0.48, 0.48, -0.06, 0.06, 0.0, 0.38], [-0.14, 0.2, -0.36, 0.36, 0.38, 1.0]]),
    "traffic_cone": np.array([[-0.4, 0.4, -0.4, 0.4, 0.0, 0.4], [-0.2, 0.2, -0.2, 0.2, 0.4, 1.0]]),
    "czone_sign": np.array([[-0.1, 0.1, -0.06, 0.06, 0.0, 0.45], [-0.2, 0.2, -0.5, 0.5, 0.45, 1.0]]),
}
