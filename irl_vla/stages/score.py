"""Plans from files, of whatever model, judged on a split: what can be scored is scored, the rest is named."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import LAYOUTS_NAME, StagePair, all_windows, read_split
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import SceneError
from irl_vla.judge.fingerprint import Fingerprint, Rule, fingerprint, sources_hash, write_fingerprint
from irl_vla.judge.one_stage import (
    FrameId,
    SplitScores,
    frame_rows,
    frames_of_refs,
    render_table,
    result_rows,
    score_split,
    unfit_plans,
    write_csv,
)
from irl_vla.judge.plan_file import PlanFile, read_plan_file
from irl_vla.judge.prepare import failed_scenes, prepare_split
from irl_vla.judge.two_stage import render_stages, score_pairs, two_stage_rows, usable_pairs
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location
from irl_vla.stages.judge import GENERATED, REAL
from irl_vla.stages.session import RayConfig, ray_session

BAD_TOKENS_NAME: Final = "bad_tokens.csv"
_SHOWN: Final = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreJob:
    """What to judge, on what and how.

    Attributes:
        plans: file of the plans.
        against: file of plans to compare with; then only frames with a usable plan in both are judged.
        data: where the scenes are.
        split: on which they are judged.
        prepared: folder of prepared scenes, made or completed where needed; None takes one in the user's cache.
        scorer: how.
        samples, seed: draws of the bootstrap over groups.
        output: folder of the tables.
        ray: where the work runs.
    """

    plans: Path
    against: Path | None
    data: DataConfig
    split: str
    prepared: Path | None
    scorer: ScorerConfig
    output: Path
    ray: RayConfig
    samples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class BadToken:
    """A scene that was not judged, or a row that belongs to none: in which file (empty: in the data), and why."""

    file: str
    token: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """What a rule makes of the plans.

    Attributes:
        frames: tokens that were judged.
        rows: a row a file.
        render: rows, title and caption to a terminal table.
        unscored: by file, tokens of plans that have no score, to the reason.
    """

    rule: Rule
    frames: Sequence[str]
    scores: Mapping[str, SplitScores]
    rows: Sequence[dict[str, float | str]]
    render: Callable[[Sequence[Mapping[str, float | str]], str, str], Table]
    unscored: Mapping[str, Mapping[str, str]]


def score_files(job: ScoreJob) -> list[BadToken]:
    """Writes ``results.csv``, ``frames.csv`` and, for tokens that could not be judged, ``bad_tokens.csv``.

    A two-stage split is judged by the two-stage rule.

    Returns:
        Those tokens; empty if all plans of all frames were scored.

    Raises:
        LogFormatError: if a file of plans, or a log, cannot be read.
        SceneError: if not one frame could be judged.
        IrlVlaError: if the data, or the prepared scenes, are unusable.
    """
    files = {name: read_plan_file(path) for name, path in _named(job).items()}
    found = open_dataset(job.data)
    dataset = Dataset(found.root.resolve(), found.maps_root.resolve(), found.splits_root.resolve())
    frames = frames_of_refs(scene_refs(dataset, job.split))
    pairs = read_split(dataset, job.split).stage_pairs
    with ray_session(job.ray):
        store = _prepared(job, dataset)
        fit, bad = usable(frames, files, {item.token: item.reason for item in failed_scenes(store.folder)})
        if pairs:
            whole, left_out = usable_pairs(pairs, [frame.token for frame in fit])
            bad += _with_others(left_out, bad)
            wanted = frozenset(token for pair in whole for token in pair.tokens)
            fit = [frame for frame in fit if frame.token in wanted]
        if not fit:
            reasons = "; ".join(f"{item.token}: {item.reason}" for item in bad[:3])
            raise SceneError(
                f"{job.plans}: expected plans for the {len(frames)} scenes of split {job.split!r}, not one can be "
                f"judged ({reasons})"
            )
        judged = _two_stages(job, store, fit, whole, files) if pairs else _one_stage(job, store, fit, files)
    evaluator = fingerprint(job.scorer, [store.folder], judged.frames, judged.rule)
    bad += [
        BadToken(name, token, reason) for name, reasons in judged.unscored.items() for token, reason in reasons.items()
    ]
    _write(job, judged, bad, evaluator)
    what = GENERATED if (dataset.root / LAYOUTS_NAME).is_file() else REAL
    _show(job, judged, bad, f"{what} {len({frame.group for frame in fit})} groups.\n{evaluator}")
    return bad


def _one_stage(
    job: ScoreJob, store: PreparedStore, frames: Sequence[FrameId], files: Mapping[str, PlanFile]
) -> _Judged:
    scores = {name: score_split(store, frames, file.plans, job.scorer) for name, file in files.items()}
    rows = result_rows(scores, list(files)[1:], job.samples, job.seed)
    unscored = {name: found.unscored for name, found in scores.items()}
    return _Judged("one-stage", [frame.token for frame in frames], scores, rows, render_table, unscored)


def _two_stages(
    job: ScoreJob,
    store: PreparedStore,
    frames: Sequence[FrameId],
    pairs: Sequence[StagePair],
    files: Mapping[str, PlanFile],
) -> _Judged:
    scores = {name: score_pairs(store, frames, pairs, file.plans, job.scorer) for name, file in files.items()}
    rows = two_stage_rows(scores, list(files)[1:], job.samples, job.seed)
    splits = {name: found.split for name, found in scores.items()}
    unscored = {name: found.left_out for name, found in scores.items()}
    return _Judged("two-stage", [frame.token for frame in frames], splits, rows, render_stages, unscored)


def usable(
    frames: Sequence[FrameId], files: Mapping[str, PlanFile], failed: Mapping[str, str]
) -> tuple[list[FrameId], list[BadToken]]:
    """The frames that every file has a usable plan for, and everything that is wrong with the others.

    Args:
        frames: of the split.
        files: plans by name.
        failed: scenes that could not be prepared, with the reason.
    """
    bad = [BadToken("", token, f"the scene could not be prepared: {reason}") for token, reason in failed.items()]
    known = {frame.token for frame in frames}
    prepared = [frame for frame in frames if frame.token not in failed]
    for name, file in files.items():
        unfit = unfit_plans(prepared, file.plans)
        unfit |= {token: "no such scene in the split" for token in file.plans if token not in known}
        unfit |= file.unfit
        bad += [BadToken(name, token, reason) for token, reason in unfit.items()]
    out = {item.token for item in bad}
    return [frame for frame in frames if frame.token not in out], bad


def cache_folder(dataset: Dataset, split: str) -> Path:
    """Where the prepared scenes of a split are kept by default: another one for other data, filter or scorer."""
    selection = read_split(dataset, split)
    key = content_hash(
        {
            "folders": [str(dataset.root), str(dataset.maps_root), selection.data_split],
            "filter": selection.scene_filter.model_dump(mode="json"),
            "pairs": [pair.tokens for pair in selection.stage_pairs],
            "scorer": sources_hash(),
        }
    )
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "irl-vla" / "prepared" / f"{split}-{key}"


def _named(job: ScoreJob) -> dict[str, Path]:
    """The files by what they are called in the tables."""
    if job.against is None:
        return {job.plans.stem: job.plans}
    if job.plans.stem != job.against.stem:
        return {job.plans.stem: job.plans, job.against.stem: job.against}
    return {str(job.plans): job.plans, str(job.against): job.against}


def _prepared(job: ScoreJob, dataset: Dataset) -> PreparedStore:
    folder = (job.prepared or cache_folder(dataset, job.split)).resolve()
    log.info("score: prepared scenes in %s", folder)
    seed = 0  # of shifted views, which are not made here; a folder that an experiment filled has its own
    split = job.split
    record = find_record(Location.of(folder))
    if record is not None:
        seed = record.identity.seeds["data_seed"]
        if record.identity.settings["split"] == all_windows(split):  # from which the scenes of the split were chosen
            split = all_windows(split)
    return prepare_split(dataset, split, None, folder, seed, skip_broken=job.data.skip_broken)


def _with_others(left_out: Sequence[str], bad: Sequence[BadToken]) -> list[BadToken]:
    """Scenes of a two-stage split that are left out because another one of their pair is bad."""
    known = {item.token for item in bad}
    return [BadToken("", token, "left out with a scene of its pair") for token in left_out if token not in known]


def _write(job: ScoreJob, judged: _Judged, bad: Sequence[BadToken], evaluator: Fingerprint) -> None:
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        "results.csv": judged.rows,
        "frames.csv": [line for name, split in judged.scores.items() for line in frame_rows(name, split)],
    }
    for name, table in tables.items():
        write_csv(job.output / name, table)
        write_fingerprint(job.output / name, evaluator)
    (job.output / BAD_TOKENS_NAME).unlink(missing_ok=True)  # of an earlier call
    if bad:
        rows = [{"file": item.file, "token": item.token, "reason": item.reason} for item in bad]
        write_csv(job.output / BAD_TOKENS_NAME, rows)


def _show(job: ScoreJob, judged: _Judged, bad: Sequence[BadToken], caption: str) -> None:
    console = Console(width=140)
    console.print(judged.render(judged.rows, f"True EPDMS on {job.split}", caption))
    first, *others = judged.rows
    for other in (str(row["policy"]) for row in others):
        gap = [first.get(f"minus_{other}{part}") for part in ("", "_low", "_high")]
        interval = "one group: no interval" if None in gap else f"{gap[0]:+.2f} [{gap[1]:+.2f}, {gap[2]:+.2f}]"
        console.print(f"{first['policy']} minus {other}, paired, resampled by group: {interval}")
    if bad:
        console.print(f"{len(bad)} bad tokens, all in {job.output / BAD_TOKENS_NAME}:")
    for item in bad[:_SHOWN]:
        console.print(f"  {item.token}  {item.file}  {item.reason}", highlight=False, markup=False, soft_wrap=True)
