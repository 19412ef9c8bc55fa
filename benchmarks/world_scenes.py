"""Are generated scenes worth judging: ``python benchmarks/world_scenes.py [--data ROOT] [--select]``.

Claims, on a test split of road layouts that the training split does not have:

* Who sees the scene beats who does not by at least 15 points of EPDMS: PDM-Closed and the logged human, against the
  best blind planner. Blind ones know ego status and command alone and are fitted on the training split: the ego-status
  network, the same with its best constant change of pace, and the best constant acceleration.
* Every scenario kind is at least 3 % of the scenes; the human's own NC and DAC are at least 0.97; PDM-Closed makes at
  least 95 % of the human's progress.

``--select`` keeps the scenes of ``irl_vla.judge.selection`` alone, which leaves out those whose human fails: NC and DAC
of the human are 1 there by construction. Without ``--data`` a world without sensors is generated first. Minutes on one
core; ``--prepared`` keeps what takes longest, for the same data.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.features import ego_history
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes, split_logs
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.scorer import score_plans
from irl_vla.epdms.store import PreparedStore, write_shard
from irl_vla.geometry import Floats
from irl_vla.judge.baselines import (
    best_constant_acceleration,
    constant_acceleration,
    constant_velocity,
    human,
    reference,
)
from irl_vla.judge.one_stage import FrameId, SplitScores, score_split
from irl_vla.judge.selection import select_scenes
from irl_vla.judge.selection_config import SelectionConfig
from irl_vla.judge.tables import difference
from irl_vla.reward.proposals import follow_path
from irl_vla.train.config import EgoMlpConfig
from irl_vla.train.ego_mlp import EgoMlp, ego_mlp_plans, train_ego_mlp
from irl_vla.world.config import SplitSizeConfig, WorldConfig
from irl_vla.world.generate import generate

SEEING: Final = ("human", "reference")
PACES: Final = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
SCORER: Final = ScorerConfig()
_BOOTSTRAP: Final = 2000
_EVERY: Final = 2  # training scenes on which blind planners are tuned, one out of so many


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes of a split: prepared, and what a blind planner knows of them.

    Attributes:
        history: (N, 4, 7); ``command`` (N,); ``plans`` (N, 8, 3) the human's.
    """

    store: PreparedStore
    frames: tuple[FrameId, ...]
    history: NDArray[np.float32]
    command: NDArray[np.int64]
    plans: NDArray[np.float32]

    def part(self, rows: NDArray[np.int64]) -> "Scenes":
        """Only some of the scenes."""
        frames = tuple(self.frames[row] for row in rows)
        return Scenes(self.store, frames, self.history[rows], self.command[rows], self.plans[rows])

    def by_token(self, plans: Floats) -> dict[str, Floats]:
        """Plans in the order of the frames."""
        return {frame.token: plan for frame, plan in zip(self.frames, plans, strict=True)}


class HumanFacts(NamedTuple):
    """(N,) of every scene: the human's own NC and DAC, and raw progress of human and PDM-Closed in metres."""

    nc: Floats
    dac: Floats
    human_m: Floats
    reference_m: Floats


def read(dataset: Dataset, split: str, folder: Path) -> Scenes:
    """Prepares the scenes of a split, one shard a log; shards that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    frames, history, command, plans = [], [], [], []
    for name in track(split_logs(dataset, split), f"prepare {split}", disable=not Console().is_terminal):
        scenes = list(iter_scenes(dataset, split, logs=[name]))
        shard = folder / f"{name}.arrow"
        if not shard.is_file():
            write_shard(shard, [prepare_scene(scene, load_map(dataset, scene.map_name)) for scene in scenes])
        for scene in scenes:
            frames.append(FrameId(scene.token, name, scene.group, scene.kind))
            history.append(ego_history(scene))
            command.append(scene.current.ego.command)
            plans.append(scene.human_plan())
    store = PreparedStore.open(folder)
    if any(frame.token not in store for frame in frames):
        raise SystemExit(f"{folder}: expected prepared scenes of {dataset.root}, found other ones; remove the folder")
    return Scenes(
        store,
        tuple(frames),
        np.stack(history).astype(np.float32),
        np.array(command, np.int64),
        np.stack(plans).astype(np.float32),
    )


def selected(scenes: Scenes, seed: int) -> Scenes:
    """The scenes that :mod:`irl_vla.judge.selection` keeps."""
    kinds = {frame.token: frame.kind for frame in scenes.frames}
    prepared = (scenes.store[frame.token] for frame in scenes.frames)
    generator = np.random.default_rng(seed)
    kept = set(select_scenes(prepared, kinds, SelectionConfig(), scorer=SCORER, generator=generator).tokens)
    return scenes.part(np.flatnonzero([frame.token in kept for frame in scenes.frames]))


def blind_plans(train: Scenes, test: Scenes, steps: int, seed: int) -> dict[str, Floats]:
    """(N, 8, 3) plans of the blind planners for the test scenes."""
    network = train_ego_mlp(train.history, train.command, train.plans, EgoMlpConfig(steps=steps), seed)
    tuned = train.part(np.arange(0, len(train.frames), _EVERY))
    pace = best_pace(network, tuned)
    acceleration, _ = best_constant_acceleration((tuned.store[frame.token] for frame in tuned.frames), SCORER)
    planned = ego_mlp_plans(network, test.history, test.command)
    constant = np.stack([constant_acceleration(test.store[frame.token], acceleration) for frame in test.frames])
    return {
        "ego_mlp": planned,
        f"ego_mlp, pace {pace}": np.stack([paced(plan, pace) for plan in planned]),
        f"constant {acceleration} m/s2": constant,
    }


def best_pace(network: EgoMlp, scenes: Scenes) -> float:
    """The factor on the distance driven with which the network's plans score best."""
    planned = ego_mlp_plans(network, scenes.history, scenes.command)
    scores = [
        score_plans(scenes.store[frame.token], np.stack([paced(plan, pace) for pace in PACES]), SCORER).score
        for frame, plan in zip(scenes.frames, planned, strict=True)
    ]
    return PACES[int(np.mean(scores, axis=0).argmax())]


