"""Fills a layout with the traffic, people and things that a scenario does not prescribe."""

from typing import Final

import numpy as np

from irl_vla.geometry import Floats
from irl_vla.world.drivers import EGO, Driver, DriverStyle, SignalPlan, Stroller, path_of, speed_caps
from irl_vla.world.interaction import GREEN
from irl_vla.world.roads import polyline
from irl_vla.world.roads.layout import KERB_MARGIN_M
from irl_vla.world.roads.network import Network, Route, make_route

_NEAR_M: Final = 140.0  # traffic is put this close to where the ego may drive
_EGO_DRIVE_S: Final = 14.0
_CAR: Final = (4.7, 1.9, 1.6)
_TRUCK: Final = (8.2, 2.4, 3.1)
_PEDESTRIAN: Final = (0.6, 0.6, 1.75)
_BICYCLE: Final = (1.8, 0.6, 1.7)
_CLUTTER: Final = {
    "traffic_cone": (0.4, 0.4, 0.8),
    "barrier": (1.8, 0.5, 1.0),
    "czone_sign": (0.6, 0.6, 1.6),
    "generic_object": (0.9, 0.9, 1.1),
}


def driver_on(
    network: Network,
    route: Route,
    centre_m: float,
    speed_mps: float,
    generator: np.random.Generator,
    *,
    slow_downs: tuple[tuple[float, float, float], ...] = (),
    speed_mps_max: float | None = None,
) -> Driver:
    """A vehicle on a route with a style of its own, at most as fast as ``speed_mps_max``."""
    style = DriverStyle(
        speed_factor=float(generator.uniform(0.85, 1.05)),
        headway_s=float(generator.uniform(1.0, 1.7)),
        gap_m=float(generator.uniform(1.8, 3.0)),
        acceleration_mps2=float(generator.uniform(1.3, 2.2)),
        braking_mps2=float(generator.uniform(2.0, 3.0)),
        lateral_mps2=float(generator.uniform(1.8, 2.8)),
    )
    path = path_of(route.line)
    caps = speed_caps(path, route, style)
    if speed_mps_max is not None:
        caps = np.minimum(caps, speed_mps_max)
    return Driver(
        path=path,
        caps_mps=caps,
        start_m=centre_m,
        speed_mps=float(min(speed_mps, caps[int(np.clip(centre_m, 0, len(caps) - 1))])),
        size_m=_vehicle_size(generator),
        style=style,
        movement=route.movement if network.layout.is_junction else -1,
        enter_m=route.junction_m[0],
        slow_downs=slow_downs,
    )


def lane_changer(
    network: Network,
    route: Route,
    ego_front_m: float,
    ego_speed_mps: float,
    generator: np.random.Generator,
    *,
    warm_up_s: float,
) -> list[Driver]:
    """A vehicle ahead in the next lane that changes into the ego's lane on the same stretch of road, then slows."""
    lane = network.movements[route.movement].to_lane
    beside = [
        index
        for index, move in enumerate(network.movements)
        if move.to_arm == network.movements[route.movement].to_arm
        and move.from_arm == network.movements[route.movement].from_arm
        and abs(move.to_lane - lane) == 1
    ]
    if not beside:
        return []
    begin_s = float(generator.uniform(1.5, 5.5))
    pace = ego_speed_mps * float(generator.uniform(0.92, 1.0))
    driver = driver_on(
        network,
        make_route(network, int(generator.choice(beside))),
        ego_front_m + float(generator.uniform(0.9, 1.4)) * ego_speed_mps + 5.0,
        pace,
        generator,
        slow_downs=((begin_s + 1.5, begin_s + 6.0, pace * float(generator.uniform(0.5, 0.85))),),
        speed_mps_max=pace,
    )
    begin = driver.start_m + driver.speed_mps * (begin_s + warm_up_s)
    length = max(3.2 * driver.speed_mps, 18.0)
    goal = path_of(route.line)
    along = np.arange(min(len(goal), len(driver.path)))
    share = np.clip((along - begin) / length, 0.0, 1.0)
    blend = (share**2 * (3 - 2 * share))[:, None]
    xy = driver.path[: len(along), :2] * (1 - blend) + goal[: len(along), :2] * blend
    return [
        Driver(
            path=np.column_stack([xy, polyline.headings(xy)]),
            caps_mps=driver.caps_mps[: len(along)],
            start_m=driver.start_m,
            speed_mps=driver.speed_mps,
            size_m=driver.size_m,
            style=driver.style,
            movement=driver.movement,
            enter_m=driver.enter_m,
            slow_downs=driver.slow_downs,
        )
    ]


def draw_traffic(
    network: Network, cast: list[Driver], signal: SignalPlan | None, per_100_m: float, generator: np.random.Generator
) -> list[Driver]:
    """Vehicles on all lanes near the ego's drive, clear of those already there.

    Args:
        cast: vehicles already placed, the ego first.
        per_100_m: mean density on each lane.
    """
    ego = cast[EGO]
    ahead = ego.start_m + np.arange(0.0, _EGO_DRIVE_S * ego.speed_mps + 1.0, 20.0)
    drive = ego.path[np.clip(ahead.astype(int), 0, len(ego.path) - 1), :2]
    routes = [make_route(network, index) for index in range(len(network.movements))]
    placed: list[Driver] = []
    for lane_routes, first, last in _stretches(network, routes):
        position = first + float(generator.exponential(60.0 / per_100_m))
        while position < last:
            route = routes[int(generator.choice(lane_routes))]
            driver = _settled(driver_on(network, route, position, 99.0, generator), network, signal)
            here = driver.path[int(min(position, len(driver.path) - 1)), :2]
            near = np.linalg.norm(drive - here, axis=1).min() < _NEAR_M
            if near and not any(_too_close(driver, other) for other in (*cast, *placed)):
                placed.append(driver)
            position += 8.0 + driver.speed_mps * 1.2 + float(generator.exponential(100.0 / per_100_m))
    return placed


