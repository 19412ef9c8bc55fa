"""What a token bank keeps of perception comes back as it went in, to within its units."""

from pathlib import Path

import numpy as np
import pytest

from irl_vla.errors import CheckpointError
from irl_vla.policy.sight import SightLayout, stored_fields
from irl_vla.policy.token_bank import TokenLayout
from irl_vla.scene import ROAD_FIELDS
from tests.unit.policy.banks import store_bank
from tests.unit.policy.test_token_bank import rows

LAYOUT = SightLayout(x_min_m=0.0, y_min_m=-2.0, cell_m=1.0, rows=4, columns=4, objects=2, modes=3)
TOKENS = {"ego": 1}


def test_sight_of_rows_comes_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    fields = generator.uniform(-4, 4, (3, 6, 4, 4))
    fields[:, ROAD_FIELDS.index("progress")] *= 15
    columns = {"fields": stored_fields(fields)}
    for name, (shape, kind) in LAYOUT.stored.items():
        if name != "fields":
            columns[name] = generator.normal(size=(3, *shape)).astype(kind)
    bank = store_bank(
        tmp_path, TokenLayout(TOKENS, 2, LAYOUT), "seen", np.zeros((3, 1, 2)), rows([0, 1, 2]), sight=columns
    )
    found = bank.sight([2, 0])
    assert found.layout == LAYOUT
    step = np.array([0.016, 0.016, 0.016, 0.016, 0.25, 0.016])[:, None, None]
    assert (np.abs(found.fields - fields[[2, 0]]) <= step).all()
    np.testing.assert_array_equal(found.futures, columns["futures"][[2, 0]].astype(np.float32))


def test_a_bank_of_tokens_alone_says_so(tmp_path: Path) -> None:
    bank = store_bank(tmp_path, TokenLayout(TOKENS, 2), "seen", np.zeros((2, 1, 2)), rows([0, 1]))
    with pytest.raises(CheckpointError, match="tokens alone"):
        bank.sight([0])
