"""The stage `report`: tables, curves and pictures of all seeds on one page; the sweep's table and picture."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console

from irl_vla.dataset.features import build_observation
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import load_scene
from irl_vla.geometry import Floats
from irl_vla.judge.equal_progress import Driving, equal_progress
from irl_vla.judge.fingerprint import all_fingerprints, read_fingerprint, require_comparable
from irl_vla.judge.intervals import Interval, group_bootstrap
from irl_vla.judge.judgement import FRAMES_NAME, GENERATED, REAL, RESULTS_NAME, TRAINING
from irl_vla.judge.slowed import FRONTIER
from irl_vla.judge.tables import read_csv, read_judged_plans, write_csv
from irl_vla.ledger.storage import Location
from irl_vla.policy.config import sensor_config
from irl_vla.report.page import Section, write_page
from irl_vla.report.pictures import (
    curves_figure,
    frontier_figure,
    reliability_figure,
    save,
    scene_figure,
    tradeoff_figure,
)
from irl_vla.report.reward_tables import quality_rows
from irl_vla.reward.quality import ALL_SOURCES
from irl_vla.rl.job import read_choice, read_history
from irl_vla.stages.experiment import Experiment
from irl_vla.train import loop
from irl_vla.train.loop import history_path
from irl_vla.train.perception_quality import BOXES_NAME, FIGURES_NAME, perception_rows

_SHOWN: Final = ("human", "imitation", "finetuned")
_CURVES: Final = (
    "finetune/reward",
    "finetune/val_epdms",
    "finetune/val_equal_progress",
    "finetune/val_gap",
    "finetune/val_ep",
    "finetune/val_nc",
    "finetune/clip_fraction",
    "finetune/kl_to_imitation",
    "finetune/ranked_loss",
)
_IMITATION_CURVES: Final = (
    "pretrain/loss_total",
    "pretrain/val_ade_m",
    "pretrain/val_epdms",
    "pretrain/val_answer_accuracy",
    "pretrain/val_answer_majority",
)
_MAP_CURVES: Final = (
    "pretrain/val_iou_drivable",
    "pretrain/val_iou_centreline",
    "pretrain/val_field_drivable_error_m",
    "pretrain/val_field_lane_offset_error_m",
)
_OBJECT_CURVES: Final = (
    "pretrain/val_box_recall",
    "pretrain/val_box_precision",
    "pretrain/val_velocity_error_mps",
    "pretrain/val_future_error_4s_m",
)
_SIGHT_NOTE: Final = (
    "Intersection over union of map classes; mean error of fields along the ego's corridor; boxes within 30 m; "
    "the likeliest future of found objects; answers beside always giving the most frequent one."
)
_REWARD_NOTE: Final = (
    "By source of plans; fine-tuning asks for those of the policy. Correlation and spreads are of advantages; AUROC "
    "and ece, the calibration error, of each sub-score. Enrichment: what favourites are worth beside random plans. In "
    "the diagrams a calibrated model lies on the diagonal; larger points hold more plans."
)
log = logging.getLogger(__name__)


def write_report(experiment: Experiment, dataset: Dataset, folder: Path) -> Path:
    """Writes ``index.html`` over all seeds that were judged, and what it shows; returns its path.

    Args:
        folder: of the page.
    """
    places = [experiment.root / name for name in experiment.root.children() if name.startswith("seed-")]
    seeds = [seed for seed in places if (seed / "evaluate" / RESULTS_NAME).exists()]
    sections = [
        *_pooled_sections(experiment, seeds, folder, ""),
        *_pooled_sections(experiment, seeds, folder, TRAINING),
    ]
    for seed in seeds:
        sections += _seed_sections(seed, folder)
    sections.append(Section("Scenes", _PICTURES, pictures=_scene_pictures(experiment, dataset, folder)))
    sections.append(Section("Configuration", text=experiment.to_yaml()))
    label = GENERATED if experiment.generate is not None else REAL
    return write_page(folder / "index.html", f"IRL-VLA: {experiment.name}", label, sections)


_PICTURES: Final = (
    "Test scenes in which fine-tuning changed the true score most, both ways. Plans are coloured by their score "
    "(red 0, green 1); the human plan is dashed."
)
_TRAINING_NOTE: Final = "Training layouts, NOT held out: a gain that is here and not on the test split is memory."


def pooled_rows(tables: Sequence[Path], against: Sequence[str], samples: int) -> list[dict[str, float | str]]:
    """One row a policy over several training seeds: mean EP and EPDMS (times 100), differences with intervals.

    Where all seeds judged imitation's slowed plans, the others get their gain at equal progress, too.

    Frames on which some policy of some seed has no score (in reactive traffic) are left out for all.

    Args:
        tables: ``frames.csv`` of each seed.

    Raises:
        CheckpointError: if the seeds were judged by different evaluators, or it is not known by which.
    """
    require_comparable(all_fingerprints(tables))
    frames = [_frame_scores(table) for table in tables]
    policies = [name for name in frames[0] if all(name in found for found in frames)]
    tokens = sorted(set.intersection(*({*found[name]} for found in frames for name in policies)))
    groups = [frames[0][policies[0]][token].group for token in tokens]
    driven = {
        name: Driving(
            ep=100 * np.array([[found[name][token].ep for token in tokens] for found in frames]),
            epdms=100 * np.array([[found[name][token].epdms for token in tokens] for found in frames]),
        )
        for name in policies
    }
    rows: list[dict[str, float | str]] = []
    for name in policies:
        scores = driven[name].epdms
        interval = group_bootstrap(scores, groups, np.random.default_rng(0), samples)
        row: dict[str, float | str] = {"policy": name, "ep": float(driven[name].ep.mean()), "epdms": interval.mean}
        row |= {"low": interval.low, "high": interval.high}
        row |= {f"seed_{index}": float(values.mean()) for index, values in enumerate(scores)}
        if name not in FRONTIER and driven.keys() >= {*FRONTIER}:
            frontier = [driven[point] for point in FRONTIER]
            row["equal_progress"] = _signed(
                equal_progress(driven[name], frontier, groups, np.random.default_rng(0), samples)
            )
        for other in against:
            if other in driven and other != name:
                gap = group_bootstrap(scores - driven[other].epdms, groups, np.random.default_rng(0), samples)
                row[f"minus_{other}"] = _signed(gap)
        rows.append(row)
    return rows


def write_sweep(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Writes ``trials.csv`` and ``tradeoff.png``, and prints the ranking."""
    write_csv(folder / "trials.csv", rows)
    picture = save(tradeoff_figure(rows), folder / "tradeoff.png")
    console = Console(width=120)
    console.print("Trials by true EPDMS on the validation split:")
    for row in rows:
        console.print(
            f"{row['trial']}  EPDMS {row['epdms']:.4f}  at equal progress {row['equal_progress']:+.4f}  "
            f"NC {row['nc']:.3f}  EP {row['ep']:.3f}"
        )
    return [folder / "trials.csv", picture]


