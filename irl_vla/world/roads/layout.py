"""What a road layout is: arms that meet in a junction, and what is built along them."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from irl_vla.geometry import Floats

#: Who gives way in a junction. ``signal``: lights, one phase an axis. ``yield``, ``stop``: arms of axis 1 give way
#: to axis 0, behind a stop sign if ``stop``. ``all_stop``: everybody stops, first come first served. ``roundabout``:
#: entries give way to the ring. ``merge``: a ramp (axis 1) gives way to the main road. ``zipper``: two lanes become one
#: and nobody has priority. ``free``: movements never meet.
Control = Literal["signal", "yield", "stop", "all_stop", "roundabout", "merge", "zipper", "free"]

#: Kinds of layout with what rules their junction. A split takes them in turn: the first two show everyday driving,
#: the first eight every kind of road, the others vary them.
FAMILIES: Final[dict[str, Control]] = {
    "cross_signal": "signal",
    "cross_priority": "yield",
    "merge": "merge",
    "roundabout": "roundabout",
    "pickup": "free",
    "cross_all_stop": "all_stop",
    "works": "free",
    "lane_drop": "zipper",
    "tee_signal": "signal",
    "cross_stop": "stop",
    "highway": "free",
    "tee_roundabout": "roundabout",
    "bend": "free",
    "tee_all_stop": "all_stop",
    "tee_priority": "yield",
    "tee_stop": "stop",
}
#: Cities where traffic keeps to the left.
LEFT_HAND_CITIES: Final = frozenset({"sg-one-north"})
#: Paved shoulder beside the outermost lane; part of the roadblock.
KERB_MARGIN_M: Final = 1.0
#: The same in roundabouts, whose bends follow each other quickly; on the inside the apron of the island.
RING_MARGIN_M: Final = 1.7
#: Vertex spacing of arm reference lines.
STEP_M: Final = 2.0
PARKING_WIDTH_M: Final = 2.5
#: On faster roads nobody parks, walks or cycles.
FASTEST_STREET_MPS: Final = 16.0


@dataclass(frozen=True, slots=True)
class LaneClosure:
    """A work site on the lanes that lead away from the junction.

    Attributes:
        lane: the closed lane, counted from the left: the innermost or the outermost one.
        begin_m, end_m: where it is closed over its full width, as distances along the arm's reference line.
        taper_m: length before ``begin_m`` over which cones lead out of the lane.
    """

    lane: int
    begin_m: float
    end_m: float
    taper_m: float


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One road leaving the junction, with both driving directions; a ramp has one direction only.

    Attributes:
        line: (V, 3) reference poses pointing away from the junction, ``STEP_M`` apart, between the two directions.
        lanes_in, lanes_out: number of lanes towards and away from the junction.
        median_m: gap between the directions.
        parking: (beside the lanes towards, beside the lanes away from the junction).
        crosswalk_m: distance of a mid-block crosswalk from the junction, or None.
        axis: signal group and right of way: 0 is the major road, 1 the minor one.
        auxiliary_m: length of an acceleration lane at the outer side of the lanes towards the junction, where it ends;
            0 for none. It belongs to the chain of the ramp that feeds it and is not counted by ``lanes_in``.
        bay_m: (begin, end) of a pickup bay beside the lanes away from the junction, along the line, or None.
        closure: a work site, or None.
        keeps_left: traffic keeps to the left: the lanes away from the junction lie left of ``line``.
    """

    line: Floats
    lanes_in: int
    lanes_out: int
    lane_width_m: float
    median_m: float
    speed_limit_mps: float
    parking: tuple[bool, bool]
    crosswalk_m: float | None
    axis: int
    auxiliary_m: float = 0.0
    bay_m: tuple[float, float] | None = None
    closure: LaneClosure | None = None
    keeps_left: bool = False

    @property
    def lanes(self) -> int:
        """Lanes of the wider direction."""
        return max(self.lanes_in, self.lanes_out)

    @property
    def half_width_m(self) -> float:
        """From the reference line to the outer lane boundary of the wider direction."""
        return max(self.edge_m(inward=True), self.edge_m(inward=False))

    @property
    def outward_side(self) -> float:
        """Side of ``line`` on which the lanes away from the junction lie: 1 left, -1 right."""
        return 1.0 if self.keeps_left else -1.0

    @property
    def is_fast(self) -> bool:
        """True for roads without pavements, parked cars, crosswalks and bicycles."""
        return self.speed_limit_mps > FASTEST_STREET_MPS

    @property
    def max_curvature(self) -> float:
        """Largest absolute curvature of the reference line, 1/m."""
        return float(np.abs(np.diff(self.line[:, 2])).max() / STEP_M)

    def edge_m(self, *, inward: bool) -> float:
        """From the reference line to the outer lane boundary of one direction, without the acceleration lane."""
        return self.median_m / 2 + (self.lanes_in if inward else self.lanes_out) * self.lane_width_m


@dataclass(frozen=True, slots=True)
class Ring:
    """The carriageway of a roundabout.

    Attributes:
        radius_m: of the circulating baseline.
        entry_radius_m: of the arcs that lead from the arms to the ring and back.
        island_m: radius of the central island, where nobody drives.
    """

    radius_m: float
    entry_radius_m: float
    island_m: float


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A junction (or a mere street, with two arms) in a city's projected frame.

    Attributes:
        name: unique over all splits, e.g. "test-003".
        number: unique over all splits; spaces the ids and places of layouts in a city.
        family: out of ``FAMILIES``.
        arms: counter-clockwise around ``centre``, clockwise where traffic keeps to the left. Of a merge: the main road
            upstream, downstream, and the ramp.
        ring: of a roundabout.
    """

    name: str
    number: int
    city: str
    family: str
    centre: Floats
    arms: tuple[Arm, ...]
    ring: Ring | None = None

    @property
    def control(self) -> Control:
        """Who gives way."""
        return FAMILIES[self.family]

    @property
    def has_signal(self) -> bool:
        """True if traffic lights rule the junction."""
        return self.control == "signal"

    @property
    def is_junction(self) -> bool:
        """True where drivers on different movements may meet; False where two arms simply continue each other."""
        return self.control != "free"

    @property
    def is_crossing(self) -> bool:
        """True where roads meet at an angle; False for streets, merges and lane drops."""
        return self.control not in ("free", "merge", "zipper")

    @property
    def keeps_left(self) -> bool:
        """True if traffic keeps to the left."""
        return self.arms[0].keeps_left
