"""Does the generated world drive like people do: ``python benchmarks/world_statistics.py [--real CENTRES.npy]``.

Claim: at least 90 % of the k-means centres of real human plans have a centre of generated human plans, of as many and
fitted alike, within 2 m of mean displacement. ``--real`` names a file of shape (K, 8, 3) with such centres, for example
a published planning vocabulary (DiffVLA's or DriveSuprim's of nuPlan's drives); this project ships none, and without it
only the generated side is printed. Centres over-represent rare plans, so they are compared with centres of as many,
never with raw plans.

Drives are simulated without being written. 8192 centres want some 30,000 plans: 1200 drives, minutes on one core.
"""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.cluster.vq import kmeans2

from irl_vla.geometry import Floats, relative_to
from irl_vla.reward.proposals import comparable
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S
from irl_vla.world.config import SplitSizeConfig, WorldConfig
from irl_vla.world.drive import drive
from irl_vla.world.plan import log_generator, log_plans, network_of

NEAR_M: Final = 2.0
PERCENTILES: Final = (1, 5, 25, 50, 75, 95, 99)
FRAMES: Final = 33
_ITERATIONS: Final = 10
_HEADING_M: Final = float(comparable(np.ones((1, FUTURE_FRAMES, 3)))[0, 2])  # that a radian counts for


def generated_plans(logs: int, layouts: int, seed: int) -> Floats:
    """(N, 8, 3) human plans of every moment of freshly simulated drives, in the ego frame."""
    tiny = SplitSizeConfig(logs=2, layouts=2)
    train = SplitSizeConfig(logs=logs, layouts=layouts)
    config = WorldConfig(train=train, val=tiny, test=tiny, frames_per_log=FRAMES, sensors=None)
    plans = []
    wanted = [plan for plan in log_plans(config, seed) if plan.layout.split == "train"]
    for plan in track(wanted, "simulate", disable=not Console().is_terminal):
        _, moments = drive(network_of(plan.layout, seed), plan.kind, FRAMES, log_generator(plan, seed))
        poses = np.stack([moment.ego.pose for moment in moments])
        plans += [
            relative_to(poses[now], poses[now + 1 : now + 1 + FUTURE_FRAMES]) for now in range(FRAMES - FUTURE_FRAMES)
        ]
    return np.stack(plans)


def centres_of(plans: Floats, count: int, generator: np.random.Generator) -> Floats:
    """(K, 8, 3) k-means centres; Lloyd's iterations from a k-means++ start."""
    points, _ = kmeans2(comparable(plans), count, iter=_ITERATIONS, minit="++", rng=generator)
    centres = points.reshape(-1, FUTURE_FRAMES, 3)
    centres[..., 2] /= _HEADING_M
    return np.asarray(centres, np.float64)


def nearest_m(of: Floats, among: Floats, block: int = 32) -> Floats:
    """(N,) smallest mean displacement of every plan of (N, 8, 3) to any of (M, 8, 3)."""
    result = []
    for start in range(0, len(of), block):
        part = of[start : start + block, None, :, :2].astype(np.float32) - among[None, :, :, :2].astype(np.float32)
        result.append(np.sqrt((part**2).sum(-1)).mean(-1).min(axis=1))
    return np.concatenate(result).astype(np.float64)


