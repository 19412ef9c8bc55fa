"""Draws layouts of every family from a generator."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import shapely

from irl_vla.geometry import Floats
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import (
    FAMILIES,
    FASTEST_STREET_MPS,
    KERB_MARGIN_M,
    LEFT_HAND_CITIES,
    PARKING_WIDTH_M,
    RING_MARGIN_M,
    STEP_M,
    Arm,
    LaneClosure,
    Layout,
    Ring,
)
from irl_vla.world.roads.mirror import mirrored_layout

_STREET_LIMITS_MPS: Final = (6.9, 8.3, 11.1, 13.4)
_FAST_LIMITS_MPS: Final = (16.7, 19.4, 22.2)
_ARM_LENGTH_M: Final = (300.0, 340.0)
_FAST_ARM_S: Final = 24.0  # fast arms last this long at the limit
_CLEARANCE_M: Final = 12.0
#: Radius that the inner edge of a road with a parking strip and a pavement still needs, beyond its half width.
_BEND_ROOM_M: Final = 7.5
_SHARP_M: Final = 60.0
_MOST_TURN_RAD: Final = 1.9
_RAMP_LENGTH_M: Final = 320.0
_RAMP_APART: Final = 60  # vertices after which a ramp has left the main road
_ATTEMPTS: Final = 40


@dataclass(frozen=True, slots=True)
class _Road:
    """Cross-section of a road; lane counts towards and away from the junction may differ."""

    lanes_in: int
    lanes_out: int
    lane_width_m: float
    median_m: float
    speed_limit_mps: float

    @property
    def half_width_m(self) -> float:
        return self.median_m / 2 + max(self.lanes_in, self.lanes_out) * self.lane_width_m


def draw_layout(
    name: str, generator: np.random.Generator, *, number: int, city: str, family: str, centre: Floats, index: int
) -> Layout:
    """Draws a layout; arms that would come too close to each other are drawn again with straighter ones.

    Args:
        index: place in its split; lane counts follow from it, so that every split has roads of 1, 2 and 3 lanes.
    """
    if family == "merge":
        arms, ring = _merge(centre, index, generator), None
    elif FAMILIES[family] == "roundabout":
        arms, ring = _roundabout(family, centre, generator)
    elif family.startswith(("cross", "tee")):
        arms, ring = _crossing(family, centre, index, generator), None
    else:
        arms, ring = _street(family, centre, index, generator), None
    layout = Layout(name, number, city, family, centre, arms, ring)
    return mirrored_layout(layout) if city in LEFT_HAND_CITIES else layout


def _crossing(family: str, centre: Floats, index: int, generator: np.random.Generator) -> tuple[Arm, ...]:
    bearings, axes = _bearings(family, 0.16, generator)
    major = (2, 3, 1)[index % 3]
    if FAMILIES[family] == "signal":
        lanes = [major, int(generator.integers(1, min(major, 2) + 1))]
    else:
        lanes = [min(major, 2), 1]
    roads = [_street_road(count, generator) for count in lanes]
    setback = max(road.half_width_m for road in roads) + generator.uniform(9.0, 15.5)
    starts = [_arm_start(centre, bearing, setback) for bearing in bearings]
    arms = _settled_arms([(start, roads[axis], axis) for start, axis in zip(starts, axes, strict=True)], generator)
    # whatever was drawn, cars are parked beside one way along the major road
    return (replace(arms[0], parking=(arms[0].parking[0], True)), *arms[1:])


def _roundabout(family: str, centre: Floats, generator: np.random.Generator) -> tuple[tuple[Arm, ...], Ring]:
    """Arms point exactly at the centre, so that entries and exits are arcs that touch the ring."""
    bearings, axes = _bearings(family, 0.06, generator)
    road = _street_road(1, generator)
    radius, entry = float(generator.uniform(16.0, 23.0)), float(generator.uniform(12.0, 16.0))
    ring = Ring(radius, entry, island_m=radius - road.lane_width_m / 2 - RING_MARGIN_M)
    offset = road.median_m / 2 + road.lane_width_m / 2
    straight = generator.uniform(6.0, 9.0)
    setback = float(np.sqrt((radius + entry) ** 2 - (offset + entry) ** 2) + straight)
    places = [(_arm_start(centre, bearing, setback), road, axis) for bearing, axis in zip(bearings, axes, strict=True)]
    return _settled_arms(places, generator), ring


def _street(family: str, centre: Floats, index: int, generator: np.random.Generator) -> tuple[Arm, ...]:
    """Two arms that continue each other, with what the family is named after."""
    turn = generator.uniform(0, 2 * np.pi)
    fast = family == "highway" or (family == "lane_drop" and generator.random() < 0.4)
    lanes = _turn_of(
        {"works": (2, 3), "highway": (3, 2), "lane_drop": (3, 2), "pickup": (2, 1), "bend": (1, 2)}[family], index
    )
    road = _fast_road(lanes, generator) if fast else _street_road(lanes, generator)
    roads = [road, road]
    if family == "lane_drop":
        roads = [replace(road, lanes_out=lanes - 1), replace(road, lanes_in=lanes - 1, lanes_out=lanes - 1)]
    setback = float(generator.uniform(14.0, 20.0)) * (2.0 if fast else 1.0) if family == "lane_drop" else 1.0
    starts = [_arm_start(centre, turn, setback), _arm_start(centre, turn + np.pi, setback)]
    places = [(start, one, 0) for start, one in zip(starts, roads, strict=True)]
    arms = _settled_arms(places, generator, winding=family in ("bend", "pickup"))
    if family == "works":
        return tuple(_with_closure(arm, generator) for arm in arms)
    if family == "pickup":
        return tuple(_with_bay(arm, generator) for arm in arms)
    return arms


def _merge(centre: Floats, index: int, generator: np.random.Generator) -> tuple[Arm, ...]:
    """A main road whose acceleration lane, fed by a ramp, ends in the junction."""
    turn = generator.uniform(0, 2 * np.pi)
    road = _fast_road(_turn_of((2, 3), index), generator)
    auxiliary = STEP_M * round(generator.uniform(110.0, 190.0) / STEP_M)
    setback = float(generator.uniform(24.0, 32.0))
    for attempt in range(_ATTEMPTS):
        bend_scale = 1.0 - attempt / (_ATTEMPTS - 1)
        upstream = _draw_arm((_arm_start(centre, turn, setback), road, 0), bend_scale, generator)
        downstream = _draw_arm((_arm_start(centre, turn + np.pi, setback), road, 0), bend_scale, generator)
        ramp = _ramp(upstream, round(auxiliary / STEP_M) + 1, generator)
        # once apart, ramp and main road stay apart
        far, main = ramp.line[_RAMP_APART:, :2], upstream.line[:, :2]
        gap = float(shapely.distance(shapely.LineString(far), shapely.LineString(main)))
        if _apart((upstream, downstream)) and gap > upstream.half_width_m + _CLEARANCE_M:
            break
    return replace(upstream, auxiliary_m=auxiliary), downstream, ramp


def _ramp(upstream: Arm, vertex: int, generator: np.random.Generator) -> Arm:
    """A ramp that touches the outer edge of a main road at a vertex of its line, and leads away from there."""
    place = upstream.line[vertex]
    gore = np.array([*polyline.offset(place[None], upstream.edge_m(inward=True))[0], place[2]])
    curvature = np.zeros(round(_RAMP_LENGTH_M / STEP_M))
    radius, sweep = generator.uniform(60.0, 110.0), generator.uniform(0.35, 0.6)
    away = slice(3, 3 + round(radius * sweep / STEP_M))
    curvature[away] = 1 / radius
    if generator.random() < 0.7:  # a bend before the ramp straightens towards the main road
        radius, sweep = generator.uniform(30.0, 60.0), generator.uniform(0.4, 0.9)
        begin = away.stop + round(generator.uniform(25.0, 50.0) / STEP_M)
        curvature[begin : begin + round(radius * sweep / STEP_M)] = 1 / radius
    limit = float(generator.choice(_STREET_LIMITS_MPS[2:]))
    road = _Road(lanes_in=1, lanes_out=0, lane_width_m=upstream.lane_width_m, median_m=0.0, speed_limit_mps=limit)
    curvature = _eased(curvature, 14.0)
    beside = np.diff(upstream.line[vertex : vertex + _RAMP_APART, 2]) / STEP_M  # bends with the main road, and away
    curvature[: len(beside)] += beside
    return _plain_arm(polyline.integrate(gore, curvature, STEP_M), road, 1)


def _bearings(family: str, spread_rad: float, generator: np.random.Generator) -> tuple[list[float], list[int]]:
    turn = generator.uniform(0, 2 * np.pi)
    jitter = generator.uniform(-spread_rad, spread_rad, 4)
    # the stem of a T is the minor road; the major road stays nearly straight
    places, axes = ([0, 1, 2], [0, 1, 0]) if family.startswith("tee") else ([0, 1, 2, 3], [0, 1, 0, 1])
    return [turn + np.pi / 2 * place + jitter[place] for place in places], axes


def _turn_of(choices: tuple[int, ...], index: int) -> int:
    """One of several, in turn from one round of the families to the next."""
    return choices[index // len(FAMILIES) % len(choices)]


def _street_road(lanes: int, generator: np.random.Generator) -> _Road:
    slowest = 0 if lanes == 1 else 1
    return _Road(
        lanes_in=lanes,
        lanes_out=lanes,
        lane_width_m=float(generator.uniform(3.4, 3.9)),
        median_m=float(generator.uniform(0.4, 1.6)),
        speed_limit_mps=_STREET_LIMITS_MPS[int(generator.integers(slowest, slowest + 3))],
    )


def _fast_road(lanes: int, generator: np.random.Generator) -> _Road:
    return _Road(
        lanes_in=lanes,
        lanes_out=lanes,
        lane_width_m=float(generator.uniform(3.5, 3.9)),
        median_m=float(generator.uniform(2.0, 5.0)),
        speed_limit_mps=float(generator.choice(_FAST_LIMITS_MPS)),
    )


def _arm_start(centre: Floats, bearing: float, setback_m: float) -> Floats:
    return np.array([*(centre + setback_m * np.array([np.cos(bearing), np.sin(bearing)])), bearing])


def _settled_arms(
    places: Sequence[tuple[Floats, _Road, int]], generator: np.random.Generator, *, winding: bool = False
) -> tuple[Arm, ...]:
    """Arms at (start pose (3,), road, axis) that stay clear of each other, as bent as that allows."""
    for attempt in range(_ATTEMPTS):
        bend_scale = 1.0 - attempt / (_ATTEMPTS - 1)
        arms = tuple(_draw_arm(place, bend_scale, generator, winding=winding) for place in places)
        if _apart(arms):
            break
    return arms


def _draw_arm(
    place: tuple[Floats, _Road, int], bend_scale: float, generator: np.random.Generator, *, winding: bool = False
) -> Arm:
    """An arm at (start pose (3,), road, axis) that leaves the junction; ``bend_scale`` 0 makes it straight."""
    start, road, axis = place
    length = max(generator.uniform(*_ARM_LENGTH_M), _FAST_ARM_S * road.speed_limit_mps * (road.speed_limit_mps > 16.0))
    curvature = np.zeros(round(length / STEP_M))
    begin = generator.uniform(45.0, 70.0)
    side = generator.choice([-1.0, 1.0])
    for bend in range(int(generator.choice([1, 2, 3] if winding else [0, 1, 2], p=[0.2, 0.4, 0.4]))):
        radius, sweep = _bend(road, generator)
        if winding and bend == 0:  # one at least that nobody drives around at the limit
            radius, sweep = min(radius, _SHARP_M), max(sweep, 0.6)
        sweep *= bend_scale
        arc = slice(round(begin / STEP_M), round((begin + radius * sweep) / STEP_M))
        curvature[arc] = side / radius
        begin += radius * sweep + generator.uniform(30.0, 60.0)
        side = -side if generator.random() < 0.7 else side
    # the ramps from straight to full curvature make clothoids of short bends
    curvature = _eased(curvature, float(generator.choice([8.0, 16.0, 30.0])))
    curvature[:6] = curvature[-6:] = 0.0
    arm = _plain_arm(polyline.integrate(start, curvature, STEP_M), road, axis)
    parking = (bool(generator.random() < 0.5), bool(generator.random() < 0.6))
    crosswalk = float(generator.uniform(90.0, 150.0))
    return arm if arm.is_fast else replace(arm, parking=parking, crosswalk_m=crosswalk)


def _bend(road: _Road, generator: np.random.Generator) -> tuple[float, float]:
    """Radius and sweep: sharp enough that drivers slow down for it, or wide."""
    if generator.random() < 0.3:
        radius = float(generator.uniform(80.0, 300.0)) * max(road.speed_limit_mps / FASTEST_STREET_MPS, 1.0) ** 2
        return radius, float(generator.uniform(40.0, 110.0)) / radius
    radius = road.speed_limit_mps**2 / generator.uniform(2.5, 4.5)
    if road.speed_limit_mps > FASTEST_STREET_MPS:
        radius *= 1.8
    elif road.lanes_in == 1:  # streets may turn a corner: as tight as the pavement on the inner side allows
        radius = generator.uniform(0.45, 1.0) * radius
    return max(float(radius), road.half_width_m + _BEND_ROOM_M), float(generator.uniform(0.6, 1.3))


def _eased(curvature: Floats, ramp_m: float) -> Floats:
    width = max(round(ramp_m / STEP_M), 1)
    return np.convolve(curvature, np.ones(width) / width, mode="same")


def _plain_arm(line: Floats, road: _Road, axis: int) -> Arm:
    return Arm(
        line=line,
        lanes_in=road.lanes_in,
        lanes_out=road.lanes_out,
        lane_width_m=road.lane_width_m,
        median_m=road.median_m,
        speed_limit_mps=road.speed_limit_mps,
        parking=(False, False),
        crosswalk_m=None,
        axis=axis,
    )


def _with_closure(arm: Arm, generator: np.random.Generator) -> Arm:
    lane = int(generator.choice([0, arm.lanes_out - 1]))
    begin = float(generator.uniform(85.0, 130.0))
    closure = LaneClosure(
        lane=lane,
        begin_m=begin,
        end_m=begin + float(generator.uniform(35.0, 70.0)),
        taper_m=float(generator.uniform(2.0, 3.0)) * arm.speed_limit_mps,
    )
    return replace(arm, closure=closure, parking=(arm.parking[0], False), crosswalk_m=None)


def _with_bay(arm: Arm, generator: np.random.Generator) -> Arm:
    """Along the straightest stretch, or drivers would not see who stands there."""
    length = float(generator.uniform(32.0, 60.0))
    begins = np.arange(40.0, 170.0, 6.0)
    heading = arm.line[:, 2]
    bent = [
        np.abs(np.diff(heading[round(begin / STEP_M) - 4 : round((begin + length) / STEP_M) + 4])).max()
        for begin in begins
    ]
    begin = float(begins[int(np.argmin(bent))])
    crosswalk = arm.crosswalk_m
    if crosswalk is not None and begin - 12.0 < crosswalk < begin + length + 12.0:
        crosswalk = None
    return replace(arm, bay_m=(begin, begin + length), parking=(arm.parking[0], False), crosswalk_m=crosswalk)


def _apart(arms: tuple[Arm, ...]) -> bool:
    """True if no arm comes near another one (or itself) away from the junction."""
    room = [arm.half_width_m + KERB_MARGIN_M + PARKING_WIDTH_M + _CLEARANCE_M / 2 for arm in arms]
    whole = [shapely.LineString(arm.line[:, :2]) for arm in arms]
    for i, arm in enumerate(arms):
        if not whole[i].is_simple or np.abs(arm.line[:, 2] - arm.line[0, 2]).max() > _MOST_TURN_RAD:
            return False
        for j in range(len(arms)):
            first = round((room[i] + room[j]) / STEP_M) + 5  # any nearer, even arms that continue each other are close
            if j != i and shapely.distance(shapely.LineString(arm.line[first:, :2]), whole[j]) < room[i] + room[j]:
                return False
    return True
