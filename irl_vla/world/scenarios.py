"""Draws scenarios: where the ego starts, who else is there, and what happens.

Kinds, and what decides there what is right:

``cruise`` free driving · ``curve`` a bend that asks for less speed · ``follow`` dense flow · ``lead_stop`` the leader
brakes, often to a standstill, and drives on · ``hard_brake`` the leader brakes hard at any moment, or never ·
``tailgater`` somebody comes from behind and stays close · ``cut_in`` somebody changes into the ego's lane ·
``red_light`` a signal that is red or turns red · ``green_light`` one that is green, with oncoming left-turners ·
``turn_left``, ``turn_right`` at a junction · ``crossing`` from the minor road across or into the major one ·
``stop_sign`` a junction where the ego has to stop first · ``roundabout`` giving way to who is in the ring ·
``merge`` from a ramp into the main road, or past a ramp · ``lane_drop`` two lanes become one ·
``pedestrian`` at a mid-block crosswalk · ``jaywalker`` somebody crosses elsewhere, or only stands at the kerb ·
``occlusion`` the same from behind a parked van · ``parked`` along a row of parked cars · ``double_parked`` a vehicle
stands partly in the lane · ``construction`` cones narrow or close the lane · ``cyclist`` somebody cycles ahead, to be
overtaken when there is room.
"""

from typing import Final

import numpy as np

from irl_vla.geometry import PACIFICA
from irl_vla.world import surroundings
from irl_vla.world.casts import draw_cast
from irl_vla.world.drivers import EGO, Scenario, SignalPlan, Still, Walker
from irl_vla.world.lane_changes import RAMP
from irl_vla.world.places import (
    CURVE_PER_M,
    EVENTS,
    PARKED_ROW,
    WARM_UP_S,
    Place,
    draw_place,
    ego_driver,
    ego_style,
    event_places,
    site_before,
    slots_beside,
    undisturbed_s,
)
from irl_vla.world.roads.network import Network, kerb_lane, make_route
from irl_vla.world.setting import Cast, Setting

KINDS: Final = (
    "cruise",
    "curve",
    "follow",
    "lead_stop",
    "hard_brake",
    "tailgater",
    "cut_in",
    "red_light",
    "green_light",
    "turn_left",
    "turn_right",
    "crossing",
    "stop_sign",
    "roundabout",
    "merge",
    "lane_drop",
    "pedestrian",
    "jaywalker",
    "occlusion",
    "parked",
    "double_parked",
    "construction",
    "cyclist",
)
#: Vehicles per 100 m of lane, before a random factor.
_DENSITY: Final = {
    "follow": 1.6,
    "cruise": 0.6,
    "turn_left": 0.35,
    "turn_right": 0.6,
    "crossing": 0.35,
    "stop_sign": 0.5,
    "pedestrian": 0.4,
    "jaywalker": 0.4,
    "occlusion": 0.4,
    "double_parked": 0.6,
    "cyclist": 0.5,
    "construction": 0.6,
}
_FROM_RAMP: Final = 0.8
_ABREAST_M: Final = (-1.0, 0.0, 1.0)  # those who use a crosswalk at the same time


def possible_movements(network: Network, kind: str) -> list[int]:
    """Movements whose routes can show a scenario kind; empty if the layout does not support it."""
    return [index for index in range(len(network.movements)) if _shows(network, index, kind)]


def _shows(network: Network, index: int, kind: str) -> bool:
    layout, move = network.layout, network.movements[index]
    into, out = layout.arms[move.from_arm], layout.arms[move.to_arm]
    control, crosses = layout.control, layout.is_crossing and layout.control != "roundabout"
    joins = [
        other
        for other in network.movements
        if (other.to_arm, other.to_lane) == (move.to_arm, move.to_lane)
        and other.turn == move.turn
        and other is not move
    ]
    rules = {
        "red_light": layout.has_signal,
        "green_light": layout.has_signal and move.turn == "straight",
        "turn_left": crosses and move.turn == "left",
        "turn_right": crosses and move.turn == "right",
        "crossing": control == "yield" and move.sign == "yield",
        "stop_sign": move.sign == "stop",
        "roundabout": control == "roundabout",
        "merge": control == "merge" and bool(joins),
        "lane_drop": control == "zipper" and bool(joins),
    }
    if kind in rules:
        return rules[kind]
    # kinds away from the junction still cross it cleanly: straight on, without giving way
    if move.turn != "straight" or move.sign in ("stop", "yield") or control in ("roundabout", "merge", "zipper"):
        return False
    at_kerb = move.to_lane == kerb_lane(network, move.to_arm, inward=False)
    street = not (into.is_fast or out.is_fast)
    event = len(event_places(network, index)) > 0
    places = {
        "curve": max(into.max_curvature, out.max_curvature) > CURVE_PER_M,
        "parked": street and len(slots_beside(network, index)) >= PARKED_ROW,
        "cut_in": len(network.outbound[move.to_arm]) > 1 and not network.sites,
        "pedestrian": street and out.crosswalk_m is not None and into.crosswalk_m is not None,
        "jaywalker": street and event,
        "occlusion": street and len(slots_beside(network, index)) > 0,
        "double_parked": street and event and at_kerb and not network.sites,
        "cyclist": street and event and at_kerb and not network.sites,
        "construction": site_before(network, index) is not None or (street and event and at_kerb and not network.sites),
    }
    return places.get(kind, site_before(network, index) is None)


