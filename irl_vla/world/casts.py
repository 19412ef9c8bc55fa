"""Who and what makes the event of a scenario kind: leaders, followers, pedestrians, obstacles."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from irl_vla.geometry import PACIFICA, Floats
from irl_vla.world import surroundings
from irl_vla.world.drivers import Driver, SlowDown, Still, Walker
from irl_vla.world.places import WARM_UP_S, site_before, slots_beside, undisturbed_s
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import KERB_MARGIN_M, STEP_M, Arm
from irl_vla.world.setting import Cast, Setting
from irl_vla.world.tracks import MOST_NUDGE_M, PASSING_AIR_M, blended, lane_paths, project

_EGO_HALF_M: Final = PACIFICA.width / 2
_EASY_BRAKING_MPS2: Final = 1.5  # with which the ego can adapt to a slow queue from the start
_PULL_OUT_M: Final = 14.0  # way from a parking slot into the lane
_PULL_OUT_MPS: Final = 4.5
_CORNER_M: Final = (7.0, 14.0)  # from the junction to the middle of a truck that hides who comes
_NOTHING_HAPPENS: Final = 0.3  # share of the drives whose event only threatens to happen


def draw_cast(kind: str, setting: Setting) -> Cast:
    """The cast of a kind, and now and then somebody behind the ego."""
    cast = _CASTS[kind](setting) if kind in _CASTS else Cast()
    generator, place = setting.generator, setting.place
    if kind != "tailgater" and generator.random() < 0.6:
        gap = float(generator.uniform(1.2, 2.5)) * place.speed_mps + 5.0
        behind = place.start_m - PACIFICA.rear_length - gap
        if behind > 10.0:
            follower = surroundings.driver_on(setting.network, setting.movement, behind, place.speed_mps, generator)
            cast = cast._replace(drivers=(*cast.drivers, follower))
    return cast


def _leader(setting: Setting, headway_s: tuple[float, float], order: SlowDown | None) -> Driver:
    """Somebody who stays ahead of the ego."""
    gap = float(setting.generator.uniform(*headway_s)) * setting.place.speed_mps + 4.0
    driver = surroundings.driver_on(
        setting.network,
        setting.movement,
        setting.front_m + gap,
        setting.place.speed_mps,
        setting.generator,
        slow_downs=() if order is None else (order,),
    )
    return replace(driver, style=replace(driver.style, impatience_mps2=np.inf))


def _lead_stop(setting: Setting) -> Cast:
    begin = float(setting.generator.uniform(0.5, 8.0))
    target = 0.0 if setting.generator.random() < 0.65 else 0.35 * setting.place.speed_mps
    order = SlowDown(begin, begin + float(setting.generator.uniform(3.0, 5.0)), target)
    return Cast(drivers=(_leader(setting, (1.2, 2.2), order),), focus=0)


def _hard_brake(setting: Setting) -> Cast:
    """Nothing in the approach tells when the leader brakes, or whether it does."""
    if setting.generator.random() < _NOTHING_HAPPENS:
        return Cast(drivers=(_leader(setting, (1.4, 2.0), None),))
    begin = float(setting.generator.uniform(0.5, 10.0))
    target = float(setting.generator.choice([0.0, 0.0, 0.25])) * setting.place.speed_mps
    order = SlowDown(
        begin, begin + float(setting.generator.uniform(2.0, 3.5)), target, float(setting.generator.uniform(4.5, 6.0))
    )
    return Cast(drivers=(_leader(setting, (1.4, 2.0), order),), focus=0)


def _follow(setting: Setting) -> Cast:
    drivers = []
    position, speed = setting.front_m, setting.place.speed_mps * float(setting.generator.uniform(0.2, 0.9))
    position += max(setting.place.speed_mps**2 - speed**2, 0.0) / (2 * _EASY_BRAKING_MPS2)
    for _ in range(3):
        position += float(setting.generator.uniform(1.1, 1.8)) * speed + 6.0
        driver = surroundings.driver_on(
            setting.network, setting.movement, position, speed, setting.generator, speed_mps_max=speed
        )
        drivers.append(replace(driver, style=replace(driver.style, impatience_mps2=np.inf)))
        position += 5.0
    return Cast(drivers=tuple(drivers))


def _tailgater(setting: Setting) -> Cast:
    """Faster than the ego and close behind it; half of the time somebody ahead slows down as well."""
    place, generator = setting.place, setting.generator
    gap = float(generator.uniform(12.0, 30.0))
    behind = max(place.start_m - PACIFICA.rear_length - gap, 3.0)
    driver = surroundings.driver_on(setting.network, setting.movement, behind, place.speed_mps + 3.0, generator)
    style = replace(
        driver.style,
        headway_s=float(generator.uniform(0.45, 0.7)),
        braking_mps2=4.0,
        speed_factor=1.2,
        impatience_mps2=np.inf,  # stays behind the ego
    )
    faster = replace(driver, style=style, caps_mps=driver.caps_mps * 1.2, speed_mps=place.speed_mps + 2.0)
    ahead = _lead_stop(setting).drivers if generator.random() < 0.5 else ()
    return Cast(drivers=(faster, *ahead), focus=0)


def _cut_in(setting: Setting) -> Cast:
    """A vehicle ahead in the next lane changes into the ego's lane on the same stretch of road, then slows."""
    network, place, generator = setting.network, setting.place, setting.generator
    mine = network.movements[setting.movement]
    beside = [
        index
        for index, move in enumerate(network.movements)
        if (move.to_arm, move.from_arm) == (mine.to_arm, mine.from_arm) and abs(move.to_lane - mine.to_lane) == 1
    ]
    if not beside:
        return Cast()
    begin_s = float(generator.uniform(1.0, 7.0))
    pace = place.speed_mps * float(generator.uniform(0.92, 1.0))
    start = setting.front_m + float(generator.uniform(0.9, 1.4)) * place.speed_mps + 5.0
    start += (place.caps_mps[int(place.start_m)] - pace) * (begin_s + WARM_UP_S)  # which the ego catches up until then
    order = SlowDown(begin_s + 1.5, begin_s + 6.0, pace * float(generator.uniform(0.5, 0.85)))
    driver = surroundings.driver_on(
        network, int(generator.choice(beside)), start, pace, generator, slow_downs=(order,), speed_mps_max=pace
    )
    begin = driver.start_m + driver.speed_mps * (begin_s + WARM_UP_S)
    goal = project(place.path, driver.path[int(min(begin, len(driver.path) - 1))], begin)
    way = blended(driver.path, begin, place.path, goal, max(3.2 * driver.speed_mps, 18.0))
    # until it leaves its lane the path is its own; arc lengths behind may be off by what the lanes differ
    path = np.concatenate([driver.path[: int(begin)], way[int(goal) :]])
    caps = np.minimum(np.interp(np.arange(len(path)), np.arange(len(place.caps_mps)), place.caps_mps), pace)
    style = replace(driver.style, impatience_mps2=np.inf)
    line_m = place.route.junction_m[0] + int(begin) - int(goal) if begin < driver.enter_m else driver.enter_m
    return Cast(drivers=(replace(driver, path=path, caps_mps=caps, style=style, enter_m=line_m),), focus=0)


