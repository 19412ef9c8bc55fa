"""What imitation is judged by while it trains: displacement, true score, answers, and what perception sees."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.judge.one_stage import FrameId, SplitScores, join_scores, score_split
from irl_vla.policy.batch import IGNORED, observation_batch, target_batch
from irl_vla.policy.encoder import SceneEncoder, Seen
from irl_vla.policy.perception.heads import Detections
from irl_vla.policy.perception.motion import Futures
from irl_vla.policy.perception.quality import SightSums, measure, sight_metrics
from irl_vla.policy.semantic import answer_accuracy
from irl_vla.policy.vla import Policy
from irl_vla.scene import FUTURE_FRAMES
from irl_vla.train.loop import ALONE, Rank
from irl_vla.train.samples import Samples

_ROWS_PER_BATCH = 32
Part = TypeVar("Part")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a policy made of some rows.

    Attributes:
        rows: (R,) of the samples.
        plans: (R, 8, 3), deterministic.
        answers: (R, 2) meta-actions that the language model answered.
        sight: what perception saw; None without rows.
        scores: true scores of the rows that are prepared; None without any.
    """

    rows: NDArray[np.int64]
    plans: Floats
    answers: NDArray[np.int64]
    sight: SightSums | None
    scores: SplitScores | None = None


def validate(
    policy: Policy,
    samples: Samples,
    store: PreparedStore | None,
    scorer: ScorerConfig,
    *,
    logs: int,
    rank: Rank = ALONE,
) -> dict[str, float]:
    """Judges deterministic plans; every worker of a training judges some logs, and all get the result.

    Args:
        store: prepared scenes; without them there is no true score.
        logs: at most so many whole logs, evenly chosen (EC pairs neighbouring frames); 0 takes all.

    Returns:
        ``ade_m`` and ``fde_m`` against the human plan; sub-scores and ``epdms`` (means over frames); accuracy of the
        language model's answer beside that of always giving the most frequent one; ``perception.quality``'s figures.

    Raises:
        SceneError: if none of the scenes is prepared.
    """
    rows = chosen_rows(samples, logs)
    judged = None if store is None else prepared_rows(samples, rows, store, tell=rank.number == 0)
    mine = rows[own_share(samples.rows.log_name[rows], rank)]
    own = predict(policy, samples, mine, rank.device)
    if store is not None and judged is not None and np.isin(mine, judged).any():
        frames = [frame_of(samples, row) for row in mine if row in set(judged.tolist())]
        by_token = {str(samples.rows.token[row]): plan for row, plan in zip(mine, own.plans, strict=True)}
        own = replace(own, scores=score_split(store, frames, by_token, scorer))
    return _metrics(samples, gathered(own, rank))


def validate_sight(encoder: SceneEncoder, samples: Samples, *, logs: int, rank: Rank = ALONE) -> dict[str, float]:
    """Judges perception alone, as long as there is no policy; otherwise as :func:`validate`."""
    rows = chosen_rows(samples, logs)
    mine = rows[own_share(samples.rows.log_name[rows], rank)]
    sight = None
    with torch.inference_mode():
        for taken in _batches(samples, mine):
            seen = encoder.see(observation_batch(taken).to(rank.device))
            sight = _added(sight, _sight(encoder, seen, encoder.detection.decode(seen.heatmap, seen.box_map), taken))
    parts = [part for part in gathered_parts(sight, rank) if part is not None]
    return sight_metrics(sum(parts[1:], start=parts[0]))


def own_share(log_names: NDArray[np.str_], rank: Rank) -> NDArray[np.bool_]:
    """(R,) True for the rows of the logs that this worker judges: whole logs, dealt out in turn."""
    return np.isin(log_names, np.unique(log_names)[rank.number :: rank.world_size])


def gathered(own: Predicted, rank: Rank) -> Predicted:
    """What all workers predicted, on each of them."""
    if rank.world_size == 1:
        return own
    parts = gathered_parts(own, rank)
    scores = [part.scores for part in parts if part.scores is not None]
    sight = [part.sight for part in parts if part.sight is not None]
    return Predicted(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.plans for part in parts]),
        np.concatenate([part.answers for part in parts]),
        sum(sight[1:], start=sight[0]) if sight else None,
        join_scores(scores) if scores else None,
    )


def gathered_parts(own: Part, rank: Rank) -> list[Part]:
    """What every worker has, in their order."""
    if rank.world_size == 1:
        return [own]
    parts: list[Any] = [None] * rank.world_size
    torch.distributed.all_gather_object(parts, own)
    return parts


