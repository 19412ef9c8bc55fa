"""Follow-ups of a recorded drive: the same traffic, had the ego driven a little otherwise for the last four seconds.

A follow-up repeats the drive exactly up to a frame of the log. From there its ego aims at another end state 4 s later:
the logged one, moved along and across the lane, turned, faster or slower. It gets there through the expert's bicycle,
within its comfortable jerk and its steering rate, and everybody else reacts to it as to the logged ego. Behind those
four seconds the expert drives on, which is what the traffic of the second stage reacts to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import shapely

from irl_vla.errors import ConfigError
from irl_vla.geometry import PACIFICA, Floats, box_corners, relative_to
from irl_vla.scene import FUTURE_FRAMES, HISTORY_FRAMES, MapView
from irl_vla.world.clock import RECORD_EVERY, STEP_S
from irl_vla.world.config import TwoStageConfig
from irl_vla.world.drive import Drive, keeps_clear
from irl_vla.world.drivers import EGO
from irl_vla.world.expert import ExpertState, step
from irl_vla.world.moments import Moment
from irl_vla.world.traffic import Pilot, simulate

#: Layers whose union is the drivable area of the score.
_DRIVABLE: Final = ("ROADBLOCK", "INTERSECTION", "CARPARK_AREA")
_MANOEUVRE_STEPS: Final = FUTURE_FRAMES * RECORD_EVERY
_AIR_M: Final = 0.1  # a policy may come closer to others than the expert
_ATTEMPTS_PER_PAIR: Final = 3
_SHRINK: Final = 0.75  # of the bounds from round to round of attempts
_WORTHWHILE_M: Final = 6.0  # windows in which the ego travels less are taken last
_STEERING_LAG_M: Final = 10.8  # so far behind the offset it aims at the expert's steering law follows a slanted line
_SLOWEST_LAG_MPS: Final = 3.0
_SPEED_GAIN_PER_S: Final = 1.2
_PLACE_GAIN_PER_S2: Final = 0.6


@dataclass(frozen=True, slots=True)
class Deviation:
    """Where an ego is and how fast, in the frame of the logged ego of the same time."""

    lateral_m: float
    longitudinal_m: float
    heading_rad: float
    speed_mps: float


_AS_LOGGED: Final = Deviation(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class FollowUp:
    """A drive that leaves the log 4 s before it comes to its current frame.

    Attributes:
        moments: from the start of the log to 4 s behind the current frame.
        left_at: frame at which the ego leaves the log, the current frame of the first stage.
        reached: deviations of the current frame and of the one before, which is the previous scene's current one.
    """

    moments: Sequence[Moment]
    left_at: int
    reached: tuple[Deviation, Deviation]

    @property
    def now(self) -> int:
        """Index of the current frame."""
        return self.left_at + FUTURE_FRAMES


def preferred_frames(moments: Sequence[Moment], order: Sequence[int]) -> list[int]:
    """Current frames of a log's pairs of neighbouring scenes, those to be followed first in front.

    No two pairs share a scene. They keep the given order of pairs, but those in which the ego hardly moves during the
    4 s come last: nothing but a standing ego could follow on them.
    """

    def stands(now: int) -> bool:
        travelled = moments[now + FUTURE_FRAMES].ego.pose[:2] - moments[now].ego.pose[:2]
        return bool(np.linalg.norm(travelled) < _WORTHWHILE_M)

    return sorted((HISTORY_FRAMES + 2 * pair for pair in order), key=stands)


def draw_group(
    drive: Drive, frames: Sequence[int], config: TwoStageConfig, map_view: MapView, generator: np.random.Generator
) -> list[FollowUp]:
    """Draws the follow-ups of one pair of neighbouring scenes.

    Args:
        frames: current frames of pairs; the first one that has enough follow-ups is taken.

    Raises:
        ConfigError: if none has: more are asked for than the drive has room for.
    """
    for now in frames:
        found = draw_follow_ups(drive, now, config, map_view, generator)
        if len(found) >= config.pairs_min:
            return found
    raise ConfigError(
        f"layout {drive.scenario.network.layout.name}: {drive.scenario.kind!r} drive: expected {config.pairs_min} "
        f"follow-ups behind one of the frames {list(frames)}, found fewer; lower generate.two_stage.pairs_min"
    )


def draw_follow_ups(
    drive: Drive, now: int, config: TwoStageConfig, map_view: MapView, generator: np.random.Generator
) -> list[FollowUp]:
    """Draws follow-ups of a pair of neighbouring scenes, the one that repeats the log first.

    The others are drawn again until the ego stays on the road and whole, also in the expert's hands afterwards. Where
    most are not, the bounds shrink towards the log, and in the end there may be too few.

    Args:
        now: frame of the log at which the ego leaves it, the later one of the pair.
    """
    wanted = int(generator.integers(config.pairs_min, config.pairs_max + 1))
    found: list[FollowUp] = []
    logged = _logged_states(drive, now)
    for aim in _aims(config, wanted, generator):
        follow_up = _follow(drive, now, aim, logged)
        if is_plausible(drive, follow_up, map_view):
            found.append(follow_up)
            if len(found) == wanted:
                break
    return found


def is_plausible(drive: Drive, follow_up: FollowUp, map_view: MapView) -> bool:
    """True if the ego touches nobody from where it left the log, and has been on the road all along its history."""
    if not keeps_clear(drive.scenario, follow_up.moments[follow_up.left_at :], _AIR_M):
        return False
    history = follow_up.moments[follow_up.now - HISTORY_FRAMES : follow_up.now + 1]
    return on_road(np.stack([moment.poses[EGO] for moment in history]), map_view)


def on_road(centres: Floats, map_view: MapView) -> bool:
    """True if all corners of the ego's box at all of (N, 3) centres lie on the drivable area."""
    corners = box_corners(centres, PACIFICA.length, PACIFICA.width).reshape(-1, 2)
    points = np.asarray(shapely.points(corners))
    covered = np.zeros(len(corners), np.bool_)
    for layer in _DRIVABLE:
        ids, tree = map_view.tree(layer)
        if ids:
            covered[tree.query(points, predicate="intersects")[0]] = True
    return bool(covered.all())


