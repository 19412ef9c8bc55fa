"""What a simulated drive consists of: the state that a step changes, and what is recorded of it."""

from dataclasses import dataclass, field

from irl_vla.geometry import Floats
from irl_vla.world.drivers import EGO
from irl_vla.world.expert import ExpertState
from irl_vla.world.interaction import Bools
from irl_vla.world.tracks import Tracks


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Everything that changes during a drive; a step makes a new one.

    Attributes:
        along, speeds, accelerations: (N,) arc length of the box centre, m/s, m/s2.
        present: (N,) False once a driver has left the layout.
        changed: (N,) time of the last lane change.
        halted: (N,) time of the halt at a stop sign, ``inf`` before it.
        tracks: the paths that they are on.
        walked: (W,) metres since the kerb; negative: waiting.
    """

    along: Floats
    speeds: Floats
    accelerations: Floats
    present: Bools
    changed: Floats
    halted: Floats
    tracks: Tracks
    walked: Floats
    ego: ExpertState

    @property
    def ego_path(self) -> Floats:
        """(V, 3) the path that the ego follows now, in the map's frame."""
        return self.tracks.paths[EGO, : self.tracks.counts[EGO]]


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The world at one recorded instant, in the map's frame.

    Attributes:
        time_s: since the start of the record.
        poses: (N, 3) box centres of the drivers (ego first), NaN once a driver has left; ``speeds``,
            ``accelerations`` (N,).
        walkers, strollers: (M, 3) poses; their speeds (M,).
        lights: light of both axes, empty without a signal.
        state: from which the simulation can go on.
    """

    time_s: float
    ego: ExpertState
    poses: Floats
    speeds: Floats
    accelerations: Floats
    walkers: Floats
    walker_speeds: Floats
    strollers: Floats
    lights: tuple[int, ...]
    state: State = field(repr=False)

    @property
    def ego_path(self) -> Floats:
        """(V, 3) the path that the ego follows now, in the map's frame."""
        return self.state.ego_path
