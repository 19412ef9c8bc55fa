"""What imitation is judged by while it trains: displacement, true score, and answers."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.judge.one_stage import FrameId, score_here
from irl_vla.policy.batch import IGNORED, collate_samples
from irl_vla.policy.semantic import answer_accuracy
from irl_vla.policy.vla import Policy
from irl_vla.train.data import Samples

_ROWS_PER_BATCH = 32

log = logging.getLogger(__name__)


def validate(
    policy: Policy,
    samples: Samples,
    store: PreparedStore | None,
    scorer: ScorerConfig,
    *,
    logs: int,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Judges deterministic plans.

    Args:
        store: prepared scenes; without them there is no true score.
        logs: at most so many whole logs, evenly chosen (EC pairs neighbouring frames); 0 takes all.

    Returns:
        ``ade_m`` and ``fde_m`` against the human plan; sub-scores and ``epdms`` (means over frames); accuracy of the
        language model's answer beside that of always giving the most frequent one.

    Raises:
        SceneError: if none of the scenes is prepared.
    """
    rows = chosen_rows(samples, logs)
    plans, answers = predict(policy, samples, rows, device)
    metrics = displacement(plans, samples, rows)
    actual = torch.from_numpy(np.array(samples.arrays["meta_action"][rows]))
    if bool((actual != IGNORED).all(dim=1).any()):
        accuracy = answer_accuracy(torch.from_numpy(answers), actual)
        metrics |= {"answer_accuracy": accuracy.both, "answer_majority": accuracy.majority_both}
    if store is not None:
        frames = _frames(samples, rows, store)
        by_token = {str(samples.rows.token[row]): plan for row, plan in zip(rows, plans, strict=True)}
        metrics |= score_here(store, frames, by_token, scorer).means()
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def chosen_rows(samples: Samples, logs: int) -> NDArray[np.int64]:
    """Rows of at most ``logs`` logs, evenly chosen from those of the split; 0 takes all."""
    names = np.unique(samples.rows.log_name)
    if 0 < logs < len(names):
        names = names[np.linspace(0, len(names) - 1, logs).round().astype(np.int64)]
    return np.flatnonzero(np.isin(samples.rows.log_name, names))


def predict(
    policy: Policy, samples: Samples, rows: NDArray[np.int64], device: torch.device | str
) -> tuple[Floats, NDArray[np.int64]]:
    """Deterministic plans (R, 8, 3) and answered meta-actions (R, 2) of rows."""
    plans, answers = [], []
    with torch.inference_mode():
        for start in range(0, len(rows), _ROWS_PER_BATCH):
            batch = collate_samples(samples.take(rows[start : start + _ROWS_PER_BATCH])).to(device)
            plans.append(policy(batch).cpu().numpy())
            answers.append(policy.encoder.predict_meta_actions(batch).cpu().numpy())
    return np.concatenate(plans).astype(np.float64), np.concatenate(answers)


def displacement(plans: Floats, samples: Samples, rows: NDArray[np.int64]) -> dict[str, float]:
    """Mean and final displacement from the human plans; empty where no row has one."""
    known = samples.rows.has_human[rows]
    if not known.any():
        return {}
    gap = np.linalg.norm((plans - samples.rows.plan[rows])[known][..., :2], axis=-1)
    return {"ade_m": float(gap.mean()), "fde_m": float(gap[:, -1].mean())}


def _frames(samples: Samples, rows: NDArray[np.int64], store: PreparedStore) -> list[FrameId]:
    """The rows that can be scored; preparing a split reports the scenes that it had to leave out, and why."""
    columns = (samples.rows.token, samples.rows.log_name, samples.rows.group, samples.rows.kind)
    frames = [FrameId(*(str(column[row]) for column in columns)) for row in rows]
    missing = [frame.token for frame in frames if frame.token not in store]
    if len(missing) == len(frames):
        raise SceneError(
            f"validation: expected prepared scenes of {samples.folder}, found none in {store.folder}; "
            "prepare the validation split again"
        )
    if missing:
        log.warning("validation: %d of %d scenes are not prepared: %s", len(missing), len(frames), ", ".join(missing))
    return [frame for frame in frames if frame.token in store]
