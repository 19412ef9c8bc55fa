"""Claim: on one core, labelling goes at 65 % or more of the rate at which the scorer scores the same plans.

Run: OMP_NUM_THREADS=1 python benchmarks/labelling_throughput.py [--prepared FOLDER]
Labelling is what an actor of `irl-vla label` does with a log: chains of the policy, all other proposals, reading and
preparing each scene, scoring, writing the shard. The baseline scores the very same plans in contexts that are prepared
and in memory. Both are timed in turn, once everything is compiled, in processor time, and the best pass of each counts:
other work on the machine only ever makes a pass slower. The policy has the default size and random weights, which cost
what trained ones do. Scenes are those of a store (`--prepared runs/NAME/shared/prepared/train`), else small ones out of
the golden files.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
import torch

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.golden_records import load_scenes
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.scorer import score_in_context, scoring_context
from irl_vla.epdms.store import PreparedStore, write_shard
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.planner import DiffusionPlanner
from irl_vla.policy.planner_config import PlannerConfig
from irl_vla.policy.sight import SightLayout
from irl_vla.policy.token_bank import (
    BankRows,
    Encoded,
    TokenBank,
    TokenLayout,
    bank_artefact,
    finish_bank,
    write_bank_shard,
)
from irl_vla.reward.chains import chain_sampler
from irl_vla.reward.config import LabelConfig
from irl_vla.reward.label_shards import write_label_shard
from irl_vla.reward.labels import LabelSources, label_log
from irl_vla.reward.plan_codes import rounded
from irl_vla.reward.proposals import ChainSampler, fit_vocabulary
from irl_vla.scene import HISTORY_FRAMES

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "data"
CONFIG, SCORER = LabelConfig(), ScorerConfig()


def one_log(prepared: Path | None, folder: Path, count: int) -> PreparedStore:
    """Prepared scenes with a human plan, spread over all that there are, as one log."""
    found = load_scenes(GOLDEN).values() if prepared is None else read_all(PreparedStore.open(prepared))
    scenes = [scene for scene in found if scene.human_plan is not None]
    write_shard(folder / "log.arrow", scenes[:: max(1, len(scenes) // count)][:count])
    return PreparedStore.open(folder)


def read_all(store: PreparedStore) -> Iterator[PreparedScene]:
    return store.scenes(store.tokens)


def write_bank(
    folder: Path,
    scenes: list[PreparedScene],
    seen: SightLayout | None = None,
    sight: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> TokenBank:
    """A bank of random tokens for some scenes, and of what is seen there."""
    encoder, rows = EncoderConfig(), len(scenes)
    layout = TokenLayout(encoder.token_counts, encoder.width, seen)
    names = np.array([scene.token for scene in scenes])
    history = np.zeros((rows, HISTORY_FRAMES, 7), np.float32)
    history[:, -1, 3:5] = [scene.ego_state[3:5] for scene in scenes]
    columns = BankRows(
        token=names,
        scene_token=names,
        view=np.full(rows, "original"),
        log_name=np.full(rows, "log"),
        group=names,
        kind=np.full(rows, ""),
        timestamp_us=np.array([scene.time_us for scene in scenes]),
        ego_history=history,
        command=np.ones(rows, np.int64),
        plan=np.stack([scene.human_plan for scene in scenes]).astype(np.float32),
        has_plan=np.ones(rows, np.bool_),
        has_human=np.ones(rows, np.bool_),
    )
    bank = bank_artefact(Location.of(folder), layout, "benchmark", "random")
    tokens = np.random.default_rng(0).normal(size=(rows, layout.total, layout.width))
    return finish_bank(bank, {"log": write_bank_shard(bank, "log", layout, [Encoded(tokens, columns, sight)])})


def random_sampler(bank: TokenBank) -> ChainSampler:
    """Chains of a policy of default size that was never trained."""
    torch.manual_seed(0)
    config = PlannerConfig()
    codec = PlanCodec.fit(bank.plan.astype(np.float64), config.mode_floor)
    chain = DenoisingChain(DiffusionPlanner(config.decoder, config.chain, bank.layout), codec, config.chain)
    return chain_sampler(chain.eval(), bank, CONFIG.rows_per_chain_batch)


def open_sources(store: PreparedStore, bank: TokenBank) -> LabelSources:
    """The bank of the scenes of a store, and a policy of random weights."""
    size = CONFIG.proposals.vocabulary_size
    vocabulary = fit_vocabulary(bank.plan.astype(np.float64), size, np.random.default_rng(0))
    return LabelSources(bank, store, rounded(vocabulary).astype(np.float64), random_sampler(bank))


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, metavar="FOLDER", help="prepared scenes; golden ones without")
    parser.add_argument("--rows", type=int, default=40, help="bank rows of the one log that is labelled")
    parser.add_argument("--repeat", type=int, default=7, help="passes; the best is reported")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        store = one_log(options.prepared, Path(folder) / "store", options.rows)
        bank = write_bank(Path(folder) / "bank", list(read_all(store)))
        sources, rows = open_sources(store, bank), np.arange(len(store))
        shard = Location.of(folder) / "log.parquet"

        def label() -> None:
            write_label_shard(shard, label_log(rows, sources, CONFIG, SCORER, seed=0), sources.vocabulary, "benchmark")

        labels = label_log(rows, sources, CONFIG, SCORER, seed=0)  # compiles
        contexts = [scoring_context(scene) for scene in sources.store.scenes(labels.tokens.tolist())]
        plans = labels.plans.astype(np.float64)

        def score() -> None:
            for context, candidates in zip(contexts, plans, strict=True):
                score_in_context(context, candidates, SCORER)

        label()
        passes = [(seconds(label), seconds(score)) for _ in range(options.repeat)]
        labelling, scoring = np.min(passes, axis=0)
        count = labels.source.size
        scenes = [context.scene for context in contexts]
        polygons, objects = (
            np.mean([len(getattr(scene, part)) for scene in scenes]) for part in ("polygons", "tracks")
        )
        print(f"{len(rows)} scenes of {polygons:.0f} polygons and {objects:.0f} objects on average")
        print(f"{count} plans, {shard.size_bytes() / count:.1f} bytes a label")
        print(f"scoring alone: {count / scoring:.0f} plans/s")
        print(f"labelling: {count / labelling:.0f} plans/s, {100 * scoring / labelling:.0f} % of that")


if __name__ == "__main__":
    main()
