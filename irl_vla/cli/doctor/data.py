"""The data set of an experiment: is it there and apart, what does one log hold, and which sensors are missing?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from irl_vla.cli.doctor.finding import Finding
from irl_vla.dataset.inventory import spread_inventory
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.maps.reader import city_path
from irl_vla.dataset.scenes import iter_scenes, split_logs
from irl_vla.dataset.split_guard import overlap, split_command
from irl_vla.dataset.splits import read_split
from irl_vla.errors import IrlVlaError
from irl_vla.judge.policies import POLICIES, Role
from irl_vla.ledger.storage import RECORD_NAME
from irl_vla.policy.config import sensor_config
from irl_vla.scene import Scene
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.folders import data_root
from irl_vla.world.config import SplitSizeConfig

#: Frames of a log without a whole window: 3 of history, 8 of future.
WINDOW_BORDER: Final = 11
_CHECK: Final = "`irl-vla check-data` names every fault"


@dataclass(frozen=True)
class SplitSample:
    """What one log tells of a split.

    Attributes:
        logs: of the split.
        scenes: of the split; of several logs estimated by their sizes.
        first: the first scene of the log, None if it has none.
    """

    logs: int
    scenes: int
    first: Scene | None


def roles(experiment: Experiment) -> dict[Role, str]:
    """The splits that the configured policies need: "train", "val" and "test" to their names."""
    needed = {role for name in experiment.evaluate.policies for role in POLICIES[name].splits}
    return {role: split for role, split in experiment.data.splits.items() if role in needed}


def trains(experiment: Experiment) -> bool:
    """True if policies are trained, for which sensors are needed."""
    return len(roles(experiment)) == 3


def data_findings(experiment: Experiment) -> tuple[list[Finding], dict[Role, int]]:
    """Findings about the data set, and the number of scenes by role of the split (as far as it can be told)."""
    world, root = experiment.generate, data_root(experiment)
    if world is not None and not (root / RECORD_NAME).exists():
        planned: dict[Role, SplitSizeConfig] = {"train": world.train, "val": world.val, "test": world.test}
        each = max(world.frames_per_log - WINDOW_BORDER, 0)
        finding = Finding("data", "ok", f"not generated yet: {root}", "`irl-vla generate` or `irl-vla run` makes it")
        return [finding], {role: split.logs * each for role, split in planned.items()}
    try:
        dataset = open_dataset(experiment.data if world is None else experiment.data.with_overrides({"root": root}))
    except IrlVlaError as error:
        return [Finding("data", "problem", str(error), "see docs/data.md")], {}
    findings, samples = [], {}
    for role, name in roles(experiment).items():
        try:
            samples[role] = sample(dataset, name)
        except IrlVlaError as error:
            findings.append(Finding(f"split {name}", "problem", str(error), "see docs/data.md"))
            continue
        findings += split_findings(experiment, dataset, name, samples[role])
    if len(samples) > 1:
        findings.append(split_guard_finding(dataset, {role: roles(experiment)[role] for role in samples}))
    return findings, {role: item.scenes for role, item in samples.items()}


def sample(dataset: Dataset, split: str) -> SplitSample:
    """Looks into the log of median size.

    Raises:
        IrlVlaError: if the split, its logs, or that log cannot be read.
    """
    names = split_logs(dataset, split)
    folder = dataset.log_folder(read_split(dataset, split).data_split)
    sizes = {name: (folder / f"{name}.pkl").stat().st_size for name in names}
    typical = sorted(names, key=lambda name: sizes[name])[len(names) // 2]
    scenes = list(iter_scenes(dataset, split, logs=[typical]))
    estimate = len(scenes) * sum(sizes.values()) / max(sizes[typical], 1)
    return SplitSample(len(names), round(estimate), scenes[0] if scenes else None)


def split_findings(experiment: Experiment, dataset: Dataset, name: str, found: SplitSample) -> list[Finding]:
    """What the sampled log of a split says about its scenes, its map and, where policies are trained, its sensors."""
    if found.first is None:
        return [Finding(f"split {name}", "warning", f"{found.logs} logs; the sampled one has no scene", _CHECK)]
    findings = [Finding(f"split {name}", "ok", f"{found.logs} logs, about {found.scenes} scenes")]
    try:
        path = city_path(dataset.maps_root, found.first.map_name)
        lacking = None if path.is_file() else f"expected {path}, found no file"
    except IrlVlaError as error:
        lacking = str(error)
    if lacking is not None:
        findings.append(Finding(f"map of {name}", "problem", lacking, "fetch the maps, or set data.maps_root"))
    if trains(experiment):
        findings.append(sensor_finding(experiment, dataset, name))
    return findings


def sensor_finding(experiment: Experiment, dataset: Dataset, name: str) -> Finding:
    """Whether the sensor files that the policy takes are there, for every scene of a split."""
    judged = name == experiment.data.test
    setting = "evaluate.incomplete" if judged else "pretrain.samples.incomplete"
    chosen = experiment.evaluate.incomplete if judged else experiment.pretrain.samples.incomplete
    check = f"sensors of {name}"
    try:
        found = spread_inventory(dataset, name, sensor_config(experiment.model.encoder, chosen == "blank"))
    except IrlVlaError as error:
        return Finding(check, "problem", str(error), _CHECK)
    if not found.missing:
        return Finding(check, "ok", found.describe())
    if chosen != "error":
        done = "left out" if chosen == "leave_out" else "seen with blank images and empty sweeps"
        return Finding(check, "warning", found.describe(), f"such scenes are {done}, as configured")
    remedy = f"fetch the sensor files, change model.encoder.cameras, or set {setting}=leave_out"
    return Finding(check, "problem", found.describe(), remedy)


def split_guard_finding(dataset: Dataset, splits: Mapping[str, str]) -> Finding:
    """Whether the splits of several roles share scenes, logs, drives or layouts."""
    try:
        found = overlap(dataset, splits)
    except IrlVlaError as error:
        return Finding("splits", "problem", str(error), _CHECK)
    if not found.pairs:
        return Finding("splits", "ok", f"{', '.join(splits)} share no scene, log, drive or layout")
    return Finding("splits", "problem", "; ".join(map(str, found.pairs)), split_command(dataset, splits))
