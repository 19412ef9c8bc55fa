"""Drivers, pedestrians and signals of a scenario, before anything moves."""

from dataclasses import dataclass
from typing import Final

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
    """How somebody drives.

    Attributes:
        speed_factor: desired speed over the limit.
        headway_s, gap_m: desired distance to the leader: time and standstill part.
        acceleration_mps2, braking_mps2: comfortable values.
        lateral_mps2: lateral acceleration accepted in bends.
    """

    speed_factor: float
    headway_s: float
    gap_m: float
    acceleration_mps2: float
    braking_mps2: float
    lateral_mps2: float


@dataclass(frozen=True, slots=True, eq=False)
class Driver:
    """A moving vehicle at the start of a scenario.

    Attributes:
        path: (V, 3) poses 1 m apart, from the baseline of its route.
        caps_mps: (V,) fastest wanted speed there: limit, bends ahead.
        start_m: arc length of the box centre (of the rear axle for the ego).
        movement: index into the network's movements, ``enter_m`` the arc length of its stop line; -1 if it never comes.
        slow_downs: (start s, end s, speed) orders to drive no faster than this for a while.
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
    slow_downs: tuple[tuple[float, float, float], ...] = ()
    name: str = "vehicle"


@dataclass(frozen=True, slots=True)
class Walker:
    """A pedestrian who wants to cross at a crosswalk.

    Attributes:
        crosswalk: index into the network's crosswalks; ``from_end`` 0 or 1 is the kerb where the walk starts.
        beside_m: offset along the road.
        margin_m: sets off once the ego is this close to having to brake comfortably for the crosswalk.
        earliest_s, latest_s: time window of setting off; outside of it the ego does not matter.
    """

    crosswalk: int
    from_end: int
    speed_mps: float
    beside_m: float
    margin_m: float
    earliest_s: float
    latest_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Stroller:
    """Somebody who moves along a line (V, 2) at constant speed and meets nobody: on the pavement, beside the lanes."""

    name: str
    line: Floats
    start_m: float
    speed_mps: float
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
        still: (name, pose (3,), size) of what never moves.
    """

    kind: str
    network: Network
    route: Route
    drivers: tuple[Driver, ...]
    walkers: tuple[Walker, ...] = ()
    strollers: tuple[Stroller, ...] = ()
    still: tuple[tuple[str, Floats, tuple[float, float, float]], ...] = ()
    signal: SignalPlan | None = None
    warm_up_s: float = 2.0


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


def speed_caps(path: Floats, route: Route, style: DriverStyle) -> Floats:
    """(V,) fastest wanted speed: limit times habit, bends, and braking in time for them."""
    lane = np.searchsorted(route.lane_starts_m, np.arange(len(path)), side="right") - 1
    limits = route.limits_mps[lane] * style.speed_factor
    bends = np.sqrt(style.lateral_mps2 / np.maximum(np.abs(path_curvature(path)), 1e-4))
    squares = np.minimum(limits, bends) ** 2
    for index in range(len(squares) - 2, -1, -1):
        squares[index] = min(squares[index], squares[index + 1] + 2 * _BRAKE_AHEAD_MPS2)
    return np.asarray(np.sqrt(squares))


def ego_size() -> tuple[float, float, float]:
    """Length, width and height of the ego."""
    return PACIFICA.length, PACIFICA.width, PACIFICA.height
