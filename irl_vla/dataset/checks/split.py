"""Rules for split files and their filters that the project's own reader does not need, but the official one does.

Unknown fields and values of a wrong type are errors of the reader. Not checked: whether filters draw the official
scenes, which only the official files say.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from irl_vla.dataset.checks.fields import TOKEN
from irl_vla.dataset.checks.findings import Finding, Severity
from irl_vla.dataset.checks.second_frames import SECOND_TOKEN
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.raw_frame import describe
from irl_vla.dataset.splits import MAPPING_KEY, Split
from irl_vla.scene import FUTURE_FRAMES

#: What makes hydra build a filter with plain lists from a mapping.
_HYDRA_KEYS: Final = {"_target_": "navsim.common.dataclasses.SceneFilter", "_convert_": "all"}
#: Second-stage scenes that the official loader picks, and those that it judges with reactive traffic or without.
_SECOND_LISTS: Final = (
    "synthetic_scene_tokens",
    "reactive_synthetic_initial_tokens",
    "non_reactive_synthetic_initial_tokens",
)
#: Tokens that hydra takes for numbers if they are not quoted; other readers may not.
_NUMBER: Final = re.compile("[0-9]+e[0-9]+")
_TOKEN_LENGTHS: Final = (16, 17)
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class _File:
    """A split file or a filter file, for findings."""

    label: str
    remedy: str = "correct the file"

    def finding(self, severity: Severity, rule: str, key: str, message: str, count: int = 1) -> Finding:
        return Finding(severity, rule, self.label, None, key, message, self.remedy, count)


def check_splits(dataset: Dataset, splits: Iterable[Split], scenes: Mapping[str, int]) -> Iterator[Finding]:
    """All findings about the files of splits that could be read.

    Args:
        scenes: logged scenes found for each split.
    """
    for split in splits:
        path = dataset.splits_root / f"{split.name}.yaml"
        if path.is_file():  # a folder of logs needs no split file
            yield from _check_split(dataset, path, split, scenes[split.name])


def _check_split(dataset: Dataset, path: Path, split: Split, scenes: int) -> Iterator[Finding]:
    values = _load(path)
    source = path
    fields = values.get("scene_filter")
    if fields is None:
        name = next(entry["scene_filter"] for entry in values["defaults"] if _names_filter(entry))
        source = dataset.splits_root / f"scene_filter/{name}.yaml"
        fields = _load(source)
    file, filter_file = _File(_label(dataset, path)), _File(_label(dataset, source))
    yield from _hydra(filter_file, fields)
    yield from _names(filter_file, split, scenes)
    yield from _mapping(file, split)
    yield from _filter_tokens(filter_file, fields, split)
    for item in {path: file, source: filter_file}.items():
        yield from _unquoted(*item)


def _names_filter(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("scene_filter"), str)


def _label(dataset: Dataset, path: Path) -> str:
    return str(path.relative_to(dataset.root) if path.is_relative_to(dataset.root) else path)


def _load(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.load(path.read_bytes(), Loader=_LOADER)
    return values


def _hydra(file: _File, fields: Mapping[str, Any]) -> Iterator[Finding]:
    for key, expected in _HYDRA_KEYS.items():
        if fields.get(key) != expected:
            message = f"expected {expected!r} (the official devkit builds its filter by it), found"
            yield file.finding(
                "warning", "split.hydra", f"scene_filter.{key}", f"{message} {describe(fields.get(key))}"
            )


def _names(file: _File, split: Split, scenes: int) -> Iterator[Finding]:
    rule = split.scene_filter
    if rule.num_future_frames < FUTURE_FRAMES:
        message = f"expected {FUTURE_FRAMES} or more, the 4 s that are judged, found {rule.num_future_frames}"
        yield file.finding("warning", "split.future", "num_future_frames", message)
    for key, names in (("tokens", rule.tokens), ("log_names", rule.log_names)):
        repeated = [name for name, count in Counter(names or ()).items() if count > 1]
        if repeated:
            message = f"expected each once, found {repeated[0][:80]!r} again"
            yield file.finding("warning", "split.repeated", key, message, len(repeated))
    tokens: Sequence[str] = rule.tokens or ()
    yield from _token_form(file, "tokens", tokens, TOKEN)
    if rule.max_scenes is None and scenes < len(set(tokens)):
        message = f"expected {len(set(tokens))} scenes, as many as tokens, found {scenes} in the logs at hand"
        yield file.finding("warning", "split.tokens", "tokens", message)


def _mapping(file: _File, split: Split) -> Iterator[Finding]:
    """Tokens of the first stage have 16 digits and those of the second 17, by which the evaluator tells them."""
    first = [token for pair in split.stage_pairs for token in (pair.now, pair.previous)]
    yield from _token_form(file, MAPPING_KEY, first, TOKEN)
    second = [token for pair in split.stage_pairs for token in pair.second_tokens]
    yield from _token_form(file, MAPPING_KEY, second, SECOND_TOKEN)


def _filter_tokens(file: _File, fields: Mapping[str, Any], split: Split) -> Iterator[Finding]:
    """Lists of second-stage tokens by which the official loader picks scenes; ours reads those of the mapping."""
    mapped = {token for pair in split.stage_pairs for token in pair.second_tokens}
    listed: set[Any] = set()
    for key in _SECOND_LISTS:
        tokens = fields.get(key) or []
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            message = f"expected a list of tokens, found {describe(tokens)}"
            yield file.finding("warning", "split.second_tokens", f"scene_filter.{key}", message)
            continue
        listed |= set(tokens) if key == _SECOND_LISTS[0] else set()
        if mapped and (strange := set(tokens) - mapped):
            message = f"expected second-stage tokens of {MAPPING_KEY}, found others, first {min(strange)[:80]!r}"
            yield file.finding("warning", "split.second_tokens", f"scene_filter.{key}", message, len(strange))
    if listed and (absent := mapped - listed):
        message = f"expected all second-stage tokens of {MAPPING_KEY}, found no {min(absent)[:80]!r}"
        yield file.finding("warning", "split.second_tokens", f"scene_filter.{_SECOND_LISTS[0]}", message, len(absent))


def _token_form(file: _File, key: str, tokens: Sequence[str], form: re.Pattern[str]) -> Iterator[Finding]:
    strange = [token for token in tokens if not form.fullmatch(token)]
    if strange:
        message = f"expected tokens {form.pattern}, found {strange[0][:80]!r}"
        yield file.finding("warning", "split.token_form", key, message, len(strange))


def _unquoted(path: Path, file: _File) -> Iterator[Finding]:
    wrong = [
        event.value
        for event in yaml.parse(path.read_bytes(), Loader=_LOADER)
        if isinstance(event, yaml.ScalarEvent)
        and not event.style
        and len(event.value) in _TOKEN_LENGTHS
        and _NUMBER.fullmatch(event.value)
    ]
    if wrong:
        message = f"expected quotes around tokens that hydra takes for numbers, found {wrong[0]} without"
        yield file.finding("warning", "split.quotes", "tokens", message, len(wrong))
