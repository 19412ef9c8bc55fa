"""Candidate plans of a bank row, each with a named source.

The reward world model is later asked about whatever PPO tries, so its labels must hold more than good driving:
plans of the human and of a vocabulary, of every denoising step of the policy, and the manoeuvres by which a policy
is known to cheat a learned reward (jitter, leaving the road, a reversed last waypoint, hard braking, speeding,
one constant manoeuvre everywhere). Shifted ego views are bank rows of their own. Nobody drove there, so the way back
to the logged path, which imitation learns, takes the human's part among their proposals, under its own name.

Every row draws from its own generator, so its proposals do not depend on how the work is cut.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats, wrap_angle
from irl_vla.reward.config import ProposalConfig
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S

SOURCES: Final = (
    "human",
    "recovery",
    "vocabulary",
    "policy",
    "denoising",
    "perturbed",
    "jittery",
    "off_road",
    "reversed",
    "hard_brake",
    "speeding",
    "manoeuvre",
)
_TIMES_S: Final = PLAN_INTERVAL_S * np.arange(1, FUTURE_FRAMES + 1)
#: Metres that one radian of heading counts for when plans are compared.
_HEADING_M: Final = 2.0

#: (rows (B,), chains a row G, generators one a row) -> decoded chains (B, G, K + 1, 8, 3), the plans last.
ChainSampler = Callable[[NDArray[np.int64], int, list[np.random.Generator]], Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Candidate plans.

    Attributes:
        plans: (B, P, 8, 3) float32, ego frame.
        source: (B, P) int8 index into ``SOURCES``.
    """

    plans: NDArray[np.float32]
    source: NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class RowFacts:
    """What the proposals of bank rows depend on.

    Attributes:
        rows: (B,) bank rows.
        speeds_mps: (B,) current speeds.
        plans: (B, 8, 3) to imitate: of a human, or the way back from a shifted view; arbitrary where ``has_plan`` is
            False.
        has_plan, has_human: (B,); a human's plan is a plan.
    """

    rows: NDArray[np.int64]
    speeds_mps: Floats
    plans: Floats
    has_plan: NDArray[np.bool_]
    has_human: NDArray[np.bool_]


def row_generator(seed: int, row: int) -> np.random.Generator:
    """The generator of one bank row: equal however rows are batched or sharded."""
    return np.random.default_rng([seed, row])


def fit_vocabulary(human_plans: Floats, size: int, generator: np.random.Generator, iterations: int = 20) -> Floats:
    """Picks human plans that cover all human plans: k-means++, then the plan nearest to each centre.

    Real plans instead of centres, because a mean of plans need not be drivable.

    Args:
        human_plans: (N, 8, 3).
        size: number of plans; fewer come back where there are fewer distinct ones.

    Returns:
        (V, 8, 3) with V <= size, ordered by final x.

    Raises:
        CheckpointError: if there is no human plan at all.
    """
    if not len(human_plans):
        raise CheckpointError("proposals: the token bank holds no human plan; write it from a split with a future")
    distinct = np.unique(np.asarray(human_plans, np.float64).reshape(len(human_plans), -1), axis=0)
    points = comparable(distinct.reshape(-1, FUTURE_FRAMES, 3))
    with warnings.catch_warnings():
        # A centre that loses all its plans stays where it was, which costs a plan of the vocabulary at most.
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        centres, _ = kmeans2(points, min(size, len(points)), iter=iterations, minit="++", rng=generator)
    chosen = np.unique(vq(centres, points)[0])
    plans = distinct[chosen].reshape(-1, FUTURE_FRAMES, 3)
    return np.asarray(plans[np.argsort(plans[:, -1, 0], kind="stable")], np.float64)