def draw_strollers(network: Network, generator: np.random.Generator) -> tuple[Stroller, ...]:
    """Pedestrians on the pavements and cyclists at the edge of roads without parked cars."""
    strollers = []
    for line in network.sidewalks:
        for _ in range(int(generator.integers(0, 4))):
            walked = line if generator.random() < 0.5 else line[::-1]
            shifted = _shifted(walked, float(generator.uniform(-0.8, 0.8)))
            start = float(generator.uniform(5.0, 0.8 * polyline.lengths(shifted)[-1]))
            strollers.append(Stroller("pedestrian", shifted, start, float(generator.uniform(0.0, 1.6)), _PEDESTRIAN))
    for arm in network.layout.arms:
        if not arm.parking[1] and generator.random() < 0.4:
            line = polyline.offset(arm.line[6:], -(arm.half_width_m + KERB_MARGIN_M))
            start = float(generator.uniform(0.0, 150.0))
            strollers.append(Stroller("bicycle", line, start, float(generator.uniform(3.0, 5.5)), _BICYCLE))
    return tuple(strollers)


def draw_still(
    network: Network, generator: np.random.Generator, occupancy: float
) -> tuple[tuple[str, Floats, tuple[float, float, float]], ...]:
    """Parked cars in a share of the slots, and things beside the road."""
    items: list[tuple[str, Floats, tuple[float, float, float]]] = []
    for slot in network.parking_slots:
        if generator.random() < occupancy:
            pose = slot + np.array([0.0, 0.0, generator.normal(0.0, 0.02)])
            size = (float(generator.uniform(4.2, 5.0)), float(generator.uniform(1.75, 1.95)), 1.55)
            items.append(("vehicle", pose, size))
    for line in network.sidewalks:
        name = str(generator.choice(list(_CLUTTER)))
        along = polyline.lengths(line)
        count = int(generator.integers(0, 5))
        start = float(generator.uniform(20.0, along[-1] - 40.0))
        beside = _shifted(line, 0.6)
        places = polyline.at(beside, along, start + 2.5 * np.arange(count, dtype=np.float64))
        heading = float(np.interp(start, along, polyline.headings(line)))
        items += [(name, np.array([*place, heading]), _CLUTTER[name]) for place in places]
    return tuple(items)


def _vehicle_size(generator: np.random.Generator) -> tuple[float, float, float]:
    base = _TRUCK if generator.random() < 0.08 else _CAR
    scale = generator.uniform(0.92, 1.06, 3)
    return (float(base[0] * scale[0]), float(base[1] * scale[1]), float(base[2] * scale[2]))


def _stretches(network: Network, routes: list[Route]) -> list[tuple[list[int], float, float]]:
    """Lanes to fill: the routes that use each inbound or outbound lane, and the arc lengths of that lane on them."""
    stretches = []
    moves = network.movements
    for arm in range(len(network.layout.arms)):
        for lane in range(network.layout.arms[arm].lanes):
            starting = [k for k, move in enumerate(moves) if (move.from_arm, move.from_lane) == (arm, lane)]
            ending = [k for k, move in enumerate(moves) if (move.to_arm, move.to_lane) == (arm, lane)]
            if starting:
                stretches.append((starting, 10.0, routes[starting[0]].junction_m[0] - 4.0))
            if ending:  # one route for all: only what lies ahead matters
                leave = routes[ending[0]].junction_m[1]
                stretches.append(([ending[0]], leave + 5.0, leave + 280.0))
    return stretches


def _settled(driver: Driver, network: Network, signal: SignalPlan | None) -> Driver:
    """Slows a vehicle that starts so close to a stop line that it could not stop there."""
    distance = driver.enter_m - driver.start_m - driver.size_m[0] / 2 - 2.0
    if driver.movement < 0 or distance < -2.0:
        return driver
    arm = network.layout.arms[network.movements[driver.movement].from_arm]
    free = signal.light(arm.axis, -2.0) == GREEN if signal else arm.axis == 0
    speed = driver.speed_mps if free else min(driver.speed_mps, float(np.sqrt(2 * 1.5 * max(distance, 0.0))))
    return Driver(
        driver.path,
        driver.caps_mps,
        driver.start_m,
        speed,
        driver.size_m,
        driver.style,
        driver.movement,
        driver.enter_m,
    )


def _too_close(driver: Driver, other: Driver) -> bool:
    """True if two vehicles would start in each other's way."""
    a = driver.path[int(min(driver.start_m, len(driver.path) - 1))]
    b = other.path[int(min(other.start_m, len(other.path) - 1))]
    gap = b[:2] - a[:2]
    along = abs(float(gap @ np.array([np.cos(a[2]), np.sin(a[2])])))
    across = abs(float(gap @ np.array([-np.sin(a[2]), np.cos(a[2])])))
    fastest = max(driver.speed_mps, other.speed_mps)
    return across < 2.6 and along < 9.0 + 1.5 * fastest and np.cos(a[2] - b[2]) > 0.5


def _shifted(line: Floats, left_m: float) -> Floats:
    poses = np.column_stack([line, polyline.headings(line)])
    return polyline.offset(poses, left_m)