def manoeuvres(plans: Floats) -> dict[str, NDArray[np.bool_]]:
    """Groups of plans by what they do; a plan may belong to several, or to none."""
    knots = np.concatenate([np.zeros((len(plans), 1, 2)), plans[..., :2]], axis=1)
    speeds = np.hypot(*np.moveaxis(np.diff(knots, axis=1), -1, 0)) / PLAN_INTERVAL_S
    first, last = speeds[:, 0], speeds[:, -1]
    gain = (last - first) / (PLAN_INTERVAL_S * (FUTURE_FRAMES - 1))
    turn = np.abs(plans[:, -1, 2])
    return {
        "all": np.ones(len(plans), bool),
        "hardly moving, below 2 m": speeds.sum(1) * PLAN_INTERVAL_S < 2.0,
        "from standing": (first < 0.5) & (last > 1.0),
        "to a stop": (last < 0.5) & (first > 1.0),
        "speeding up, above 1 m/s2": gain > 1.0,
        "braking, above 1 m/s2": gain < -1.0,
        "slow, 1 to 5 m/s": (speeds.mean(1) > 1.0) & (speeds.mean(1) < 5.0),
        "fast, above 12 m/s": speeds.mean(1) > 12.0,
        "straight, within 5 degrees": turn < np.radians(5),
        "bending, 5 to 30 degrees": (turn >= np.radians(5)) & (turn < np.radians(30)),
        "turning, above 30 degrees": turn >= np.radians(30),
        "sharp, above 75 degrees": turn >= np.radians(75),
    }


def facts(plans: Floats) -> dict[str, Floats]:
    """Quantities of plans whose percentiles are compared."""
    knots = np.concatenate([np.zeros((len(plans), 1, 2)), plans[..., :2]], axis=1)
    speeds = np.hypot(*np.moveaxis(np.diff(knots, axis=1), -1, 0)) / PLAN_INTERVAL_S
    return {
        "end distance, m": np.hypot(plans[:, -1, 0], plans[:, -1, 1]),
        "end to the left, m": plans[:, -1, 1],
        "end heading, degrees": np.degrees(plans[:, -1, 2]),
        "first speed, m/s": speeds[:, 0],
        "change of speed, m/s2": (speeds[:, -1] - speeds[:, 0]) / (PLAN_INTERVAL_S * (FUTURE_FRAMES - 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="(K, 8, 3) k-means centres of real human plans")
    parser.add_argument("--logs", type=int, default=1200)
    parser.add_argument("--layouts", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--centres", type=int, default=8192, help="how many of ours, without --real")
    parser.add_argument("--plans", type=Path, help="keeps the generated plans here, or takes those that are there")
    options = parser.parse_args()
    if options.plans is not None and options.plans.is_file():
        plans = np.load(options.plans)
    else:
        plans = generated_plans(options.logs, options.layouts, options.seed)
        if options.plans is not None:
            np.save(options.plans, plans)
    real = None if options.real is None else np.load(options.real).astype(np.float64)
    count = options.centres if real is None else len(real)
    own = centres_of(plans, count, np.random.default_rng(options.seed))
    console = Console()
    console.print(f"{len(plans)} generated plans, {len(own)} centres")
    table = Table("centres", "", *(f"{value} %" for value in PERCENTILES))
    others = {} if real is None else facts(real)
    for name, values in facts(own).items():
        table.add_row(name, "generated", *(f"{value:.1f}" for value in np.percentile(values, PERCENTILES)))
        if name in others:
            table.add_row("", "real", *(f"{value:.1f}" for value in np.percentile(others[name], PERCENTILES)))
    console.print(table)
    if real is not None:
        console.print(coverage_table(real, own))
        known = np.mean(nearest_m(own, real) <= NEAR_M)
        console.print(f"the other way round: {known:.1%} of the generated centres have a real one within {NEAR_M:g} m")


def coverage_table(real: Floats, own: Floats) -> Table:
    """How many real centres have one of ours near, by manoeuvre."""
    distance = nearest_m(real, own)
    table = Table("manoeuvre", "real centres", "generated centres", "near one of ours", "95 % are within")
    mine = manoeuvres(own)
    for name, members in manoeuvres(real).items():
        if members.any():
            covered, far = np.mean(distance[members] <= NEAR_M), np.percentile(distance[members], 95)
            shares = (f"{np.mean(members):.1%}", f"{np.mean(mine[name]):.1%}")
            table.add_row(name, *shares, f"{covered:.1%}", f"{far:.1f} m")
    return table


if __name__ == "__main__":
    main()
