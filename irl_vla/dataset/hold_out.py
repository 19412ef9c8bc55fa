"""Divides a split into training and validation by whole drives or layouts, and writes the two split files."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from irl_vla.dataset.drives import unit_of
from irl_vla.dataset.layout import Dataset, below
from irl_vla.dataset.scenes import logs_of, refs_of
from irl_vla.dataset.splits import LogLayout, SceneRef, Split, read_layouts, read_split, split_text
from irl_vla.dataset.spread import spread
from irl_vla.errors import ConfigError
from irl_vla.ledger.files import write_text
from irl_vla.ledger.progress import followed


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One of the two parts of a split.

    Attributes:
        name: of the new split.
        refs: its scenes, in the order of the source.
        units: drives or layouts that it consists of.
    """

    name: str
    refs: tuple[SceneRef, ...]
    units: frozenset[str]

    @property
    def logs(self) -> tuple[str, ...]:
        """Names of its logs, sorted."""
        return tuple(sorted({ref.log_name for ref in self.refs}))

    @property
    def paired(self) -> int:
        """Scenes whose predecessor, one frame before, belongs to it, too: those that can have an EC."""
        places = {(ref.log_name, ref.index) for ref in self.refs}
        return sum((ref.log_name, ref.index - 1) in places for ref in self.refs)


def hold_out(
    refs: Sequence[SceneRef],
    layouts: Mapping[str, LogLayout],
    share: float,
    generator: np.random.Generator,
    name: str,
) -> tuple[Part, Part]:
    """Chooses whole drives or layouts, in random order, that together come near a share of the scenes.

    Args:
        refs: scenes of the split.
        layouts: of generated logs, by name.
        share: of the scenes to hold out, above 0 and at most 0.5.
        generator: draws the order; the same one gives the same parts.
        name: the parts are called ``<name>_train`` and ``<name>_val``.

    Returns:
        the part to train on and the one held out; neither is empty.

    Raises:
        ConfigError: if the share is out of range, or all scenes are of one drive or layout.
    """
    if not 0 < share <= 0.5:
        raise ConfigError(f"hold-out: expected a share above 0 and at most 0.5, found {share}")
    scenes: dict[str, int] = defaultdict(int)
    for ref in refs:
        scenes[unit_of(ref.log_name, layouts)] += 1
    if len(scenes) < 2:
        raise ConfigError(
            f"split of {name!r}: expected scenes of two drives or layouts at least, found {len(refs)} scenes of "
            f"{len(scenes)}; take a larger split"
        )
    order = [sorted(scenes)[index] for index in generator.permutation(len(scenes))]
    wanted, held, count = share * len(refs), set[str](), 0
    for unit in order:
        if abs(count + scenes[unit] - wanted) < abs(count - wanted):
            held.add(unit)
            count += scenes[unit]
    held = held or {min(order, key=lambda unit: scenes[unit])}
    parts = {f"{name}_train": frozenset(scenes.keys() - held), f"{name}_val": frozenset(held)}
    first, second = (
        Part(part, tuple(ref for ref in refs if unit_of(ref.log_name, layouts) in units), units)
        for part, units in parts.items()
    )
    return first, second


def read_refs(dataset: Dataset, split: Split, workers: int) -> list[SceneRef]:
    """All scenes of a split; every log is read once, by so many processes.

    Raises:
        ConfigError: if the split has second-stage scenes, which are for judging.
        LogFormatError: if a log is missing or broken.
    """
    if split.stage_pairs:
        raise ConfigError(
            f"split {split.name!r}: expected logged scenes alone, found second stages; take another split"
        )
    logs = logs_of(dataset, split)
    found: dict[str, list[SceneRef]] = {}
    whole = split.scene_filter.max_scenes is not None  # counted over logs, so they cannot be read apart
    parts = [None] if whole else [[name] for name in logs]
    for refs in followed(spread(partial(refs_of, dataset, split), parts, workers), "read", "logs", len(parts)):
        for ref in refs:
            found.setdefault(ref.log_name, []).append(ref)
    return [ref for name in logs for ref in found.get(name, [])]


def write_parts(dataset: Dataset, source: Split, parts: Sequence[Part]) -> list[Path]:
    """Writes a split file for each part beside that of the source: its logs and tokens under the source's own rule.

    Raises:
        ConfigError: if a file is there with another content; nothing is written then.
    """
    texts: dict[Path, str] = {}
    for part in parts:
        kept = {"log_names": part.logs, "tokens": tuple(ref.token for ref in part.refs), "max_scenes": None}
        path = below(dataset.splits_root, f"{part.name}.yaml", "split")
        texts[path] = split_text(source.data_split, source.scene_filter.model_copy(update=kept))
    for path, text in texts.items():
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(f"{path}: expected no such split yet, found another one; choose another --name")
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def divide(
    dataset: Dataset,
    source: str,
    share: float,
    generator: np.random.Generator,
    name: str,
    *,
    workers: int,
) -> tuple[Part, Part]:
    """Reads a split, divides it with :func:`hold_out` and writes the two parts.

    Raises:
        ConfigError: if there is no such split, it cannot be divided, or other files are in the way.
        LogFormatError: if a log is missing or broken.
    """
    split = read_split(dataset, source)
    refs = read_refs(dataset, split, workers)
    parts = hold_out(refs, read_layouts(dataset), share, generator, name)
    write_parts(dataset, split, parts)
    return parts
