"""Moves everybody of a scenario at 10 Hz; agents react to each other and to the ego."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.driving.idm import IdmParameters, idm_acceleration
from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre
from irl_vla.world import expert
from irl_vla.world.drivers import EGO, Driver, Scenario, Walker
from irl_vla.world.interaction import (
    GREEN,
    SIGHT_M,
    JunctionRules,
    JunctionTraffic,
    Obstacles,
    PathDrivers,
    find_leaders,
    must_wait,
)
from irl_vla.world.roads import polyline
from irl_vla.world.roads.network import Network

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
#: (time in s, expert, ego now, acceleration that traffic asks for in m/s^2) -> ego 0.1 s later.
Pilot = Callable[[float, expert.Expert, expert.ExpertState, float], expert.ExpertState]

STEP_S: Final = 0.1
RECORD_EVERY: Final = 5
WALKER_SIZE_M: Final = (0.6, 0.6, 1.75)

_GONE_M: Final = 1e6  # where vehicles that left are put, further than anybody sees
_HARDEST_BRAKING_MPS2: Final = 6.0
_STOP_GAP_M: Final = 2.2
_STOP_HEADWAY_S: Final = 0.5
_CROSSWALK_STOP_M: Final = 2.8  # before the middle of a crosswalk
_WALKER_AIR_M: Final = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The world at one recorded instant, in the map's frame.

    Attributes:
        time_s: since the start of the record.
        poses: (N, 3) box centres of the drivers (ego first), NaN once a driver has left; ``speeds``,
            ``accelerations`` (N,).
        walkers, strollers: (M, 3) poses; their speeds (M,).
        lights: light of both axes, empty without a signal.
    """

    time_s: float
    ego: expert.ExpertState
    poses: Floats
    speeds: Floats
    accelerations: Floats
    walkers: Floats
    walker_speeds: Floats
    strollers: Floats
    lights: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Fixed:
    """What does not change during a drive, as arrays over the N drivers."""

    paths: Floats
    counts: Ints
    caps: Floats
    lengths: Floats
    widths: Floats
    movements: Ints
    enters: Floats
    turn_speeds: Floats
    style: Floats
    crossings: Floats
    ranks: Floats
    merging: Bools
    movement_axes: Ints


@dataclass(slots=True)
class _State:
    """What changes: driver arrays (N,), walker progress (M,) in metres (negative: waiting at the kerb)."""

    along: Floats
    speeds: Floats
    accelerations: Floats
    present: Bools
    ego: expert.ExpertState
    walked: Floats


def simulate(
    scenario: Scenario, frames: int, generator: np.random.Generator, pilot: Pilot | None = None
) -> list[Moment]:
    """Drives a scenario and records it at 2 Hz.

    Args:
        frames: number of moments; the first comes after the scenario's warm-up.
        generator: for the ego driver's variations.
        pilot: drives the ego in the expert's place.
    """
    fixed = _fixed(scenario)
    driver = expert.make_expert(scenario.drivers[EGO])
    state = _State(
        along=np.array([item.start_m for item in scenario.drivers]),
        speeds=np.array([item.speed_mps for item in scenario.drivers]),
        accelerations=np.zeros(len(scenario.drivers)),
        present=np.ones(len(scenario.drivers), dtype=bool),
        ego=expert.initial_state(driver, scenario.drivers[EGO]),
        walked=np.full(len(scenario.walkers), -1.0),
    )
    state.along[EGO] += PACIFICA.rear_axle_to_centre
    warm_up = round(scenario.warm_up_s / STEP_S)
    moments = []
    for tick in range(-warm_up, (frames - 1) * RECORD_EVERY + 1):
        time_s = tick * STEP_S
        poses = _poses(fixed, state)
        if tick >= 0 and tick % RECORD_EVERY == 0:
            moments.append(_moment(scenario, state, poses, time_s))
        wanted = _wanted(scenario, fixed, state, poses, time_s)
        _move_walkers(scenario, fixed, state, time_s)
        _move_drivers(fixed, state, wanted)
        if pilot is None:
            state.ego = expert.step(driver, state.ego, float(wanted[EGO]), generator)
        else:
            state.ego = pilot(time_s, driver, state.ego, float(wanted[EGO]))
        state.along[EGO] = state.ego.along_m + PACIFICA.rear_axle_to_centre
        state.speeds[EGO], state.accelerations[EGO] = state.ego.speed_mps, state.ego.acceleration_mps2
    return moments


