"""Which layouts and logs a generated data set consists of, from configuration and seed alone."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import numpy as np

from irl_vla.errors import ConfigError
from irl_vla.scene import CITIES
from irl_vla.world.config import SplitSizeConfig, WorldConfig
from irl_vla.world.roads.families import draw_layout
from irl_vla.world.roads.layout import FAMILIES
from irl_vla.world.roads.network import Network, build_network
from irl_vla.world.scenarios import KINDS, possible_movements

SPLITS: Final = ("train", "val", "test")
#: The split whose scenes get follow-ups.
FOLLOWED_SPLIT: Final = "test"
#: Least share of a split's logs for every scenario kind.
LEAST_SHARE: Final = 0.03
#: So many layouts hold every kind of road: the families take turns.
EVERY_ROAD: Final = 8

#: A place in each city's projected frame, and the distance between layouts there.
_CITY_ORIGINS_M: Final = {
    "sg-one-north": (364_000.0, 143_000.0),
    "us-ma-boston": (328_000.0, 4_690_000.0),
    "us-nv-las-vegas-strip": (664_000.0, 3_998_000.0),
    "us-pa-pittsburgh-hazelwood": (588_000.0, 4_475_000.0),
}
_SPACING_M: Final = 1600.0
_ROW: Final = 8
_LAYOUT_STREAM, _LOG_STREAM, _ORDER_STREAM, _GROUP_STREAM = 1, 2, 3, 4
_DAYS_PER_LAYOUT: Final = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayoutPlan:
    """Where a layout belongs: ``index`` in its split, ``number`` over all splits."""

    split: str
    index: int
    number: int

    @property
    def name(self) -> str:
        """Layout name in ``layouts.json``."""
        return f"{self.split}-{self.index:03d}"

    @property
    def city(self) -> str:
        """City whose map file holds the layout; every round through the families shifts them to other cities."""
        return CITIES[(self.number + self.number // len(FAMILIES)) % len(CITIES)]

    @property
    def family(self) -> str:
        """Out of ``FAMILIES``, in turn within the split."""
        return list(FAMILIES)[self.index % len(FAMILIES)]


@dataclass(frozen=True, slots=True)
class LogPlan:
    """One drive: its layout, scenario kind and place among the layout's logs."""

    layout: LayoutPlan
    kind: str
    index: int

    @property
    def start(self) -> datetime:
        """Unique over all logs: a span of days for each layout, twenty seconds for each drive."""
        return datetime(2026, 1, 1, 8, tzinfo=UTC) + timedelta(
            days=_DAYS_PER_LAYOUT * self.layout.number, seconds=20 * self.index
        )

    def log_name(self, frames: int) -> str:
        """NAVSIM-style name of a log with so many frames."""
        return f"{self.start:%Y.%m.%d.%H.%M.%S}_veh-{self.layout.number % 100:02d}_00000_{frames:05d}"


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Follow-up scenes of one pair of neighbouring scenes.

    Attributes:
        rank: among the ``of`` groups of the log.
    """

    log: LogPlan
    rank: int
    of: int


def layout_plans(config: WorldConfig) -> dict[str, list[LayoutPlan]]:
    """The layouts of each split; no two splits share one."""
    plans: dict[str, list[LayoutPlan]] = {}
    number = 0
    for split in SPLITS:
        count = _size(config, split).layouts
        plans[split] = [LayoutPlan(split, index, number + index) for index in range(count)]
        number += count
    return plans


def log_plans(config: WorldConfig, seed: int) -> list[LogPlan]:
    """All drives: kinds by weight, each on the layout with the fewest drives among those that support it.

    A split with fewer than ``EVERY_ROAD`` layouts lacks kinds of road: what only they can show is left out.

    Raises:
        ConfigError: if no layout of a larger split supports a kind.
    """
    logs = []
    for split, layouts in layout_plans(config).items():
        used = [0] * len(layouts)
        fitting = {kind: _fitting(layouts, kind, seed) for kind in KINDS}
        missing = [kind for kind in KINDS if not fitting[kind]]
        if missing and len(layouts) >= EVERY_ROAD:
            raise ConfigError(
                f"world.{split}.layouts: none of the {len(layouts)} layouts supports the scenario kinds {missing}; "
                "raise the number of layouts or change the seed"
            )
        if missing:
            _log.info("world.%s: %d layouts cannot show %s", split, len(layouts), ", ".join(missing))
        weights = {kind: weight for kind, weight in config.weights.model_dump().items() if fitting[kind]}
        counts = kind_counts(_size(config, split).logs, weights)
        for kind in sorted(counts, key=lambda name: len(fitting[name])):  # those with least choice first
            for _ in range(counts[kind]):
                index = min(fitting[kind], key=lambda item: (used[item], item))
                logs.append(LogPlan(layouts[index], kind, used[index]))
                used[index] += 1
    return logs


def group_plans(config: WorldConfig, seed: int) -> list[GroupPlan]:
    """The groups of the two-stage evaluation: all test logs in random order, again and again."""
    if config.two_stage is None:
        return []
    logs = [plan for plan in log_plans(config, seed) if plan.layout.split == FOLLOWED_SPLIT]
    order = np.random.default_rng([seed, _ORDER_STREAM]).permutation(len(logs))
    rounds, rest = divmod(config.two_stage.groups, len(logs))
    return [
        GroupPlan(logs[index], rank, rounds + (place < rest))
        for rank in range(rounds + 1)
        for place, index in enumerate(order)
        if rank < rounds + (place < rest)
    ]


def kind_counts(logs: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Number of drives of each weighted kind: the least share, then what the weights say; they add up to ``logs``."""
    kinds = [kind for kind in KINDS if kind in weights]
    least = min(math.ceil(LEAST_SHARE * logs), logs // len(kinds))
    counts = dict.fromkeys(kinds, least)
    total = sum(weights.values())
    for _ in range(logs - least * len(kinds)):  # to whoever lags most behind its weight
        kind = min(kinds, key=lambda name: (counts[name] - logs * weights[name] / total, kinds.index(name)))
        counts[kind] += 1
    return counts


@lru_cache(maxsize=256)
def network_of(plan: LayoutPlan, seed: int) -> Network:
    """The road network of a layout, the same in every process."""
    x, y = _CITY_ORIGINS_M[plan.city]
    place = plan.number // len(CITIES)
    centre = np.array([x + _SPACING_M * (place % _ROW), y + _SPACING_M * (place // _ROW)])
    generator = np.random.default_rng([seed, _LAYOUT_STREAM, SPLITS.index(plan.split), plan.index])
    # ids start at one layout's worth, so that number 0 has no id 0
    return build_network(
        draw_layout(
            plan.name,
            generator,
            number=plan.number + 1,
            city=plan.city,
            family=plan.family,
            centre=centre,
            index=plan.index,
        )
    )


def log_generator(plan: LogPlan, seed: int) -> np.random.Generator:
    """The random stream of one drive."""
    split = SPLITS.index(plan.layout.split)
    return np.random.default_rng([seed, _LOG_STREAM, split, plan.layout.index, plan.index])


def _fitting(layouts: Sequence[LayoutPlan], kind: str, seed: int) -> list[int]:
    return [index for index, plan in enumerate(layouts) if possible_movements(network_of(plan, seed), kind)]


def pair_order(plan: LogPlan, seed: int, count: int) -> list[int]:
    """The ``count`` pairs of neighbouring scenes of a log in random order, the same for all its groups."""
    split = SPLITS.index(plan.layout.split)
    generator = np.random.default_rng([seed, _ORDER_STREAM, split, plan.layout.index, plan.index])
    return [int(index) for index in generator.permutation(count)]


def group_generator(plan: GroupPlan, seed: int) -> np.random.Generator:
    """The random stream of one group of follow-up scenes."""
    split = SPLITS.index(plan.log.layout.split)
    return np.random.default_rng([seed, _GROUP_STREAM, split, plan.log.layout.index, plan.log.index, plan.rank])


def _size(config: WorldConfig, split: str) -> SplitSizeConfig:
    return {"train": config.train, "val": config.val, "test": config.test}[split]
