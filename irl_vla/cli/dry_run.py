"""``irl-vla STAGE CONFIG --dry-run``: what a stage would make, told before it begins. Nothing is started or written."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from irl_vla.dataset.split_size import SplitSize, split_size
from irl_vla.dataset.splits import all_windows
from irl_vla.errors import ConfigError
from irl_vla.judge.policies import POLICIES, Role
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.estimate import Estimate
from irl_vla.ledger.storage import Location
from irl_vla.stages import folders, parts
from irl_vla.stages.experiment import Experiment
from irl_vla.world.config import WorldConfig
from irl_vla.world.estimate import follow_up_pairs
from irl_vla.world.identity import will_generate, world_artefact
from irl_vla.world.plan import FOLLOWED_SPLIT, SPLITS
from irl_vla.world.second_stage_files import SECOND_STAGE

#: Frames of a log without a window: 3 of history, 8 of future.
_WINDOW_BORDER: Final = 11
_WHOLE: Final = "whole"
_ANEW: Final = "made anew"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that a stage makes.

    Attributes:
        stage: that makes it, as on the command line.
        estimate: None for trainings, tables and pages.
        there: what is there already, in words.
        done: the same as a share in [0, 1].
    """

    stage: str
    what: str
    folder: Location
    estimate: Estimate | None
    there: str
    done: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of splits, by name.

    Attributes:
        used: scenes that are trained or judged on.
        prepared: scenes that are prepared: more, where a split is narrowed to those worth judging.
        are_planned: True if the world is not generated yet; ``used`` are then all windows.
    """

    used: Mapping[str, SplitSize]
    prepared: Mapping[str, SplitSize]
    are_planned: bool


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a stage would make, in order."""

    rows: tuple[Row, ...]
    sizes: Sizes


def dry_run(experiment: Experiment, stage: str) -> DryRun:
    """Looks at configuration, split files, logs and what is there already.

    Args:
        experiment: of the stage.
        stage: as on the command line, e.g. "train-reward".

    Raises:
        ConfigError: if the data set or a split is missing.
        LogFormatError: if a log is missing, or one that is read is broken.
        CheckpointError: if data of another world lies where this one is to be generated.
    """
    stages = _RUN if stage == "run" else (stage,)
    names = dict.fromkeys(split for name in stages for split in needed_splits(experiment, name))
    sizes = split_sizes(experiment, names)
    rows: dict[Location, Row] = {}  # stages share prepared scenes: whoever comes first makes them
    for name in stages:
        for row in _ROWS[name](experiment, sizes):
            rows.setdefault(row.folder, row)
    return DryRun(tuple(rows.values()), sizes)


def needed_splits(experiment: Experiment, stage: str) -> Sequence[str]:
    """Names of the splits whose scenes a stage reads."""
    data, world = experiment.data, experiment.generate
    fitted = any("train" in POLICIES[name].splits for name in _untrained(experiment))
    return {
        "generate": () if world is None or world.selection is None else SPLITS,
        "pretrain": (data.train, data.val),
        "label": (data.train, data.val),
        "finetune": (data.val,),
        "sweep": (data.val,),
        "evaluate": (data.test, data.train) if fitted else (data.test,),
    }.get(stage, ())


def split_sizes(experiment: Experiment, names: Iterable[str]) -> Sizes:
    """Sizes of these splits, counted or, where the world is not generated yet, planned. Raises as :func:`dry_run`."""
    world = experiment.generate
    if world is not None:
        artefact = world_artefact(world.world, folders.data_root(experiment), experiment.data_seed)
        if will_generate(artefact, world.replace):
            planned = {name: planned_size(world, name) for name in names}
            return Sizes(planned, planned, are_planned=True)
    if not (wanted := list(names)):
        return Sizes({}, {}, are_planned=False)
    dataset = folders.dataset(experiment)
    used = {name: split_size(dataset, name) for name in wanted}
    prepared = {}
    for name in wanted:
        whole = folders.prepared_split(experiment, name)
        is_narrowed = whole != name and (dataset.splits_root / f"{whole}.yaml").is_file()
        prepared[name] = split_size(dataset, whole) if is_narrowed else used[name]
    return Sizes(used, prepared, are_planned=False)


