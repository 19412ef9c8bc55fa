"""What the cast of a scenario kind is drawn for, and what it consists of."""

from typing import NamedTuple

import numpy as np

from irl_vla.geometry import PACIFICA, Floats
from irl_vla.world.drivers import Driver, SignalPlan, Still, Walker
from irl_vla.world.places import Place
from irl_vla.world.roads import polyline
from irl_vla.world.roads.network import Network, kerb_lane, kerb_side


class Cast(NamedTuple):
    """Who makes an event.

    Attributes:
        focus: index of the one that the event is about, among ``drivers`` or ``walkers``; -1 if nothing happens.
        blocking: what stands on the road; ``parked``: what has to stand in parking slots; ``kept_free``:
            (K, 2) slots where nothing may stand.
    """

    drivers: tuple[Driver, ...] = ()
    walkers: tuple[Walker, ...] = ()
    blocking: tuple[Still, ...] = ()
    parked: tuple[Still, ...] = ()
    kept_free: Floats = np.zeros((0, 2))
    focus: int = -1


class Setting(NamedTuple):
    """What a cast is drawn for."""

    network: Network
    place: Place
    signal: SignalPlan | None
    generator: np.random.Generator

    @property
    def front_m(self) -> float:
        """Arc length of the ego's front bumper at the start."""
        return self.place.start_m + PACIFICA.front_length

    @property
    def movement(self) -> int:
        """The ego's."""
        return self.place.route.movement

    def lane_width_m(self, along_m: float) -> float:
        """Of the lane on which the ego's path runs at an arc length."""
        move = self.network.movements[self.movement]
        inbound = along_m < self.place.route.junction_m[0]
        return self.network.layout.arms[move.from_arm if inbound else move.to_arm].lane_width_m

    def lanes_to_kerb(self, along_m: float) -> int:
        """Lanes between the ego's and the kerb."""
        move = self.network.movements[self.movement]
        if along_m < self.place.route.junction_m[0]:
            return abs(kerb_lane(self.network, move.from_arm, inward=True) - move.from_lane)
        return abs(kerb_lane(self.network, move.to_arm, inward=False) - move.to_lane)

    def beside(self, along_m: float, to_kerb_m: float) -> Floats:
        """(3,) pose beside the ego's path, on the side of the kerb if positive."""
        path = self.place.path
        pose = np.array([np.interp(along_m, np.arange(len(path)), column) for column in path.T])
        return np.array([*polyline.offset(pose[None], kerb_side(self.network) * to_kerb_m)[0], pose[2]])