def _pooled_sections(experiment: Experiment, seeds: Sequence[Location], folder: Path, prefix: str) -> list[Section]:
    """The table over all seeds that were judged on the test split, or on training scenes; none for a single one."""
    judged = [seed / "evaluate" for seed in seeds if (seed / "evaluate" / f"{prefix}{RESULTS_NAME}").exists()]
    if len(judged) < 2:
        return []
    tables = [place.local() / f"{prefix}{FRAMES_NAME}" for place in judged]
    rows = pooled_rows(tables, experiment.evaluate.against, experiment.evaluate.bootstrap_samples)
    write_csv(folder / f"{prefix}pooled.csv", rows)
    note = "Mean over seeds and frames; differences are paired by frame, intervals resample layouts and seeds."
    title = f"All {len(judged)} seeds" if not prefix else f"Training layouts, all {len(judged)} seeds"
    return [
        _scores_section(title, prefix, f"{note} {read_fingerprint(tables[0])}", rows, folder / f"{prefix}frontier.png")
    ]


def _scores_section(title: str, prefix: str, note: str, rows: Sequence[Mapping[str, Any]], picture: Path) -> Section:
    """A table of policies, and the frontier of imitation's slowed plans if they were judged."""
    label = f"{_TRAINING_NOTE} " if prefix else ""
    drawn = {str(row["policy"]) for row in rows} >= {*FRONTIER}
    return Section(title, label + note, rows=rows, pictures=[save(frontier_figure(rows), picture)] if drawn else [])


def _seed_sections(seed: Location, folder: Path) -> list[Section]:
    sections = []
    for prefix, title in (("", f"Results, {seed.name}"), (TRAINING, f"Training layouts, {seed.name}")):
        if (seed / "evaluate" / f"{prefix}{RESULTS_NAME}").exists():
            table = (seed / "evaluate").local() / f"{prefix}{RESULTS_NAME}"
            note, picture = f"EPDMS times 100. {read_fingerprint(table)}", folder / f"{prefix}frontier-{seed.name}.png"
            sections.append(_scores_section(title, prefix, note, read_csv(table), picture))
    imitation = _imitation_history(seed)
    if imitation:
        picture = save(curves_figure(imitation, "step", _IMITATION_CURVES), folder / f"pretrain-{seed.name}.png")
        sections.append(Section(f"Imitation, {seed.name}", "Losses, and the validation split.", pictures=[picture]))
    sections += [*_perception_sections(seed, imitation, folder), *_reward_sections(seed, folder)]
    history = read_history(seed / "finetune")
    if history:
        picture = save(curves_figure(history, "iteration", _CURVES), folder / f"finetune-{seed.name}.png")
        note = f"Validation split, true score. {read_choice(seed / 'finetune')}".strip()
        sections.append(Section(f"Fine-tuning, {seed.name}", note, pictures=[picture]))
    trade = seed / "sweep" / "trials.csv"
    if trade.exists():
        trials = read_csv(trade.local())
        picture = save(tradeoff_figure(trials), folder / f"sweep-{seed.name}.png")
        sections.append(Section(f"Sweep, {seed.name}", rows=trials, pictures=[picture]))
    return sections


