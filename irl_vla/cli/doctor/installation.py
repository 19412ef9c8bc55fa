"""Python, packages, torch and the scorer, as they are installed here; packages for training may be left out."""

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Final

from irl_vla.cli.doctor.finding import Finding
from irl_vla.epdms.self_check import self_check
from irl_vla.errors import CheckpointError
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.extra import REMEDY, missing_modules

#: As in pyproject.toml; the constraints were tested with the first.
PYTHONS: Final = ((3, 11), (3, 12), (3, 13))
CONSTRAINTS: Final = Path(__file__).parents[3] / "constraints.txt"
#: A folder that the NAVSIM devkit has, and the unrelated package of its name on PyPI has not.
_DEVKIT_FOLDER: Final = "planning"
_SHOWN: Final = 4
_EXTRA: Final = re.compile(r"extra == [\"']([\w-]+)[\"']")
_REQUIREMENT: Final = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?\s*(?:>=\s*([\w.]+))?")


def installation(experiment: Experiment | None) -> list[Finding]:
    """All findings that need no data."""
    needed, pinned = requires("irl-vla") or [], pins(CONSTRAINTS)
    missing = missing_modules()
    training = (
        [missing_training(missing, experiment)]
        if missing
        else [packages(needed, installed_version, pinned, "train"), torch_setup(experiment)]
    )
    return [
        python_version(sys.version_info[:2]),
        packages(needed, installed_version, pinned),
        *training,
        unrelated_navsim(),
        scorer(),
    ]


def python_version(found: tuple[int, int]) -> Finding:
    """Whether this Python is among the supported ones."""
    text = ".".join(map(str, found))
    if found not in PYTHONS:
        supported = ", ".join(".".join(map(str, item)) for item in PYTHONS)
        return Finding("Python", "problem", text, f"make the environment with one of {supported}")
    if found != PYTHONS[0]:
        return Finding("Python", "ok", f"{text} (the pinned versions were tested with 3.11)")
    return Finding("Python", "ok", text)


def packages(
    requirements: Iterable[str],
    installed: "Mapping[str, str | None] | _Installed",
    pinned: Mapping[str, str],
    extra: str | None = None,
) -> Finding:
    """Whether the packages that the project needs are there, new enough, and those that the tests ran with.

    Args:
        extra: looks at the packages of this extra instead.
    """
    check = "packages" if extra is None else f"packages to {extra}"
    missing, old, other, count = [], [], [], 0
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is None or _extra_of(requirement) != extra:
            continue
        name, least, count = match[1], match[2], count + 1
        found = installed[name]
        if found is None:
            missing.append(name)
        elif least is not None and _release(found) < _release(least):
            old.append(f"{name} {found} (needs {least})")
        elif found.partition("+")[0] != pinned.get(name.lower(), found.partition("+")[0]):
            other.append(f"{name} {found} (tested {pinned[name.lower()]})")
    if missing or old:
        found_text = "; ".join(([f"missing: {', '.join(missing)}"] if missing else []) + old)
        return Finding(check, "problem", found_text, "run `make install`")
    if other:
        more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
        remedy = "if something fails, install the versions of constraints.txt (`make install`)"
        return Finding(check, "warning", ", ".join(other[:_SHOWN]) + more, remedy)
    tested = "as tested" if pinned else "new enough (no constraints.txt here to compare with)"
    return Finding(check, "ok", f"{count} direct ones {tested}")


def missing_training(missing: Sequence[str], experiment: Experiment | None) -> Finding:
    """That the packages for training are missing, which is a problem for those alone who have an experiment to run."""
    found = f"not installed: {', '.join(missing)}"
    if experiment is None:
        return Finding("packages to train", "ok", found, f"scoring, reading and checking need none; to train, {REMEDY}")
    return Finding("packages to train", "problem", found, REMEDY)


class _Installed:
    """Versions of what is installed, by name; None for what is not."""

    def __getitem__(self, name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None


installed_version: Final = _Installed()


def pins(path: Path) -> dict[str, str]:
    """Exact versions of a constraints file, by lower-case name; empty if there is no such file."""
    if not path.is_file():
        return {}
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line.count("==") == 1)
    return {name.lower(): number for name, number in pairs}


def unrelated_navsim() -> Finding:
    """Whether the package of NAVSIM's name that is not NAVSIM is installed."""
    try:
        found = distribution("navsim")
    except PackageNotFoundError:
        return Finding("navsim", "ok", "not installed (not needed)")
    folders = [Path(str(found.locate_file("navsim"))), *_editable_roots(found.read_text("direct_url.json"))]
    if any((folder / _DEVKIT_FOLDER).is_dir() for folder in folders):
        return Finding("navsim", "ok", f"the devkit, {found.version}")
    return Finding(
        "navsim",
        "problem",
        f"{found.version}, an unrelated package of that name from PyPI",
        "pip uninstall navsim; the devkit is not on PyPI and not needed here",
    )


def torch_setup(experiment: Experiment | None) -> Finding:
    """Threads and devices of torch, held against what the configuration asks for."""
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    threads = f"{torch.get_num_threads()} threads, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}"
    found = f"{torch.__version__}, {devices} GPUs, {threads}"
    if experiment is None:
        return Finding("torch", "ok", found)
    wanted = {"pretrain": experiment.pretrain.use_gpu, "train_reward": experiment.train_reward.use_gpu}
    asking = [name for name, use_gpu in wanted.items() if use_gpu]
    if asking and not devices and experiment.ray.address is None:
        keys = " ".join(f"{name}.use_gpu=false" for name in asking)
        return Finding("torch", "problem", found, f"install a CUDA build of torch, or set {keys}")
    if devices and not asking:
        return Finding("torch", "ok", found, "pretrain.use_gpu=true train_reward.use_gpu=true would use the GPU")
    return Finding("torch", "ok", found)


def scorer() -> Finding:
    """The built-in self-check of the scorer."""
    try:
        found = self_check()
    except CheckpointError as error:
        return Finding("scorer", "problem", str(error), "install the package again")
    if found.passed:
        return Finding("scorer", "ok", f"self-check {found}")
    remedy = "trust no score of this installation: `make install`, then delete __pycache__ below irl_vla/epdms"
    return Finding("scorer", "problem", f"self-check {found}", remedy)


def _extra_of(requirement: str) -> str | None:
    match = _EXTRA.search(requirement)
    return None if match is None else match[1]


def _editable_roots(direct_url: str | None) -> list[Path]:
    """The package folder of a development install, whose files are not beside its metadata."""
    match = re.search(r'"url":\s*"file://([^"]+)"', direct_url or "")
    return [] if match is None else [Path(match[1]) / "navsim"]


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version, e.g. "2.13.0+cpu" to (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))
