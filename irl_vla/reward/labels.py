"""Label set: proposals of every bank row with their raw sub-scores, as resumable Parquet shards.

A Ray Data actor proposes, scores in its own process and writes one whole shard at a time under a temporary name, so
a killed run loses at most the shard that each worker had in hand. The manifest is written last. Labels are raw: the
human filter is applied when they are read.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from irl_vla.config import validated
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import score_in_context, scoring_context
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.geometry import Floats
from irl_vla.ledger.files import (
    MANIFEST_NAME,
    Manifest,
    atomic_path,
    content_hash,
    file_hash,
    read_manifest,
    write_text,
)
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.chains import load_chain_sampler
from irl_vla.reward.config import LabelConfig, RewardWeights
from irl_vla.reward.proposals import SOURCES, ChainSampler, RowFacts, fit_vocabulary, propose
from irl_vla.reward.weights import gates, reward
from irl_vla.scene import FUTURE_FRAMES, SUBSCORES

SCHEMA: Final = 2
KIND: Final = "label_set"
REMEDY: Final = "run `irl-vla label` again"
_JOB_NAME: Final = "job.json"
_VOCABULARY_NAME: Final = "vocabulary.npy"
_FINGERPRINT_KEY: Final = b"irl_vla.judge.fingerprint"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelInputs:
    """What labels are made from.

    Attributes:
        bank: token bank.
        store: folder of prepared scenes, joined with the bank by view token.
        policy: checkpoint folder of the policy whose denoising chains are among the proposals, or None.
    """

    bank: Path
    store: Path
    policy: Path | None = None


@dataclass(frozen=True)
class LabelJob:
    """Everything a labelling worker needs, as paths and numbers.

    Attributes:
        fingerprint: of the label set's manifest; stands in every shard.
    """

    inputs: LabelInputs
    folder: Path
    config: LabelConfig
    scorer: ScorerConfig
    seed: int
    fingerprint: str


@dataclass(frozen=True, slots=True, eq=False)
class LabelSet:
    """Labels of R bank rows with P proposals each.

    Attributes:
        tokens: view token of every row.
        rows: (R,) bank rows, increasing.
        plans: (R, P, 8, 3) as they were scored, ego frame.
        source: (R, P) index into ``SOURCES``.
        raw: (R, P, 9) sub-scores before the human filter, EC NaN.
        progress_m: (R, P) raw progress along the centreline.
        reference_m: (R,) progress of the reference times its gates, the rival in EP.
        human: (R, 9) sub-scores of the human alone; NaN where there is none.
        vocabulary: (V, 8, 3) human plans that the proposals drew from.
        human_filter: True if the score that was configured forgives what the human does wrong too.
        fingerprint: of the manifest.
    """

    tokens: tuple[str, ...]
    rows: NDArray[np.int64]
    plans: NDArray[np.float32]
    source: NDArray[np.int8]
    raw: NDArray[np.float32]
    progress_m: NDArray[np.float32]
    reference_m: NDArray[np.float32]
    human: NDArray[np.float32]
    vocabulary: Floats
    human_filter: bool
    fingerprint: str

    def subscores(self) -> NDArray[np.float32]:
        """(R, P, 9) sub-scores; with the human filter, 1 wherever the human's own value is exactly 0."""
        return np.where(self.human_filter & (self.human[:, None] == 0.0), np.float32(1.0), self.raw)


def mean_labels(labels: LabelSet) -> dict[str, float]:
    """Mean EPDMS (without EC) and share of failed gates by source of proposals: what the reward model learns from."""
    values = labels.subscores()
    scores = reward(values, RewardWeights())
    means = {"label/epdms": float(scores.mean())}
    for index, name in enumerate(SOURCES):
        here = labels.source == index
        if here.any():
            means[f"label/epdms_{name}"] = float(scores[here].mean())
            means[f"label/failed_{name}"] = float((gates(values[here]) == 0).mean())
    return means