def _perception_sections(seed: Location, history: Sequence[Mapping[str, float]], folder: Path) -> list[Section]:
    """What the kept policy perceives, or the last validation where the tables are not written; none without either."""
    figures, boxes = (seed / "pretrain" / name for name in (FIGURES_NAME, BOXES_NAME))
    validations = [row for row in history if _MAP_CURVES[0] in row]
    rows: Sequence[Mapping[str, Any]] = []
    if figures.exists():
        note, rows = "The kept policy on validation logs.", read_csv(figures.local())
    elif validations:
        last = {name.removeprefix("pretrain/val_"): value for name, value in validations[-1].items()}
        note, rows = f"The last validation, step {last['step']:.0f}.", perception_rows(last)
    if not rows:
        return []
    drawn = {"map": _MAP_CURVES, "objects": _OBJECT_CURVES} if validations else {}
    curves = [
        save(curves_figure(validations, "step", names), folder / f"perception-{part}-{seed.name}.png")
        for part, names in drawn.items()
    ]
    sections = [Section(f"What perception sees, {seed.name}", f"{note} {_SIGHT_NOTE}", rows, curves)]
    by_range = read_csv(boxes.local()) if boxes.exists() else []
    if by_range:
        sections.append(Section(f"Boxes by class and range, {seed.name}", "Ranges in m from the ego.", by_range))
    return sections


def _reward_sections(seed: Location, folder: Path) -> list[Section]:
    """The learned reward by source of plans, on the validation split and on held-out training layouts."""
    fitted, sections = seed / "train_reward", []
    for place, split in ((fitted / "validation", "validation split"), (fitted, "held-out training layouts")):
        if not (place / "quality_picks.csv").exists():
            continue
        bins, pictures = place / "quality_bins.csv", []
        if bins.exists():
            figure = reliability_figure(read_csv(bins.local()), (ALL_SOURCES, "policy"))
            pictures.append(save(figure, folder / f"reliability-{split.split()[0]}-{seed.name}.png"))
        title = f"The learned reward, {seed.name}: {split}"
        sections.append(Section(title, _REWARD_NOTE, quality_rows(place), pictures))
    return sections


def _imitation_history(seed: Location) -> list[dict[str, float]]:
    """Metrics of imitation by step."""
    runs = seed / "pretrain" / "ray"
    rows: dict[int, dict[str, float]] = {}
    for name in runs.children():
        for step, metrics in loop.read_history(history_path(runs, name)).items():
            rows.setdefault(step, {"step": step}).update(metrics)
    return [rows[step] for step in sorted(rows)]


def _scene_pictures(experiment: Experiment, dataset: Dataset, folder: Path) -> list[Path]:
    place = experiment.folder / "evaluate" / "plans.json"
    if not place.exists():
        return []
    judged = read_judged_plans(place)
    sensors = sensor_config(experiment.model.encoder, allow_missing=True)
    pictures = []
    for token in tokens_to_show(judged.policies, experiment.report.scenes):
        scene = load_scene(dataset, judged.split, token)
        shown: dict[str, tuple[Floats, float]] = {
            name: (np.array(judged.policies[name][token]["plan"]), judged.policies[name][token]["score"])
            for name in _SHOWN
            if token in judged.policies.get(name, {})
        }
        figure = scene_figure(
            scene, load_map(dataset, scene.map_name), build_observation(scene, dataset, sensors), shown
        )
        pictures.append(save(figure, folder / "scenes" / f"{token}.png"))
    return pictures


def tokens_to_show(plans: Mapping[str, Mapping[str, Mapping[str, Any]]], count: int) -> list[str]:
    """Tokens where fine-tuning gained and lost most; without a fine-tuned policy, evenly chosen ones."""
    tokens = sorted(next(iter(plans.values())))
    if "finetuned" not in plans or "imitation" not in plans:
        return tokens[:: max(1, len(tokens) // max(count, 1))][:count]
    after, before = plans["finetuned"], plans["imitation"]
    gain = {token: after[token]["score"] - before[token]["score"] for token in tokens if token in {*after} & {*before}}
    ordered = sorted(gain, key=lambda token: (gain[token], token))
    lost = ordered[: count // 2]
    return lost + [token for token in ordered[::-1] if token not in lost][: count - len(lost)]


class _Frame(NamedTuple):
    ep: float
    epdms: float
    group: str


def _frame_scores(path: Path) -> dict[str, dict[str, _Frame]]:
    """Policy to token to what was judged."""
    scores: dict[str, dict[str, _Frame]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            frame = _Frame(float(row["ep"]), float(row["score"]), row["group"])
            scores.setdefault(row["policy"], {})[row["token"]] = frame
    return scores


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"