def paced(plan: Floats, factor: float) -> Floats:
    """A plan along the same path with ``factor`` times the distance."""
    knots = np.concatenate([np.zeros((1, 2)), plan[:, :2]])
    return follow_path(plan, factor * np.cumsum(np.hypot(*np.diff(knots, axis=0).T)))


def human_facts(scenes: Scenes) -> HumanFacts:
    """What the human and PDM-Closed do in every scene, without the human filter."""
    rows = []
    for frame in scenes.frames:
        scene = scenes.store[frame.token]
        scored = score_plans(scene, np.stack([human(scene), reference(scene)]), SCORER)
        rows.append((*scored.raw[0, :2], *scored.progress_m))
    return HumanFacts(*np.array(rows).T)


def all_scores(train: Scenes, test: Scenes, steps: int, seed: int) -> dict[str, SplitScores]:
    """EPDMS of everybody on the test scenes, those who see first."""
    scenes = [test.store[frame.token] for frame in test.frames]
    planners = {"human": human, "reference": reference, "constant velocity": constant_velocity}
    plans = {name: np.stack([planner(scene) for scene in scenes]) for name, planner in planners.items()}
    plans |= blind_plans(train, test, steps, seed)
    return {name: score_split(test.store, test.frames, test.by_token(rows), SCORER) for name, rows in plans.items()}


def in_order(split: SplitScores, frames: Sequence[FrameId]) -> Floats:
    """(N,) scores in the order of the frames; scoring goes log by log."""
    found = dict(zip((frame.token for frame in split.frames), split.score, strict=True))
    return np.array([found[frame.token] for frame in frames])


def planner_table(scores: Mapping[str, SplitScores]) -> Table:
    """Sub-scores of everybody."""
    columns = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec", "epdms")
    table = Table("planner", *columns)
    for name, split in scores.items():
        means = split.means()
        table.add_row(name, *(f"{100 * means[column]:.1f}" for column in columns))
    return table


def kind_table(scores: Mapping[str, SplitScores], facts: HumanFacts, frames: Sequence[FrameId]) -> Table:
    """One row a scenario kind; EPDMS of everybody."""
    table = Table("kind", "scenes", "human NC", "human DAC", "progress, reference / human", *scores)
    kinds = np.array([frame.kind for frame in frames])
    epdms = np.stack([in_order(split, frames) for split in scores.values()])
    for kind in [*sorted(set(kinds)), "all"]:
        rows = np.flatnonzero((kinds == kind) | (kind == "all"))
        progress = facts.reference_m[rows].sum() / facts.human_m[rows].sum()
        table.add_row(
            kind,
            f"{len(rows) / len(kinds):.1%}",
            f"{facts.nc[rows].mean():.3f}",
            f"{facts.dac[rows].mean():.3f}",
            f"{progress:.0%}",
            *(f"{100 * value:.1f}" for value in epdms[:, rows].mean(axis=1)),
        )
    return table


def report(train: Scenes, test: Scenes, steps: int, seed: int) -> None:
    """Prints both tables and what sight is worth."""
    console = Console(width=160)
    scores, facts = all_scores(train, test, steps, seed), human_facts(test)
    console.print(f"{len(train.frames)} training scenes, {len(test.frames)} test scenes")
    console.print(planner_table(scores))
    console.print(kind_table(scores, facts, test.frames))
    blind = {name: split for name, split in scores.items() if name not in SEEING}
    best = max(blind, key=lambda name: blind[name].means()["epdms"])
    for name in SEEING:
        gap = difference(scores[name], blind[best], np.random.default_rng(seed), _BOOTSTRAP)
        console.print(
            f"{name} - {best} (best blind): {100 * gap.mean:.1f} points of EPDMS, "
            f"95 % interval over layouts {100 * gap.low:.1f} to {100 * gap.high:.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set in NAVSIM's layout with the splits train and test")
    parser.add_argument("--prepared", type=Path, help="folder for prepared scenes; a temporary one without it")
    parser.add_argument("--select", action="store_true", help="only scenes worth judging, in both splits")
    parser.add_argument("--steps", type=int, default=6000, help="of fitting the ego-status network")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.data
        if root is None:
            root, few = Path(temporary) / "data", SplitSizeConfig(logs=2, layouts=2)
            sizes = (SplitSizeConfig(logs=160, layouts=16), SplitSizeConfig(logs=72, layouts=24))
            config = WorldConfig(train=sizes[0], val=few, test=sizes[1], frames_per_log=24, sensors=None)
            generate(config, root, options.seed)
        dataset, folder = open_dataset(DataConfig(root=root)), options.prepared or Path(temporary) / "prepared"
        train, test = (read(dataset, split, folder / split) for split in ("train", "test"))
        if options.select:
            train, test = selected(train, options.seed), selected(test, options.seed)
        report(train, test, options.steps, options.seed)


if __name__ == "__main__":
    main()
