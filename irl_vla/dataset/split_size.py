"""How large a split is, found out in seconds."""

from dataclasses import dataclass
from typing import Final

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import logs_of, refs_of
from irl_vla.dataset.splits import read_split

#: Logs of more bytes in all are not read for a count.
_READ_BYTES: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class SplitSize:
    """Size of a split.

    Attributes:
        logs: that have a scene of it.
        scenes: of both stages.
    """

    logs: int
    scenes: int


def split_size(dataset: Dataset, name: str) -> SplitSize:
    """Counts the scenes of a split.

    Large logs, as recorded ones are, are not all read: the tokens that the split lists are counted or, where it lists
    none, the scenes of the log of median size, which stand for all by the sizes of their files.

    Raises:
        ConfigError: if there is no such split.
        LogFormatError: if a log that the split names is missing, or one that is read is broken.
    """
    selection = read_split(dataset, name)
    folder, rule = dataset.log_folder(selection.data_split), selection.scene_filter
    sizes = {log: (folder / f"{log}.pkl").stat().st_size for log in logs_of(dataset, selection)}
    if sum(sizes.values()) < _READ_BYTES or rule.max_scenes is not None:
        refs = refs_of(dataset, selection)
        return SplitSize(len({ref.log_name for ref in refs}), len(refs))
    if rule.tokens is not None:
        second = sum(len(pair.second_tokens) for pair in selection.stage_pairs)
        return SplitSize(len(sizes), len(rule.tokens) + second)
    typical = sorted(sizes, key=lambda log: (sizes[log], log))[len(sizes) // 2]
    scenes = len(refs_of(dataset, selection, [typical])) * sum(sizes.values()) / max(sizes[typical], 1)
    return SplitSize(len(sizes), round(scenes))