def _red_light(setting: Setting) -> Cast:
    if setting.generator.random() < 0.5:
        return Cast()
    positions = [
        setting.place.route.junction_m[0] - 3.5 - 7.5 * rank for rank in range(int(setting.generator.integers(1, 3)))
    ]
    return Cast(
        drivers=tuple(
            surroundings.driver_on(setting.network, setting.movement, position, 0.0, setting.generator)
            for position in positions
            if position - setting.front_m > 25.0
        )
    )


def _oncoming(setting: Setting) -> Cast:
    """Somebody who wants to turn left across the ego's way, or comes straight on against the ego's left turn."""
    moves, mine = setting.network.movements, setting.network.movements[setting.movement]
    across = "right" if setting.network.layout.keeps_left else "left"
    wanted = across if mine.turn == "straight" else "straight"
    facing = [
        index
        for index, move in enumerate(moves)
        if move.turn == wanted
        and move.from_arm != mine.from_arm
        and not np.isnan(setting.network.conflicts[setting.movement, index, 0])
        and setting.network.layout.arms[move.from_arm].axis == setting.network.layout.arms[mine.from_arm].axis
    ]
    if not facing:
        return Cast()
    drivers, distance = [], float(setting.generator.uniform(15.0, 70.0))
    for _ in range(int(setting.generator.integers(1, 3))):
        index = int(setting.generator.choice(facing))
        position = lane_paths(setting.network)[index].enter_m - distance
        drivers.append(surroundings.driver_on(setting.network, index, position, 8.0, setting.generator))
        distance += float(setting.generator.uniform(12.0, 45.0))
    return Cast(drivers=tuple(drivers))