def _fixed(scenario: Scenario) -> _Fixed:
    drivers, network = scenario.drivers, scenario.network
    longest = max(len(driver.path) for driver in drivers)
    paths = np.zeros((len(drivers), longest, 3))
    caps = np.zeros((len(drivers), longest))
    for index, driver in enumerate(drivers):
        paths[index, : len(driver.path)], caps[index, : len(driver.path)] = driver.path, driver.caps_mps
    moves = network.movements
    ends = [(move.to_arm, move.to_lane) for move in moves]
    return _Fixed(
        paths=paths,
        counts=np.array([len(driver.path) for driver in drivers]),
        caps=caps,
        lengths=np.array([driver.size_m[0] for driver in drivers]),
        widths=np.array([driver.size_m[1] for driver in drivers]),
        movements=np.array([driver.movement for driver in drivers]),
        enters=np.array([driver.enter_m for driver in drivers]),
        turn_speeds=np.array([_turn_speed(driver) for driver in drivers]),
        style=np.array(
            [
                (item.style.headway_s, item.style.gap_m, item.style.acceleration_mps2, item.style.braking_mps2)
                for item in drivers
            ]
        ),
        crossings=np.stack([_crossings(driver.path, network) for driver in drivers]),
        ranks=np.array([_rank(network, move.from_arm, move.turn) for move in moves]),
        merging=np.array([[end == other for other in ends] for end in ends]),
        movement_axes=np.array([network.layout.arms[move.from_arm].axis for move in moves]),
    )


def _turn_speed(driver: Driver) -> float:
    if driver.movement < 0:
        return 0.0
    return float(driver.caps_mps[int(driver.enter_m) : int(driver.enter_m) + 20].min())


def _rank(network: Network, arm: int, turn: str) -> float:
    """Right of way in the junction: straight on before right before left; the major road before the minor one."""
    rank = {"straight": 2.0, "right": 1.5, "left": 1.0}[turn]
    return rank + (2.0 if not network.layout.has_signal and network.layout.arms[arm].axis == 0 else 0.0)


def _crossings(path: Floats, network: Network) -> Floats:
    """(W, 2) where a path crosses each crosswalk: arc length on the path and on the crosswalk; NaN if it does not."""
    found = np.full((len(network.crosswalks), 2), np.nan)
    for index, walk in enumerate(network.crosswalks):
        start, span = walk.ends[0], walk.ends[1] - walk.ends[0]
        length = float(np.linalg.norm(span))
        along = (path[:, :2] - start) @ span / length
        side = (path[:, 1] - start[1]) * span[0] - (path[:, 0] - start[0]) * span[1]
        hits = np.flatnonzero((side[:-1] * side[1:] <= 0) & (along[:-1] > 0) & (along[:-1] < length))
        if walk.is_midblock and len(hits):
            found[index] = hits[0], along[hits[0]]
    return found


def _poses(fixed: _Fixed, state: _State) -> Floats:
    """(N, 3) box centres."""
    index = np.clip(state.along.astype(int), 0, fixed.counts - 2)
    share = (state.along - index)[:, None]
    rows = np.arange(len(index))
    poses: Floats = fixed.paths[rows, index] * (1 - share) + fixed.paths[rows, index + 1] * share
    poses[EGO] = rear_axle_to_centre(state.ego.pose)
    poses[~state.present] = _GONE_M
    return poses


