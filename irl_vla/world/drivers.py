"""Drivers, pedestrians and signals of a scenario, before anything moves."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from irl_vla.geometry import PACIFICA, Floats
from irl_vla.world.interaction import CLEARANCE, GREEN, RED
from irl_vla.world.roads import polyline
from irl_vla.world.roads.network import Network, Route

#: Index of the ego in all lists of drivers.
EGO: Final = 0
_BRAKE_AHEAD_MPS2: Final = 1.3  # with which drivers slow down for a bend


@dataclass(frozen=True, slots=True)
class DriverStyle:
    """How somebody drives: the parameters of the intelligent driver model and of MOBIL, drawn for each.

    Attributes:
        speed_factor: desired speed over the limit.
        headway_s, gap_m: desired distance to the leader: time and standstill part.
        acceleration_mps2, braking_mps2: comfortable values.
        lateral_mps2: lateral acceleration accepted in bends.
        politeness: weight of the new follower's loss in a lane change.
        impatience_mps2: smallest gain for which lanes are changed; ``inf`` for who never does it of their own accord.
    """

    speed_factor: float
    headway_s: float
    gap_m: float
    acceleration_mps2: float
    braking_mps2: float
    lateral_mps2: float
    politeness: float = 0.3
    impatience_mps2: float = np.inf


class SlowDown(NamedTuple):
    """An order to drive no faster than ``speed_mps`` from ``start_s`` to ``end_s``, braking up to ``braking_mps2``."""

    start_s: float
    end_s: float
    speed_mps: float
    braking_mps2: float = 3.2


@dataclass(frozen=True, slots=True, eq=False)
class Driver:
    """A moving vehicle or cyclist at the start of a scenario.

    Attributes:
        path: (V, 3) poses 1 m apart, from the baseline of its route.
        caps_mps: (V,) fastest wanted speed there: limit, bends ahead.
        start_m: arc length of the box centre (of the rear axle for the ego).
        movement: index into the network's movements, ``enter_m`` the arc length of its stop line; -1 if it never comes.
        slow_downs: orders; they belong to the script, nobody else knows of them.
        name: annotated object name.
    """

    path: Floats
    caps_mps: Floats
    start_m: float
    speed_mps: float
    size_m: tuple[float, float, float]
    style: DriverStyle
    movement: int = -1
    enter_m: float = 0.0
    slow_downs: tuple[SlowDown, ...] = ()
    name: str = "vehicle"


@dataclass(frozen=True, slots=True, eq=False)
class Walker:
    """A pedestrian who wants to cross the road, at a crosswalk or anywhere.

    Attributes:
        line: (2, 2) from the edge of the road where the walk starts to the other one.
        margin_m: sets off once the ego is this close to having to brake with ``braking_mps2``.
        braking_mps2: what the pedestrian expects of drivers: nobody has to brake harder.
        earliest_s, latest_s: time window of setting off; outside of it the ego does not matter.
        goes: False for who stands at the edge as if to cross, and stays.
        jaywalks: True off the crosswalks: drivers do not expect anybody there.
    """

    line: Floats
    speed_mps: float
    margin_m: float
    earliest_s: float
    latest_s: float
    braking_mps2: float = 1.9
    goes: bool = True
    jaywalks: bool = False

    @property
    def length_m(self) -> float:
        """From edge to edge."""
        return float(np.linalg.norm(self.line[1] - self.line[0]))


@dataclass(frozen=True, slots=True, eq=False)
class Stroller:
    """Somebody who moves along a line (V, 2) at constant speed and meets nobody: on the pavement, beside the lanes."""

    name: str
    line: Floats
    start_m: float
    speed_mps: float
    size_m: tuple[float, float, float]


class Still(NamedTuple):
    """Something that never moves: object name, pose (3,) of its centre, length, width and height."""

    name: str
    pose: Floats
    size_m: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """A fixed-time signal with one phase an axis.

    Attributes:
        start_s: a time at which axis 0 turns green.
        green_s: green time of each axis.
        clearance_s: amber and all-red after each green: nobody sets off, the junction empties, nothing is flagged red.
    """

    start_s: float
    green_s: tuple[float, float]
    clearance_s: float = 5.0

    def light(self, axis: int, time_s: float) -> int:
        """GREEN, CLEARANCE or RED of an axis."""
        first = self.green_s[0] + self.clearance_s
        cycle = first + self.green_s[1] + self.clearance_s
        phase = (time_s - self.start_s - axis * first) % cycle
        if phase < self.green_s[axis]:
            return GREEN
        return CLEARANCE if phase < self.green_s[axis] + self.clearance_s else RED


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """Everything that determines a drive, beside the ego driver's small random variations.

    Attributes:
        route: the ego's.
        warm_up_s: time simulated before the record starts.
        drivers: the ego first.
        blocking: what stands on the road, where drivers must go around it or stop.
        still: what stands beside it.
        focus: index of the driver, or of the walker, who makes the event of the kind; -1 without one.
    """

    kind: str
    network: Network
    route: Route
    drivers: tuple[Driver, ...]
    walkers: tuple[Walker, ...] = ()
    strollers: tuple[Stroller, ...] = ()
    blocking: tuple[Still, ...] = ()
    still: tuple[Still, ...] = ()
    signal: SignalPlan | None = None
    warm_up_s: float = 2.0
    focus: int = -1


def path_of(line: Floats) -> Floats:
    """(V, 3) poses 1 m apart along a baseline (W, 2); the remainder at the end is dropped."""
    along = polyline.lengths(line)
    xy = polyline.at(line, along, np.arange(0.0, along[-1], 1.0))
    return np.column_stack([xy, polyline.headings(xy)])


def path_curvature(path: Floats) -> Floats:
    """(V,) curvature of a path of :func:`path_of`, smoothed over 5 m."""
    curvature = np.gradient(path[:, 2])
    padded = np.pad(curvature, 2, mode="edge")
    return np.convolve(padded, np.ones(5) / 5, mode="valid")


def speed_caps(path: Floats, limits_mps: Floats, style: DriverStyle) -> Floats:
    """(V,) fastest wanted speed: limit (V,) times habit, bends, and braking in time for them."""
    bends = np.sqrt(style.lateral_mps2 / np.maximum(np.abs(path_curvature(path)), 1e-4))
    squares = np.minimum(limits_mps * style.speed_factor, bends) ** 2
    ramp = 2 * _BRAKE_AHEAD_MPS2 * np.arange(len(squares))
    # the slowest point ahead, each allowed as much more as braking from here to there takes off
    reachable = np.minimum.accumulate((squares + ramp)[::-1])[::-1] - ramp
    return np.asarray(np.sqrt(np.maximum(reachable, 0.01)))


def route_limits(route: Route, count: int) -> Floats:
    """(count,) speed limit at every metre of a route."""
    lane = np.searchsorted(route.lane_starts_m, np.arange(count), side="right") - 1
    return np.asarray(route.limits_mps[lane])


def ego_size() -> tuple[float, float, float]:
    """Length, width and height of the ego."""
    return PACIFICA.length, PACIFICA.width, PACIFICA.height
