"""Where on its route the ego starts, and where the event of a scenario kind is met."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from irl_vla.geometry import PACIFICA, Floats
from irl_vla.world.drivers import Driver, DriverStyle, ego_size, path_curvature, speed_caps
from irl_vla.world.roads.network import Network, Route, kerb_side
from irl_vla.world.tracks import lane_paths, project

#: Drives may last this long before they come near the end of a route.
_LONGEST_DRIVE_S: Final = 16.0
WARM_UP_S: Final = 2.0
#: A bend is worth the name from this curvature on.
CURVE_PER_M: Final = 1 / 90
#: Kinds that start on the arm towards the junction, a given time away from its stop line.
_APPROACHES: Final = ("red_light", "green_light", "turn_left", "turn_right", "crossing", "stop_sign", "roundabout")
#: Kinds in which lanes become one.
_MERGES: Final = ("lane_drop", "merge")
#: Kinds whose event lies at a place beside the junction.
EVENTS: Final = ("jaywalker", "occlusion", "parked", "double_parked", "construction", "cyclist")

_STRAIGHT_PER_M: Final = 1 / 150
_BEFORE_JUNCTION_M: Final = 60.0
_BEHIND_JUNCTION_M: Final = 45.0
_BESIDE_CROSSWALK_M: Final = 8.0
_LEAST_LEAD_M: Final = 35.0
#: From the start of the record to the stop line, undisturbed: early enough to be across at the end of short records;
#: the same for red and green, and before one brakes for red, so that the start does not tell the light.
_TO_LINE_S: Final = {"stop_sign": (1.5, 4.5)} | dict.fromkeys(("red_light", "green_light"), (3.0, 6.5))
#: So many slots beside a lane are a row of parked cars.
PARKED_ROW: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where and how the ego starts: its route, the speeds it wants there, rear-axle arc length, speed and style.

    ``event_m`` is the arc length at which it meets the event of its kind; -1 where that has no place.
    """

    route: Route
    path: Floats
    caps_mps: Floats
    start_m: float
    speed_mps: float
    style: DriverStyle
    event_m: float = -1.0


def room_m(network: Network, movement: int) -> float:
    """Last arc length to start at: a policy that looks 4 s ahead must not see the end of the world at the end."""
    lane = lane_paths(network)[movement]
    return max(float(len(lane.path) - lane.limits_mps.max() * (WARM_UP_S + _LONGEST_DRIVE_S + 5.0)), 6.0)


@lru_cache(maxsize=512)
def event_places(network: Network, movement: int) -> Floats:
    """(E,) arc lengths where an event can be put.

    Straight, away from the junction and from crosswalks, early enough to start before it.
    """
    lane, move = lane_paths(network)[movement], network.movements[movement]
    into, out = network.layout.arms[move.from_arm], network.layout.arms[move.to_arm]
    along = np.arange(len(lane.path))
    bent = np.abs(path_curvature(lane.path)) > _STRAIGHT_PER_M
    straight = ~np.convolve(bent, np.ones(41), mode="same").astype(bool)
    away = (along < lane.enter_m - _BEFORE_JUNCTION_M) | (along > lane.leave_m + _BEHIND_JUNCTION_M)
    for crosswalk in (lane.enter_m - (into.crosswalk_m or np.inf), lane.leave_m + (out.crosswalk_m or np.inf)):
        away &= np.abs(along - crosswalk) > _BESIDE_CROSSWALK_M
    early = along < room_m(network, movement) + 150.0
    return along[straight & away & early & (along > 60.0)].astype(np.float64)


@lru_cache(maxsize=512)
def slots_beside(network: Network, movement: int) -> Floats:
    """(K, 2) parking slots beside the kerb side of a way, where an event can be: index and arc length."""
    slots, path = network.parking_slots, lane_paths(network)[movement].path
    if not len(slots):
        return np.zeros((0, 2))
    offsets = slots[:, None, :2] - path[None, :, :2]
    nearest = np.argmin((offsets**2).sum(axis=2), axis=1)
    step = offsets[np.arange(len(slots)), nearest]
    heading = path[nearest, 2]
    aside = step[:, 1] * np.cos(heading) - step[:, 0] * np.sin(heading)
    aside *= kerb_side(network)
    beside = (aside > 2.5) & (aside < 5.2) & np.isin(nearest, event_places(network, movement).astype(int))
    return np.column_stack([np.flatnonzero(beside), nearest[beside]]).astype(np.float64)


def site_before(network: Network, movement: int) -> float | None:
    """Arc length where a work site closes the lane of a way, None if it does not."""
    move = network.movements[movement]
    for site in network.sites:
        if (site.arm, site.lane) == (move.to_arm, move.to_lane):
            return lane_paths(network)[movement].leave_m + site.taper_m
    return None


