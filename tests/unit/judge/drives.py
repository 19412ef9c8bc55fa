"""Drives of many speeds and bends, with plans that are bad in honest ways."""

from collections.abc import Iterator

import numpy as np

from irl_vla.geometry import Floats
from irl_vla.judge.plan_readings import TIMES_S, PlanSample


def driven(speed: Floats, acceleration: Floats, curvature: Floats) -> Floats:
    """(N, 8, 3) plans of arcs; a braking ego stops and stays. All arguments are (N,)."""
    times = np.broadcast_to(TIMES_S, (len(speed), len(TIMES_S)))
    until = np.divide(speed, -acceleration, out=np.full(len(speed), np.inf), where=acceleration < 0)
    times = np.minimum(times, until[:, None])
    way = speed[:, None] * times + acceleration[:, None] / 2 * times**2
    turned = curvature[:, None] * way
    chord = way * np.sinc(turned / 2 / np.pi)
    return np.stack([chord * np.cos(turned / 2), chord * np.sin(turned / 2), turned], axis=-1)


def human_drives(count: int, seed: int = 0) -> tuple[Floats, Floats]:
    """(N, 8, 3) drives, half of them straight, and (N, 2) velocities."""
    rng = np.random.default_rng(seed)
    speed, acceleration = rng.uniform(3.0, 14.0, count), rng.normal(0.0, 0.7, count)
    curvature = np.where(rng.random(count) < 0.5, 0.0, rng.uniform(-0.04, 0.04, count))
    velocity = np.stack([speed, np.zeros(count)], axis=-1)
    return driven(speed, acceleration, curvature), velocity


def sample_of(plans: Floats, velocity: Floats, human: Floats | None) -> PlanSample:
    """With the human's drives, or without any."""
    known = np.full(len(plans), human is not None)
    return PlanSample(plans, velocity, np.zeros_like(plans) if human is None else human, known)


def honest_plans(human: Floats, velocity: Floats, seed: int) -> Iterator[tuple[str, Floats]]:
    """Plans that are what they should be, however bad."""
    rng = np.random.default_rng(seed)
    speed, count = velocity[:, 0], len(human)
    still = np.zeros(count)
    yield "human", human
    for acceleration in (-6.0, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0):
        yield f"acceleration {acceleration}", driven(speed, still + acceleration, still)
    for curvature in (-0.05, -0.02, 0.02, 0.05):
        yield f"curvature {curvature}", driven(speed, still, still + curvature)
    for noise in (0.1, 0.3, 1.0, 3.0, 10.0):
        size = np.array([noise, noise, noise / 20])
        yield f"human, noise {noise}", human + rng.normal(size=human.shape) * size
        yield f"constant velocity, noise {noise}", driven(speed, still, still) + rng.normal(size=human.shape) * size
        yield f"straight headings, noise {noise}", (human + rng.normal(size=human.shape) * size) * [1, 0, 0]
        yield f"noise {noise}", rng.normal(size=human.shape) * size
    for pace in (0.7, 0.8, 0.9, 1.1, 1.2, 1.3):
        yield f"pace {pace}", human * [pace, pace, 1]
    yield "standing", np.zeros_like(human)
    yield "those of other scenes", human[rng.permutation(count)]
    yield "anywhere", rng.uniform(-50, 50, human.shape)
    yield "half a metre beside", human + np.array([0.0, 0.5, 0.0])