def _aims(config: TwoStageConfig, wanted: int, generator: np.random.Generator) -> Iterator[Deviation]:
    """The log itself, then deviations that crowd around it, in rounds of shrinking bounds."""
    yield _AS_LOGGED
    bounds = np.array([config.lateral_m, config.longitudinal_m, config.heading_rad, config.speed_mps])
    for round_index in range(_ATTEMPTS_PER_PAIR):
        for _ in range(wanted):
            share = generator.uniform(-1.0, 1.0, 4) * generator.uniform()
            yield Deviation(*(float(value) for value in bounds * _SHRINK**round_index * share))


def _logged_states(drive: Drive, now: int) -> list[ExpertState]:
    """The logged ego at 10 Hz, from a frame on for 4 s (41 states)."""
    generator = _repeated(drive)
    first = now * RECORD_EVERY
    states: list[ExpertState] = []

    def pilot(time_s: float, path: Floats, state: ExpertState, wanted_mps2: float) -> ExpertState:
        if round(time_s / STEP_S) >= first:
            states.append(state)
        return step(path, state, wanted_mps2, generator)

    simulate(drive.scenario, now + FUTURE_FRAMES + 1, generator, pilot)
    return states[: _MANOEUVRE_STEPS + 1]


def _follow(drive: Drive, left_at: int, aim: Deviation, logged: Sequence[ExpertState]) -> FollowUp:
    generator = _repeated(drive)
    pilot = _manoeuvre(aim, logged, left_at * RECORD_EVERY, generator)
    moments = simulate(drive.scenario, left_at + 2 * FUTURE_FRAMES + 1, generator, pilot)
    current, previous = (
        _deviation(moments[left_at + frames].ego, logged[frames * RECORD_EVERY])
        for frames in (FUTURE_FRAMES, FUTURE_FRAMES - 1)
    )
    return FollowUp(moments, left_at, (current, previous))


def _repeated(drive: Drive) -> np.random.Generator:
    """The generator as it was when the drive began."""
    generator = np.random.default_rng(0)
    generator.bit_generator.state = dict(drive.noise)
    return generator


def _manoeuvre(aim: Deviation, logged: Sequence[ExpertState], first_step: int, generator: np.random.Generator) -> Pilot:
    """The expert until ``first_step``, then 4 s towards the aim, then the expert again."""
    duration_s = _MANOEUVRE_STEPS * STEP_S
    end_speed = max(logged[-1].speed_mps + aim.speed_mps, 0.0)
    across = _ramp(aim.lateral_m, float(np.tan(aim.heading_rad)) * end_speed, duration_s)
    along = _ramp(aim.longitudinal_m, aim.speed_mps, duration_s)

    def pilot(time_s: float, path: Floats, state: ExpertState, wanted_mps2: float) -> ExpertState:
        tick = round(time_s / STEP_S) - first_step
        if aim == _AS_LOGGED or not 0 <= tick <= _MANOEUVRE_STEPS:
            return step(path, state, wanted_mps2, generator)
        if tick == _MANOEUVRE_STEPS:  # the expert looks for the middle of its lane again
            return step(path, replace(state, wander_m=0.0), wanted_mps2, generator)
        lag_s = _STEERING_LAG_M / max(state.speed_mps, _SLOWEST_LAG_MPS)
        offset = float(np.polyval(across, min(tick * STEP_S + lag_s, duration_s)))
        offset += max(tick * STEP_S + lag_s - duration_s, 0.0) * float(np.polyval(np.polyder(across), duration_s))
        after, then_s = logged[tick + 1], (tick + 1) * STEP_S
        slower = after.speed_mps + float(np.polyval(np.polyder(along), then_s)) - state.speed_mps
        behind = float(relative_to(state.pose, after.pose)[0] + np.polyval(along, then_s)) - state.speed_mps * STEP_S
        pull = after.acceleration_mps2 + float(np.polyval(np.polyder(along, 2), then_s))
        pull += _SPEED_GAIN_PER_S * slower + _PLACE_GAIN_PER_S2 * behind
        return step(path, replace(state, wander_m=after.wander_m + offset), pull, generator)

    return pilot


def _ramp(end: float, end_rate: float, duration_s: float) -> Floats:
    """(4,) coefficients of the cubic from rest at 0 to a value and a rate at the end."""
    square = (3 * end - end_rate * duration_s) / duration_s**2
    cube = (end_rate * duration_s - 2 * end) / duration_s**3
    return np.array([cube, square, 0.0, 0.0])


def _deviation(state: ExpertState, logged: ExpertState) -> Deviation:
    longitudinal, lateral, heading = (float(value) for value in relative_to(logged.pose, state.pose))
    return Deviation(lateral, longitudinal, heading, state.speed_mps - logged.speed_mps)
