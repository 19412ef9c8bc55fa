"""Aim: on one core, the reward world model scores plans five times as fast as the true scorer; so far missed.

Run: OMP_NUM_THREADS=1 python -m benchmarks.reward_throughput [--prepared FOLDER]
Plans are the proposals that labelling makes, 64 a scene. The model goes through its backend, which reads a token bank
and computes once a call what the plans of a scene share; the true scorer scores the very same plans in contexts that
are prepared and in memory. All are timed in turn, once everything is compiled, in processor time, and the best pass of
each counts. Weights and tokens are random, which costs what others do; fields, boxes and futures of the bank are the
true ones of the scenes, since it is their number and nearness that costs. Scenes are those of a store (``--prepared
runs/NAME/shared/prepared/val``), else small ones out of the golden files.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.labelling_throughput import CONFIG, SCORER, one_log, open_sources, read_all, seconds, write_bank
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.road_fields import FieldGrid, JudgedRoads, road_fields
from irl_vla.epdms.scorer import ScoringContext, score_in_context, scoring_context
from irl_vla.geometry import Floats, relative_to
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.sight import SightLayout, sight_layout, stored_fields
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.backends import ModelBackend
from irl_vla.reward.comfort import history_comforts
from irl_vla.reward.config import BackendConfig, RewardModelConfig
from irl_vla.reward.labels import label_log
from irl_vla.reward.model import RewardWorldModel
from irl_vla.reward.relations import relate
from irl_vla.reward.views import bank_rollouts, look
from irl_vla.scene import FUTURE_FRAMES

OBJECTS = 24
#: Shares of what an object drives that its futures drive, and their chances.
FUTURES, CHANCES = np.array([1.0, 0.7, 1.3]), np.array([0.8, 0.1, 0.1])
READS = {"tokens": {"relations": False}, "relations": {"tokens": False}, "both": {}}


def true_sight(scenes: list[PreparedScene], layout: SightLayout) -> dict[str, NDArray]:
    """Columns of a bank: the fields of scenes, and their nearest objects with three futures each."""
    grid = FieldGrid(layout.x_min_m, layout.y_min_m, layout.cell_m, layout.rows, layout.columns)
    columns = {name: np.zeros((len(scenes), *shape), kind) for name, (shape, kind) in layout.stored.items()}
    for row, scene in enumerate(scenes):
        pose = scene.ego_state[:3]
        map_parts = scene.polygons, scene.polygon_layer, scene.polygon_on_route, scene.centerline, scene.red_lights
        columns["fields"][row] = stored_fields(road_fields(JudgedRoads(pose, *map_parts), grid))
        see_objects(scene, {name: values[row] for name, values in columns.items()})
    columns["future_chances"][:] = CHANCES
    columns["future_spread_m"][:] = 0.3 * np.arange(1, FUTURE_FRAMES + 1)
    return columns


def see_objects(scene: PreparedScene, columns: dict[str, NDArray]) -> None:
    """Fills in the objects of a scene that are there now; who is gone later stays where it was last."""
    tracks = scene.tracks
    poses = relative_to(scene.ego_state[:3], tracks.poses)
    here = np.flatnonzero(tracks.present[:, 0])
    nearest = here[np.argsort(np.hypot(*poses[here, 0, :2].T))][:OBJECTS]
    for slot, track in enumerate(nearest):
        last = np.maximum.accumulate(np.where(tracks.present[track], np.arange(len(poses[track])), 0))
        x, y, heading = poses[track, 0]
        speed = np.hypot(*tracks.velocities[track, 0])
        velocity = speed * np.cos(heading), speed * np.sin(heading)
        columns["boxes"][slot] = [x, y, 0.8, *tracks.sizes[track], 1.6, heading, *velocity]
        columns["object_scores"][slot, tracks.kinds[track]] = 1.0
        driven = poses[track, last[5::5], :2] - poses[track, 0, :2]
        columns["futures"][slot] = poses[track, 0, :2] + FUTURES[:, None, None] * driven


def backends(bank: TokenBank) -> dict[str, ModelBackend]:
    """The reward world model at default sizes, by what it reads and how many members it has."""
    found = {}
    for reads, overrides in READS.items():
        for members in (1, 3):
            config = RewardModelConfig().with_overrides(overrides)
            models = tuple(RewardWorldModel(bank.layout, config).eval() for _ in range(members))
            found[f"{reads}, {members} members"] = ModelBackend(models, bank, BackendConfig())
    return found


def parts_of(bank: TokenBank, rows: NDArray[np.int64], plans: Floats) -> dict[str, Callable[[], object]]:
    """What a model that reads both does with plans (B, P, 8, 3), one after the other."""
    model = RewardWorldModel(bank.layout, RewardModelConfig()).eval()
    rollouts, history = bank_rollouts(bank, rows, plans), bank.ego_history[rows].astype(np.float64)
    views = look(model.config, bank, rows, plans, rollouts)
    return {
        "rollouts": partial(bank_rollouts, bank, rows, plans),
        "relations": lambda: relate(bank.sight(rows), rollouts),
        "HC": partial(history_comforts, history, rollouts),
        "token branch": lambda: model.tokens(
            views.plans, views.history, model.tokens.decoder.scene_keys(torch.from_numpy(bank.tokens(rows)))
        ),
        "relation branch": partial(model.relations, views.plans, views.history, views.relations),
    }


def score_all(contexts: list[ScoringContext], plans: Floats) -> None:
    for context, candidates in zip(contexts, plans, strict=True):
        score_in_context(context, candidates, SCORER)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, metavar="FOLDER", help="prepared scenes; golden ones without")
    parser.add_argument("--rows", type=int, default=40, help="scenes")
    parser.add_argument("--repeat", type=int, default=7, help="passes; the best is reported")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        store = one_log(options.prepared, Path(folder) / "store", options.rows)
        scenes, layout = list(read_all(store)), sight_layout(EncoderConfig())
        bank, rows = (
            write_bank(Path(folder) / "bank", scenes, layout, true_sight(scenes, layout)),
            np.arange(len(store)),
        )
        labels = label_log(rows, open_sources(store, bank), CONFIG, SCORER, seed=0)
        plans, count = labels.plans.astype(np.float64), labels.source.size
        contexts = [scoring_context(scene) for scene in store.scenes(labels.tokens.tolist())]
        calls = {
            "true scorer": partial(score_all, contexts, plans),
            **{name: partial(backend.score, rows, plans) for name, backend in backends(bank).items()},
            **parts_of(bank, rows, plans),
        }
        passes = [[seconds(call) for call in calls.values()] for _ in range(1 + options.repeat)]  # the first compiles
        best = dict(zip(calls, np.min(passes[1:], axis=0), strict=True))
    polygons, objects = (np.mean([len(getattr(scene, part)) for scene in scenes]) for part in ("polygons", "tracks"))
    print(f"{len(rows)} scenes of {polygons:.0f} polygons and {objects:.0f} objects on average, {count} plans")
    for name, spent in best.items():
        ratio = f"{best['true scorer'] / spent:.2f} x the true scorer"
        print(f"{name}: {count / spent:.0f} plans/s, {1e6 * spent / count:.1f} us a plan, {ratio}")


if __name__ == "__main__":
    main()
