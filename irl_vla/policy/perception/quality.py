"""How well perception sees: map classes, road fields, boxes and their motion against what is there.

Sums over scenes come first and are divided last, so that batches and workers can be added up.
"""

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from irl_vla.dataset.targets import RASTER_CLASSES
from irl_vla.geometry import Floats, wrap_angle
from irl_vla.policy.batch import PerceptionTargets
from irl_vla.policy.perception.heads import Detections
from irl_vla.policy.perception.motion import Futures
from irl_vla.scene import OBJECT_NAMES, ROAD_FIELDS

#: A detection is right if its centre lies this near to an object's (the middle threshold of nuScenes).
MATCH_M: Final = 2.0
#: Detections below this score are not counted.
LEAST_SCORE: Final = 0.3
#: Bounds of the ranges from the ego by which boxes are counted; what lies farther off is the last range.
RANGES_M: Final = (15.0, 30.0)
#: The ego's corridor, in which fields are judged: this near to the centreline, and so far behind and ahead along it.
CORRIDOR_M: Final = 2.0
AHEAD_M: Final = (-2.0, 40.0)
#: What is judged by overlap: map classes, and the one field that is no distance.
AREAS: Final = (*RASTER_CLASSES, "red_light")
_OFFSET, _PROGRESS = ROAD_FIELDS.index("lane_offset"), ROAD_FIELDS.index("progress")
_RED: Final = ROAD_FIELDS.index("red_light")
_RANGES: Final = len(RANGES_M) + 1


@dataclass(frozen=True, slots=True, eq=False)
class SightSums:
    """Sums over scenes; K object classes, 3 ranges.

    Attributes:
        overlap, union: (classes + 1,) cells of each map class, and of red connectors of the route, predicted and true,
            predicted or true.
        field_error_m: (5,) absolute errors of the distances over cells of the corridor; ``corridor``: (1,) those cells.
        objects, found: (K, 3) true objects, and those with a detection.
        detections, right: (3,) detections, and those with an object.
        class_right: (K, 3) found objects of which the class is right.
        velocity_error_mps, heading_error_rad: (K, 3) of found objects.
        future_error_m: (8,) displacement of the likeliest future of found objects; ``futures``: (8,) their number.
    """

    overlap: Floats
    union: Floats
    field_error_m: Floats
    corridor: Floats
    objects: Floats
    found: Floats
    detections: Floats
    right: Floats
    class_right: Floats
    velocity_error_mps: Floats
    heading_error_rad: Floats
    future_error_m: Floats
    futures: Floats

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))


@dataclass(frozen=True, slots=True)
class BoxRow:
    """Boxes of one class in one range; NaN where there is nothing to measure."""

    object: str
    range_m: str
    objects: int
    recall: float
    class_accuracy: float
    velocity_error_mps: float
    heading_error_rad: float


def measure(
    map_logits: Tensor, road_fields: Tensor, detections: Detections, futures: Futures, targets: PerceptionTargets
) -> SightSums:
    """Compares what is predicted for a batch with what is there."""
    predicted = torch.cat([map_logits > 0, road_fields[:, _RED:] > 0], dim=1)
    true = torch.cat([targets.raster > 0.5, targets.fields[:, _RED:] > 0], dim=1)
    offset, progress = targets.fields[:, _OFFSET], targets.fields[:, _PROGRESS]
    corridor = (offset.abs() < CORRIDOR_M) & (progress > AHEAD_M[0]) & (progress < AHEAD_M[1])
    corridor &= targets.has_fields[:, None, None]
    error_m = (road_fields - targets.fields)[:, :_RED].abs() * corridor[:, None]
    boxes = [_match(detections, futures, targets, scene) for scene in range(len(targets))]
    return SightSums(
        overlap=_sums(predicted & true),
        union=_sums(predicted | true),
        field_error_m=_sums(error_m),
        corridor=np.array([float(corridor.sum())]),
        **{name: np.sum([part[name] for part in boxes], axis=0) for name in boxes[0]},
    )


