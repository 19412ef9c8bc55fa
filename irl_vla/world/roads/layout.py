"""What a road layout looks like, drawn from a seed: arms that meet in a junction."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely

from irl_vla.geometry import Floats
from irl_vla.world.roads import polyline

#: Kinds of layout, cycled through by the layouts of a split; the first two support every scenario between them.
FAMILIES: Final = ("cross_signal", "cross_priority", "tee_signal", "bend", "tee_priority")
#: Paved shoulder beside the outermost lane; part of the roadblock.
KERB_MARGIN_M: Final = 1.0
#: Vertex spacing of arm reference lines.
STEP_M: Final = 2.0
PARKING_WIDTH_M: Final = 2.5

_SPEED_LIMITS_MPS: Final = (8.3, 11.1, 13.4, 15.6)
_ARM_LENGTH_M: Final = (300.0, 340.0)
_CLEARANCE_M: Final = 12.0


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One road leaving the junction, with both driving directions.

    Attributes:
        line: (V, 3) reference poses pointing away from the junction, ``STEP_M`` apart, between the two directions.
        lanes: number of lanes in each direction.
        median_m: gap between the directions.
        parking: (beside the lanes towards, beside the lanes away from the junction).
        crosswalk_m: distance of a mid-block crosswalk from the junction, or None.
        axis: signal group and right of way: 0 is the major road, 1 the minor one.
    """

    line: Floats
    lanes: int
    lane_width_m: float
    median_m: float
    speed_limit_mps: float
    parking: tuple[bool, bool]
    crosswalk_m: float | None
    axis: int

    @property
    def half_width_m(self) -> float:
        """From the reference line to the outer lane boundary."""
        return self.median_m / 2 + self.lanes * self.lane_width_m

    @property
    def max_curvature(self) -> float:
        """Largest absolute curvature of the reference line, 1/m."""
        return float(np.abs(np.diff(self.line[:, 2])).max() / STEP_M)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A junction (or a mere bend, with two arms) in a city's projected frame.

    Attributes:
        name: unique over all splits, e.g. "test-003".
        number: unique over all splits; spaces the ids and places of layouts in a city.
        arms: counter-clockwise around ``centre``.
    """

    name: str
    number: int
    city: str
    family: str
    centre: Floats
    arms: tuple[Arm, ...]

    @property
    def has_signal(self) -> bool:
        """True if traffic lights rule the junction."""
        return self.family.endswith("signal")

    @property
    def is_junction(self) -> bool:
        """False for a bend, where two arms simply continue each other."""
        return len(self.arms) > 2


def draw_layout(
    name: str, generator: np.random.Generator, *, number: int, city: str, family: str, centre: Floats, index: int
) -> Layout:
    """Draws a layout; arms that would come too close to each other are drawn again with straighter ones.

    Args:
        index: place in its split; lane counts follow from it, so that every split has roads of 1, 2 and 3 lanes.
    """
    bearings, axes = _bearings(family, generator)
    lanes = _lane_counts(family, index, generator)
    roads = [_cross_section(lanes[axis], generator) for axis in (0, 1)]
    widest = max(road["median_m"] / 2 + road["lanes"] * road["lane_width_m"] for road in roads)
    setback = widest + generator.uniform(10.5, 15.5) if family != "bend" else 1.0
    for attempt in range(40):
        bend_scale = 1.0 - attempt / 39
        arms = tuple(
            _draw_arm(_arm_start(centre, bearing, setback), axis, roads[axis], bend_scale, generator)
            for bearing, axis in zip(bearings, axes, strict=True)
        )
        if _apart(arms):
            break
    return Layout(name, number, city, family, centre, arms)


def _bearings(family: str, generator: np.random.Generator) -> tuple[list[float], list[int]]:
    turn = generator.uniform(0, 2 * np.pi)
    jitter = generator.uniform(-0.16, 0.16, 4)
    quarter = np.pi / 2
    if family == "bend":
        return [turn, turn + np.pi], [0, 0]
    count = 3 if family.startswith("tee") else 4
    # the third arm of a T is the minor road; the major road stays nearly straight
    places, axes = ([0, 1, 2], [0, 1, 0]) if count == 3 else ([0, 1, 2, 3], [0, 1, 0, 1])
    return [turn + quarter * place + jitter[place] for place in places], axes


def _lane_counts(family: str, index: int, generator: np.random.Generator) -> tuple[int, int]:
    major = (2, 3, 1)[index % 3]
    if family.endswith("priority"):
        return min(major, 2), 1
    return major, int(generator.integers(1, min(major, 2) + 1))


def _cross_section(lanes: int, generator: np.random.Generator) -> dict[str, float]:
    slowest = 0 if lanes == 1 else 1
    return {
        "lanes": lanes,
        "lane_width_m": float(generator.uniform(3.4, 3.9)),
        "median_m": float(generator.uniform(0.4, 1.6)),
        "speed_limit_mps": _SPEED_LIMITS_MPS[int(generator.integers(slowest, slowest + 3))],
    }


def _arm_start(centre: Floats, bearing: float, setback_m: float) -> Floats:
    return np.array([*(centre + setback_m * np.array([np.cos(bearing), np.sin(bearing)])), bearing])


def _draw_arm(
    start: Floats, axis: int, road: dict[str, float], bend_scale: float, generator: np.random.Generator
) -> Arm:
    """An arm that leaves the junction at ``start`` (3,); ``bend_scale`` 0 makes it straight."""
    steps = round(generator.uniform(*_ARM_LENGTH_M) / STEP_M)
    curvature = np.zeros(steps)
    # tight enough that drivers slow down, wide enough for the road; lateral acceleration 2.5 .. 4.5 at the limit
    half_width = road["median_m"] / 2 + road["lanes"] * road["lane_width_m"]
    begin = generator.uniform(45.0, 70.0)
    side = generator.choice([-1.0, 1.0])
    for _ in range(int(generator.choice([0, 1, 2], p=[0.2, 0.4, 0.4]))):
        radius = max(road["speed_limit_mps"] ** 2 / generator.uniform(2.5, 4.5), half_width + 14.0)
        sweep = generator.uniform(0.6, 1.3) * bend_scale
        arc = slice(round(begin / STEP_M), round((begin + radius * sweep) / STEP_M))
        curvature[arc] = side / radius
        begin += radius * sweep + generator.uniform(30.0, 60.0)
        side = -side if generator.random() < 0.7 else side
    ramp = np.ones(8) / 8  # 16 m from straight to full curvature
    curvature = np.convolve(curvature, ramp, mode="same")
    curvature[:6] = curvature[-6:] = 0.0
    return Arm(
        line=polyline.integrate(start, curvature, STEP_M),
        lanes=int(road["lanes"]),
        lane_width_m=road["lane_width_m"],
        median_m=road["median_m"],
        speed_limit_mps=road["speed_limit_mps"],
        parking=(bool(generator.random() < 0.5), bool(generator.random() < 0.6)),
        crosswalk_m=float(generator.uniform(90.0, 150.0)),
        axis=axis,
    )


def _apart(arms: tuple[Arm, ...]) -> bool:
    """True if no arm comes near another one (or itself) away from the junction."""
    room = [arm.half_width_m + PARKING_WIDTH_M + _CLEARANCE_M / 2 for arm in arms]
    far = [shapely.LineString(arm.line[15:, :2]) for arm in arms]
    whole = [shapely.LineString(arm.line[:, :2]) for arm in arms]
    for i, arm in enumerate(arms):
        if not whole[i].is_simple or np.abs(arm.line[:, 2] - arm.line[0, 2]).max() > 1.9:
            return False
        if any(shapely.distance(far[i], whole[j]) < room[i] + room[j] for j in range(len(arms)) if j != i):
            return False
    return True