def _wanted(scenario: Scenario, fixed: _Fixed, state: _State, poses: Floats, time_s: float) -> Floats:
    """(N,) acceleration that each driver wants now."""
    headway, gap, pull, brake = fixed.style.T
    speeds = state.speeds
    fronts = np.where(state.present, state.along + fixed.lengths / 2, -1.0)
    leader_gaps, leader_speeds = _leaders(scenario, fixed, state, poses, fronts)
    ahead = np.clip((state.along + 0.6 * speeds).astype(int), 0, fixed.counts - 1)
    caps = fixed.caps[np.arange(len(ahead)), ahead]
    for index, driver in enumerate(scenario.drivers):
        for start_s, end_s, cap in driver.slow_downs:
            if start_s <= time_s < end_s:
                caps[index] = min(caps[index], cap)
    free = np.where(
        speeds <= caps,
        pull * (1 - (speeds / np.maximum(caps, 0.1)) ** 4),
        np.maximum((caps - speeds) / 0.8, -brake * 1.3),
    )
    # the free-road part of the model is above: it would brake without bound where a bend asks for far less speed
    target = np.maximum(np.maximum(caps, speeds), 0.1)
    follow = idm_acceleration(speeds, leader_gaps, leader_speeds, IdmParameters(target, gap, headway, pull, brake))
    stops = np.minimum(
        _line_gaps(scenario, fixed, state, fronts, time_s), _crosswalk_gaps(scenario, fixed, state, fronts)
    )
    halt = idm_acceleration(speeds, stops, 0.0, IdmParameters(target, _STOP_GAP_M, _STOP_HEADWAY_S, pull, brake))
    return np.asarray(np.clip(np.minimum(free, np.minimum(follow, halt)), -_HARDEST_BRAKING_MPS2, pull))


def _leaders(scenario: Scenario, fixed: _Fixed, state: _State, poses: Floats, fronts: Floats) -> tuple[Floats, Floats]:
    walkers, walker_speeds = _walker_poses(scenario, state)
    centres = np.concatenate([poses, walkers])
    lengths = np.concatenate([fixed.lengths, np.full(len(walkers), WALKER_SIZE_M[0])])
    widths = np.concatenate([fixed.widths, np.full(len(walkers), WALKER_SIZE_M[1])])
    corners = np.concatenate([box_corners(centres, lengths, widths), centres[:, None, :2]], axis=1)
    speeds = np.concatenate([state.speeds, walker_speeds])
    drivers = PathDrivers(fixed.paths, fixed.counts, fronts, fixed.widths / 2)
    gaps, leader_speeds = find_leaders(drivers, Obstacles(corners, centres, speeds), SIGHT_M)
    return gaps, leader_speeds


def _line_gaps(scenario: Scenario, fixed: _Fixed, state: _State, fronts: Floats, time_s: float) -> Floats:
    """(N,) distance to the stop line for those who must stop there, else far."""
    lights = np.full(len(fixed.ranks), GREEN)
    if scenario.signal is not None:
        by_axis = np.array([scenario.signal.light(axis, time_s) for axis in (0, 1)])
        lights = by_axis[fixed.movement_axes]
    to_line = np.where(state.present, fixed.enters - fronts, -_GONE_M)
    traffic = JunctionTraffic(fixed.movements, to_line, fixed.lengths, state.speeds, fixed.turn_speeds)
    waits = must_wait(traffic, JunctionRules(lights, fixed.ranks, fixed.merging, scenario.network.conflicts))
    return np.where(waits, to_line, _GONE_M)


def _crosswalk_gaps(scenario: Scenario, fixed: _Fixed, state: _State, fronts: Floats) -> Floats:
    """(N,) distance to where drivers stop for pedestrians who cross, else far."""
    gaps = np.full(len(fronts), _GONE_M)
    for index, walker in enumerate(scenario.walkers):
        if state.walked[index] < 0:
            continue
        where, position = fixed.crossings[:, walker.crosswalk].T
        ends = scenario.network.crosswalks[walker.crosswalk].ends
        length = float(np.linalg.norm(ends[1] - ends[0]))
        ahead = position - state.walked[index] if walker.from_end == 0 else length - position - state.walked[index]
        distance = where - _CROSSWALK_STOP_M - fronts
        needed = state.speeds**2 / (2 * np.maximum(distance, 0.1))
        passing = -(fixed.widths / 2 + _WALKER_AIR_M)
        soon = ahead / walker.speed_mps < distance / np.maximum(state.speeds, 2.0) + 3.5
        yields = (distance > -0.5) & (needed < 4.5) & (ahead > passing) & soon
        gaps = np.where(yields & (distance + _STOP_GAP_M < gaps), distance + _STOP_GAP_M, gaps)
    return gaps


