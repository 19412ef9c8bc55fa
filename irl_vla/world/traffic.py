"""Moves everybody of a scenario at 10 Hz; agents react to each other and to the ego."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from irl_vla.driving.idm import IdmParameters, idm_acceleration
from irl_vla.geometry import PACIFICA, Floats, box_corners, rear_axle_to_centre
from irl_vla.world import expert
from irl_vla.world.clock import RECORD_EVERY, STEP_S
from irl_vla.world.drivers import EGO, Scenario
from irl_vla.world.interaction import (
    FAR_M,
    GREEN,
    SIGHT_M,
    Bools,
    Ints,
    JunctionRules,
    JunctionTraffic,
    Obstacles,
    PathDrivers,
    find_leaders,
    must_wait,
)
from irl_vla.world.lane_changes import Situation, hold_gaps, make_room, reconsider
from irl_vla.world.moments import Moment, State
from irl_vla.world.tracks import make_tracks, project
from irl_vla.world.walkers import WALKER_SIZE_M, stroller_poses, walk, walker_poses, yield_gaps

#: (time in s, path that the ego is on (V, 3), ego now, acceleration that traffic asks for in m/s^2) -> ego 0.1 s later.
Pilot = Callable[[float, Floats, expert.ExpertState, float], expert.ExpertState]

_GONE_M: Final = 1e6  # where vehicles that left are put, further than anybody sees
_HARDEST_BRAKING_MPS2: Final = 6.0
_STOP_GAP_M: Final = 2.2
_STOP_HEADWAY_S: Final = 0.5
_LONG_AGO_S: Final = -100.0
_HALT_MPS: Final = 0.25
_AT_THE_LINE_M: Final = 4.5


@dataclass(frozen=True, slots=True, eq=False)
class _Fixed:
    """What does not change during a drive, as arrays over the N drivers, the M movements or the B blocking things."""

    lengths: Floats
    widths: Floats
    style: Floats
    slow_downs: Floats
    ranks: Floats
    signs: Bools
    merging: Bools
    movement_axes: Ints
    blocking: Floats
    blocking_corners: Floats


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
    state = _initial(scenario)
    warm_up = round(scenario.warm_up_s / STEP_S)
    moments = []
    for tick in range(-warm_up, (frames - 1) * RECORD_EVERY + 1):
        if tick >= 0 and tick % RECORD_EVERY == 0:
            moments.append(_moment(scenario, state, tick * STEP_S))
        state, wanted = _step(scenario, fixed, state, tick * STEP_S)
        if pilot is None:
            ego = expert.step(state.ego_path, state.ego, wanted, generator)
        else:
            ego = pilot(tick * STEP_S, state.ego_path, state.ego, wanted)
        state = _with_ego(state, ego)
    return moments


def _initial(scenario: Scenario) -> State:
    drivers, tracks = scenario.drivers, make_tracks(scenario)
    along = np.array([item.start_m for item in drivers])
    along[EGO] += PACIFICA.rear_axle_to_centre
    return State(
        along=along,
        speeds=np.array([item.speed_mps for item in drivers]),
        accelerations=np.zeros(len(drivers)),
        present=np.ones(len(drivers), dtype=bool),
        changed=np.full(len(drivers), _LONG_AGO_S),
        halted=np.full(len(drivers), np.inf),
        tracks=tracks,
        walked=np.full(len(scenario.walkers), -1.0),
        ego=expert.initial_state(drivers[EGO]),
    )


def _fixed(scenario: Scenario) -> _Fixed:
    drivers, network = scenario.drivers, scenario.network
    orders = max((len(item.slow_downs) for item in drivers), default=0)
    slow_downs = np.full((len(drivers), orders, 4), np.inf)
    for index, driver in enumerate(drivers):
        for number, order in enumerate(driver.slow_downs):
            slow_downs[index, number] = order
    moves = network.movements
    ends = [(move.to_arm, move.to_lane) for move in moves]
    shares = network.layout.control == "roundabout"
    blocking = np.array([item.pose for item in scenario.blocking]).reshape(-1, 3)
    sizes = np.array([item.size_m for item in scenario.blocking]).reshape(-1, 3)
    return _Fixed(
        lengths=np.array([driver.size_m[0] for driver in drivers]),
        widths=np.array([driver.size_m[1] for driver in drivers]),
        style=np.array(
            [
                (item.style.headway_s, item.style.gap_m, item.style.acceleration_mps2, item.style.braking_mps2)
                for item in drivers
            ]
        ),
        slow_downs=slow_downs,
        ranks=np.array([move.rank for move in moves]),
        signs=np.array([move.sign == "stop" for move in moves]),
        merging=np.array([[shares or end == other for other in ends] for end in ends]),
        movement_axes=np.array([network.layout.arms[move.from_arm].axis for move in moves]),
        blocking=blocking,
        blocking_corners=_outline(blocking, sizes[:, 0], sizes[:, 1]),
    )


def _outline(poses: Floats, lengths: Floats, widths: Floats) -> Floats:
    """(A, 5, 2) corners and centre of boxes."""
    return np.concatenate([box_corners(poses, lengths, widths), poses[:, None, :2]], axis=1)


def _step(scenario: Scenario, fixed: _Fixed, state: State, time_s: float) -> tuple[State, float]:
    """Moves everybody but the ego by 0.1 s; also returns the acceleration that the ego should take."""
    poses = _poses(state)
    obstacles = _obstacles(scenario, fixed, state, poses)
    situation = Situation(
        along=state.along,
        speeds=state.speeds,
        accelerations=state.accelerations,
        present=state.present,
        changed=state.changed,
        obstacles=obstacles,
        lengths=fixed.lengths,
        widths=fixed.widths,
        time_s=time_s,
    )
    tracks, changes = reconsider(scenario, state.tracks, situation)
    along, changed = state.along, state.changed
    for change in changes:
        along, changed = along.copy(), changed.copy()
        along[change.driver] = project(change.row.path, poses[change.driver])
        changed[change.driver] = time_s if change.to_lane else changed[change.driver]
        if change.driver == EGO:
            ego_along = along[EGO] - PACIFICA.rear_axle_to_centre
            state = replace(state, ego=replace(state.ego, along_m=float(ego_along)))
    state = replace(state, tracks=tracks, along=along, changed=changed)
    fronts = np.where(state.present, state.along + fixed.lengths / 2, -_GONE_M)
    stops = _stop_gaps(scenario, fixed, state, fronts, time_s)
    wanted = np.minimum(_wanted(fixed, state, obstacles, stops, time_s), make_room(scenario, tracks, situation))
    walked = walk(scenario, tracks.crossings, state.walked, (fronts, state.speeds, state.present), time_s)
    to_line = tracks.enters - fronts
    halts = (state.speeds < _HALT_MPS) & (to_line > -0.5) & (to_line < _AT_THE_LINE_M) & np.isinf(state.halted)
    halted = np.where(halts, time_s, state.halted)
    return _moved(replace(state, walked=walked, halted=halted), wanted), float(wanted[EGO])


def _poses(state: State) -> Floats:
    tracks = state.tracks
    index = np.clip(state.along.astype(int), 0, tracks.counts - 2)
    share = (state.along - index)[:, None]
    rows = np.arange(len(index))
    poses = tracks.paths[rows, index] * (1 - share) + tracks.paths[rows, index + 1] * share
    poses[EGO] = rear_axle_to_centre(state.ego.pose)
    return np.asarray(poses)


def _obstacles(scenario: Scenario, fixed: _Fixed, state: State, poses: Floats) -> Obstacles:
    """What drivers see: the N vehicles, then pedestrians, then what blocks the road."""
    people, people_speeds = walker_poses(scenario.walkers, state.walked)
    moving = np.concatenate([poses, people])
    moving[: len(poses)][~state.present] = _GONE_M
    lengths = np.concatenate([fixed.lengths, np.full(len(people), WALKER_SIZE_M[0])])
    widths = np.concatenate([fixed.widths, np.full(len(people), WALKER_SIZE_M[1])])
    return Obstacles(
        corners=np.concatenate([_outline(moving, lengths, widths), fixed.blocking_corners]),
        poses=np.concatenate([moving, fixed.blocking]),
        speeds=np.concatenate([state.speeds, people_speeds, np.zeros(len(fixed.blocking))]),
    )


def _wanted(fixed: _Fixed, state: State, obstacles: Obstacles, stops: Floats, time_s: float) -> Floats:
    """(N,) acceleration that everybody wants; ``stops`` (N,) are the distances to where they have to stop."""
    tracks, speeds = state.tracks, state.speeds
    place = np.clip(state.along.astype(int), 0, tracks.counts - 1)
    caps = tracks.caps[np.arange(len(place)), place]
    headway, gap, pull, usual = fixed.style.T
    brake = usual
    ordered = (fixed.slow_downs[..., 0] <= time_s) & (time_s < fixed.slow_downs[..., 1])
    for order in range(ordered.shape[1]):
        now = ordered[:, order]
        caps = np.where(now, np.minimum(caps, fixed.slow_downs[:, order, 2]), caps)
        brake = np.where(now, np.maximum(brake, fixed.slow_downs[:, order, 3]), brake)
    fronts = np.where(state.present, state.along + fixed.lengths / 2, -_GONE_M)
    drivers = PathDrivers(tracks.paths, tracks.counts, fronts, fixed.widths / 2)
    leader_gaps, leader_speeds = find_leaders(drivers, obstacles, SIGHT_M)
    free = np.where(
        (speeds <= caps) & (caps > 0.0),  # who may not move does not creep
        pull * (1 - (speeds / np.maximum(caps, 0.1)) ** 4),
        np.maximum((caps - speeds) / 0.8, -brake * 1.3),
    )
    # the free-road part of the model is above: it would brake without bound where a bend asks for far less speed
    target = np.maximum(np.maximum(caps, speeds), 0.1)
    follow = idm_acceleration(speeds, leader_gaps, leader_speeds, IdmParameters(target, gap, headway, pull, usual))
    halt = idm_acceleration(speeds, stops, 0.0, IdmParameters(target, _STOP_GAP_M, _STOP_HEADWAY_S, pull, usual))
    return np.asarray(np.clip(np.minimum(free, np.minimum(follow, halt)), -_HARDEST_BRAKING_MPS2, pull))


def _stop_gaps(scenario: Scenario, fixed: _Fixed, state: State, fronts: Floats, time_s: float) -> Floats:
    """(N,) gap of the car-following model to where drivers must stop: lines, people, what blocks the lane."""
    walks = yield_gaps(scenario, state.tracks.crossings, state.walked, fronts, state.speeds)
    others = np.minimum(walks, hold_gaps(state.tracks, fronts)) + _STOP_GAP_M  # to stop there, not before
    return np.minimum(_line_gaps(scenario, fixed, state, fronts, time_s), others)


def _line_gaps(scenario: Scenario, fixed: _Fixed, state: State, fronts: Floats, time_s: float) -> Floats:
    """(N,) distance to the stop line for those who must stop there, else ``FAR_M``."""
    lights = np.full(len(fixed.ranks), GREEN)
    if scenario.signal is not None:
        by_axis = np.array([scenario.signal.light(axis, time_s) for axis in (0, 1)])
        lights = by_axis[fixed.movement_axes]
    tracks = state.tracks
    to_line = np.where(state.present, tracks.enters - fronts, -_GONE_M)
    waits_for_sign = fixed.signs[tracks.movements] & ~np.isfinite(state.halted)
    ranks = fixed.ranks[tracks.movements]
    if scenario.network.layout.control == "all_stop":  # who halted first goes first
        ranks = -state.halted
    traffic = JunctionTraffic(
        tracks.movements, to_line, fixed.lengths, state.speeds, tracks.turn_speeds, ranks, waits_for_sign
    )
    waits = must_wait(traffic, JunctionRules(lights, fixed.merging, scenario.network.conflicts))
    return np.where(waits, to_line, FAR_M)


def _moved(state: State, wanted: Floats) -> State:
    speeds = np.maximum(state.speeds + STEP_S * wanted, 0.0)
    stands = (speeds < 0.02) & (wanted <= 0.0)
    speeds[stands] = 0.0
    along = state.along + STEP_S * (state.speeds + speeds) / 2
    return replace(
        state,
        along=along,
        speeds=speeds,
        accelerations=np.where(stands, 0.0, wanted),
        present=state.present & (along < state.tracks.counts - 3.0),
    )


def _with_ego(state: State, ego: expert.ExpertState) -> State:
    along, speeds, accelerations = state.along.copy(), state.speeds.copy(), state.accelerations.copy()
    along[EGO] = ego.along_m + PACIFICA.rear_axle_to_centre
    speeds[EGO], accelerations[EGO] = ego.speed_mps, ego.acceleration_mps2
    return replace(state, along=along, speeds=speeds, accelerations=accelerations, ego=ego)


def _moment(scenario: Scenario, state: State, time_s: float) -> Moment:
    people, people_speeds = walker_poses(scenario.walkers, state.walked)
    elapsed = time_s + scenario.warm_up_s
    signal = scenario.signal
    return Moment(
        time_s=time_s,
        ego=state.ego,
        poses=np.where(state.present[:, None], _poses(state), np.nan),
        speeds=state.speeds,
        accelerations=state.accelerations,
        walkers=people,
        walker_speeds=people_speeds,
        strollers=stroller_poses(scenario.strollers, elapsed),
        lights=() if signal is None else tuple(signal.light(axis, time_s) for axis in (0, 1)),
        state=state,
    )
