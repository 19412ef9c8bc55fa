"""What the kept policy perceives on the validation split, as tables: all figures, and boxes by class and range."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, NamedTuple

import ray
import torch

from irl_vla.judge.tables import write_csv
from irl_vla.ledger.storage import Location
from irl_vla.policy.perception.quality import BoxRow, box_rows, sight_metrics
from irl_vla.policy.vla import load_policy
from irl_vla.train.samples import open_samples
from irl_vla.train.validation import answer_metrics, chosen_rows, predict

FIGURES_NAME: Final = "perception.csv"
BOXES_NAME: Final = "perception_boxes.csv"
#: First word of a figure's name to the part of perception that it judges.
_PARTS: Final = {
    "iou": "map classes",
    "field": "fields",
    "box": "boxes",
    "velocity": "boxes",
    "heading": "boxes",
    "future": "motion",
    "answer": "answers",
}
#: Figures that have no row of their own: what always giving the most frequent answer would reach.
_MAJORITIES: Final = {
    "answer_accuracy": "answer_majority",
    "answer_speed": "answer_speed_majority",
    "answer_path": "answer_path_majority",
}


class PerceptionQuality(NamedTuple):
    """Figures as in ``pretrain/val_...``, and boxes by class and range."""

    figures: Mapping[str, float]
    boxes: list[BoxRow]


def write_perception(policy: Location, samples: Location, folder: Location, *, logs: int, use_gpu: bool) -> None:
    """Writes ``perception.csv`` and ``perception_boxes.csv``; a Ray task judges, where there is a GPU if it needs one.

    Args:
        policy: its checkpoint folder.
        samples: of the validation split.
        logs: at most so many whole logs, evenly chosen, as in training; 0 takes all.
    """
    judge = ray.remote(num_gpus=int(use_gpu))(judge_perception)
    found: PerceptionQuality = ray.get(judge.remote(policy, samples, logs, "cuda" if use_gpu else "cpu"))
    with folder.filling() as local:
        write_csv(local / FIGURES_NAME, perception_rows(found.figures))
        write_csv(local / BOXES_NAME, [asdict(row) for row in found.boxes])


def judge_perception(policy: Location, samples: Location, logs: int, device: str) -> PerceptionQuality:
    """Compares what a policy sees and answers with what is there."""
    validation = open_samples(samples)
    found = predict(load_policy(policy)[0].to(device), validation, chosen_rows(validation, logs), torch.device(device))
    if found.sight is None:
        return PerceptionQuality({}, [])
    return PerceptionQuality(sight_metrics(found.sight) | answer_metrics(validation, found), box_rows(found.sight))


def perception_rows(figures: Mapping[str, float]) -> list[dict[str, float | str]]:
    """A row a figure of perception: its part, name and value, and for answers the majority's; others are left out."""
    rows: list[dict[str, float | str]] = []
    for name, value in figures.items():
        part = _PARTS.get(name.partition("_")[0])
        if part is None or name in _MAJORITIES.values():
            continue
        row: dict[str, float | str] = {"part": part, "figure": name, "value": value}
        if name in _MAJORITIES:
            row["majority"] = figures[_MAJORITIES[name]]
        rows.append(row)
    return rows
