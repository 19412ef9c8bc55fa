"""Where traffic lights hang and what they show.

Every incoming lane with signalled connectors has two sets of heads: one hung over the junction ahead of the lane, so
that it stays in view of a car that waits at the line, and one on a post at the kerb beside the stop line, which is the
start of the connectors. A set is one head where the lane's connectors agree; otherwise it has one head a connector,
side by side from left to right as the connectors turn. Where several connectors of one turn disagree, red wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from irl_vla.geometry import Floats, rotate, wrap_angle
from irl_vla.scene import Lane, MapView
from irl_vla.world.roads.layout import LEFT_HAND_CITIES
from irl_vla.world.shapes import Face, Mesh, block, disc, mesh

_LAMP_DIAMETER_M: Final = 0.9
HEAD_SIZE_M: Final = (0.4, 1.1, 2.9)  # length, width, height
_HANGING_BOTTOM_M: Final = 3.0
_POST_BOTTOM_M: Final = 2.0
_BEYOND_LINE_M: Final = 10.0
_POST_OFFSET_M: Final = 1.2
_HEAD_SPACING_M: Final = 1.2
_SAME_TURN_RAD: Final = 0.35
_POST_SIZE_M: Final = (0.22, 0.22, _POST_BOTTOM_M)

_HOUSING: Final = (34, 36, 38)
_RED: Final = (255, 40, 28)
_GREEN: Final = (36, 255, 96)
_DARK_LAMPS: Final = ((74, 18, 18), (70, 60, 18), (16, 62, 30))


@dataclass(frozen=True, slots=True, eq=False)
class Fixture:
    """A part of a traffic light: its mesh, base point and heading in the map frame, and size (l, w, h)."""

    mesh: str
    position_global: Floats
    heading_global: float
    size_m: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Turn:
    angle: float
    is_red: bool


def fixtures(traffic_lights: Sequence[tuple[int, bool]], map_view: MapView) -> list[Fixture]:
    """All heads and posts for (lane connector id, is red) pairs; connectors outside the map view are not drawn."""
    red = {str(connector): is_red for connector, is_red in traffic_lights}
    approaches: dict[str, list[Lane]] = {}
    for connector_id in sorted(red):
        connector = map_view.lane_connectors.get(connector_id)
        if connector is not None:
            approaches.setdefault(connector.incoming[0] if connector.incoming else connector_id, []).append(connector)
    found: list[Fixture] = []
    for lane_id, connectors in approaches.items():
        start, heading = _stop_point(connectors[0])
        states = _head_states(connectors, heading, red)
        found += _head_set(states, start + _along(heading, _BEYOND_LINE_M, 0.0), heading, _HANGING_BOTTOM_M)
        side = 1.0 if map_view.name in LEFT_HAND_CITIES else -1.0
        if _is_outermost(map_view, lane_id, approaches, side):
            shift = (len(states) - 1) / 2 * _HEAD_SPACING_M
            beside = _half_width(map_view, lane_id, start, side) + _POST_OFFSET_M + shift
            foot = start + _along(heading, 0.0, side * beside)
            found.append(Fixture("signal_post", np.array([*foot, 0.0]), heading, _POST_SIZE_M))
            found += _head_set(states, foot, heading, _POST_BOTTOM_M)
    return found


def _stop_point(connector: Lane) -> tuple[Floats, float]:
    step = connector.baseline[1, :2] - connector.baseline[0, :2]
    return connector.baseline[0, :2], float(np.arctan2(step[1], step[0]))


def _along(heading: float, forward_m: float, left_m: float) -> Floats:
    return rotate(np.array([forward_m, left_m]), heading)


def _head_states(connectors: list[Lane], heading: float, red: dict[str, bool]) -> list[bool]:
    """States from the leftmost turn to the rightmost; one state where all agree."""
    turns: list[_Turn] = []
    for connector in connectors:
        step = connector.baseline[-1, :2] - connector.baseline[-2, :2]
        angle = float(wrap_angle(np.arctan2(step[1], step[0]) - heading))
        turns.append(_Turn(angle, red[connector.id]))
    turns.sort(key=lambda turn: -turn.angle)
    merged = [turns[0]]
    for turn in turns[1:]:
        if merged[-1].angle - turn.angle < _SAME_TURN_RAD:
            merged[-1] = _Turn(merged[-1].angle, merged[-1].is_red or turn.is_red)
        else:
            merged.append(turn)
    states = [turn.is_red for turn in merged]
    return states[:1] if len(set(states)) == 1 else states


def _head_set(states: list[bool], centre: Floats, heading: float, bottom_m: float) -> list[Fixture]:
    heads = []
    for index, is_red in enumerate(states):
        left = ((len(states) - 1) / 2 - index) * _HEAD_SPACING_M
        position = np.array([*(centre + _along(heading, 0.0, left)), bottom_m])
        heads.append(Fixture("signal_red" if is_red else "signal_green", position, heading, HEAD_SIZE_M))
    return heads


def _is_outermost(map_view: MapView, lane_id: str, approaches: dict[str, list[Lane]], side: float) -> bool:
    """True for the lane of its roadblock that has no signalled lane on a side (1 left, -1 right)."""
    lane = map_view.lanes.get(lane_id)
    if lane is None:
        return True
    start, heading = _stop_point(approaches[lane_id][0])
    for other_id, connectors in approaches.items():
        other = map_view.lanes.get(other_id)
        if other is not None and other_id != lane_id and other.roadblock_id == lane.roadblock_id:
            left_m = rotate(_stop_point(connectors[0])[0] - start, -heading)[1]
            if side * left_m > 0.5:
                return False
    return True


def _half_width(map_view: MapView, lane_id: str, start: Floats, side: float) -> float:
    lane = map_view.lanes.get(lane_id)
    boundary = None if lane is None else lane.left_boundary if side > 0 else lane.right_boundary
    if boundary is None:
        return 1.75
    return float(np.linalg.norm(boundary[:, :2] - start, axis=1).min())


def _head(lit_lamp: int, colour: tuple[int, int, int]) -> Mesh:
    """A housing with red, amber and green lamps that look back at the traffic (-x)."""
    _, width, height = HEAD_SIZE_M
    radii = (_LAMP_DIAMETER_M / 2 / width, _LAMP_DIAMETER_M / 2 / height)
    faces: list[Face] = block((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), _HOUSING)
    for lamp, z in enumerate((0.835, 0.5, 0.165)):
        lit = lamp == lit_lamp
        faces.append(disc((-0.5, 0.0, z), radii, "-x", colour if lit else _DARK_LAMPS[lamp], lit=lit))
    return mesh(faces)


SIGNAL_MESHES: Final = {
    "signal_red": _head(0, _RED),
    "signal_green": _head(2, _GREEN),
    "signal_post": mesh(block((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), (70, 72, 76))),
}