def _metrics(samples: Samples, found: Predicted) -> dict[str, float]:
    metrics = displacement(found.plans, samples, found.rows) | answer_metrics(samples, found)
    if found.sight is not None:
        metrics |= sight_metrics(found.sight)
    if found.scores is not None:
        metrics |= found.scores.means()
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def answer_metrics(samples: Samples, found: Predicted) -> dict[str, float]:
    """Accuracy of the answers beside that of always giving the most frequent one; empty where no row has an answer."""
    actual = torch.from_numpy(samples.stored.take("meta_action", found.rows))
    if not bool((actual != IGNORED).all(dim=1).any()):
        return {}
    accuracy = answer_accuracy(torch.from_numpy(found.answers), actual)
    return {
        "answer_accuracy": accuracy.both,
        "answer_majority": accuracy.majority_both,
        "answer_speed": accuracy.speed,
        "answer_speed_majority": accuracy.majority_speed,
        "answer_path": accuracy.path,
        "answer_path_majority": accuracy.majority_path,
    }


def chosen_rows(samples: Samples, logs: int) -> NDArray[np.int64]:
    """Rows of at most ``logs`` logs, evenly chosen from those of the split; 0 takes all."""
    names = np.unique(samples.rows.log_name)
    if 0 < logs < len(names):
        names = names[np.linspace(0, len(names) - 1, logs).round().astype(np.int64)]
    return np.flatnonzero(np.isin(samples.rows.log_name, names))


def predict(policy: Policy, samples: Samples, rows: NDArray[np.int64], device: torch.device | str) -> Predicted:
    """Deterministic plans, answered meta-actions and sight of rows."""
    plans, answers = [np.zeros((0, FUTURE_FRAMES, 3), np.float32)], [np.zeros((0, 2), np.int64)]
    sight = None
    with torch.inference_mode():
        for taken in _batches(samples, rows):
            batch = observation_batch(taken).to(device)
            perception = policy.encoder.perceive(batch)
            plans.append(policy.plans_from(perception.tokens).cpu().numpy())
            answers.append(policy.encoder.predict_meta_actions(batch).cpu().numpy())
            sight = _added(sight, _sight(policy.encoder, perception.seen, perception.detections, taken))
    return Predicted(rows, np.concatenate(plans).astype(np.float64), np.concatenate(answers), sight)


def _batches(samples: Samples, rows: NDArray[np.int64]) -> Iterator[dict[str, NDArray[Any]]]:
    for start in range(0, len(rows), _ROWS_PER_BATCH):
        yield samples.take(rows[start : start + _ROWS_PER_BATCH])


def _sight(encoder: SceneEncoder, seen: Seen, detections: Detections, taken: Mapping[str, NDArray[Any]]) -> SightSums:
    """Sums of a batch, on the CPU."""
    futures = encoder.futures(seen, detections)
    found = Detections(*(part.cpu() for part in detections)), Futures(*(part.cpu() for part in futures))
    return measure(seen.map_logits.cpu(), seen.fields.cpu(), *found, target_batch(taken))


def _added(sums: SightSums | None, more: SightSums) -> SightSums:
    return more if sums is None else sums + more


def displacement(plans: Floats, samples: Samples, rows: NDArray[np.int64]) -> dict[str, float]:
    """Mean and final displacement from the human plans; empty where no row has one."""
    known = samples.rows.has_human[rows]
    if not known.any():
        return {}
    gap = np.linalg.norm((plans - samples.rows.plan[rows])[known][..., :2], axis=-1)
    return {"ade_m": float(gap.mean()), "fde_m": float(gap[:, -1].mean())}


def frame_of(samples: Samples, row: int) -> FrameId:
    """The frame of a row."""
    columns = (samples.rows.token, samples.rows.log_name, samples.rows.group, samples.rows.kind)
    return FrameId(*(str(column[row]) for column in columns))


def prepared_rows(samples: Samples, rows: NDArray[np.int64], store: PreparedStore, tell: bool) -> NDArray[np.int64]:
    """The rows that can be scored; preparing a split reports the scenes that it had to leave out, and why.

    Args:
        tell: True names the others in a warning (one worker is enough).

    Raises:
        SceneError: if there is none.
    """
    tokens = samples.rows.token[rows].tolist()
    there = np.array([token in store for token in tokens], np.bool_)
    if not there.any():
        raise SceneError(
            f"validation: expected prepared scenes of {samples.place}, found none in {store.folder}; "
            "prepare the validation split again"
        )
    if tell and not there.all():
        missing = [token for token, known in zip(tokens, there.tolist(), strict=True) if not known]
        log.warning("validation: %d of %d scenes are not prepared: %s", len(missing), len(tokens), ", ".join(missing))
    return rows[there]