def draw_scenario(network: Network, kind: str, generator: np.random.Generator) -> Scenario:
    """Draws a scenario of a kind on a layout that supports it."""
    movement = _movement(network, kind, generator)
    route = make_route(network, movement)
    place = draw_place(network, kind, route, ego_style(generator), generator)
    signal = _signal(network, kind, place, generator)
    cast = draw_cast(kind, Setting(network, place, signal, generator))
    drivers = [ego_driver(place), *cast.drivers]
    density = _DENSITY.get(kind, 0.9) * generator.uniform(0.6, 1.3)
    drivers += surroundings.draw_traffic(network, drivers, signal, density, generator)
    occupancy = 0.85 if kind in ("parked", "occlusion") else generator.uniform(0.1, 0.6)
    return Scenario(
        kind=kind,
        network=network,
        route=route,
        drivers=tuple(drivers),
        walkers=(*cast.walkers, *_walkers(network, kind, place, generator)),
        strollers=surroundings.draw_strollers(network, generator),
        blocking=(*cast.blocking, *(Still(*item) for site in network.sites for item in site.things)),
        still=(*cast.parked, *surroundings.draw_still(network, generator, occupancy, _kept_free(cast))),
        signal=signal,
        warm_up_s=WARM_UP_S,
        focus=_focus(cast),
    )


def _movement(network: Network, kind: str, generator: np.random.Generator) -> int:
    """The ego's; in a merge mostly from the ramp, because who is on the main road already has little to do."""
    possible = possible_movements(network, kind)
    ramps = [index for index in possible if network.movements[index].from_arm == RAMP]
    if kind == "merge" and ramps and generator.random() < _FROM_RAMP:
        possible = ramps
    return int(generator.choice(possible))


def _focus(cast: Cast) -> int:
    if cast.focus < 0:
        return -1
    return cast.focus if cast.walkers else EGO + 1 + cast.focus


def _kept_free(cast: Cast) -> np.ndarray:
    """Places where nothing may park: where somebody steps out, what stands there already, the road beside it."""
    places = [walker.line[0] for walker in cast.walkers] + [item.pose[:2] for item in (*cast.parked, *cast.blocking)]
    walked = [walker.line[0] - 1.0 * (walker.line[1] - walker.line[0]) / walker.length_m for walker in cast.walkers]
    return np.array([*places, *walked, *cast.kept_free]).reshape(-1, 2)


def _signal(network: Network, kind: str, place: Place, generator: np.random.Generator) -> SignalPlan | None:
    if not network.layout.has_signal:
        return None
    axis = network.layout.arms[network.movements[place.route.movement].from_arm].axis
    green = (float(generator.uniform(14.0, 20.0)), float(generator.uniform(12.0, 18.0)))
    line = place.route.junction_m[0] - PACIFICA.front_length
    arrival = undisturbed_s(place, line) - WARM_UP_S
    if kind != "red_light":
        begin = max(arrival, 0.0) - generator.uniform(2.0, 7.0)
    elif generator.random() < 0.6:  # red first: it turns green about when the ego would have stopped, or later
        begin = min(max(arrival, 0.0) + generator.uniform(0.5, 4.0), 10.0)
    else:  # turns red while the ego can still stop comfortably
        pace = float(place.caps_mps[int(np.clip(line, 0, len(place.caps_mps) - 1))])
        braking = pace**2 / (2 * 2.0) + generator.uniform(4.0, 18.0)
        begin = undisturbed_s(place, line - braking) - WARM_UP_S - green[axis]
    first = green[0] + SignalPlan(0.0, green).clearance_s
    return SignalPlan(start_s=float(begin - axis * first), green_s=green)


def _walkers(network: Network, kind: str, place: Place, generator: np.random.Generator) -> tuple[Walker, ...]:
    """Pedestrians at the mid-block crosswalks; those of the "pedestrian" kind wait for the ego."""
    walkers = []
    enter, leave = place.route.junction_m
    move = network.movements[place.route.movement]
    for walk in network.crosswalks:
        if not walk.is_midblock:
            continue
        distance = network.layout.arms[walk.arm].crosswalk_m or 0.0
        is_out, is_in = walk.arm == move.to_arm, walk.arm == move.from_arm
        where = leave + distance if is_out else enter - distance if is_in else -1.0
        met = kind == "pedestrian" and 0.0 < where - place.start_m < 130.0
        if not met and (generator.random() > 0.25 or kind in EVENTS):
            continue
        near_end = 0 if is_out else 1  # the kerb beside the ego's lanes
        from_end = near_end if met and generator.random() < 0.7 else int(generator.integers(2))
        goes = not met or bool(generator.random() < 0.8)
        ahead = (walk.ends[1] - walk.ends[0]) / np.linalg.norm(walk.ends[1] - walk.ends[0])
        sideways = np.array([-ahead[1], ahead[0]])
        # side by side, and past each other
        for aside in generator.permutation(_ABREAST_M)[: int(generator.integers(1, 4))]:
            end = from_end if generator.random() < 0.8 else 1 - from_end
            line = walk.ends if end == 0 else walk.ends[::-1]
            walkers.append(
                Walker(
                    line=line + float(aside + generator.uniform(-0.1, 0.1)) * sideways,
                    speed_mps=float(generator.uniform(1.1, 1.7)),
                    margin_m=float(generator.uniform(2.0, 10.0)),
                    earliest_s=-WARM_UP_S if met else float(generator.uniform(0.0, 12.0)),
                    latest_s=12.0 if met else 0.0,
                    goes=goes,
                )
            )
    return tuple(walkers)
