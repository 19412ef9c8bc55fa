"""Token banks out of arrays, for tests."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from irl_vla.ledger.storage import Location
from irl_vla.policy.token_bank import (
    BankRows,
    Encoded,
    TokenBank,
    TokenLayout,
    bank_artefact,
    columns_of,
    finish_bank,
    write_bank_shard,
)


def store_bank(
    folder: Path | Location,
    layout: TokenLayout,
    perception_hash: str,
    tokens: np.ndarray,
    rows: BankRows,
    *,
    sight: Mapping[str, np.ndarray] = MappingProxyType({}),
    rows_per_shard: int = 5,
) -> TokenBank:
    kept = {} if layout.sight is None else layout.sight.stored
    blind = {key: np.zeros((len(rows), *shape), kind) for key, (shape, kind) in kept.items()}
    bank = bank_artefact(Location.of(folder), layout, perception_hash, "samples")
    bank.begin()
    shards = {}
    for start in range(0, len(rows), rows_per_shard):
        part = slice(start, start + rows_per_shard)
        name = f"shard-{start:06d}"
        some = BankRows(**{key: values[part] for key, values in columns_of(rows).items()})
        seen = {key: values[part] for key, values in {**blind, **sight}.items()}
        shards[name] = write_bank_shard(bank, name, layout, [Encoded(tokens[part], some, seen)])
    return finish_bank(bank, shards)
