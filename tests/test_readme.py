"""What the documents say exists: commands, settings, files, links and metric names."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from irl_vla.cli.main import _STAGES, _commands
from irl_vla.dataset.targets import RASTER_CLASSES
from irl_vla.judge.policies import POLICIES
from irl_vla.policy.config import LossWeights
from irl_vla.reward.proposals import SOURCES
from irl_vla.scene import ROAD_FIELDS, SUBSCORES
from irl_vla.stages.experiment import Experiment, load_experiment

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("cluster/*.md"),
        *ROOT.glob("tests/golden/**/*.md"),
    ]
)
GUIDES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
METRICS = (ROOT / "docs/metrics.md").read_text()
PREFIXES = ("pretrain", "label", "train_reward", "finetune", "evaluate")
#: What a placeholder of docs/metrics.md stands for.
PLACEHOLDERS = {
    "subscore": SUBSCORES,
    "head": tuple(name for name in SUBSCORES if name != "ec"),
    "source": SOURCES,
    "class": RASTER_CLASSES,
    "field": ROAD_FIELDS,
    "policy": tuple(POLICIES),
    "other": ("constant_velocity", "imitation"),
}
#: (module, function) whose string keys are metric names behind a prefix.
KEYED = {
    "finetune/": [("irl_vla/rl/ppo.py", "chain_metrics")],
    "pretrain/loss_": [("irl_vla/train/phases.py", "forward")],
    "pretrain/val_": [
        ("irl_vla/train/validation.py", "answer_metrics"),
        ("irl_vla/train/validation.py", "displacement"),
        ("irl_vla/policy/perception/quality.py", "sight_metrics"),
    ],
}


def in_fences(text: str, language: str) -> Iterator[str]:
    for block in re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def commands(path: Path) -> Iterator[list[str]]:
    """Words of every command line in a document, without comments; a shell variable stands for 0."""
    text = re.sub(r"\\\n\s*", "", path.read_text())  # a command that goes on in the next line
    for line in [*in_fences(text, "bash"), *in_backticks(text)]:
        words = shlex.split(re.sub(r"\$\w+", "0", line), comments=True) if " " in line.strip() else []
        if words:
            yield words


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: p.name)
def test_commands_exist_and_their_settings_are_known(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(path):
        if words[0] == "make":
            assert words[1] in targets, words
        if words[0] == "irl-vla" and words[1] in _STAGES and len(words) > 2:
            assert (ROOT / words[2]).is_file() or words[2] == "CONFIG", words
            overrides = [word for word in words[3:] if "=" in word and not word.endswith("=...")]
            if words[2] != "CONFIG":
                load_experiment(ROOT / words[2], overrides)
        elif words[0] == "irl-vla":
            assert words[1] in {*_STAGES, *_commands(), "STAGE"}, words


def test_readme_shows_every_stage_and_target() -> None:
    text = (ROOT / "README.md").read_text()
    for stage in (*_STAGES, *_commands()):
        assert f"irl-vla {stage}" in text, stage
    for target in ("install", "demo", "test", "test-all"):
        assert f"make {target}" in text, target
    for stage in _STAGES:
        assert (ROOT / f"pipelines/{stage.replace('-', '_')}.py").is_file(), stage


@pytest.mark.parametrize("name", ["results", "demo"])
def test_readme_marks_where_measured_figures_stand(name: str) -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count(f"<!-- {name}:begin -->") == text.count(f"<!-- {name}:end -->") == 1
    assert text.index(f"<!-- {name}:begin -->") < text.index(f"<!-- {name}:end -->")


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: p.name)
def test_named_settings_exist(path: Path) -> None:
    sections = {name for name, annotation in fields_of(Experiment).items() if fields_of(annotation)}
    for quoted in in_backticks(path.read_text()):
        for word in quoted.split():
            dotted = re.fullmatch(r"(\w+(?:\.\w+)+)(?:=.*)?", word)
            if dotted and dotted[1].split(".")[0] in sections and not dotted[1].endswith((".py", ".json", ".csv")):
                assert_setting(dotted[1], path)


def fields_of(annotation: object) -> dict[str, object]:
    """Settings of a section; of an optional one, those that it has when it is there."""
    options = [annotation, *getattr(annotation, "__args__", ())]
    model = next((item for item in options if isinstance(item, type) and issubclass(item, BaseModel)), None)
    return {} if model is None else {name: field.annotation for name, field in model.model_fields.items()}


def assert_setting(dotted: str, path: Path) -> None:
    annotation: object = Experiment
    for part in dotted.split("."):
        known = fields_of(annotation)
        assert part in known, f"{path.name}: {dotted}: no setting {part!r}, known: {', '.join(known)}"
        annotation = known[part]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_document_names_a_machine(path: Path) -> None:
    found = re.search(r"(?<![\w.])/(work|home|root|Users|tmp|mnt)/|\.\./shared|[A-Z]:\\", path.read_text())
    assert found is None, f"{path.name}: {found and found[0]}"


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: p.name)
def test_named_files_of_the_repository_exist(path: Path) -> None:
    for quoted in in_backticks(path.read_text()):
        for word in quoted.split():
            if re.fullmatch(r"(irl_vla|configs|tests|pipelines|benchmarks|cluster|docs)/[\w./-]*", word):
                assert (ROOT / word).exists(), f"{path.name}: {word}"


def test_sizes_of_the_generated_worlds_are_those_of_the_configurations() -> None:
    text = (ROOT / "docs/data.md").read_text()
    for name in ("smoke", "demo", "reference"):
        world = load_experiment(ROOT / f"configs/{name}.yaml", []).generate
        assert world is not None
        sizes = [f"{split.logs} logs on {split.layouts} layouts" for split in (world.train, world.val, world.test)]
        assert f"| `configs/{name}.yaml` | {' | '.join(sizes)} |" in text, sizes
        if name == "demo":
            logs, layouts = (
                sum(getattr(split, key) for split in (world.train, world.val, world.test))
                for key in ("logs", "layouts")
            )
            assert f"{logs} drives on {layouts} road layouts" in " ".join((ROOT / "README.md").read_text().split())


def test_architecture_names_every_part_of_the_package() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for item in (ROOT / "irl_vla").iterdir():
        if item.is_dir() and list(item.glob("*.py")):
            assert f"{item.name}/" in text, item
        if item.suffix == ".py" and item.name != "__init__.py":
            assert f"`{item.stem}`" in text or item.name in text, item


def documented_names() -> set[str]:
    """All metric names of docs/metrics.md, placeholders filled in."""
    names = set()
    for template in in_backticks(METRICS):
        if re.fullmatch(rf"({'|'.join(PREFIXES)})/[\w<>]+", template):
            expanded = [template]
            for placeholder, values in PLACEHOLDERS.items():
                expanded = [
                    name.replace(f"<{placeholder}>", value)
                    for name in expanded
                    for value in (values if f"<{placeholder}>" in name else ("",))
                ]
            names |= set(expanded)
    return names


def logged_templates() -> dict[str, re.Pattern[str]]:
    """Metric names in the code; what an f-string fills in may be any word."""
    found = {}
    for path in ROOT.glob("irl_vla/**/*.py"):
        for template in re.findall(rf'"((?:{"|".join(PREFIXES)})/[^"]*)"', path.read_text()):
            if template.endswith("_") or (path.name == "judge.py" and "{" not in template):
                continue  # a prefix to strip, or a folder of results
            found[template] = re.compile(re.sub(r"\\{.*?\\}", r"\\w+", re.escape(template)))
    return found


def keys_in(path: Path, function: str) -> set[str]:
    """Patterns of the string keys that a function puts into dictionaries; a part of an f-string may be any word."""
    tree = ast.parse(path.read_text())
    node = next(item for item in ast.walk(tree) if isinstance(item, ast.FunctionDef) and item.name == function)
    keys = [key for item in ast.walk(node) if isinstance(item, ast.Dict) for key in item.keys if key is not None]
    keys += [
        item.slice for item in ast.walk(node) if isinstance(item, ast.Subscript) and isinstance(item.ctx, ast.Store)
    ]
    texts = set()
    for key in keys:
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            texts.add(key.value)
        if isinstance(key, ast.JoinedStr):
            texts.add("".join(part.value if isinstance(part, ast.Constant) else r"\w+" for part in key.values))
    return texts


def test_every_logged_metric_is_documented() -> None:
    names = documented_names()
    for template, pattern in logged_templates().items():
        if template in {policy.checkpoint for policy in POLICIES.values()}:  # a checkpoint's folder, not a metric
            continue
        assert any(pattern.fullmatch(name) for name in names), f"docs/metrics.md lacks {template}"
    for prefix, functions in KEYED.items():
        for module, function in functions:
            keys = keys_in(ROOT / module, function)
            assert keys, f"{module}: {function} sets no keys"
            missing = [key for key in keys if not any(re.fullmatch(prefix + key, name) for name in names)]
            assert not missing, f"docs/metrics.md lacks {missing} of {function}"
    assert {f"pretrain/loss_{name}" for name in LossWeights.model_fields} <= names


def test_every_documented_metric_is_logged() -> None:
    patterns = logged_templates().values()
    for name in documented_names():
        assert any(pattern.fullmatch(name) for pattern in patterns), f"nothing logs {name}"


def test_every_source_of_proposals_is_named() -> None:
    assert all(f"`{source}`" in METRICS for source in SOURCES)