def write_labels(inputs: LabelInputs, folder: Path, config: LabelConfig, scorer: ScorerConfig, seed: int) -> LabelSet:
    """Labels all bank rows that have a prepared scene; finished shards of an interrupted run are kept.

    Raises:
        CheckpointError: if no row has a prepared scene, or the folder holds shards of another configuration.
        ConfigError: for reactive traffic, which leaves some plans without a score.
    """
    if scorer.traffic != "replay":
        raise ConfigError(f"labels: scorer.traffic: expected 'replay', found {scorer.traffic!r}")
    opened, scenes = TokenBank.open(inputs.bank), PreparedStore.open(inputs.store)
    rows = _joined_rows(opened, scenes)
    manifest = Manifest(
        kind=KIND,
        schema=SCHEMA,
        config={"label": _what_matters(config), "scorer": scorer.model_dump(mode="json")},
        seed=seed,
        inputs=_input_hashes(inputs, opened, scenes),
        extra={
            "rows": len(rows),
            "rows_without_scene": len(opened.token) - len(rows),
            "proposals": config.proposals.count,
            "sources": list(SOURCES),
            "subscores": list(SUBSCORES),
        },
    )
    _begin(folder, manifest, opened, config, seed)
    job = LabelJob(inputs, folder, config, scorer, seed, manifest.fingerprint)
    shards = [rows[i : i + config.rows_per_shard] for i in range(0, len(rows), config.rows_per_shard)]
    missing = [index for index in range(len(shards)) if not _shard_path(folder, index).exists()]
    log.info("labels: %d rows in %d shards, %d of them to do", len(rows), len(shards), len(missing))
    if missing:
        _run(job, [(index, shards[index]) for index in missing])
    manifest.write(folder)
    return open_labels(folder)


def open_labels(folder: Path) -> LabelSet:
    """Reads a finished label set into memory (about 10 kB a row of 64 proposals).

    Raises:
        CheckpointError: if it is not finished, of another schema, or a shard belongs to another run.
    """
    manifest = read_manifest(
        folder, KIND, SCHEMA, f"{REMEDY}; if its schema is an older one, remove it first (`rm -r {folder}`)"
    )
    count = int(manifest.extra["proposals"])
    scorer = validated(ScorerConfig, manifest.config["scorer"], source=str(folder))
    tables = [_read_shard(path, manifest.fingerprint) for path in sorted(folder.glob("shard-*.parquet"))]
    table = pa.concat_tables(tables)
    if table.num_rows != manifest.extra["rows"]:
        raise CheckpointError(
            f"{folder}: expected {manifest.extra['rows']} labelled rows, found {table.num_rows}; {REMEDY}"
        )
    return LabelSet(
        tokens=tuple(table["token"].to_pylist()),
        rows=table["row"].to_numpy().astype(np.int64),
        plans=_matrix(table, "plans", (count, FUTURE_FRAMES, 3)),
        source=_matrix(table, "source", (count,)),
        raw=_matrix(table, "subscores", (count, len(SUBSCORES))),
        progress_m=_matrix(table, "progress_m", (count,)),
        reference_m=table["reference_m"].to_numpy(),
        human=_matrix(table, "human", (len(SUBSCORES),)),
        vocabulary=np.load(folder / _VOCABULARY_NAME),
        human_filter=scorer.human_filter and scorer.filter_convention == "corrected",
        fingerprint=manifest.fingerprint,
    )


