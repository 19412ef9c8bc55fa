"""Figures of perception: perfect sight, and errors of known size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from irl_vla.dataset.targets import MetaAction, Targets
from irl_vla.policy.batch import PerceptionTargets, encode_targets, stacked, target_batch
from irl_vla.policy.perception.heads import Detections
from irl_vla.policy.perception.motion import Futures
from irl_vla.policy.perception.quality import box_rows, measure, sight_metrics
from irl_vla.scene import ROAD_FIELDS
from tests.unit.policy import scenes

CONFIG = scenes.tiny_config().with_overrides({"perception.map_classes": 7})
OFFSET, RED = ROAD_FIELDS.index("lane_offset"), ROAD_FIELDS.index("red_light")


def scene(*boxes: list[float]) -> PerceptionTargets:
    """A scene of vehicles; the lane's middle lies at y = 0, the left half of the grid is of every map class."""
    cells = (CONFIG.grid.rows, CONFIG.grid.columns)
    raster = np.zeros((7, *cells), np.uint8)
    raster[:, :, cells[1] // 2 :] = 1
    fields = np.zeros((len(ROAD_FIELDS), *cells))
    fields[OFFSET] = CONFIG.grid.y_min_m + CONFIG.grid.cell_m * (np.arange(cells[1]) + 0.5)
    targets = Targets(scenes.box_targets(boxes, [0] * len(boxes)), raster, MetaAction(0, 0))
    return target_batch(stacked([encode_targets(targets, fields, CONFIG)]))


def perfect(targets: PerceptionTargets) -> tuple[torch.Tensor, torch.Tensor, Detections, Futures]:
    count = int((targets.box_classes[0] >= 0).sum())
    scores = torch.zeros(1, count, 7)
    scores[..., 0] = 0.9
    detections = Detections(
        boxes=targets.boxes[:, :count],
        classes=targets.box_classes[:, :count],
        scores=scores[..., 0],
        class_scores=scores,
        cells=torch.zeros(1, count, dtype=torch.int64),
    )
    positions = targets.futures[:, :count, None, :, :2].expand(-1, -1, 3, -1, -1)
    futures = Futures(positions, torch.zeros(1, count, 3), torch.ones(1, count, 8))
    return 2 * targets.raster - 1, targets.fields, detections, futures


NEAR, FAR = [10.0, 2, 0.8, 4.6, 1.9, 1.6, 0.0, 3.0, 0.0], [20.0, -8, 0.8, 4.6, 1.9, 1.6, 0.0, 0.0, 0.0]


def test_perfect_sight_has_no_error():
    targets = scene(NEAR, FAR)
    figures = sight_metrics(measure(*perfect(targets), targets))
    for name, value in figures.items():
        assert value == (0.0 if "error" in name else 1.0), name
    assert len(figures) == 7 + 5 + 7, "map classes, distances, boxes and futures; nothing is red"


def test_red_connectors_are_judged_by_their_overlap():
    targets = scene(NEAR)
    targets.fields[:, RED, :4] = 4.0
    logits, fields, *found = perfect(targets)
    assert sight_metrics(measure(logits, fields, *found, targets))["iou_red_light"] == 1.0
    half = fields.clone()
    half[:, RED, :2] = -4.0
    figures = sight_metrics(measure(logits, half, *found, targets))
    assert figures["iou_red_light"] == 0.5
    assert not any(name.startswith("field_red") for name in figures)


def test_errors_have_their_size():
    targets = scene(NEAR, FAR)
    logits, fields, detections, futures = perfect(targets)
    boxes = detections.boxes.clone()
    boxes[0, 0, [0, 6, 7]] += torch.tensor([1.0, 0.5, 2.0])  # still the same object
    boxes[0, 1, 0] += 3.0  # another place
    classes = torch.tensor([[1, 0]])
    off = fields.clone()
    off[:, 0] += 0.25
    sums = measure(-logits, off, detections._replace(boxes=boxes, classes=classes), futures, targets)
    figures = sight_metrics(sums)
    assert figures["iou_drivable"] == 0.0
    assert figures["field_drivable_error_m"] == pytest.approx(0.25)
    assert figures["field_lane_offset_error_m"] == 0.0
    assert figures["box_recall"] == figures["box_precision"] == 0.5
    assert figures["box_class_accuracy"] == 0.0
    assert figures["velocity_error_mps"] == pytest.approx(2.0)
    assert figures["heading_error_rad"] == pytest.approx(0.5, rel=1e-5)
    rows = {row.range_m: row for row in box_rows(sums)}
    assert (rows["0-15"].objects, rows["0-15"].recall) == (1, 1.0)
    assert (rows["15-30"].objects, rows["15-30"].recall) == (1, 0.0)


def test_sums_of_batches_add_up():
    first, second = scene(NEAR), scene(FAR, NEAR)
    parts = [measure(*perfect(targets), targets) for targets in (first, second)]
    both = parts[0] + parts[1]
    assert both.objects.sum() == 3
    assert both.union.tolist() == (parts[0].union + parts[1].union).tolist()


def test_what_is_not_there_is_not_measured():
    targets = replace(scene(), has_fields=torch.tensor([False]))
    figures = sight_metrics(measure(*perfect(targets), targets))
    assert not any("box" in name or "field" in name or "future" in name for name in figures)
    assert figures["iou_drivable"] == 1.0
