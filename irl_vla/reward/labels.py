"""Label set: proposals of every bank row with their raw sub-scores, one resumable shard a log.

A Ray actor proposes, scores in its own process and writes a log's shard when it is whole; it keeps the scoring context
of one row at a time. Labels are raw: the human filter is applied when they are read.
"""

import io
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.config import validated
from irl_vla.epdms.config import SCORER_VERSION, ScorerConfig
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.scorer import score_in_context, scoring_context
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.geometry import Floats
from irl_vla.ledger.artefact import Artefact, Identity, require_record
from irl_vla.ledger.checkpoint import checkpoint_fingerprint
from irl_vla.ledger.shards import ShardPlan, clear_unfinished, missing_shards, shard_path, write_shards
from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward.chains import load_chain_sampler
from irl_vla.reward.config import LabelConfig, RewardWeights
from irl_vla.reward.label_shards import SUFFIX, LabelledRows, join_rows, read_label_shards, write_label_shard
from irl_vla.reward.plan_codes import decode_plans, encode_plans, rounded
from irl_vla.reward.proposals import SOURCES, ChainSampler, RowFacts, fit_vocabulary, propose
from irl_vla.reward.weights import gates, reward
from irl_vla.scene import SUBSCORES

SCHEMA: Final = 3
KIND: Final = "labels"
REMEDY: Final = "run `irl-vla label` again"
_VOCABULARY_NAME: Final = "vocabulary_codes.npy"
_SHOWN: Final = 5
#: Rows whose sub-scores are looked at together.
_ROWS_AT_ONCE: Final = 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelInputs:
    """What labels are made from.

    Attributes:
        bank: token bank.
        store: folder of prepared scenes, joined with the bank by view token.
        policy: checkpoint folder of the policy whose denoising chains are among the proposals, or None.
    """

    bank: Location
    store: Location
    policy: Location | None = None


@dataclass(frozen=True)
class LabelJob:
    """Everything a labelling actor needs, as paths and numbers.

    Attributes:
        fingerprint: of the label set; stands in every shard.
    """

    inputs: LabelInputs
    folder: Location
    config: LabelConfig
    scorer: ScorerConfig
    seed: int
    fingerprint: str


