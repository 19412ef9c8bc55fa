"""Narrows splits to the scenes that are worth it; the split files keep the tokens, a record says why the others went.

Next to ``NAME.yaml``, which then lists tokens, stands ``NAME_all.yaml`` with every window: what is prepared, and what
the next selection chooses from. ``selection.json`` comes last and marks a data set whose splits are all narrowed.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import scene_refs
from irl_vla.dataset.splits import SceneRef, all_windows, read_split, write_split
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import CheckpointError, SceneError
from irl_vla.judge.selection import Selection, select_scenes
from irl_vla.judge.selection_config import SelectionConfig
from irl_vla.ledger.files import write_text

RECORD_NAME: Final = "selection.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class NarrowedSplit:
    """A split and what became of its windows.

    Attributes:
        refs: all windows, in order.
        unprepared: tokens of windows that could not be prepared, hence not chosen.
    """

    name: str
    refs: tuple[SceneRef, ...]
    selection: Selection
    unprepared: frozenset[str]

    def record(self) -> dict[str, Any]:
        """Counts by reason and by scenario kind, and the reason of every token, as JSON values."""
        kept = frozenset(self.selection.tokens)
        of = Counter(ref.kind for ref in self.refs)
        kinds = Counter(ref.kind for ref in self.refs if ref.token in kept)
        reasons = {ref.token: self.selection.reasons.get(ref.token, "unprepared") for ref in self.refs}
        return {
            "counts": {**self.selection.counts(), "unprepared": len(self.unprepared)},
            "kinds": {kind: {"kept": kinds[kind], "of": of[kind]} for kind in sorted(of)},
            "reasons": reasons,
        }


def begin_selection(dataset: Dataset, split: str) -> str:
    """Writes the split of all windows, whether the split was narrowed before or not; returns its name."""
    found = read_split(dataset, split)
    whole = found.scene_filter.model_copy(update={"tokens": None})
    write_split(dataset.root, all_windows(split), found.data_split, whole)
    return all_windows(split)


def narrow_split(
    dataset: Dataset, split: str, store: PreparedStore, config: SelectionConfig, generator: np.random.Generator
) -> NarrowedSplit:
    """Chooses among all windows of a split and writes the tokens that stay into its file.

    Args:
        store: prepared scenes of the split of all windows.
        generator: draws which trivial scenes stay.

    Raises:
        SceneError: if none stays.
    """
    refs = tuple(scene_refs(dataset, all_windows(split)))
    scenes = (store[ref.token] for ref in refs if ref.token in store)
    kinds = {ref.token: ref.kind for ref in refs}
    selection = select_scenes(scenes, kinds, config, scorer=ScorerConfig(), generator=generator)
    if not selection.tokens:
        raise SceneError(
            f"split {split!r}: expected scenes worth judging, found none among {len(refs)} ({selection.counts()}); "
            "generate more logs, or raise generate.selection.trivial_above"
        )
    unprepared = frozenset(ref.token for ref in refs if ref.token not in store)
    narrowed = NarrowedSplit(split, refs, selection, unprepared)
    found = read_split(dataset, all_windows(split))
    rule = found.scene_filter.model_copy(update={"tokens": selection.tokens})
    write_split(dataset.root, split, found.data_split, rule)
    counts = narrowed.record()["counts"]
    shown = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    log.info("selection: %d of %d scenes of split %s stay (%s)", len(selection.tokens), len(refs), split, shown)
    return narrowed


def write_selection(dataset: Dataset, fingerprint: str, splits: Mapping[str, NarrowedSplit]) -> Path:
    """Writes ``selection.json``; by convention last, so that it marks a whole selection."""
    records = {name: narrowed.record() for name, narrowed in splits.items()}
    path = dataset.root / RECORD_NAME
    write_text(path, json.dumps({"fingerprint": fingerprint, "splits": records}, indent=1))
    return path


def is_selected(dataset: Dataset, fingerprint: str | None) -> bool:
    """True if the splits were narrowed in just this way.

    Args:
        fingerprint: of settings and data; None expects splits of all windows.

    Raises:
        CheckpointError: if they were narrowed in another way.
    """
    path = dataset.root / RECORD_NAME
    if not path.is_file():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
    if found != fingerprint:
        wanted = "no selection" if fingerprint is None else f"selection {fingerprint}"
        raise CheckpointError(
            f"{path}: expected {wanted} of scenes, found {found} (other generate.selection, or other data); choose "
            "another data.root, or remove this file to select anew"
        )
    return True