def propose(
    facts: RowFacts, vocabulary: Floats, sampler: ChainSampler | None, config: ProposalConfig, seed: int
) -> Proposals:
    """Makes the proposals of bank rows.

    Args:
        facts: of B rows. The plan to imitate is the one that is disturbed; where there is none, a vocabulary plan of
            similar speed takes its part.
        vocabulary: (V, 8, 3) of :func:`fit_vocabulary`.
        sampler: denoising chains of the policy, or None before there is one.

    Returns:
        ``config.count`` plans a row, in the order of ``SOURCES``.
    """
    generators = [row_generator(seed, int(row)) for row in facts.rows]
    chains = _sampled_chains(facts.rows, generators, sampler, config)
    base = np.empty((len(facts.rows), FUTURE_FRAMES, 3))
    driven: list[Floats] = []
    sources: list[NDArray[np.int8]] = []
    draws: list[_Draws] = []
    for index, generator in enumerate(generators):
        row_chains = None if chains is None else chains[index]
        base[index], parts = _driven(facts, index, vocabulary, row_chains, config=config, generator=generator)
        driven.append(np.concatenate([part for _, part in parts]))
        sources.append(_sources_of(parts))
        draws.append(_draw(config, generator))
    # All rows at once where nothing is drawn: numpy costs by the call, not by the plan.
    disturbed = _disturbed(base, facts.speeds_mps, _Draws(*map(np.stack, zip(*draws, strict=True))), config)
    plans = np.concatenate([np.stack(driven), *(part for _, part in disturbed)], axis=1)
    tail = _sources_of([(name, part[0]) for name, part in disturbed])
    source = np.stack([np.concatenate([head, tail]) for head in sources])
    return Proposals(plans.astype(np.float32), source)


def constant_manoeuvre(speed_mps: Floats, acceleration_mps2: Floats, curvature_per_m: Floats) -> Floats:
    """Plans of constant acceleration and curvature that stop rather than reverse.

    Args:
        speed_mps, acceleration_mps2, curvature_per_m: broadcast to (...).

    Returns:
        (..., 8, 3).
    """
    speed, acceleration, curvature = np.broadcast_arrays(
        *(np.asarray(value, np.float64)[..., None] for value in (speed_mps, acceleration_mps2, curvature_per_m))
    )
    distance = travelled_m(speed, acceleration)
    heading = curvature * distance
    # x = sin(kappa s) / kappa and y = (1 - cos(kappa s)) / kappa, written so that kappa = 0 is no special case.
    x = distance * np.sinc(heading / np.pi)
    y = distance * np.sinc(heading / (2 * np.pi)) * np.sin(heading / 2)
    return np.stack([x, y, wrap_angle(heading)], axis=-1)


def travelled_m(speed_mps: Floats, acceleration_mps2: Floats) -> Floats:
    """Distance at the plan's eight times under constant acceleration, standing once the speed is 0; (..., 8)."""
    speed = np.maximum(np.asarray(speed_mps, np.float64), 0.0)
    stop_s = np.where(acceleration_mps2 < 0.0, speed / np.maximum(-acceleration_mps2, 1e-9), np.inf)
    time = np.minimum(_TIMES_S, stop_s)
    return np.asarray(np.maximum(speed * time + 0.5 * np.asarray(acceleration_mps2) * time**2, 0.0), np.float64)


def follow_path(plan: Floats, distance_m: Floats) -> Floats:
    """Drives the path of a plan with another timing.

    Args:
        plan: (8, 3).
        distance_m: (..., 8) arc lengths from the origin; beyond the plan's end the last heading goes straight on.

    Returns:
        (..., 8, 3).
    """
    knots = np.concatenate([np.zeros((1, 3)), plan])
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(knots[:, :2], axis=0).T))])
    # Standing poses repeat an arc length: keep the first of each, np.interp needs increasing ones.
    keep = np.concatenate([[True], np.diff(arc) > 1e-6])
    arc, knots, heading = arc[keep], knots[keep], np.unwrap(knots[keep, 2])
    beyond = np.maximum(distance_m - arc[-1], 0.0)
    x = np.interp(distance_m, arc, knots[:, 0]) + beyond * np.cos(heading[-1])
    y = np.interp(distance_m, arc, knots[:, 1]) + beyond * np.sin(heading[-1])
    return np.stack([x, y, wrap_angle(np.interp(distance_m, arc, heading))], axis=-1)


def drift_sideways(plans: Floats, offset_m: Floats) -> Floats:
    """Moves plans sideways, smoothly growing to ``offset_m`` (...) at their ends; headings follow the drift.

    A standing plan stays where it is: without motion there is no drift.
    """
    share = (_TIMES_S / _TIMES_S[-1]) ** 2
    knots = np.concatenate([np.zeros_like(plans[..., :1, :2]), plans[..., :2]], axis=-2)
    step_m = np.hypot(*np.moveaxis(np.diff(knots, axis=-2), -1, 0))
    length_m = step_m.sum(-1)
    reach_m = np.clip(offset_m, -0.5 * length_m, 0.5 * length_m)[..., None] * share
    slope = np.diff(reach_m, axis=-1, prepend=0.0) / np.maximum(step_m, 1e-3)
    heading = plans[..., 2]
    return np.stack(
        [
            plans[..., 0] - np.sin(heading) * reach_m,
            plans[..., 1] + np.cos(heading) * reach_m,
            wrap_angle(heading + np.arctan(np.clip(slope, -2.0, 2.0))),
        ],
        axis=-1,
    )


