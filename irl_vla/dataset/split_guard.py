"""Whether the splits of an experiment are apart: no scene, no log, and no drive or layout in two of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from irl_vla.dataset.drives import unit_of
from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.scenes import logs_of, refs_of
from irl_vla.dataset.splits import LogLayout, Split, read_layouts, read_split
from irl_vla.errors import ConfigError

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class SharedScenes:
    """What two splits share.

    Attributes:
        roles: of the two, e.g. ("train", "val").
        names: of the two splits.
        tokens: scenes that both list, of either stage; empty where a split lists none, because logs tell it then.
        logs: that both draw on.
        units: drives or layouts that both draw on, perhaps with different logs.
    """

    roles: tuple[str, str]
    names: tuple[str, str]
    tokens: tuple[str, ...]
    logs: tuple[str, ...]
    units: tuple[str, ...]

    def __str__(self) -> str:
        (first, second), (name, other) = self.roles, self.names
        who = f"data.{first} ({name}) and data.{second} ({other})"
        if name == other:
            return f"{who} are the same split"
        shared = {"scenes": self.tokens, "logs": self.logs, "drives or layouts": self.units}
        counts = [f"{len(items)} {what} ({_few(items)})" for what, items in shared.items() if items]
        return f"{who} share {', '.join(counts)}"


@dataclass(frozen=True, slots=True)
class SplitOverlap:
    """All pairs of splits that share something; none if they are apart."""

    pairs: tuple[SharedScenes, ...]


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a split draws on.

    Attributes:
        logs: all of the folder where tokens alone narrow the split (``is_bound``); fewer of them may have a scene.
    """

    role: str
    split: Split
    tokens: frozenset[str]
    logs: frozenset[str]
    is_bound: bool

    def units(self, layouts: Mapping[str, LogLayout]) -> frozenset[str]:
        return frozenset(unit_of(name, layouts) for name in self.logs)


def overlap(dataset: Dataset, names: Mapping[str, str]) -> SplitOverlap:
    """Looks for scenes, logs, and drives or layouts that two splits share.

    A second-stage scene counts with the log of its first stage, and a token with its log: scenes of neighbouring
    windows of one log show the same half minute. Split files and the names of log files tell nearly all: ``navtrain``
    against ``navtest`` takes the second that their files take to read. Logs are opened only where two splits list
    tokens without ``log_names`` (or ``max_scenes``) of logs that may be the same, and of them only these.

    Args:
        names: role ("train", "val", "test") to the name of its split.

    Raises:
        ConfigError: if there is no such split.
        LogFormatError: if its folder of logs is missing, or a log that has to be opened is broken.
    """
    layouts = read_layouts(dataset)
    bound = [_claim(dataset, role, read_split(dataset, name)) for role, name in names.items()]
    claims = [_settled(dataset, claim, bound, layouts) for claim in bound]
    pairs = []
    for first, second in combinations(claims, 2):
        units = first.units(layouts) & second.units(layouts)
        tokens, logs = first.tokens & second.tokens, first.logs & second.logs
        if units or tokens:
            named = (first.split.name, second.split.name)
            parts = [tuple(sorted(part)) for part in (tokens, logs, units)]
            pairs.append(SharedScenes((first.role, second.role), named, *parts))
    return SplitOverlap(tuple(pairs))


def require_disjoint(dataset: Dataset, names: Mapping[str, str]) -> None:
    """Refuses splits that share scenes, logs, drives or layouts, before anything is trained.

    Args:
        names: as for :func:`overlap`.

    Raises:
        ConfigError: saying what is shared, with counts and the first names, and what to do.
        LogFormatError: as :func:`overlap`.
    """
    found = overlap(dataset, names)
    if found.pairs:
        raise ConfigError(
            f"expected splits that have nothing in common, found that {'; '.join(map(str, found.pairs))}: scores would "
            f"tell what was memorised; name other splits, or hold out whole drives: {split_command(dataset, names)}"
        )


def split_command(dataset: Dataset, names: Mapping[str, str]) -> str:
    """The command that makes a training and a validation split that are apart."""
    source = names.get("train", next(iter(names.values())))
    return f"`irl-vla split {dataset.root} --from {source} --hold-out 0.05`"


def _claim(dataset: Dataset, role: str, split: Split) -> _Claim:
    rule = split.scene_filter
    tokens = {*(rule.tokens or ()), *(token for pair in split.stage_pairs for token in pair.tokens)}
    if rule.log_names is not None:
        return _Claim(role, split, frozenset(tokens), frozenset(rule.log_names), is_bound=False)
    is_bound = rule.tokens is not None or rule.max_scenes is not None
    return _Claim(role, split, frozenset(tokens), frozenset(logs_of(dataset, split)), is_bound)


def _settled(dataset: Dataset, claim: _Claim, others: Sequence[_Claim], layouts: Mapping[str, LogLayout]) -> _Claim:
    """The claim with the logs that have a scene of the split, as far as it matters."""
    taken = {unit for other in others if other.split.name != claim.split.name for unit in other.units(layouts)}
    contested = {name for name in claim.logs if unit_of(name, layouts) in taken}
    if not claim.is_bound or not contested:
        return claim
    among = None if claim.split.scene_filter.max_scenes is not None else sorted(contested)
    used = {ref.log_name for ref in refs_of(dataset, claim.split, among)}
    logs = used if among is None else (claim.logs - contested) | used
    return _Claim(claim.role, claim.split, claim.tokens, frozenset(logs), is_bound=False)


def _few(names: Collection[str]) -> str:
    return f"{', '.join(sorted(names)[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
