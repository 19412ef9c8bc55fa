"""Shards made in this process: what Ray does with them is tested in tests/integration."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from irl_vla.ledger.shards import ShardPlan, ShardWriter


def without_ray(patch: pytest.MonkeyPatch, module: Any) -> list[str]:
    """Lets a module write its shards here; returns the list to which their names are added."""
    done: list[str] = []

    def write_shards(
        writer: Callable[..., ShardWriter], arguments: tuple[Any, ...], sizes: Mapping[str, int], plan: ShardPlan
    ) -> None:
        if sizes:
            write = writer(*arguments)
            for name in sizes:
                assert write(name) == sizes[name], "the expected size of a shard is what its writer returns"
                done.append(name)

    patch.setattr(module, "write_shards", write_shards)
    return done