def reverse_last(plans: Floats, back_m: Floats) -> Floats:
    """Puts the last pose ``back_m`` (...) behind the last but one: a hack that users of learned rewards met."""
    result = np.array(plans, np.float64)
    heading = plans[..., -2, 2]
    result[..., -1, 0] = plans[..., -2, 0] - np.cos(heading) * back_m
    result[..., -1, 1] = plans[..., -2, 1] - np.sin(heading) * back_m
    result[..., -1, 2] = heading
    return result


def jitter(plans: Floats, scale_m: Floats, heading_rad: float, noise: Floats) -> Floats:
    """Adds standard normal ``noise`` (..., 8, 3), times ``scale_m`` (...) in x and y and ``heading_rad`` in heading."""
    scaled = noise * np.stack(np.broadcast_arrays(scale_m, scale_m, heading_rad), axis=-1)[..., None, :]
    result = plans + scaled
    result[..., 2] = wrap_angle(result[..., 2])
    return np.asarray(result, np.float64)


def comparable(plans: Floats) -> Floats:
    """(N, 24) points in metres whose Euclidean distance compares plans."""
    scaled = np.array(plans, np.float64)
    scaled[..., 2] *= _HEADING_M
    return scaled.reshape(len(plans), -1)


def _sampled_chains(
    rows: NDArray[np.int64], generators: list[np.random.Generator], sampler: ChainSampler | None, config: ProposalConfig
) -> Floats | None:
    chains = max(config.policy, 1 if config.denoising else 0)
    if sampler is None or chains == 0:
        return None
    return sampler(rows, chains, generators)


def _imitated(facts: RowFacts, index: int) -> tuple[str, Floats] | None:
    """The plan to imitate and the source that it counts as."""
    if not facts.has_plan[index]:
        return None
    return "human" if facts.has_human[index] else "recovery", np.asarray(facts.plans[index], np.float64)


def _driven(
    facts: RowFacts,
    index: int,
    vocabulary: Floats,
    chains: Floats | None,
    *,
    config: ProposalConfig,
    generator: np.random.Generator,
) -> tuple[Floats, list[tuple[str, Floats]]]:
    """The plan of a row to disturb, and the plans that nobody disturbed."""
    imitated = _imitated(facts, index)
    spare = config.policy + config.denoising if chains is None else 0
    spare += config.human if imitated is None else 0
    speed_mps = float(facts.speeds_mps[index])
    entries = _matching_entries(vocabulary, speed_mps, config.vocabulary + spare, config, generator)
    parts = [] if imitated is None or not config.human else [(imitated[0], imitated[1][None])]
    parts.append(("vocabulary", entries))
    if chains is not None:
        parts.append(("policy", chains[: config.policy, -1]))
        parts.append(("denoising", _intermediate(chains, config.denoising, generator)))
    return (entries[0] if imitated is None else imitated[1]), parts


def _sources_of(parts: list[tuple[str, Floats]]) -> NDArray[np.int8]:
    return np.repeat([SOURCES.index(name) for name, _ in parts], [len(part) for _, part in parts]).astype(np.int8)


class _Draws(NamedTuple):
    """Random numbers of the disturbed plans of a row, or stacked of rows, in the order in which they are drawn.

    Attributes:
        factor, aside_m: (perturbed,) of the speed, and of the drift.
        jitter_m, noise: (jittery,) and (jittery, 8, 3).
        leaving_m: (off_road,) to either side.
        back_m: (reversed,).
        brake_mps2: (hard_brake,).
        speeding: (speeding,) factor and, for who stands, acceleration.
        acceleration_mps2, bend: (manoeuvre,), the latter in -1 .. 1 of the largest curvature.
    """

    factor: Floats
    aside_m: Floats
    jitter_m: Floats
    noise: Floats
    leaving_m: Floats
    back_m: Floats
    brake_mps2: Floats
    speeding: Floats
    acceleration_mps2: Floats
    bend: Floats


