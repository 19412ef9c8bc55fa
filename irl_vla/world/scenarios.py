"""Draws scenarios: where the ego starts, who else is there, and what happens.

Kinds: ``cruise`` free driving · ``curve`` a bend that asks for less speed · ``follow`` dense flow · ``lead_stop`` the
leader brakes, often to a standstill, and drives on · ``red_light`` a signal that is red or turns red · ``green_light``
one that is green · ``turn_left``, ``turn_right`` at a junction · ``crossing`` from the minor road across or into the
major one · ``pedestrian`` at a mid-block crosswalk · ``parked`` along a row of parked cars · ``cut_in`` somebody
changes into the ego's lane.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from irl_vla.geometry import PACIFICA, Floats
from irl_vla.world import surroundings
from irl_vla.world.drivers import (
    Driver,
    DriverStyle,
    Scenario,
    SignalPlan,
    Walker,
    ego_size,
    path_curvature,
    path_of,
    speed_caps,
)
from irl_vla.world.roads.network import Network, Route, make_route

KINDS: Final = (
    "cruise",
    "curve",
    "follow",
    "lead_stop",
    "red_light",
    "green_light",
    "turn_left",
    "turn_right",
    "crossing",
    "pedestrian",
    "parked",
    "cut_in",
)
#: Kinds that start on the arm towards the junction, a given time away from its stop line.
_APPROACHES: Final = ("red_light", "green_light", "turn_left", "turn_right", "crossing")
#: Drives may last this long before they come near the end of a route.
LONGEST_DRIVE_S: Final = 16.0
_WARM_UP_S: Final = 2.0
_CURVE_PER_M: Final = 1 / 90


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where and how the ego starts: its route, the speeds it wants there, rear-axle arc length, speed and style."""

    route: Route
    path: Floats
    caps_mps: Floats
    start_m: float
    speed_mps: float
    style: DriverStyle


def possible_movements(network: Network, kind: str) -> list[int]:
    """Movements whose routes can show a scenario kind; empty if the layout does not support it."""
    layout = network.layout
    chosen = []
    for index, move in enumerate(network.movements):
        into, out = layout.arms[move.from_arm], layout.arms[move.to_arm]
        fits = {
            "curve": max(into.max_curvature, out.max_curvature) > _CURVE_PER_M,
            "red_light": layout.has_signal,
            "green_light": layout.has_signal and move.turn == "straight",
            "turn_left": move.turn == "left",
            "turn_right": move.turn == "right",
            "crossing": layout.is_junction and not layout.has_signal and into.axis == 1,
            "parked": out.parking[1] and move.to_lane == out.lanes - 1,
            "cut_in": out.lanes > 1,
        }
        # kinds away from the junction still cross it cleanly: straight on, by the major road
        calm = move.turn == "straight" and into.axis == 0
        if fits.get(kind, True) and (calm or kind in _APPROACHES):
            chosen.append(index)
    return chosen


def draw_scenario(network: Network, kind: str, generator: np.random.Generator) -> Scenario:
    """Draws a scenario of a kind on a layout that supports it."""
    movement = int(generator.choice(possible_movements(network, kind)))
    route = make_route(network, movement)
    style = _ego_style(generator)
    place = _place(network, kind, route, style, generator)
    ego = _ego_driver(network, place)
    signal = _signal(network, kind, place, generator)
    drivers = [ego]
    drivers += _cast(network, kind, place, signal, generator)
    density = {"follow": 1.6, "cruise": 0.6, "turn_left": 0.6, "crossing": 1.1, "pedestrian": 0.4}.get(
        kind, 0.9
    ) * generator.uniform(0.6, 1.3)
    drivers += surroundings.draw_traffic(network, drivers, signal, density, generator)
    crowded = kind == "parked"
    return Scenario(
        kind=kind,
        network=network,
        route=route,
        drivers=tuple(drivers),
        walkers=_walkers(network, kind, place, generator),
        strollers=surroundings.draw_strollers(network, generator),
        still=surroundings.draw_still(network, generator, occupancy=0.85 if crowded else generator.uniform(0.1, 0.5)),
        signal=signal,
        warm_up_s=_WARM_UP_S,
    )


