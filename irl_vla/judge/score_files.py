"""Plans from files, of whatever model, judged on a split: what can be scored is scored, the rest is named."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.fingerprint import hash_cache
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import LAYOUTS_NAME, all_windows, read_split
from irl_vla.dataset.whole_logs import whole_logs
from irl_vla.epdms.config import SCORER_VERSION, ScorerConfig
from irl_vla.epdms.store import SCHEMA_VERSION, PreparedStore
from irl_vla.errors import SceneError
from irl_vla.judge.for_each import ForEach, in_processes
from irl_vla.judge.judgement import (
    GENERATED,
    REAL,
    Judgement,
    JudgeSettings,
    frames_to_judge,
    judge,
    withdraw_results,
    write_judgement,
)
from irl_vla.judge.one_stage import FrameId, frames_of_refs, unfit_plans
from irl_vla.judge.plan_file import PlanFile, read_plan_file
from irl_vla.judge.plan_inspection import inspect_files
from irl_vla.judge.prepare import failed_scenes, prepare_split
from irl_vla.judge.tables import write_csv
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.storage import Location

BAD_TOKENS_NAME: Final = "bad_tokens.csv"
PLAN_FAULTS_NAME: Final = "plan_faults.json"
_SHOWN: Final = 10
_UNKNOWN: Final = "no such scene in the split"
_UNKNOWN_OR_LEFT_OUT: Final = "no such scene in the split, or in a log that is left out"

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
        skip_broken: judge what is whole where logs are missing or broken, which are counted and named.
        output: folder of the tables.
        workers: processes over which logs are spread.
    """

    plans: Path
    against: Path | None
    data: DataConfig
    split: str
    prepared: Path | None
    scorer: ScorerConfig
    output: Path
    workers: int = 1
    samples: int = 2000
    seed: int = 0
    skip_broken: bool = False


@dataclass(frozen=True)
class BadToken:
    """A scene that was not judged, or a row that belongs to none: in which file (empty: in the data), and why."""

    file: str
    token: str
    reason: str


def score_files(job: ScoreJob) -> list[BadToken]:
    """Writes ``results.csv``, ``frames.csv`` and, for tokens that could not be judged, ``bad_tokens.csv``.

    What is wrong with all plans of a file (mirrored, shifted, in another unit) is a warning, and in
    ``plan_faults.json``.

    A two-stage split is judged by the two-stage rule.

    Returns:
        Those tokens; empty if all plans of all frames were scored.

    Raises:
        LogFormatError: if a file of plans cannot be read, or logs, of which all are named.
        SceneError: if not one frame could be judged.
        IrlVlaError: if the data, or the prepared scenes, are unusable.
    """
    files = {name: read_plan_file(path) for name, path in _named(job).items()}
    found = open_dataset(job.data)
    dataset = Dataset(found.root.resolve(), found.maps_root.resolve(), found.splits_root.resolve())
    skip = None if job.skip_broken else "--skip-broken"
    dataset = whole_logs(dataset, job.split, skip=skip, processes=job.workers)
    frames = frames_of_refs(scene_refs(dataset, job.split))
    for_each = in_processes(job.workers)
    store = _prepared(job, dataset, for_each)
    inspect_files(store, files, job.output / PLAN_FAULTS_NAME)
    failed = {item.token: item.reason for item in failed_scenes(store.folder)}
    fit, bad = usable(frames, files, failed, _UNKNOWN_OR_LEFT_OUT if dataset.left_out else _UNKNOWN)
    judged = frames_to_judge(fit, read_split(dataset, job.split).stage_pairs)
    bad += _with_others(judged.left_out, bad)
    if not judged.frames:
        reasons = "; ".join(f"{item.token}: {item.reason}" for item in bad[:3])
        raise SceneError(
            f"{job.plans}: expected plans for the {len(frames)} scenes of split {job.split!r}, not one can be "
            f"judged ({reasons})"
        )
    settings = JudgeSettings(
        scorer=job.scorer,
        against=list(files)[1:],
        samples=job.samples,
        seed=job.seed,
        title=f"True EPDMS on {job.split}",
        origin=GENERATED if (dataset.root / LAYOUTS_NAME).is_file() else REAL,
    )
    plans = ((name, file.plans) for name, file in files.items())
    judgement = judge(store, judged, plans, settings, for_each=for_each)
    bad += [
        BadToken(name, token, reason)
        for name, reasons in judgement.unscored.items()
        for token, reason in reasons.items()
    ]
    withdraw_results(job.output)
    (job.output / BAD_TOKENS_NAME).unlink(missing_ok=True)  # of an earlier call
    if bad:
        write_csv(job.output / BAD_TOKENS_NAME, [asdict(item) for item in bad])
    write_judgement(job.output, judgement, {})
    _show(job, judgement, bad)
    return bad


