"""Where the devkit's checkouts are, and how a child of this process runs what is in them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from irl_vla.dataset.layout import Dataset

ROOT = Path(__file__).parents[2]
#: Environment variable to the package that the checkout holds.
CHECKOUTS = {"NAVSIM_DEVKIT_ROOT": "navsim", "NUPLAN_DEVKIT_ROOT": "nuplan"}
_PATIENCE_S = 3600


def checkouts(environment: Mapping[str, str]) -> list[Path]:
    """Folders of navsim and nuplan-devkit; skips the test where they are not named, fails it where they are wrong."""
    unnamed = [name for name in CHECKOUTS if not environment.get(name)]
    if unnamed:
        pytest.skip(f"{' and '.join(unnamed)} not set: name checkouts of navsim and nuplan-devkit (docs/epdms.md)")
    found = [Path(environment[name]).expanduser().resolve() for name in CHECKOUTS]
    for path, (name, package) in zip(found, CHECKOUTS.items(), strict=True):
        if not (path / package).is_dir():
            pytest.fail(f"{name}: expected a checkout with the package {package}, found none in {path}")
    return found


def ask(module: str, request: Mapping[str, Any], dataset: Dataset, folder: Path, **variables: str) -> Any:
    """The answer of a module of this package, run in a process of its own so that nothing it imports is left here."""
    folder.mkdir(exist_ok=True)
    question, answer = folder / f"{module}_request.json", folder / f"{module}_answer.json"
    question.write_text(json.dumps(request))
    own = {"OPENSCENE_DATA_ROOT": dataset.root, "NUPLAN_MAPS_ROOT": dataset.maps_root, "NAVSIM_EXP_ROOT": folder}
    command: Sequence[str] = [sys.executable, "-m", f"tests.parity.{module}", str(question), str(answer)]
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {name: str(path) for name, path in own.items()} | variables,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if finished.returncode:
        pytest.fail(f"{module} ended with status {finished.returncode}:\n{finished.stderr[-3000:]}", pytrace=False)
    return json.loads(answer.read_text())