def _ego_style(generator: np.random.Generator) -> DriverStyle:
    return DriverStyle(
        speed_factor=float(generator.uniform(0.93, 1.0)),
        headway_s=float(generator.uniform(1.2, 1.6)),
        gap_m=float(generator.uniform(2.0, 3.0)),
        acceleration_mps2=float(generator.uniform(1.5, 1.9)),
        braking_mps2=float(generator.uniform(2.0, 2.6)),
        lateral_mps2=float(generator.uniform(1.4, 1.8)),
    )


def _place(network: Network, kind: str, route: Route, style: DriverStyle, generator: np.random.Generator) -> Place:
    """Chooses the start so that the kind's event comes during the record."""
    path = path_of(route.line)
    caps = speed_caps(path, route, style)
    enter, leave = route.junction_m
    into, out = (network.layout.arms[arm] for arm in _arms(network, route))
    if kind in _APPROACHES:
        to_line = generator.uniform(20.0, 60.0) + (30.0 if kind in ("red_light", "green_light") else 0.0)
        start = enter - to_line - PACIFICA.front_length
    elif kind == "pedestrian" and out.crosswalk_m is not None and into.crosswalk_m is not None:
        crosswalk = leave + out.crosswalk_m if generator.random() < 0.5 else enter - into.crosswalk_m
        start = crosswalk - generator.uniform(40.0, 70.0)
    elif kind == "curve":
        bends = np.flatnonzero(np.abs(path_curvature(path)) > _CURVE_PER_M)
        bends = bends[(bends > 100) & (bends < len(path) - 150)]
        start = float(generator.choice(bends)) - generator.uniform(20.0, 60.0) if len(bends) else leave
    elif kind == "parked" or generator.random() < 0.6:
        start = leave + generator.uniform(0.0, 30.0)
    else:
        start = enter - generator.uniform(60.0, 160.0)
    pace = float(caps[int(np.clip(start, 0, len(caps) - 1))])
    # a policy that looks 4 s ahead must not see the end of the world at the end of the drive
    room = float(caps.max()) * (_WARM_UP_S + LONGEST_DRIVE_S + 5.0)
    start = float(np.clip(start - _WARM_UP_S * pace, 5.0, len(path) - room))
    speed = float(caps[int(start)]) * float(generator.uniform(0.85, 1.0))
    return Place(route, path, caps, start, speed, style)


def _arms(network: Network, route: Route) -> tuple[int, int]:
    move = network.movements[route.movement]
    return move.from_arm, move.to_arm


def _ego_driver(network: Network, place: Place) -> Driver:
    return Driver(
        path=place.path,
        caps_mps=place.caps_mps,
        start_m=place.start_m,
        speed_mps=place.speed_mps,
        size_m=ego_size(),
        style=place.style,
        movement=place.route.movement if network.layout.is_junction else -1,
        enter_m=place.route.junction_m[0],
    )


def _signal(network: Network, kind: str, place: Place, generator: np.random.Generator) -> SignalPlan | None:
    if not network.layout.has_signal:
        return None
    axis = network.layout.arms[_arms(network, place.route)[0]].axis
    green = (float(generator.uniform(14.0, 20.0)), float(generator.uniform(12.0, 18.0)))
    line = place.route.junction_m[0] - PACIFICA.front_length
    arrival = _undisturbed_s(place, line) - _WARM_UP_S
    if kind != "red_light":
        begin = max(arrival, 0.0) - generator.uniform(2.0, 7.0)
    elif generator.random() < 0.6:  # red first: it turns green about when the ego would have stopped, or later
        begin = min(max(arrival, 0.0) + generator.uniform(0.5, 5.0), 10.0)
    else:  # turns red while the ego can still stop comfortably
        pace = float(place.caps_mps[int(np.clip(line, 0, len(place.caps_mps) - 1))])
        braking = pace**2 / (2 * 2.0) + generator.uniform(4.0, 18.0)
        begin = _undisturbed_s(place, line - braking) - _WARM_UP_S - green[axis]
    first = green[0] + SignalPlan(0.0, green).clearance_s
    return SignalPlan(start_s=float(begin - axis * first), green_s=green)