def usable(
    frames: Sequence[FrameId], files: Mapping[str, PlanFile], failed: Mapping[str, str], unknown: str = _UNKNOWN
) -> tuple[list[FrameId], list[BadToken]]:
    """The frames that every file has a usable plan for, and everything that is wrong with the others.

    Args:
        frames: of the split.
        files: plans by name.
        failed: scenes that could not be prepared, with the reason.
        unknown: what to say of plans for other scenes.
    """
    bad = [BadToken("", token, f"the scene could not be prepared: {reason}") for token, reason in failed.items()]
    known = {frame.token for frame in frames}
    prepared = [frame for frame in frames if frame.token not in failed]
    for name, file in files.items():
        unfit = unfit_plans(prepared, file.plans)
        unfit |= {token: unknown for token in file.plans if token not in known}
        unfit |= file.unfit
        bad += [BadToken(name, token, reason) for token, reason in unfit.items()]
    out = {item.token for item in bad}
    return [frame for frame in frames if frame.token not in out], bad


def cache_folder(dataset: Dataset, split: str) -> Path:
    """Where the prepared scenes of a split are kept by default: another one for another place, filter or scorer.

    Logs and maps that change within their place are told by the prepared scenes themselves.
    """
    selection = read_split(dataset, split)
    key = content_hash(
        {
            "folders": [str(dataset.root), str(dataset.maps_root), selection.data_split],
            "filter": selection.scene_filter.model_dump(mode="json"),
            "pairs": [pair.tokens for pair in selection.stage_pairs],
            "scorer": SCORER_VERSION,
            "schema": SCHEMA_VERSION,
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


def _prepared(job: ScoreJob, dataset: Dataset, for_each: ForEach) -> PreparedStore:
    folder = (job.prepared or cache_folder(dataset, job.split)).resolve()
    log.info("score: prepared scenes in %s", folder)
    seed = 0  # of shifted views, which are not made here; a folder that an experiment filled has its own
    split = job.split
    record = find_record(Location.of(folder))
    if record is not None:
        seed = record.identity.seeds["data_seed"]
        if record.identity.settings["split"] == all_windows(split):  # from which the scenes of the split were chosen
            split = all_windows(split)
    skip, cache = job.skip_broken, hash_cache()
    return prepare_split(dataset, split, None, folder, seed, skip_broken=skip, cache=cache, for_each=for_each)


def _with_others(left_out: Sequence[str], bad: Sequence[BadToken]) -> list[BadToken]:
    """Scenes of a two-stage split that are left out because another one of their pair is bad."""
    known = {item.token for item in bad}
    return [BadToken("", token, "left out with a scene of its pair") for token in left_out if token not in known]


def _show(job: ScoreJob, judgement: Judgement, bad: Sequence[BadToken]) -> None:
    console = Console(width=140)
    console.print(judgement.table)
    first, *others = judgement.rows
    for other in (str(row["policy"]) for row in others):
        gap = [first.get(f"minus_{other}{part}") for part in ("", "_low", "_high")]
        interval = "one group: no interval" if None in gap else f"{gap[0]:+.2f} [{gap[1]:+.2f}, {gap[2]:+.2f}]"
        console.print(f"{first['policy']} minus {other}, paired, resampled by group: {interval}")
    if bad:
        console.print(f"{len(bad)} bad tokens, all in {job.output / BAD_TOKENS_NAME}:")
    for item in bad[:_SHOWN]:
        console.print(f"  {item.token}  {item.file}  {item.reason}", highlight=False, markup=False, soft_wrap=True)
