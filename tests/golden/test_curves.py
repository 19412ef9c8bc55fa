"""Both trainings learn what they learned, step by step; ``python -m tests.golden.curves --write`` makes it anew."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden.curves.curves import FOLDER, STEPS, Curve, imitation_curve, reward_curve


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curve]:
    folder: Path = tmp_path_factory.mktemp("curves")
    return {"imitation": imitation_curve(folder), "reward": reward_curve(folder)}


@pytest.mark.parametrize("name", ["imitation", "reward"])
def test_losses_are_those_of_the_golden_curve(curves: dict[str, Curve], name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    assert curves[name].keys() == expected.keys()
    for quantity, values in expected.items():
        assert len(values) == STEPS
        np.testing.assert_allclose(curves[name][quantity], values, rtol=5e-3, atol=1e-5, err_msg=quantity)