def draw_place(network: Network, kind: str, route: Route, style: DriverStyle, generator: np.random.Generator) -> Place:
    """Chooses the start so that the kind's event comes during the record."""
    lane = lane_paths(network)[route.movement]
    path = lane.path
    caps = speed_caps(path, lane.limits_mps, style)
    enter, leave = route.junction_m
    move = network.movements[route.movement]
    into, out = network.layout.arms[move.from_arm], network.layout.arms[move.to_arm]
    event = -1.0
    if kind in _MERGES:
        to_line = generator.uniform(20.0, 60.0) + 4.0 * float(lane.limits_mps[int(enter) - 5]) + into.auxiliary_m
        start = enter - to_line - PACIFICA.front_length
    elif kind in _APPROACHES:
        start = _before(caps, enter - PACIFICA.front_length, generator.uniform(*_TO_LINE_S.get(kind, (0.8, 2.8))))
    elif kind in EVENTS:
        event = _event(network, kind, route.movement, generator)
        lead_s = generator.uniform(2.0, 5.5) + (3.0 if site_before(network, route.movement) is not None else 0.0)
        start = event - max(lead_s * float(caps[int(event)]), _LEAST_LEAD_M)
    elif kind == "pedestrian" and out.crosswalk_m is not None and into.crosswalk_m is not None:
        crosswalk = leave + out.crosswalk_m if generator.random() < 0.5 else enter - into.crosswalk_m
        start = _before(caps, crosswalk, generator.uniform(3.5, 6.5))
    elif kind == "curve":
        bends = np.flatnonzero(np.abs(path_curvature(path)) > CURVE_PER_M)
        bends = bends[(bends > 100) & (bends < len(path) - 150)]
        start = float(generator.choice(bends)) - generator.uniform(20.0, 60.0) if len(bends) else leave
    elif generator.random() < 0.6:
        start = leave + generator.uniform(0.0, 30.0)
    else:
        start = enter - generator.uniform(60.0, 160.0)
    pace = float(caps[int(np.clip(start, 0, len(caps) - 1))])
    start = float(np.clip(start - WARM_UP_S * pace, 5.0, room_m(network, route.movement)))
    speed = float(caps[int(start)]) * float(generator.uniform(0.85, 1.0))
    return Place(route, path, caps, start, speed, style, event)


def ego_style(generator: np.random.Generator) -> DriverStyle:
    """How the ego drives: no two drives alike, all of them careful."""
    return DriverStyle(
        speed_factor=float(generator.uniform(0.82, 1.02)),
        headway_s=float(generator.uniform(1.3, 1.8)),
        gap_m=float(generator.uniform(2.0, 3.0)),
        acceleration_mps2=float(generator.uniform(1.5, 2.0)),
        braking_mps2=float(generator.uniform(2.0, 2.6)),
        lateral_mps2=float(generator.uniform(1.9, 2.9)),
    )


def ego_driver(place: Place) -> Driver:
    """The ego at its place."""
    return Driver(
        path=place.path,
        caps_mps=place.caps_mps,
        start_m=place.start_m,
        speed_mps=place.speed_mps,
        size_m=ego_size(),
        style=place.style,
        movement=place.route.movement,
        enter_m=place.route.junction_m[0],
    )


def undisturbed_s(place: Place, to_m: float) -> float:
    """Time that the ego needs from its start to an arc length without any traffic."""
    stretch = place.caps_mps[int(place.start_m) : max(int(to_m), int(place.start_m))]
    return float(np.sum(1.0 / stretch))


def _before(caps_mps: Floats, place_m: float, lead_s: float) -> float:
    """Arc length from which a place is so far away in time, with the speeds (V,) that are wanted on the way."""
    times = np.cumsum(1.0 / caps_mps[: max(int(place_m), 1)])
    return float(np.searchsorted(times, times[-1] - lead_s))


def _event(network: Network, kind: str, movement: int, generator: np.random.Generator) -> float:
    if kind == "construction" and (site := site_before(network, movement)) is not None:
        return site
    bays = [bay for bay in network.bays if bay.arm == network.movements[movement].to_arm]
    if kind == "double_parked" and bays:
        path = lane_paths(network)[movement].path
        return project(path, bays[0].double_parked[int(generator.integers(len(bays[0].double_parked)))])
    if kind in ("occlusion", "parked"):
        return float(generator.choice(slots_beside(network, movement)[:, 1]))
    return float(generator.choice(event_places(network, movement)))