@dataclass(frozen=True, slots=True, eq=False)
class LabelSet:
    """Labels of R bank rows with P proposals each. What a plan has lies on disk, all else in memory.

    Attributes:
        tokens: view token of every row.
        rows: (R,) bank rows, increasing.
        plans: (R, P, 8, 3) as they were scored, ego frame.
        source: (R, P) index into ``SOURCES``.
        raw: (R, P, 9) sub-scores before the human filter, EC NaN; EP to 1e-5, the others exact.
        progress_m: (R, P) raw progress along the centreline, to 5 mm.
        reference_m: (R,) progress of the reference times its gates, the rival in EP.
        human: (R, 9) sub-scores of the human alone; NaN where there is none.
        vocabulary: (V, 8, 3) human plans that the proposals drew from, as they were scored.
        human_filter: True if the score that was configured forgives what the human does wrong too.
        fingerprint: of the record.
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

    def subscores(self, rows: Any = slice(None)) -> NDArray[np.float32]:
        """(B, P, 9) sub-scores; with the human filter, 1 wherever the human's own value is exactly 0.

        Args:
            rows: places in the label set, an index or slice of B; all by default.
        """
        forgiven = self.human_filter & (self.human[rows][:, None] == 0.0)
        return np.where(forgiven, np.float32(1.0), self.raw[rows])

    def parts(self) -> Iterator[slice]:
        """The whole set, some rows at a time."""
        for start in range(0, len(self.rows), _ROWS_AT_ONCE):
            yield slice(start, start + _ROWS_AT_ONCE)


def mean_labels(labels: LabelSet) -> dict[str, float]:
    """Mean EPDMS (without EC) and share of failed gates by source of proposals: what the reward model learns from."""
    totals = np.zeros((3, len(SOURCES)))
    for part in labels.parts():
        values, source = labels.subscores(part), labels.source[part].ravel()
        scores, failed = reward(values, RewardWeights()), gates(values.astype(np.float64)) == 0
        weights = (None, scores.ravel(), failed.ravel())
        totals += np.stack([np.bincount(source, weight, len(SOURCES)) for weight in weights])
    plans, scored, lost = totals
    means = {"label/epdms": float(scored.sum() / plans.sum())}
    for index in np.flatnonzero(plans):
        means[f"label/epdms_{SOURCES[index]}"] = float(scored[index] / plans[index])
        means[f"label/failed_{SOURCES[index]}"] = float(lost[index] / plans[index])
    return means


def write_labels(
    inputs: LabelInputs, folder: Path | Location, config: LabelConfig, scorer: ScorerConfig, seed: int
) -> LabelSet:
    """Labels all bank rows that have a prepared scene; finished logs of an interrupted run are kept.

    Raises:
        CheckpointError: if no row has a prepared scene.
        ConfigError: if the folder holds labels of other settings or inputs, or for reactive traffic, which leaves some
            plans without a score.
        ClusterError: if Ray loses the actors.
    """
    if scorer.traffic != "replay":
        raise ConfigError(f"labels: scorer.traffic: expected 'replay', found {scorer.traffic!r}")
    bank, store, place = TokenBank.open(inputs.bank), PreparedStore.open(inputs.store), Location.of(folder)
    artefact = Artefact(place, _identity(inputs, bank, store, config, scorer, seed=seed), REMEDY)
    if artefact.is_whole():
        return open_labels(place)
    rows = rows_by_log(bank, store)
    artefact.begin()
    clear_unfinished(place)
    _write_vocabulary(place, bank, config, seed)
    job = LabelJob(inputs, place, config, scorer, seed, artefact.fingerprint)
    missing = missing_shards(place, list(rows), SUFFIX)
    log.info("labels: %d rows of %d logs, %d logs to do", sum(map(len, rows.values())), len(rows), len(missing))
    sizes = {name: len(rows[name]) * config.proposals.count for name in missing}
    write_shards(LogLabeller, (job,), sizes, ShardPlan("labels", "plans", config.workers))
    artefact.finish(_facts(place, bank, rows, config))
    return open_labels(place)


def open_labels(folder: Path | Location) -> LabelSet:
    """Reads a finished label set.

    Raises:
        CheckpointError: if it is not finished, of another schema, or a shard is lost or belongs to another run.
    """
    place = Location.of(folder)
    record = require_record(place, KIND, SCHEMA, REMEDY)
    count, logs = int(record.facts["proposals"]), dict(record.facts["logs"])
    lost = missing_shards(place, list(logs), SUFFIX)
    if lost:
        raise CheckpointError(
            f"{place}: expected labels of {len(logs)} logs, found none of {len(lost)}, first {lost[0]}; delete "
            f"the folder and {REMEDY}"
        )
    here, vocabulary = Location.of(place.local()), _read_vocabulary(place)
    shards = [shard_path(here, name, SUFFIX) for name in logs]
    labels = read_label_shards(shards, vocabulary, count, record.fingerprint)
    if len(labels) != record.facts["rows"]:
        raise CheckpointError(f"{place}: expected {record.facts['rows']} labelled rows, found {len(labels)}; {REMEDY}")
    scorer = validated(ScorerConfig, record.identity.settings["scorer"], source=str(place))
    return LabelSet(
        tokens=tuple(labels.tokens.tolist()),
        rows=labels.rows,
        plans=labels.plans,
        source=labels.source,
        raw=labels.raw,
        progress_m=labels.progress_m,
        reference_m=labels.reference_m,
        human=labels.human,
        vocabulary=vocabulary,
        human_filter=scorer.human_filter and scorer.filter_convention == "corrected",
        fingerprint=record.fingerprint,
    )


def rows_by_log(bank: TokenBank, store: PreparedStore) -> dict[str, NDArray[np.int64]]:
    """Log name to its bank rows that have a prepared scene, increasing; the others are counted and named.

    Raises:
        CheckpointError: if there is none.
    """
    known = np.array([str(token) in store for token in bank.token], np.bool_)
    if not known.any():
        raise CheckpointError(
            "labels: expected prepared scenes of the token bank's rows, found none in common; "
            "write bank and prepared scenes from the same split and views"
        )
    if not known.all():
        first = ", ".join(bank.token[~known][:_SHOWN].tolist())
        log.warning("labels: %d of %d bank rows have no prepared scene, e.g. %s", (~known).sum(), len(known), first)
    rows = np.flatnonzero(known)
    order = rows[np.argsort(bank.log_name[rows], kind="stable")]
    names, starts = np.unique(bank.log_name[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class LabelSources:
    """What an actor has opened.

    Attributes:
        vocabulary: (V, 8, 3) rounded plans.
        sampler: denoising chains of the policy, or None without one.
    """

    bank: TokenBank
    store: PreparedStore
    vocabulary: Floats
    sampler: ChainSampler | None


class LogLabeller:
    """Writes the shard of a log, in an actor; bank, prepared scenes and policy are opened once."""

    def __init__(self, job: LabelJob) -> None:
        bank, store = TokenBank.open(job.inputs.bank), PreparedStore.open(job.inputs.store)
        policy, step = job.inputs.policy, job.config.rows_per_chain_batch
        sampler = None if policy is None else load_chain_sampler(policy, bank, step)
        self._job, self._rows = job, rows_by_log(bank, store)
        self._sources = LabelSources(bank, store, _read_vocabulary(job.folder), sampler)

    def __call__(self, name: str) -> int:
        """Labels a log; returns the number of plans."""
        job, vocabulary = self._job, self._sources.vocabulary
        labels = label_log(self._rows[name], self._sources, job.config, job.scorer, seed=job.seed)
        write_label_shard(shard_path(job.folder, name, SUFFIX), labels, vocabulary, job.fingerprint)
        return int(labels.source.size)


def label_log(
    rows: NDArray[np.int64], sources: LabelSources, config: LabelConfig, scorer: ScorerConfig, *, seed: int
) -> LabelledRows:
    """Proposes and scores in this process, a batch of chains and, within it, one scene after the other in memory.

    Args:
        rows: (R,) bank rows of a log, at least one.
    """
    batches = np.array_split(rows, math.ceil(len(rows) / config.rows_per_chain_batch))
    return join_rows([_label_batch(batch, sources, config, scorer, seed=seed) for batch in batches])


def _label_batch(
    rows: NDArray[np.int64], sources: LabelSources, config: LabelConfig, scorer: ScorerConfig, *, seed: int
) -> LabelledRows:
    proposals = propose(_facts_of(rows, sources.bank), sources.vocabulary, sources.sampler, config.proposals, seed)
    # Scored as stored: a label can be reproduced from its shard.
    tokens, plans = sources.bank.token[rows], rounded(proposals.plans)
    scenes = sources.store.scenes(tokens.tolist())
    scored = [_scored(scene, plan, scorer) for scene, plan in zip(scenes, plans, strict=True)]
    return LabelledRows(
        tokens=tokens,
        rows=rows,
        plans=plans,
        source=proposals.source,
        raw=np.stack([item.raw for item in scored]),
        progress_m=np.stack([item.progress_m for item in scored]),
        reference_m=np.array([item.reference_m for item in scored], np.float32),
        human=np.stack([item.human for item in scored]),
    )


def _facts_of(rows: NDArray[np.int64], bank: TokenBank) -> RowFacts:
    history = bank.ego_history[rows].astype(np.float64)
    speeds_mps = np.hypot(history[:, -1, 3], history[:, -1, 4])
    return RowFacts(rows, speeds_mps, bank.plan[rows].astype(np.float64), bank.has_plan[rows], bank.has_human[rows])


@dataclass(frozen=True, slots=True, eq=False)
class _ScoredRow:
    """What is kept of a row's scores."""

    raw: NDArray[np.float32]
    progress_m: NDArray[np.float32]
    reference_m: float
    human: NDArray[np.float32]