def _move_walkers(scenario: Scenario, fixed: _Fixed, state: _State, time_s: float) -> None:
    for index, walker in enumerate(scenario.walkers):
        if state.walked[index] >= 0:
            state.walked[index] += walker.speed_mps * STEP_S
        elif _sets_off(walker, fixed, state, time_s):
            state.walked[index] = 0.0


def _sets_off(walker: Walker, fixed: _Fixed, state: _State, time_s: float) -> bool:
    """True if the pedestrian wants to go and every driver can stop comfortably."""
    if time_s < walker.earliest_s:
        return False
    distance = fixed.crossings[:, walker.crosswalk, 0] - _CROSSWALK_STOP_M - (state.along + fixed.lengths / 2)
    stopping = state.speeds**2 / (2 * 1.9) + 1.0
    if time_s < walker.latest_s and not distance[EGO] < stopping[EGO] + walker.margin_m:
        return False
    passed = distance < -(fixed.lengths + _CROSSWALK_STOP_M + 2.0)
    return bool(np.all(~state.present | np.isnan(distance) | passed | (distance > stopping)))


def _walker_poses(scenario: Scenario, state: _State) -> tuple[Floats, Floats]:
    poses, speeds = np.zeros((len(scenario.walkers), 3)), np.zeros(len(scenario.walkers))
    for index, walker in enumerate(scenario.walkers):
        ends = scenario.network.crosswalks[walker.crosswalk].ends
        start, end = ends[walker.from_end], ends[1 - walker.from_end]
        length = float(np.linalg.norm(end - start))
        along = (end - start) / length
        walks = 0.0 <= state.walked[index] < length + 2.0
        progress = min(max(state.walked[index], 0.0), length + 2.0) - 0.9  # waits a step behind the kerb
        poses[index, :2] = start + progress * along + walker.beside_m * np.array([-along[1], along[0]])
        poses[index, 2] = np.arctan2(along[1], along[0])
        speeds[index] = walker.speed_mps if walks else 0.0
    return poses, speeds


def _move_drivers(fixed: _Fixed, state: _State, wanted: Floats) -> None:
    speeds = np.maximum(state.speeds + STEP_S * wanted, 0.0)
    stands = (speeds < 0.02) & (wanted <= 0.0)
    speeds[stands] = 0.0
    state.accelerations = np.where(stands, 0.0, wanted)
    state.along = state.along + STEP_S * (state.speeds + speeds) / 2
    state.speeds = speeds
    state.present &= state.along < fixed.counts - 3.0


def _moment(scenario: Scenario, state: _State, poses: Floats, time_s: float) -> Moment:
    walkers, walker_speeds = _walker_poses(scenario, state)
    elapsed = time_s + scenario.warm_up_s
    signal = scenario.signal
    return Moment(
        time_s=time_s,
        ego=state.ego,
        poses=np.where(state.present[:, None], poses, np.nan),
        speeds=state.speeds.copy(),
        accelerations=state.accelerations.copy(),
        walkers=walkers,
        walker_speeds=walker_speeds,
        strollers=np.array(
            [_stroller_pose(item.line, item.start_m + elapsed * item.speed_mps) for item in scenario.strollers]
        ).reshape(-1, 3),
        lights=() if signal is None else tuple(signal.light(axis, time_s) for axis in (0, 1)),
    )


def _stroller_pose(line: Floats, along_m: float) -> Floats:
    along = polyline.lengths(line)
    here, ahead = polyline.at(line, along, np.clip([along_m, along_m + 0.5], 0.0, along[-1]))
    return np.array([*here, np.arctan2(*(ahead - here)[::-1])])