def sight_metrics(sums: SightSums) -> dict[str, float]:
    """Headline figures; boxes within ``RANGES_M[-1]``. Without anything to measure a figure is left out."""
    near = slice(0, _RANGES - 1)
    found = sums.found[:, near].sum()
    figures = {
        **{f"iou_{name}": _ratio(a, b) for name, a, b in zip(AREAS, sums.overlap, sums.union, strict=True)},
        **{
            f"field_{name}_error_m": _ratio(error, sums.corridor[0])
            for name, error in zip(ROAD_FIELDS[:_RED], sums.field_error_m, strict=True)
        },
        "box_recall": _ratio(found, sums.objects[:, near].sum()),
        "box_precision": _ratio(sums.right[near].sum(), sums.detections[near].sum()),
        "box_class_accuracy": _ratio(sums.class_right[:, near].sum(), found),
        "velocity_error_mps": _ratio(sums.velocity_error_mps[:, near].sum(), found),
        "heading_error_rad": _ratio(sums.heading_error_rad[:, near].sum(), found),
        "future_error_2s_m": _ratio(sums.future_error_m[3], sums.futures[3]),
        "future_error_4s_m": _ratio(sums.future_error_m[7], sums.futures[7]),
    }
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def box_rows(sums: SightSums) -> list[BoxRow]:
    """Boxes by class and range, classes that occur only."""
    names = [f"0-{RANGES_M[0]:g}", *(f"{a:g}-{b:g}" for a, b in pairwise(RANGES_M))]
    names.append(f"{RANGES_M[-1]:g}-")
    return [
        BoxRow(
            name,
            names[part],
            int(sums.objects[index, part]),
            recall=_ratio(sums.found[index, part], sums.objects[index, part]),
            class_accuracy=_ratio(sums.class_right[index, part], sums.found[index, part]),
            velocity_error_mps=_ratio(sums.velocity_error_mps[index, part], sums.found[index, part]),
            heading_error_rad=_ratio(sums.heading_error_rad[index, part], sums.found[index, part]),
        )
        for index, name in enumerate(OBJECT_NAMES)
        for part in range(_RANGES)
        if sums.objects[index, part]
    ]


def _match(detections: Detections, futures: Futures, targets: PerceptionTargets, scene: int) -> dict[str, Floats]:
    """Sums of one scene; each detection belongs to one object at most, whatever their classes."""
    real = targets.box_classes[scene] >= 0
    kept = detections.scores[scene] > LEAST_SCORE
    true, boxes = targets.boxes[scene][real].double().numpy(), detections.boxes[scene][kept].double().numpy()
    classes = targets.box_classes[scene][real].numpy()
    gap_m = np.linalg.norm(true[:, None, :2] - boxes[None, :, :2], axis=-1)
    rows, columns = linear_sum_assignment(np.minimum(gap_m, 10 * MATCH_M))
    near = gap_m[rows, columns] < MATCH_M
    rows, columns = rows[near], columns[near]
    place = (classes, _range_of(true))
    hit = tuple(part[rows] for part in place)
    same = (detections.classes[scene][kept].numpy()[columns] == classes[rows]).astype(np.float64)
    velocity = np.linalg.norm(true[rows, 7:] - boxes[columns, 7:], axis=-1)
    turn = np.abs(wrap_angle(true[rows, 6] - boxes[columns, 6]))
    shown, error_m = _future_errors(futures, targets, scene, real, kept, rows=rows, columns=columns)
    return {
        "objects": _counted(place, np.ones(len(true))),
        "found": _counted(hit, np.ones(len(rows))),
        "class_right": _counted(hit, same),
        "velocity_error_mps": _counted(hit, velocity),
        "heading_error_rad": _counted(hit, turn),
        "detections": np.bincount(_range_of(boxes), minlength=_RANGES).astype(np.float64),
        "right": np.bincount(_range_of(boxes[columns]), minlength=_RANGES).astype(np.float64),
        "future_error_m": error_m,
        "futures": shown,
    }


def _future_errors(
    futures: Futures,
    targets: PerceptionTargets,
    scene: int,
    real: Tensor,
    kept: Tensor,
    *,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
) -> tuple[Floats, Floats]:
    """(8,) number and summed displacement of the likeliest futures of matched objects."""
    likeliest = futures.logits[scene][kept][columns].argmax(-1)
    positions = futures.positions[scene][kept][columns][torch.arange(len(columns)), likeliest]
    known = targets.future_known[scene][real][rows]
    gap_m = torch.linalg.vector_norm(positions - targets.futures[scene][real][rows][..., :2], dim=-1) * known
    return known.double().sum(0).numpy(), gap_m.double().sum(0).numpy()


def _range_of(boxes: Floats) -> NDArray[np.int64]:
    """Index of the range (N,) in which boxes (N, 9) lie."""
    found: NDArray[np.int64] = np.searchsorted(RANGES_M, np.hypot(boxes[:, 0], boxes[:, 1]), side="right")
    return found


def _counted(place: tuple[NDArray[np.int64], ...], values: Floats) -> Floats:
    sums = np.zeros((len(OBJECT_NAMES), _RANGES))
    np.add.at(sums, place, values)
    return sums


def _sums(values: Tensor) -> Floats:
    """(channels,) of (B, channels, rows, columns)."""
    summed: Floats = values.double().sum((0, 2, 3)).cpu().numpy()
    return summed


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
