"""Fills a layout with the traffic, people and things that a scenario does not prescribe."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from irl_vla.geometry import Floats
from irl_vla.world.drivers import EGO, Driver, DriverStyle, SignalPlan, SlowDown, Still, Stroller, speed_caps
from irl_vla.world.interaction import GREEN
from irl_vla.world.roads import polyline
from irl_vla.world.roads.furniture import THING_SIZES_M
from irl_vla.world.roads.layout import KERB_MARGIN_M
from irl_vla.world.roads.network import Network, kerb_lane, kerb_side
from irl_vla.world.tracks import LanePaths, lane_paths
from irl_vla.world.walkers import WALKER_SIZE_M

_NEAR_M: Final = 140.0  # traffic is put this close to where the ego may drive
_EGO_DRIVE_S: Final = 14.0
_CLEAR_OF_SITE_M: Final = 9.0
_CAR: Final = (4.7, 1.9, 1.6)
_TRUCK: Final = (8.2, 2.4, 3.1)
_BICYCLE: Final = (1.8, 0.6, 1.7)


def driver_on(
    network: Network,
    movement: int,
    centre_m: float,
    speed_mps: float,
    generator: np.random.Generator,
    *,
    slow_downs: tuple[SlowDown, ...] = (),
    speed_mps_max: float | None = None,
) -> Driver:
    """A vehicle on the way over a movement with a style of its own, at most as fast as ``speed_mps_max``."""
    style = DriverStyle(
        speed_factor=float(generator.uniform(0.85, 1.05)),
        headway_s=float(generator.uniform(1.0, 1.7)),
        gap_m=float(generator.uniform(1.8, 3.0)),
        acceleration_mps2=float(generator.uniform(1.3, 2.2)),
        braking_mps2=float(generator.uniform(2.0, 3.0)),
        lateral_mps2=float(generator.uniform(1.8, 2.8)),
        politeness=float(generator.uniform(0.1, 0.6)),
        impatience_mps2=float(generator.uniform(0.3, 1.2)),
    )
    lane = lane_paths(network)[movement]
    caps = speed_caps(lane.path, lane.limits_mps, style)
    if speed_mps_max is not None:
        caps = np.minimum(caps, speed_mps_max)
    return Driver(
        path=lane.path,
        caps_mps=caps,
        start_m=centre_m,
        speed_mps=float(min(speed_mps, caps[int(np.clip(centre_m, 0, len(caps) - 1))])),
        size_m=_vehicle_size(generator),
        style=style,
        movement=movement,
        enter_m=lane.enter_m,
        slow_downs=slow_downs,
    )


def cyclist_on(network: Network, movement: int, centre_m: float, generator: np.random.Generator) -> Driver:
    """Somebody who cycles near the kerb."""
    move = network.movements[movement]
    width = network.layout.arms[move.to_arm].lane_width_m
    rider = driver_on(network, movement, centre_m, 9.0, generator, speed_mps_max=float(generator.uniform(3.2, 5.5)))
    aside = width / 2 - float(generator.uniform(0.35, 0.65))
    path = rider.path.copy()
    path[:, :2] = polyline.offset(rider.path, kerb_side(network) * aside)
    style = replace(rider.style, impatience_mps2=np.inf, acceleration_mps2=1.0, gap_m=1.5)
    return replace(rider, path=path, size_m=_BICYCLE, style=style, name="bicycle")


def draw_traffic(
    network: Network,
    cast: Sequence[Driver],
    signal: SignalPlan | None,
    per_100_m: float,
    generator: np.random.Generator,
) -> list[Driver]:
    """Vehicles on all lanes near the ego's drive, clear of those already there; now and then somebody cycles.

    Args:
        cast: vehicles already placed, the ego first.
        per_100_m: mean density on each lane.
    """
    ego = cast[EGO]
    ahead = ego.start_m + np.arange(0.0, _EGO_DRIVE_S * ego.speed_mps + 1.0, 20.0)
    drive = ego.path[np.clip(ahead.astype(int), 0, len(ego.path) - 1), :2]
    placed: list[Driver] = []
    closed = [place for site in network.sites for name, place, _ in site.things if name != "czone_sign"]
    on_site = np.array([pose[:2] for pose in closed]).reshape(-1, 2)
    for movements, first, last, is_outer in _stretches(network, lane_paths(network)):
        position = first + float(generator.exponential(60.0 / per_100_m))
        while position < last:
            movement = int(generator.choice(movements))
            if is_outer and generator.random() < 0.06:
                driver = cyclist_on(network, movement, position, generator)
            else:
                driver = driver_on(network, movement, position, 99.0, generator)
            driver = _settled(driver, network, signal)
            here = driver.path[int(min(position, len(driver.path) - 1)), :2]
            near = np.linalg.norm(drive - here, axis=1).min() < _NEAR_M
            near &= not np.any(np.linalg.norm(on_site - here, axis=1) < _CLEAR_OF_SITE_M)
            if near and not any(too_close(driver, other) for other in (*cast, *placed)):
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
            strollers.append(Stroller("pedestrian", shifted, start, float(generator.uniform(0.0, 1.6)), WALKER_SIZE_M))
    for arm in network.layout.arms:
        is_plain = arm.lanes_out > 0 and not arm.is_fast and arm.bay_m is None and arm.closure is None
        if is_plain and not arm.parking[1] and generator.random() < 0.4:
            line = polyline.offset(arm.line[6:], arm.outward_side * (arm.edge_m(inward=False) + KERB_MARGIN_M))
            start = float(generator.uniform(0.0, 150.0))
            strollers.append(Stroller("bicycle", line, start, float(generator.uniform(3.0, 5.5)), _BICYCLE))
    return tuple(strollers)


def draw_still(
    network: Network, generator: np.random.Generator, occupancy: float, keep_free: Floats
) -> tuple[Still, ...]:
    """Parked cars, vans and trucks in a share of the slots, and things beside the road.

    Args:
        keep_free: (K, 2) places that must stay free.
    """
    items: list[Still] = []
    for slot in network.parking_slots:
        wanted = generator.random() < occupancy
        parked = parked_vehicle(slot, generator, tall=generator.random() < 0.15)
        if wanted and not np.any(np.linalg.norm(keep_free - slot[:2], axis=1) < 0.5 * parked.size_m[0] + 0.9):
            items.append(parked)
    for line in network.sidewalks:
        name = str(generator.choice(list(THING_SIZES_M)))
        along = polyline.lengths(line)
        count = int(generator.integers(0, 5))
        start = float(generator.uniform(20.0, along[-1] - 40.0))
        beside = _shifted(line, 0.6)
        places = polyline.at(beside, along, start + 2.5 * np.arange(count, dtype=np.float64))
        heading = float(np.interp(start, along, polyline.headings(line)))
        items += [Still(name, np.array([*place, heading]), THING_SIZES_M[name]) for place in places]
    return tuple(items)


def parked_vehicle(slot: Floats, generator: np.random.Generator, *, tall: bool) -> Still:
    """A car, or something that one cannot look over, parked at a slot (3,)."""
    pose = slot + np.array([0.0, 0.0, generator.normal(0.0, 0.02)])
    if tall:
        size = (
            float(generator.uniform(5.2, 5.8)),
            float(generator.uniform(1.95, 2.05)),
            float(generator.uniform(2.4, 2.8)),
        )
    else:
        size = (float(generator.uniform(4.2, 5.0)), float(generator.uniform(1.75, 1.95)), 1.55)
    return Still("vehicle", pose, size)


def cones(places: Floats) -> list[Still]:
    """Traffic cones at (K, 3) poses."""
    return [Still("traffic_cone", pose, THING_SIZES_M["traffic_cone"]) for pose in places]


def works(pose: Floats, generator: np.random.Generator) -> Still:
    """A barrier or a sign of a construction site."""
    name = "barrier" if generator.random() < 0.6 else "czone_sign"
    return Still(name, pose, THING_SIZES_M[name])


def _vehicle_size(generator: np.random.Generator) -> tuple[float, float, float]:
    base = _TRUCK if generator.random() < 0.08 else _CAR
    scale = generator.uniform(0.92, 1.06, 3)
    return (float(base[0] * scale[0]), float(base[1] * scale[1]), float(base[2] * scale[2]))


def _stretches(network: Network, lanes: tuple[LanePaths, ...]) -> list[tuple[list[int], float, float, bool]]:
    """Lanes to fill: the movements that use each lane, the arc lengths of that lane on them, is it the outermost."""
    stretches = []
    moves = network.movements
    for arm in range(len(network.layout.arms)):
        can_cycle = not network.layout.arms[arm].is_fast
        for lane in range(max(len(network.inbound[arm]), len(network.outbound[arm]))):
            outer = (can_cycle and lane == kerb_lane(network, arm, inward=True),
                     can_cycle and lane == kerb_lane(network, arm, inward=False))  # fmt: skip
            starting = [k for k, move in enumerate(moves) if (move.from_arm, move.from_lane) == (arm, lane)]
            ending = [k for k, move in enumerate(moves) if (move.to_arm, move.to_lane) == (arm, lane)]
            if starting:
                stretches.append((starting, 10.0, lanes[starting[0]].enter_m - 4.0, outer[0]))
            if ending:  # one way for all: only what lies ahead matters
                leave = lanes[ending[0]].leave_m
                stretches.append(([ending[0]], leave + 5.0, leave + 280.0, outer[1]))
    return stretches


def _settled(driver: Driver, network: Network, signal: SignalPlan | None) -> Driver:
    """Slows a vehicle that starts so close to a stop line that it could not stop there."""
    distance = driver.enter_m - driver.start_m - driver.size_m[0] / 2 - 2.0
    if not network.layout.is_junction or distance < -2.0:
        return driver
    arm = network.layout.arms[network.movements[driver.movement].from_arm]
    free = signal.light(arm.axis, -2.0) == GREEN if signal else arm.axis == 0
    speed = driver.speed_mps if free else min(driver.speed_mps, float(np.sqrt(2 * 1.5 * max(distance, 0.0))))
    return replace(driver, speed_mps=speed)


def too_close(driver: Driver, other: Driver) -> bool:
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