def _jaywalker(setting: Setting) -> Cast:
    """From the kerb beside the ego's direction, anywhere."""
    event = setting.place.event_m
    half = setting.lane_width_m(event) / 2
    kerb = half + setting.lanes_to_kerb(event) * 2 * half + KERB_MARGIN_M
    start, end = setting.beside(event, kerb), setting.beside(event, -(half + 3.5))
    return _walks(setting, np.stack([start[:2], end[:2]]))


def _occlusion(setting: Setting) -> Cast:
    """From before a parked van, which hides whoever stands there until the first step onto the road."""
    found = slots_beside(setting.network, setting.movement)
    slot = int(found[np.argmin(np.abs(found[:, 1] - setting.place.event_m)), 0])
    van = surroundings.parked_vehicle(setting.network.parking_slots[slot], setting.generator, tall=True)
    where = project(setting.place.path, van.pose) + van.size_m[0] / 2 + float(setting.generator.uniform(0.7, 1.3))
    half = setting.lane_width_m(where) / 2
    start, end = setting.beside(where, half + KERB_MARGIN_M + 0.2), setting.beside(where, -(half + 3.5))
    return _walks(setting, np.stack([start[:2], end[:2]]))._replace(parked=(van,))


def _walks(setting: Setting, line: Floats) -> Cast:
    goes = bool(setting.generator.random() > _NOTHING_HAPPENS)
    walker = Walker(
        line=line,
        speed_mps=float(setting.generator.uniform(1.2, 2.2)),
        margin_m=float(setting.generator.uniform(0.5, 12.0)),
        earliest_s=-WARM_UP_S,
        latest_s=14.0,
        braking_mps2=2.7,
        goes=goes,
        jaywalks=True,
    )
    return Cast(walkers=(walker,), focus=0 if goes else -1)


def _pulling_out(setting: Setting) -> Cast:
    """Half of the time one of the parked cars pulls out before the ego, from between others that hide it."""
    generator, place = setting.generator, setting.place
    if generator.random() < _NOTHING_HAPPENS + 0.2:
        return Cast()
    found = slots_beside(setting.network, setting.movement)
    slot = int(found[np.argmin(np.abs(found[:, 1] - place.event_m)), 0])
    pace = float(place.caps_mps[int(place.event_m)])
    leaves_s = undisturbed_s(place, place.event_m) - WARM_UP_S
    leaves_s -= pace / (2 * _EASY_BRAKING_MPS2) + float(generator.uniform(0.3, 1.8))
    begin = project(place.path, setting.network.parking_slots[slot])
    driver = surroundings.driver_on(
        setting.network,
        setting.movement,
        begin,
        0.0,
        generator,
        slow_downs=(SlowDown(-WARM_UP_S, max(leaves_s, -WARM_UP_S + 0.1), 0.0),),
        speed_mps_max=pace,
    )
    start = setting.beside(begin, 0.0)
    aside = setting.network.parking_slots[slot, :2] - start[:2]
    along = np.clip((np.arange(len(driver.path)) - begin - 1.0) / _PULL_OUT_M, 0.0, 1.0)
    share = 1 - polyline.smooth_step(along)
    path = np.column_stack([driver.path[:, :2] + share[:, None] * aside, driver.path[:, 2]])
    path[1:-1, 2] = np.unwrap(np.arctan2(*(path[2:, :2] - path[:-2, :2]).T[::-1]))
    path[:, 2] += 2 * np.pi * np.round((driver.path[:, 2] - path[:, 2]) / (2 * np.pi))
    caps = np.where(along < 1.0, np.minimum(driver.caps_mps, _PULL_OUT_MPS), driver.caps_mps)
    style = replace(driver.style, impatience_mps2=np.inf)
    size = surroundings.parked_vehicle(start, generator, tall=False).size_m
    leaving = replace(driver, path=path, caps_mps=caps, style=style, size_m=size)
    return Cast(
        drivers=(leaving,),
        kept_free=np.stack([start[:2] + aside, setting.beside(begin + _PULL_OUT_M / 2, 0.0)[:2] + aside]),
        focus=0,
    )


