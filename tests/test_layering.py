"""The layer table of docs/architecture.md, enforced: walks every import of the project's own modules."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = {"errors", "geometry", "config", "scene", "ledger"}
DATA = BASE | {"driving", "dataset"}
SCORE = DATA | {"epdms", "policy", "reward"}
JUDGE = SCORE | {"judge", "navsim", "report"}

#: layer -> what it may import of ours (its own modules always).
MAY_IMPORT = {
    "errors": set(),
    "geometry": set(),
    "config": {"errors"},
    "scene": {"errors", "geometry"},
    "ledger": {"errors", "config"},
    "driving": BASE,
    "dataset": BASE,
    "world": DATA,
    "epdms": BASE | {"driving"},
    "policy": DATA,
    "reward": SCORE,
    "navsim": JUDGE,
    "report": JUDGE,
    "judge": JUDGE,
    "train": JUDGE,
    "rl": JUDGE | {"train"},
    "stages": JUDGE | {"world", "train", "rl"},
    "cli": JUDGE | {"world", "train", "rl", "stages"},
    "pipelines": {"cli"},
}
RAY_LAYERS = {"train", "rl", "stages", "cli", "pipelines"}
RAY_MODULES = {
    "irl_vla/judge/for_each.py",
    "irl_vla/ledger/shards.py",
    "irl_vla/reward/backends.py",
}
MODULES = sorted([*ROOT.glob("irl_vla/**/*.py"), *ROOT.glob("pipelines/*.py")])


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "pipelines" else parts[1]


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_respect_the_layers(path: Path) -> None:
    layer = layer_of(path)
    assert layer in MAY_IMPORT, f"{path} belongs to no layer: add it to the table of docs/architecture.md and here"
    for name in imported_names(path):
        parts = name.split(".")
        target = parts[1] if parts[0] == "irl_vla" and len(parts) > 1 else parts[0]
        if parts[0] == "irl_vla" and len(parts) > 1:
            assert target == layer or target in MAY_IMPORT[layer], f"{layer} may not import {name}"
        assert parts[0] != "pipelines" or layer == "pipelines", "nothing imports pipelines"
        if parts[0] == "ray":
            relative = str(path.relative_to(ROOT))
            assert layer in RAY_LAYERS or relative in RAY_MODULES, f"{layer} may not import Ray"


def test_package_files_hold_a_sign_alone() -> None:
    """Imports in __init__ would make every module pay for its siblings; one line says what a room is for."""
    for path in MODULES:
        if path.name == "__init__.py" and path.parent.name not in ("pipelines", "irl_vla"):
            text = path.read_text()
            assert re.fullmatch(r"\"{3}.+\"{3}\n", text), f"{path}: expected a one-line docstring"


def test_the_house_has_few_doors() -> None:
    hidden = ("__init__.py", "__pycache__", "py.typed")
    doors = sorted(path.name for path in (ROOT / "irl_vla").iterdir() if path.name not in hidden)
    assert len(doors) <= 18, doors


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