def _draw(config: ProposalConfig, generator: np.random.Generator) -> _Draws:
    return _Draws(
        factor=np.maximum(1.0 + config.perturbed_speed * generator.normal(size=config.perturbed), 0.0),
        aside_m=config.perturbed_lateral_m * generator.normal(size=config.perturbed),
        jitter_m=generator.uniform(*config.jitter_m, size=config.jittery),
        noise=generator.normal(size=(config.jittery, FUTURE_FRAMES, 3)),
        leaving_m=generator.choice([-1.0, 1.0], size=config.off_road)
        * generator.uniform(*config.off_road_m, size=config.off_road),
        back_m=generator.uniform(0.5, 5.0, size=config.reversed),
        brake_mps2=generator.uniform(*config.brake_mps2, size=config.hard_brake),
        speeding=generator.uniform(*config.speeding_factor, size=config.speeding),
        acceleration_mps2=generator.uniform(*config.manoeuvre_acceleration_mps2, size=config.manoeuvre),
        bend=generator.uniform(-1.0, 1.0, size=config.manoeuvre),
    )


def _disturbed(base: Floats, speeds_mps: Floats, draws: _Draws, config: ProposalConfig) -> list[tuple[str, Floats]]:
    """Disturbed plans by source, each (B, n, 8, 3), of plans (B, 8, 3) at speeds (B,)."""
    knots = np.concatenate([np.zeros_like(base[:, :1, :2]), base[..., :2]], axis=1)
    steps = np.diff(knots, axis=1)
    driven_m = np.cumsum(np.hypot(steps[..., 0], steps[..., 1]), axis=-1)[:, None]
    speed = speeds_mps[:, None, None]
    speeding = draws.speeding[..., None]
    # Standing humans cannot speed by a factor: they start driving instead.
    pushed_m = np.maximum(speeding * driven_m, travelled_m(speed, speeding))
    braked_m = travelled_m(speed, -draws.brake_mps2[..., None])
    timings = np.concatenate([draws.factor[..., None] * driven_m, braked_m, pushed_m], axis=1)
    retimed = np.stack([follow_path(plan, timing) for plan, timing in zip(base, timings, strict=True)])
    faster, hard_brake, pushed = np.split(retimed, np.cumsum([config.perturbed, config.hard_brake]), axis=1)
    drifting = np.concatenate([faster, np.repeat(base[:, None], config.off_road, 1)], axis=1)
    drifted = drift_sideways(drifting, np.concatenate([draws.aside_m, draws.leaving_m], axis=1))
    return [
        ("perturbed", drifted[:, : config.perturbed]),
        ("jittery", jitter(base[:, None], draws.jitter_m, config.jitter_heading_rad, draws.noise)),
        ("off_road", drifted[:, config.perturbed :]),
        ("reversed", reverse_last(np.repeat(base[:, None], config.reversed, 1), draws.back_m)),
        ("hard_brake", hard_brake),
        ("speeding", pushed),
        ("manoeuvre", _manoeuvres(speeds_mps, draws, config)),
    ]


def _manoeuvres(speeds_mps: Floats, draws: _Draws, config: ProposalConfig) -> Floats:
    bound = np.minimum(
        config.manoeuvre_lateral_mps2 / np.maximum(speeds_mps, 1.0) ** 2, config.manoeuvre_curvature_per_m
    )
    curvature = bound[:, None] * draws.bend
    # Every second one goes straight on: braking and speeding in lane are what a policy tries first.
    curvature[:, ::2] = 0.0
    return constant_manoeuvre(np.broadcast_to(speeds_mps[:, None], curvature.shape), draws.acceleration_mps2, curvature)


def _intermediate(chains: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Draws ``count`` plans out of the steps before the last of (G, K + 1, 8, 3) chains."""
    steps = chains[:, :-1].reshape(-1, FUTURE_FRAMES, 3)
    return np.asarray(steps[generator.choice(len(steps), size=count, replace=count > len(steps))], np.float64)


def _matching_entries(
    vocabulary: Floats, speed_mps: float, count: int, config: ProposalConfig, generator: np.random.Generator
) -> Floats:
    """Draws vocabulary plans, likelier the nearer their first speed is to the current one."""
    entry_speed = np.hypot(vocabulary[:, 0, 0], vocabulary[:, 0, 1]) / PLAN_INTERVAL_S
    # The small constant lets every entry come up now and then: the model must know wild plans as well.
    chance = np.exp(-np.abs(entry_speed - speed_mps) / config.vocabulary_speed_scale_mps) + 1e-3
    chosen = generator.choice(len(vocabulary), size=count, replace=count > len(vocabulary), p=chance / chance.sum())
    return np.asarray(vocabulary[chosen], np.float64)