def _crossing(setting: Setting) -> Cast:
    """Others on the major road; half of the time a truck at the corner hides those from the near side."""
    cast, generator = _who_cross(setting, 2), setting.generator
    back_m = float(generator.uniform(*_CORNER_M))
    if generator.random() < _NOTHING_HAPPENS + 0.2:
        return cast
    arms = [arm for arm in setting.network.layout.arms if arm.axis == 0 and arm.lanes_in]
    corners = np.stack([_half_on_pavement(arm, back_m) for arm in arms])
    line = setting.place.path[int(setting.place.route.junction_m[0]), :2]
    near = corners[np.argmin(np.linalg.norm(corners[:, :2] - line, axis=1))]
    return cast._replace(parked=(surroundings.parked_vehicle(near, generator, tall=True),))


def _half_on_pavement(arm: Arm, along_m: float) -> Floats:
    """(3,) pose of a truck beside the lanes towards a junction, clear of them."""
    at = arm.line[[round(along_m / STEP_M)]]
    aside = -arm.outward_side * (arm.edge_m(inward=True) + KERB_MARGIN_M + 0.2)
    return np.array([*polyline.offset(at, aside)[0], at[0, 2] + np.pi])


def _double_parked(setting: Setting) -> Cast:
    """A vehicle stands partly in the lane; one goes around it when there is room beside."""
    generator, event = setting.generator, setting.place.event_m
    tall = bool(generator.random() < 0.4)
    size = surroundings.parked_vehicle(np.zeros(3), generator, tall=tall).size_m
    half = size[1] / 2
    # as far into the lane as passing within the limit of a nudge allows
    least = half + _EGO_HALF_M + PASSING_AIR_M + 0.05 - MOST_NUDGE_M
    aside = least + float(generator.uniform(0.0, 0.45))
    pose = setting.beside(event, aside) + np.array([0.0, 0.0, generator.normal(0.0, 0.02)])
    slots = [slot for bay in setting.network.bays for slot in bay.slots if generator.random() < 0.7]
    parked = [surroundings.parked_vehicle(slot, generator, tall=generator.random() < 0.2) for slot in slots]
    return Cast(blocking=(Still("vehicle", pose, size),), parked=tuple(parked))


def _construction(setting: Setting) -> Cast:
    """Cones that taper into the lane and leave room to squeeze past; where a site closes the lane, that site."""
    generator, event = setting.generator, setting.place.event_m
    if site_before(setting.network, setting.movement) is not None:
        return Cast()  # the work site of the layout is there in any case
    half, length = setting.lane_width_m(event) / 2, float(generator.uniform(14.0, 32.0))
    along = np.arange(0.0, length, 3.0)
    reach = _EGO_HALF_M + PASSING_AIR_M + 0.1 - MOST_NUDGE_M + float(generator.uniform(0.0, 0.5))
    share = np.clip(along / 9.0, 0.0, 1.0)
    aside = (half + 0.2) * (1 - share) + (reach + 0.2) * share
    items = surroundings.cones(np.stack([setting.beside(event + a, s) for a, s in zip(along, aside, strict=True)]))
    inside = [setting.beside(event + a, reach + 1.5) for a in np.arange(12.0, length - 2.0, 6.0)]
    return Cast(blocking=(*items, *(surroundings.works(pose, generator) for pose in inside)))


