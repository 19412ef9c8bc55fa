"""Drives a scenario until the result is worth recording: clean, and showing what its kind promises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely

from irl_vla.geometry import PACIFICA, box_corners
from irl_vla.world.clock import RECORD_EVERY
from irl_vla.world.drivers import EGO, Scenario
from irl_vla.world.moments import Moment
from irl_vla.world.roads.network import Network
from irl_vla.world.scenarios import draw_scenario
from irl_vla.world.traffic import simulate
from irl_vla.world.walkers import WALKER_SIZE_M

Bodies: TypeAlias = npt.NDArray[np.object_]  # polygons
_ATTEMPTS: Final = 30
_EVENT_ATTEMPTS: Final = 8  # after so many, a clean drive without the event will do
_NEAR_M: Final = 15.0
_SEEN_M: Final = 90.0  # as far as logs annotate by default
_SIDE_AIR_M: Final = 0.3
_NOTABLE_BRAKING_MPS2: Final = -1.0
#: Kinds that make the ego brake, unless nothing happens.
_BRAKES: Final = ("hard_brake", "jaywalker", "occlusion", "lead_stop", "red_light", "pedestrian", "cut_in")
_ROLLING_MPS: Final = 2.0
_LONGEST_STAND: Final = 0.5  # share of a drive


@dataclass(frozen=True, slots=True, eq=False)
class Drive:
    """A recorded drive and what is needed to repeat it.

    Attributes:
        noise: state of the generator's bit generator when the simulation began.
    """

    scenario: Scenario
    moments: list[Moment]
    noise: Mapping[str, Any]


def drive(network: Network, kind: str, frames: int, generator: np.random.Generator) -> tuple[Scenario, list[Moment]]:
    """:func:`repeatable_drive` for those who only watch."""
    kept = repeatable_drive(network, kind, frames, generator)
    return kept.scenario, kept.moments


def repeatable_drive(network: Network, kind: str, frames: int, generator: np.random.Generator) -> Drive:
    """Draws and simulates scenarios of a kind until one is clean and eventful.

    Args:
        frames: moments at 2 Hz.

    Raises:
        RuntimeError: if no clean drive is found, which would be a fault of the world.
    """
    clean: Drive | None = None
    for attempt in range(_ATTEMPTS):
        scenario = draw_scenario(network, kind, generator)
        noise = generator.bit_generator.state
        moments = simulate(scenario, frames, generator)
        if not is_clean(scenario, moments):
            continue
        if is_eventful(scenario, moments):
            return Drive(scenario, moments, noise)
        clean = clean or Drive(scenario, moments, noise)
        if attempt >= _EVENT_ATTEMPTS:
            break
    if clean is None:
        raise RuntimeError(f"layout {network.layout.name}: no clean {kind!r} drive in {_ATTEMPTS} attempts")
    return clean


def is_clean(scenario: Scenario, moments: Sequence[Moment]) -> bool:
    """True if the ego stays on the road, comes closer than 30 cm to nobody, and no two others are in one place."""
    return (
        stays_on_road(scenario, moments)
        and keeps_clear(scenario, moments, _SIDE_AIR_M)
        and not any(_overlapping(scenario, moment) for moment in moments)
    )


def stays_on_road(scenario: Scenario, moments: Sequence[Moment]) -> bool:
    """True if all corners of the ego's box are always where one may drive, also between the moments."""
    recorded = np.stack([moment.poses[EGO] for moment in moments])
    recorded[:, 2] = np.unwrap(recorded[:, 2])
    steps = np.arange(0.0, len(moments) - 1 + 1e-9, 1 / RECORD_EVERY)
    poses = np.column_stack([np.interp(steps, np.arange(len(moments)), column) for column in recorded.T])
    corners = box_corners(poses, PACIFICA.length, PACIFICA.width)
    return bool(np.all(shapely.contains_xy(_road(scenario.network), corners[..., 0], corners[..., 1])))


def keeps_clear(scenario: Scenario, moments: Sequence[Moment], air_m: float) -> bool:
    """True if the ego comes closer than ``air_m`` to nobody."""
    for moment in moments:
        ego = moment.poses[EGO]
        body = shapely.Polygon(box_corners(ego, PACIFICA.length + 2 * air_m, PACIFICA.width + 2 * air_m))
        if np.any(shapely.intersects(body, _bodies(scenario, moment, _NEAR_M))):
            return False
    return True


def _overlapping(scenario: Scenario, moment: Moment) -> bool:
    """True if two of the others are in one place, as far as one sees."""
    bodies = _bodies(scenario, moment, _SEEN_M)
    first, second = shapely.STRtree(bodies).query(bodies, predicate="intersects")
    return bool(np.any(first != second))


def _bodies(scenario: Scenario, moment: Moment, within_m: float) -> Bodies:
    """Outlines of everybody and everything but the ego, with centres this close to it."""
    still = [item.pose for item in (*scenario.blocking, *scenario.still)]
    poses = np.concatenate([moment.poses[1:], moment.walkers, moment.strollers, np.array(still).reshape(-1, 3)])
    sizes = np.array(
        [driver.size_m for driver in scenario.drivers[1:]]
        + [WALKER_SIZE_M] * len(scenario.walkers)
        + [item.size_m for item in scenario.strollers]
        + [item.size_m for item in (*scenario.blocking, *scenario.still)]
    ).reshape(-1, 3)
    near = np.linalg.norm(poses[:, :2] - moment.poses[EGO, :2], axis=1) < within_m  # False for drivers who left (NaN)
    return np.asarray(shapely.polygons(box_corners(poses[near], sizes[near, 0], sizes[near, 1])))


@lru_cache(maxsize=64)
def _road(network: Network) -> shapely.Geometry:
    """Where one may drive: lane groups, junctions and places to park."""
    content = network.content
    areas = [row.polygon for row in content.groups]
    areas += [row.polygon for row in (*content.intersections, *content.carparks)]
    road = shapely.union_all(areas)
    shapely.prepare(road)
    return road


def is_eventful(scenario: Scenario, moments: Sequence[Moment]) -> bool:
    """True if the ego does what the kind is about, and does not stand for most of the drive."""
    speeds = np.array([moment.ego.speed_mps for moment in moments])
    braking = min(moment.ego.acceleration_mps2 for moment in moments)
    if np.mean(speeds < 0.1) > _LONGEST_STAND:
        return False
    kind = scenario.kind
    if kind in ("turn_left", "turn_right", "crossing", "green_light"):
        enter, leave = scenario.route.junction_m
        return moments[0].ego.along_m < enter and moments[-1].ego.along_m > (enter + leave) / 2
    if kind == "merge":  # who finds no gap waits at the end of the ramp
        return bool(speeds[-1] > _ROLLING_MPS)
    return kind not in _BRAKES or _nothing_happens(scenario) or braking < _NOTABLE_BRAKING_MPS2


def _nothing_happens(scenario: Scenario) -> bool:
    """True if the event of a kind only threatens: nobody brakes hard, whoever waits at the kerb stays there."""
    if scenario.kind == "pedestrian":
        return not any(walker.goes and walker.latest_s > 0.0 for walker in scenario.walkers)
    return scenario.kind in ("hard_brake", "jaywalker", "occlusion") and scenario.focus < 0
