"""Plans per second of the EPDMS scorer on one core: ``python benchmarks/epdms_throughput.py [--golden DIR]``.

Interpolation, simulation and scoring in batches, on the golden scenes as they are and made dense by 200 polygons and
50 tracks each. The official evaluator on the same inputs: 20-32 plans a second one at a time, 149 in batches of 256,
57 in batches of 256 on dense scenes.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.golden_records import load_scenes, read_rows
from irl_vla.epdms.records import ROLLOUT_STEPS, Polygons, PreparedScene, Tracks
from irl_vla.epdms.scorer import score_in_context, scoring_context
from irl_vla.geometry import Floats

DATA = Path(__file__).parents[1] / "tests" / "golden" / "data"


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


def measure(scenes: list[PreparedScene], plans: list[Floats], batch: int, repeat: int) -> tuple[float, float]:
    """Plans per second and milliseconds per context, over all scenes; the median of ``repeat`` passes."""
    rates, context_ms = [], []
    config = ScorerConfig()
    for _ in range(repeat):
        preparing = scoring = 0.0
        for scene, candidates in zip(scenes, plans, strict=True):
            rows = candidates[np.arange(batch) % len(candidates)]
            start = time.perf_counter()
            context = scoring_context(scene)
            middle = time.perf_counter()
            score_in_context(context, rows, config)
            preparing += middle - start
            scoring += time.perf_counter() - middle
        rates.append(batch * len(scenes) / scoring)
        context_ms.append(1e3 * preparing / len(scenes))
    return float(np.median(rates)), float(np.median(context_ms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, default=DATA, help="folder of golden scenes")
    parser.add_argument("--scenes", type=int, default=40, help="number of scenes")
    parser.add_argument("--repeat", type=int, default=5, help="passes; the median is reported")
    parser.add_argument("--seed", type=int, default=0, help="of the objects that make scenes dense")
    options = parser.parse_args()
    records = load_scenes(options.golden)
    poses: dict[str, list[list[float]]] = {}
    for row in read_rows(options.golden, "results"):
        poses.setdefault(row["scene_id"], []).append(row["poses"])
    tokens = list(records)[:: max(1, len(records) // options.scenes)][: options.scenes]
    scenes = [records[token] for token in tokens]
    plans = [np.array(poses[token]).reshape(-1, 8, 3) for token in tokens]
    generator = np.random.default_rng(options.seed)
    dense = [densified(scene, generator) for scene in scenes]
    measure(scenes[:1], plans[:1], 1, 1)  # compiles
    print(f"{len(scenes)} scenes, median of {options.repeat} passes")
    for name, items in (("golden", scenes), ("dense", dense)):
        for batch in (1, 256):
            rate, context_ms = measure(items, plans, batch, options.repeat)
            print(f"{name:7s} batch {batch:3d}: {rate:8.0f} plans/s, context {context_ms:.2f} ms a scene")


if __name__ == "__main__":
    main()
