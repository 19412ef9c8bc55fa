"""The stage `report`: tables, curves and pictures of all seeds on one page; the sweep's table and picture."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from irl_vla.dataset.features import build_observation
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import load_scene
from irl_vla.geometry import Floats
from irl_vla.judge.fingerprint import all_fingerprints, read_fingerprint, require_comparable
from irl_vla.judge.intervals import group_bootstrap
from irl_vla.judge.judgement import GENERATED, REAL
from irl_vla.judge.tables import read_judged_plans, write_csv
from irl_vla.ledger.storage import Location
from irl_vla.policy.config import sensor_config
from irl_vla.report.page import Section, write_page
from irl_vla.report.pictures import curves_figure, save, scene_figure, tradeoff_figure
from irl_vla.rl.job import read_history
from irl_vla.stages.experiment import Experiment
from irl_vla.train import loop
from irl_vla.train.loop import history_path

_SHOWN: Final = ("human", "imitation", "finetuned")
_CURVES: Final = (
    "finetune/reward",
    "finetune/val_epdms",
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
log = logging.getLogger(__name__)


def write_report(experiment: Experiment, dataset: Dataset, folder: Path) -> Path:
    """Writes ``index.html`` over all seeds that were judged, and what it shows; returns its path.

    Args:
        folder: of the page.
    """
    places = [experiment.root / name for name in experiment.root.children() if name.startswith("seed-")]
    seeds = [seed for seed in places if (seed / "evaluate" / "results.csv").exists()]
    sections = []
    if len(seeds) > 1:
        tables = [(seed / "evaluate").local() / "frames.csv" for seed in seeds]
        rows = pooled_rows(tables, experiment.evaluate.against, experiment.evaluate.bootstrap_samples)
        write_csv(folder / "pooled.csv", rows)
        note = "Mean over seeds and frames; differences are paired by frame, intervals resample layouts and seeds."
        sections.append(Section(f"All {len(seeds)} seeds", f"{note} {read_fingerprint(tables[0])}", rows=rows))
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


def pooled_rows(tables: Sequence[Path], against: Sequence[str], samples: int) -> list[dict[str, float | str]]:
    """One row a policy over several training seeds: mean EPDMS (times 100) and paired differences with intervals.

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
    groups = [frames[0][policies[0]][token][1] for token in tokens]
    scores = {
        name: 100 * np.array([[found[name][token][0] for token in tokens] for found in frames]) for name in policies
    }
    rows: list[dict[str, float | str]] = []
    for name in policies:
        interval = group_bootstrap(scores[name], groups, np.random.default_rng(0), samples)
        row: dict[str, float | str] = {"policy": name, "epdms": interval.mean}
        row |= {"low": interval.low, "high": interval.high}
        row |= {f"seed_{index}": float(values.mean()) for index, values in enumerate(scores[name])}
        for other in against:
            if other in scores and other != name:
                gap = group_bootstrap(scores[name] - scores[other], groups, np.random.default_rng(0), samples)
                row[f"minus_{other}"] = f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        rows.append(row)
    return rows


def write_sweep(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Writes ``trials.csv`` and ``tradeoff.png``, and prints the ranking."""
    write_csv(folder / "trials.csv", rows)
    picture = save(tradeoff_figure(rows), folder / "tradeoff.png")
    console = Console(width=120)
    console.print("Trials by true EPDMS on the validation split:")
    for row in rows:
        console.print(f"{row['trial']}  EPDMS {row['epdms']:.4f}  NC {row['nc']:.3f}  EP {row['ep']:.3f}")
    return [folder / "trials.csv", picture]


def _seed_sections(seed: Location, folder: Path) -> list[Section]:
    table = (seed / "evaluate").local() / "results.csv"
    note = f"EPDMS times 100. {read_fingerprint(table)}"
    sections = [Section(f"Results, {seed.name}", note, rows=_numbers(table))]
    imitation = _imitation_history(seed)
    if imitation:
        picture = save(curves_figure(imitation, "step", _IMITATION_CURVES), folder / f"pretrain-{seed.name}.png")
        sections.append(Section(f"Imitation, {seed.name}", "Losses, and the validation split.", pictures=[picture]))
    history = read_history(seed / "finetune")
    if history:
        picture = save(curves_figure(history, "iteration", _CURVES), folder / f"finetune-{seed.name}.png")
        sections.append(Section(f"Fine-tuning, {seed.name}", "Validation split, true score.", pictures=[picture]))
    quality = [name for name in (seed / "train_reward").children() if name.endswith(".csv")]
    tables = [(seed / "train_reward" / name).local() for name in quality]
    sections += [Section(f"Reward model, {seed.name}: {path.stem}", rows=_numbers(path)) for path in tables]
    trade = seed / "sweep" / "trials.csv"
    if trade.exists():
        trials = _numbers(trade.local())
        picture = save(tradeoff_figure(trials), folder / f"sweep-{seed.name}.png")
        sections.append(Section(f"Sweep, {seed.name}", rows=trials, pictures=[picture]))
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


def _frame_scores(path: Path) -> dict[str, dict[str, tuple[float, str]]]:
    """Policy to token to (score, group)."""
    scores: dict[str, dict[str, tuple[float, str]]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            scores.setdefault(row["policy"], {})[row["token"]] = (float(row["score"]), row["group"])
    return scores


def _numbers(path: Path) -> list[dict[str, Any]]:
    """A CSV file with numbers as numbers."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