def _scored(scene: PreparedScene, plans: NDArray[np.float32], scorer: ScorerConfig) -> _ScoredRow:
    context = scoring_context(scene)
    scores = score_in_context(context, plans.astype(np.float64), scorer)
    human = np.full(len(SUBSCORES), np.nan) if scores.human is None else scores.human
    raw, progress_m = scores.raw.astype(np.float32), scores.progress_m.astype(np.float32)
    return _ScoredRow(raw, progress_m, context.reference_m, human.astype(np.float32))


def _identity(
    inputs: LabelInputs, bank: TokenBank, store: PreparedStore, config: LabelConfig, scorer: ScorerConfig, *, seed: int
) -> Identity:
    policy = "" if inputs.policy is None else checkpoint_fingerprint(inputs.policy)
    return Identity(
        kind=KIND,
        schema=SCHEMA,
        settings={"label": config.decisive(), "scorer": scorer.decisive(), "scorer_version": SCORER_VERSION},
        inputs={"bank": bank.fingerprint, "prepared": store.fingerprint(), "policy": policy},
        seeds={"seed": seed},
    )


def _facts(
    folder: Location, bank: TokenBank, rows: dict[str, NDArray[np.int64]], config: LabelConfig
) -> dict[str, Any]:
    labelled, sizes = sum(map(len, rows.values())), folder.size_bytes()
    bytes_per_label = sizes / (labelled * config.proposals.count)
    log.info("labels: %.1f MB, %.1f bytes a label", sizes * 1e-6, bytes_per_label)
    return {
        "rows": labelled,
        "rows_without_scene": len(bank.token) - labelled,
        "logs": {name: len(part) for name, part in rows.items()},
        "proposals": config.proposals.count,
        "bytes_per_label": round(bytes_per_label, 1),
        "sources": list(SOURCES),
        "subscores": list(SUBSCORES),
    }


def _write_vocabulary(folder: Location, bank: TokenBank, config: LabelConfig, seed: int) -> None:
    """Fits the vocabulary unless it is there. It holds plan codes, so that a label may name a plan by its index."""
    if (folder / _VOCABULARY_NAME).exists():
        return
    humans = bank.plan[bank.has_human].astype(np.float64)
    found = encode_plans(fit_vocabulary(humans, config.proposals.vocabulary_size, np.random.default_rng(seed)))
    with (folder / _VOCABULARY_NAME).writing() as path, path.open("wb") as stream:
        np.save(stream, found)


def _read_vocabulary(folder: Location) -> Floats:
    """(V, 8, 3)."""
    codes = np.load(io.BytesIO((folder / _VOCABULARY_NAME).read_bytes()))
    vocabulary: Floats = decode_plans(codes).astype(np.float64)
    return vocabulary
