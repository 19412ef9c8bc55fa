"""Plans a second of the EPDMS scorer on one core: ``python benchmarks/epdms_throughput.py [--drives ROOT]``.

Interpolation, simulation and all eight sub-scores of a single frame, of 256 different plans a scene, in one batch and
one at a time; what the plans share (reference, human, geometry) is prepared once a scene and timed by itself. Of
several passes the best in each scene counts: other work on the machine only ever makes a pass slower.

"golden" are scenes of the golden files. "dense" are the scenes of real drives (``--drives``: a data set with its maps,
or what is recorded of one, in NAVSIM's layout), or golden scenes made dense by 200 polygons and 50 objects each. The
official evaluator on the same inputs: 20-32 plans a second one at a time, 149 in batches of 256 golden plans, 57 in
batches of 256 on dense scenes.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from irl_vla.cli.commands.compare_official import drive_scenes
from irl_vla.epdms.collision import score_contacts, score_red_lights
from irl_vla.epdms.comfort import history_comfort
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.golden_records import by_scene, load_scenes, read_rows
from irl_vla.epdms.inputs import plan_scene, prepare_scene
from irl_vla.epdms.progress import progress
from irl_vla.epdms.records import ROLLOUT_STEPS, Polygons, PreparedScene, Tracks
from irl_vla.epdms.road_rules import score_road_rules
from irl_vla.epdms.rollout import interpolate_plans, simulate
from irl_vla.epdms.scorer import ScoringContext, score_in_context, scoring_context
from irl_vla.geometry import Floats, relative_to
from irl_vla.judge.official.planning import map_of, moment_of
from irl_vla.reward.proposals import constant_manoeuvre

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
BATCH = 256
ALONE = 32  # of the 256 plans, scored one at a time
CONFIG = ScorerConfig()


@dataclass(frozen=True)
class Task:
    """One scene, ready, and its plans (256, 8, 3)."""

    context: ScoringContext
    plans: Floats


def seeded_plans(scene: PreparedScene, generator: np.random.Generator) -> Floats:
    """256 different plans: one half of constant acceleration and curvature, one half the reference, sped up or slowed
    down, with a sway that grows.
    """
    half = BATCH // 2
    speed = np.hypot(*scene.ego_state[3:5])
    manoeuvres = constant_manoeuvre(speed, generator.uniform(-4, 2, half), generator.uniform(-0.05, 0.05, half))
    along = relative_to(scene.ego_state[:3], scene.reference_poses)
    steps = 5 * np.arange(1, 9) * generator.uniform(0.5, 1.2, (half, 1))
    low = steps.astype(int)
    followed = along[low] + (steps - low)[..., None] * (along[low + 1] - along[low])
    sway = np.array([0.3, 0.3, 0.02]) * generator.normal(size=(half, 1, 3)) * np.linspace(0.125, 1, 8)[:, None]
    return np.concatenate([manoeuvres, followed + sway])


def densified(scene: PreparedScene, generator: np.random.Generator) -> PreparedScene:
    """The scene with 200 polygons of 41 vertices and 50 tracks more, spread over 60 m around the ego."""
    centres = scene.ego_state[:2] + generator.uniform(-60, 60, (200, 2))
    angles = np.linspace(0, 2 * np.pi, 41)
    angles[-1] = 0.0
    rings = centres[:, None] + 8.0 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    layers, old = generator.integers(0, 5, 200), scene.polygons
    added = old.offsets[-1] + 41 * np.arange(1, 201)
    poses = np.zeros((50, ROLLOUT_STEPS, 3))
    poses[..., :2] = (scene.ego_state[:2] + generator.uniform(-60, 60, (50, 2)))[:, None]
    poses[..., 2] = generator.uniform(-np.pi, np.pi, (50, 1))
    tracks = scene.tracks
    return replace(
        scene,
        polygons=Polygons(np.concatenate([old.vertices, rings.reshape(-1, 2)]), np.concatenate([old.offsets, added])),
        polygon_layer=np.concatenate([scene.polygon_layer, layers]),
        polygon_on_route=np.concatenate([scene.polygon_on_route, np.isin(layers, [1, 2])]),
        tracks=Tracks(
            tokens=(*tracks.tokens, *(f"dense{i}" for i in range(50))),
            kinds=np.concatenate([tracks.kinds, np.zeros(50, np.int64)]),
            sizes=np.concatenate([tracks.sizes, np.tile([4.6, 1.9], (50, 1))]),
            poses=np.concatenate([tracks.poses, poses]),
            velocities=np.concatenate([tracks.velocities, np.zeros((50, ROLLOUT_STEPS, 2))]),
            present=np.concatenate([tracks.present, np.ones((50, ROLLOUT_STEPS), np.bool_)]),
        ),
    )


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def batched(task: Task) -> float:
    """Seconds a plan, all plans of a scene together."""
    return seconds(lambda: score_in_context(task.context, task.plans, CONFIG)) / BATCH


def alone(task: Task) -> float:
    """Seconds a plan, one at a time."""
    singles = [task.plans[row : row + 1] for row in range(0, BATCH, BATCH // ALONE)]
    return seconds(lambda: [score_in_context(task.context, single, CONFIG) for single in singles]) / ALONE


def best(measure: Callable[[Task], float], tasks: Sequence[Task], repeat: int) -> float:
    """Mean over scenes of the best pass in each."""
    passes = [[measure(task) for task in tasks] for _ in range(repeat)]
    return float(np.min(passes, axis=0).mean())


def phases(task: Task) -> Iterator[tuple[str, float]]:
    """Where the time of a batch goes: seconds by phase."""
    clock: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        clock[name] = time.perf_counter() - start

    context, scene = task.context, task.context.scene
    with timed("interpolation"):
        poses = interpolate_plans(scene.time_us, scene.ego_state, task.plans)
    with timed("simulation"):
        rollouts = simulate(scene.ego_state, poses)
    with timed("areas, DAC, DDC, LK"):
        rules = score_road_rules(rollouts, context.roads)
    with timed("NC, TTC"):
        score_contacts(rollouts, rules.areas, context.objects)
    with timed("TLC"):
        score_red_lights(rollouts, context.lights)
    with timed("EP"):
        progress(rollouts, context.roads.centerline)
    with timed("HC"):
        history_comfort(rollouts, context.history)
    yield from clock.items()


def report(name: str, scenes: Sequence[PreparedScene], repeat: int, seed: int) -> dict[str, float]:
    """Prints what was measured in some scenes, and returns plans a second."""
    generator = np.random.default_rng(seed)
    tasks = [Task(scoring_context(scene), seeded_plans(scene, generator)) for scene in scenes]
    contexts = min(seconds(lambda: [scoring_context(scene) for scene in scenes]) for _ in range(repeat))
    polygons, objects = (np.mean([len(getattr(s, part)) for s in scenes]) for part in ("polygons", "tracks"))
    print(f"{name}: {len(scenes)} scenes of {polygons:.0f} polygons and {objects:.0f} objects on average")
    print(f"  reference, human and geometry: {1e3 * contexts / len(scenes):.2f} ms a scene")
    slow, fast = (best(measure, tasks, repeat) for measure in (alone, batched))
    print(f"  batch 1: {1 / slow:8.0f} plans/s")
    print(f"  batch {BATCH}: {1 / fast:6.0f} plans/s, {slow / fast:.1f} times as many")
    passes = [[dict(phases(task)) for task in tasks] for _ in range(repeat)]
    for phase in passes[0][0]:
        spent = np.min([[clock[phase] for clock in row] for row in passes], axis=0).mean()
        print(f"    {phase:20s} {1e6 * spent / BATCH:6.1f} us a plan")
    return {"batch_1": 1 / slow, f"batch_{BATCH}": 1 / fast}


def report_preparing(drives: Path | None, repeat: int) -> list[PreparedScene]:
    """Prints what preparing a scene costs; returns the scenes, empty without drives."""
    if drives is None:
        names = ("map_lanes", "map_roadblocks", "map_areas", "tracks_now", "lights_now")
        parts = {name: by_scene(read_rows(GOLDEN / "inputs", f"synthetic_{name}"), "scene") for name in names}
        cases = []
        for row in read_rows(GOLDEN / "inputs", "synthetic_scenes"):
            rows = [parts[name].get(row["token"], []) for name in names]
            view = map_of(row["token"], *rows[:3])
            cases.append((view, moment_of(row, view, *rows[3:])))
        spent = [min(seconds(lambda c=case: plan_scene(*c)) for _ in range(repeat)) for case in cases]
        print(f"route, map and reference of {len(cases)} golden inputs: {1e3 * np.mean(spent):.1f} ms a scene")
        return []
    pairs = list(drive_scenes(drives, "mini"))
    spent = [min(seconds(lambda p=pair: prepare_scene(*p)) for _ in range(repeat)) for pair in pairs]
    print(
        f"preparing {len(pairs)} scenes from log and map, reference included: {1e3 * np.mean(spent):.1f} ms a scene, "
        f"{1e3 * np.max(spent):.1f} ms the slowest"
    )
    return [prepare_scene(*pair) for pair in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drives", type=Path, metavar="ROOT", help="real drives: navsim_logs/mini and maps")
    parser.add_argument("--scenes", type=int, default=24, help="number of scenes of each kind")
    parser.add_argument("--repeat", type=int, default=5, help="passes; the best is reported")
    parser.add_argument("--seed", type=int, default=0, help="of plans, and of the objects that make scenes dense")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write plans a second there")
    options = parser.parse_args()
    records = list(load_scenes(GOLDEN / "data").values())
    scenes = records[:: max(1, len(records) // options.scenes)][: options.scenes]
    generator = np.random.default_rng(options.seed)
    score_in_context(scoring_context(scenes[0]), seeded_plans(scenes[0], generator), CONFIG)  # compiles
    real = report_preparing(options.drives, 2)
    dense = real[:: max(1, len(real) // options.scenes)][: options.scenes]
    rates = {
        "golden": report("golden", scenes, options.repeat, options.seed),
        "dense": report(
            "dense, real drives" if dense else "dense, made so",
            dense or [densified(scene, generator) for scene in scenes],
            options.repeat,
            options.seed,
        ),
    }
    if options.json:
        options.json.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
    main()