def planned_size(world: WorldConfig, split: str) -> SplitSize:
    """Size of a split of a world that is not generated yet, before scenes are selected.

    Raises:
        ConfigError: if generating does not make this split.
    """
    windows = max(world.frames_per_log - _WINDOW_BORDER, 0)
    of = {"train": world.train, "val": world.val, "test": world.test}
    known = {name: SplitSize(size.logs, size.logs * windows) for name, size in of.items()}
    known |= {all_windows(name): known[name] for name in SPLITS}
    if world.two_stage is not None:
        groups = world.two_stage.groups
        logs = min(groups, known[FOLLOWED_SPLIT].logs)
        known[SECOND_STAGE] = SplitSize(logs, 2 * groups + 2 * follow_up_pairs(world.two_stage))
    if split not in known:
        raise ConfigError(f"split {split!r}: expected one that `irl-vla generate` makes ({', '.join(known)})")
    return known[split]


def _generate(experiment: Experiment, sizes: Sizes) -> list[Row]:
    world = experiment.generate
    if world is None:
        return []
    logs, *follow_ups = parts.world_parts(experiment)
    rows = [_row("generate", logs, _state(logs.folder, _logs_there(experiment), _logs_of(world), "logs"))]
    for part in follow_ups:
        groups = 0 if world.two_stage is None else world.two_stage.groups
        rows.append(
            _row("generate", part, _state(part.folder, _count(part.folder / "groups", ".json"), groups, "groups"))
        )
    narrowed = () if world.selection is None else SPLITS
    return rows + [_prepared("generate", experiment, split, sizes) for split in narrowed]


def _pretrain(experiment: Experiment, sizes: Sizes) -> list[Row]:
    data, config = experiment.data, experiment.pretrain
    training = f"policy: {config.steps:,} steps of {config.batch_size * config.workers} scenes"
    if config.sight.steps:
        before = f"{config.sight.steps:,} steps of {config.sight.batch_size * config.workers} scenes"
        training = f"{training}, after {before} of perception alone"
    return [
        _prepared("pretrain", experiment, data.val, sizes),
        _samples("pretrain", experiment, "train", sizes),
        _samples("pretrain", experiment, "val", sizes),
        _stage("pretrain", experiment, training),
        _bank("pretrain", experiment, "train", sizes),
        _bank("pretrain", experiment, "val", sizes),
    ]


def _label(experiment: Experiment, sizes: Sizes) -> list[Row]:
    rows = [_prepared("label", experiment, experiment.data.splits[purpose], sizes) for purpose in folders.LABELLED]
    for purpose in folders.LABELLED:
        size = sizes.used[experiment.data.splits[purpose]]
        rows.append(_sharded("label", parts.labels_part(experiment, purpose, size.scenes), size.logs))
    return rows


def _train_reward(experiment: Experiment, sizes: Sizes) -> list[Row]:
    del sizes
    config = experiment.train_reward
    rows = config.rows_per_batch * config.workers
    return [_stage("train-reward", experiment, f"reward model: {config.steps:,} steps of {rows} rows")]


def _finetune(experiment: Experiment, sizes: Sizes) -> list[Row]:
    training = f"fine-tuned policy: {_iterations(experiment, experiment.finetune.iterations)}, and its control"
    return [_prepared("finetune", experiment, experiment.data.val, sizes), _stage("finetune", experiment, training)]


def _sweep(experiment: Experiment, sizes: Sizes) -> list[Row]:
    trials = f"{experiment.sweep.trials} trials of {_iterations(experiment, experiment.sweep.iterations)}"
    return [_prepared("sweep", experiment, experiment.data.val, sizes), _stage("sweep", experiment, trials)]