def _undisturbed_s(place: Place, to_m: float) -> float:
    """Time that the ego needs from its start to an arc length without any traffic."""
    stretch = place.caps_mps[int(place.start_m) : max(int(to_m), int(place.start_m))]
    return float(np.sum(1.0 / stretch))


def _cast(
    network: Network, kind: str, place: Place, signal: SignalPlan | None, generator: np.random.Generator
) -> list[Driver]:
    """The vehicles around the ego that make the scenario: leaders, a follower, whoever cuts in."""
    drivers = []
    front = place.start_m + PACIFICA.front_length
    if kind == "lead_stop":
        begin = float(generator.uniform(1.0, 5.0))
        target = 0.0 if generator.random() < 0.65 else 0.35 * place.speed_mps
        orders = ((begin, begin + float(generator.uniform(3.0, 5.0)), target),)
        gap = float(generator.uniform(1.2, 2.2)) * place.speed_mps + 4.0
        drivers.append(
            surroundings.driver_on(network, place.route, front + gap, place.speed_mps, generator, slow_downs=orders)
        )
    elif kind == "follow":
        position, speed = front, place.speed_mps * float(generator.uniform(0.65, 0.9))
        for _ in range(3):
            position += float(generator.uniform(1.1, 1.8)) * speed + 6.0
            drivers.append(
                surroundings.driver_on(network, place.route, position, speed, generator, speed_mps_max=speed)
            )
            position += 5.0
    elif kind == "cut_in":
        drivers += surroundings.lane_changer(
            network, place.route, front, place.speed_mps, generator, warm_up_s=_WARM_UP_S
        )
    elif kind == "red_light" and signal is not None and generator.random() < 0.5:
        enter = place.route.junction_m[0]
        for rank in range(int(generator.integers(1, 3))):
            position = enter - 3.5 - 7.5 * rank
            if position - front > 25.0:
                drivers.append(surroundings.driver_on(network, place.route, position, 0.0, generator))
    if generator.random() < 0.6:
        gap = float(generator.uniform(1.2, 2.5)) * place.speed_mps + 5.0
        behind = place.start_m - PACIFICA.rear_length - gap
        if behind > 10.0:
            drivers.append(surroundings.driver_on(network, place.route, behind, place.speed_mps, generator))
    return drivers


def _walkers(network: Network, kind: str, place: Place, generator: np.random.Generator) -> tuple[Walker, ...]:
    """Pedestrians at the crosswalks; those of the "pedestrian" kind wait for the ego."""
    walkers = []
    enter, leave = place.route.junction_m
    into, out = _arms(network, place.route)
    for index, walk in enumerate(network.crosswalks):
        if not walk.is_midblock:
            continue
        distance = network.layout.arms[walk.arm].crosswalk_m or 0.0
        where = leave + distance if walk.arm == out else enter - distance if walk.arm == into else -1.0
        met = kind == "pedestrian" and 0.0 < where - place.start_m < 130.0
        if not met and generator.random() > 0.25:
            continue
        near_end = 0 if walk.arm == out else 1  # the kerb beside the ego's lanes
        from_end = near_end if met and generator.random() < 0.7 else int(generator.integers(2))
        walkers += [
            Walker(
                crosswalk=index,
                from_end=from_end if generator.random() < 0.8 else 1 - from_end,
                speed_mps=float(generator.uniform(1.1, 1.7)),
                beside_m=float(generator.uniform(-1.2, 1.2)),
                margin_m=float(generator.uniform(2.0, 10.0)),
                earliest_s=-_WARM_UP_S if met else float(generator.uniform(0.0, 12.0)),
                latest_s=12.0 if met else 0.0,
            )
            for _ in range(int(generator.integers(1, 4)))
        ]
    return tuple(walkers)