def _merge(setting: Setting) -> Cast:
    """Traffic on the lane that the ego has to get into, level with it, or somebody who has to get into the ego's."""
    moves, mine = setting.network.movements, setting.network.movements[setting.movement]
    others = [
        index
        for index, move in enumerate(moves)
        if (move.to_arm, move.to_lane) == (mine.to_arm, mine.to_lane)
        and (move.from_arm, move.from_lane) != (mine.from_arm, mine.from_lane)
    ]
    if not others:
        return Cast()
    generator, drivers = setting.generator, []
    index = int(generator.choice(others))
    to_line = setting.place.route.junction_m[0] - setting.place.start_m
    distance = to_line + float(generator.uniform(-14.0, 10.0))
    for _ in range(int(generator.integers(1, 4))):
        position = lane_paths(setting.network)[index].enter_m - distance
        if position > 5.0:
            pace = setting.place.speed_mps * float(generator.uniform(0.9, 1.1))
            drivers.append(surroundings.driver_on(setting.network, index, position, pace, generator))
        distance += float(generator.uniform(1.8, 3.6)) * setting.place.speed_mps + 6.0
    return Cast(drivers=tuple(drivers))


def _circulating(setting: Setting) -> Cast:
    """Others who are about to enter the roundabout, and may be in the ego's way there."""
    return _who_cross(setting, 4)


def _who_cross(setting: Setting, most: int) -> Cast:
    """Up to so many from other arms, near the junction and with ways that cross the ego's."""
    generator = setting.generator
    drivers: list[Driver] = []
    arm = setting.network.movements[setting.movement].from_arm
    others = [
        index
        for index, move in enumerate(setting.network.movements)
        if move.from_arm != arm and not np.isnan(setting.network.conflicts[setting.movement, index, 0])
    ]
    for _ in range(int(generator.integers(1, most + 1)) if others else 0):  # nobody crosses some right turns
        index = int(generator.choice(others))
        position = lane_paths(setting.network)[index].enter_m - float(generator.uniform(5.0, 60.0))
        driver = surroundings.driver_on(setting.network, index, position, 6.0, generator)
        if not any(surroundings.too_close(driver, other) for other in drivers):
            drivers.append(driver)
    return Cast(drivers=tuple(drivers))


def _cyclist(setting: Setting) -> Cast:
    """Somebody ahead cycles; the ego meets them about where the event is."""
    rider = surroundings.cyclist_on(setting.network, setting.movement, setting.place.event_m, setting.generator)
    lead = (setting.place.event_m - setting.front_m) / max(setting.place.speed_mps, 3.0)
    start = setting.place.event_m - rider.speed_mps * lead
    return Cast(drivers=(replace(rider, start_m=max(start, setting.front_m + 12.0)),), focus=0)


_CASTS: Final[dict[str, Callable[[Setting], Cast]]] = {
    "lead_stop": _lead_stop,
    "hard_brake": _hard_brake,
    "follow": _follow,
    "tailgater": _tailgater,
    "cut_in": _cut_in,
    "red_light": _red_light,
    "green_light": _oncoming,
    "turn_left": _oncoming,
    "crossing": _crossing,
    "parked": _pulling_out,
    "jaywalker": _jaywalker,
    "occlusion": _occlusion,
    "double_parked": _double_parked,
    "construction": _construction,
    "cyclist": _cyclist,
    "merge": _merge,
    "lane_drop": _merge,
    "roundabout": _circulating,
    "stop_sign": _circulating,
}