def _evaluate(experiment: Experiment, sizes: Sizes) -> list[Row]:
    split, policies = experiment.data.test, experiment.evaluate.policies
    rows = [_prepared("evaluate", experiment, name, sizes) for name in needed_splits(experiment, "evaluate")]
    if any(POLICIES[name].stage is not None for name in policies):
        rows += [_samples("evaluate", experiment, "test", sizes), _bank("evaluate", experiment, "test", sizes)]
    judged = f"scores of {len(policies)} policies on {sizes.used[split].scenes:,} scenes"
    return [*rows, Row("evaluate", judged, folders.stage_folder(experiment, "evaluate"), None, _ANEW, 0.0)]


def _report(experiment: Experiment, sizes: Sizes) -> list[Row]:
    del sizes
    return [Row("report", "page with tables and pictures", experiment.root / "report", None, _ANEW, 0.0)]


_RUN: Final = ("generate", "pretrain", "label", "train-reward", "finetune", "evaluate", "report")
_ROWS: Final[Mapping[str, Callable[[Experiment, Sizes], list[Row]]]] = {
    "generate": _generate,
    "pretrain": _pretrain,
    "label": _label,
    "train-reward": _train_reward,
    "finetune": _finetune,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "report": _report,
}


def _untrained(experiment: Experiment) -> list[str]:
    """Policies that are judged and that no stage trains."""
    return [name for name in experiment.evaluate.policies if POLICIES[name].stage is None]


def _iterations(experiment: Experiment, count: int) -> str:
    config = experiment.finetune
    if config.method == "ranked":
        ranked = config.ranked
        rounds = f"{ranked.rounds} {'round' if ranked.rounds == 1 else 'rounds'}"
        return f"{rounds} of {ranked.samples} samples a row, {ranked.steps:,} steps of {ranked.batch_rows} rows"
    return f"{count} iterations of {config.scenes_per_iteration} scenes with {config.chains_per_scene} chains"


def _prepared(stage: str, experiment: Experiment, split: str, sizes: Sizes) -> Row:
    size = sizes.prepared[split]
    return _sharded(stage, parts.prepared_part(experiment, split, size.scenes), size.logs)


def _samples(stage: str, experiment: Experiment, role: Role, sizes: Sizes) -> Row:
    size = sizes.used[experiment.data.splits[role]]
    return _sharded(stage, parts.samples_part(experiment, role, size.scenes), size.logs)


def _bank(stage: str, experiment: Experiment, role: Role, sizes: Sizes) -> Row:
    size = sizes.used[experiment.data.splits[role]]
    return _sharded(stage, parts.bank_part(experiment, role, size.scenes), size.logs)


def _sharded(stage: str, part: parts.Part, logs: int) -> Row:
    return _row(stage, part, _state(part.folder, _count(part.folder, part.suffix), logs, "logs"))


def _row(stage: str, part: parts.Part, state: tuple[str, float]) -> Row:
    return Row(stage, part.name, part.folder, part.estimate, *state)


def _stage(stage: str, experiment: Experiment, what: str) -> Row:
    """The training of a stage, which marks its folder as whole."""
    folder = folders.stage_folder(experiment, stage.replace("-", "_"))
    record = find_record(folder)
    there = "nothing" if record is None else _WHOLE if record.whole else "begun"
    return Row(stage, what, folder, None, there, float(there == _WHOLE))


def _state(folder: Location, there: int, needed: int, unit: str) -> tuple[str, float]:
    """How much is there, in words and as a share."""
    record = find_record(folder)
    if record is not None and record.whole:
        return _WHOLE, 1.0
    return (f"{there} of {needed} {unit}", min(there / needed, 1.0)) if there else ("nothing", 0.0)


def _count(folder: Location, suffix: str) -> int:
    return sum(name.endswith(suffix) and name[0] != "." for name in folder.children())


def _logs_of(world: WorldConfig) -> int:
    return sum(size.logs for size in (world.train, world.val, world.test))


def _logs_there(experiment: Experiment) -> int:
    root = Location.of(folders.data_root(experiment)) / "navsim_logs"
    return sum(_count(root / split, ".pkl") for split in SPLITS)