class ShardLabeller:
    """Ray Data actor: labels whole shards; bank, prepared scenes and policy are opened once."""

    def __init__(self, job: LabelJob) -> None:
        self._job = job
        self._bank = TokenBank.open(job.inputs.bank)
        self._store = PreparedStore.open(job.inputs.store)
        self._vocabulary = np.load(job.folder / _VOCABULARY_NAME)
        self._sampler: ChainSampler | None = None
        if job.inputs.policy is not None:
            self._sampler = load_chain_sampler(job.inputs.policy, self._bank, job.config.rows_per_chain_batch)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Labels the shard of a batch of one; returns how many plans it took how long."""
        started = time.perf_counter()
        index, rows = int(batch["shard"][0]), np.asarray(batch["rows"][0], np.int64)
        columns = label_rows(rows, self._bank, self._store, self._vocabulary, self._sampler, job=self._job)
        table = columns.replace_schema_metadata({_FINGERPRINT_KEY: self._job.fingerprint.encode()})
        with atomic_path(_shard_path(self._job.folder, index)) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        plans = len(rows) * self._job.config.proposals.count
        return {"shard": [index], "plans": [plans], "seconds": [time.perf_counter() - started]}


def label_rows(
    rows: NDArray[np.int64],
    bank: TokenBank,
    store: PreparedStore,
    vocabulary: Floats,
    sampler: ChainSampler | None,
    *,
    job: LabelJob,
) -> pa.Table:
    """Proposes and scores in this process; one record a row."""
    history = bank.ego_history[rows].astype(np.float64)
    facts = RowFacts(
        rows,
        np.hypot(history[:, -1, 3], history[:, -1, 4]),
        bank.plan[rows].astype(np.float64),
        bank.has_plan[rows],
        bank.has_human[rows],
    )
    proposals = propose(facts, vocabulary, sampler, job.config.proposals, job.seed)
    tokens = [str(bank.token[row]) for row in rows]
    contexts = [scoring_context(store[token]) for token in tokens]
    scored = [
        # Scored as stored: a label can be reproduced from its shard.
        score_in_context(context, plans.astype(np.float64), job.scorer)
        for context, plans in zip(contexts, proposals.plans, strict=True)
    ]
    missing = np.full(len(SUBSCORES), np.nan)
    return pa.table(
        {
            "token": pa.array(tokens),
            "row": pa.array(rows.astype(np.int32)),
            "plans": _fixed(proposals.plans, np.float32),
            "source": _fixed(proposals.source, np.int8),
            "subscores": _fixed(np.stack([item.raw for item in scored]), np.float32),
            "progress_m": _fixed(np.stack([item.progress_m for item in scored]), np.float32),
            "reference_m": pa.array(np.array([context.reference_m for context in contexts], np.float32)),
            "human": _fixed(np.stack([missing if item.human is None else item.human for item in scored]), np.float32),
        }
    )


def _joined_rows(bank: TokenBank, store: PreparedStore) -> NDArray[np.int64]:
    known = set(store.tokens)
    rows = np.array([row for row, token in enumerate(bank.token) if str(token) in known], np.int64)
    if not len(rows):
        raise CheckpointError(
            "labels: expected prepared scenes of the token bank's rows, found none in common; "
            "write bank and prepared scenes from the same split and views"
        )
    if len(rows) < len(bank.token):
        log.warning("labels: %d of %d bank rows have no prepared scene", len(bank.token) - len(rows), len(bank.token))
    return rows


def _what_matters(config: LabelConfig) -> dict[str, Any]:
    """The configuration without what only says how the work is spread."""
    return config.model_dump(mode="json", exclude={"workers"})


def _input_hashes(inputs: LabelInputs, bank: TokenBank, store: PreparedStore) -> dict[str, str]:
    policy = "" if inputs.policy is None else file_hash(inputs.policy / MANIFEST_NAME)
    prepared = inputs.store / MANIFEST_NAME
    scenes = file_hash(prepared) if prepared.exists() else content_hash(list(store.tokens))
    return {"bank": bank.fingerprint, "store": scenes, "policy": policy}


def _begin(folder: Path, manifest: Manifest, bank: TokenBank, config: LabelConfig, seed: int) -> None:
    """Claims the folder for this job, or checks that it is this job's; clears what a killed worker left."""
    folder.mkdir(parents=True, exist_ok=True)
    job = folder / _JOB_NAME
    if job.exists():
        found = json.loads(job.read_text())["fingerprint"]
        if found != manifest.fingerprint:
            raise CheckpointError(
                f"{folder}: expected shards of label job {manifest.fingerprint}, found those of job {found} "
                "(other inputs, configuration or seed, or an older schema); label into another folder, or remove this "
                f"one (`rm -r {folder}`) and {REMEDY}"
            )
    for left in folder.glob(".shard-*"):
        left.unlink()
    if not (folder / _VOCABULARY_NAME).exists():
        humans = bank.plan[bank.has_human].astype(np.float64)
        found = fit_vocabulary(humans, config.proposals.vocabulary_size, np.random.default_rng(seed))
        with atomic_path(folder / _VOCABULARY_NAME) as temporary, temporary.open("wb") as stream:
            np.save(stream, found)
    write_text(job, json.dumps({"fingerprint": manifest.fingerprint}))


def _run(job: LabelJob, shards: Sequence[tuple[int, NDArray[np.int64]]]) -> None:
    items = [{"shard": index, "rows": rows.tolist()} for index, rows in shards]
    workers = min(job.config.workers, len(items))
    # One block a shard: Ray hands out blocks, and a block is what a worker has in hand.
    data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardLabeller,
        fn_constructor_args=(job,),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    plans, seconds = 0, 0.0
    silent = not Console().is_terminal
    for done in track(data.iter_batches(batch_size=1), "labels", total=len(items), disable=silent):
        plans, seconds = plans + int(done["plans"][0]), seconds + float(done["seconds"][0])
    log.info("labels: %d plans, %.0f a worker-second", plans, plans / max(seconds, 1e-9))


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:06d}.parquet"


def _read_shard(path: Path, fingerprint: str) -> pa.Table:
    table = pq.read_table(path)
    found = (table.schema.metadata or {}).get(_FINGERPRINT_KEY, b"").decode()
    if found != fingerprint:
        raise CheckpointError(f"{path}: expected a shard of label set {fingerprint}, found {found!r}; {REMEDY}")
    return table


def _fixed(values: NDArray[Any], dtype: type[np.generic]) -> pa.FixedSizeListArray:
    """One list of fixed length a row from an (R, ...) array."""
    flat = np.ascontiguousarray(values.reshape(len(values), -1), dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _matrix(table: pa.Table, column: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The (R, *shape) array of a column of fixed-size lists."""
    values = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix: NDArray[Any] = values.reshape(table.num_rows, *shape)
    return matrix
