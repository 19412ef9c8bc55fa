"""The learned reward's figures by source: out of the files, and as a terminal table."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from irl_vla.ledger.storage import Location
from irl_vla.report.reward_tables import quality_rows, quality_table
from irl_vla.reward.quality import PickQuality, QualityReport, SubscoreBin, SubscoreQuality

NAN = float("nan")


@pytest.fixture
def place(tmp_path: Path) -> Location:
    """All plans; and the policy's, none of which collides: it has no AUROC of NC."""
    picks = {name: PickQuality(name, 8, *np.arange(1, 13) / 16) for name in ("all", "policy")}
    subscores = [
        SubscoreQuality("all", "nc", 40, 0.75, 0.125, 0.0, 0.5, 0.5),
        SubscoreQuality("all", "ep", 40, 0.5, 0.25, 0.0, 0.5, 0.5),
        SubscoreQuality("policy", "nc", 16, NAN, 0.375, 0.0, 0.5, 0.5),
        SubscoreQuality("policy", "ep", 16, 0.625, 0.0625, 0.0, 0.5, 0.5),
    ]
    QualityReport(tuple(subscores), (SubscoreBin("all", "nc", 0, 1, 0.0, 0.0),), tuple(picks.values()), 2).write(
        Location.of(tmp_path)
    )
    return Location.of(tmp_path)


def test_figures_by_source(place: Location) -> None:
    everything, own = quality_rows(place)
    assert everything == {
        "source": "all",
        "scenes": 8,
        "correlation": 9 / 16,
        "spread_predicted": 10 / 16,
        "spread_true": 11 / 16,
        "enrichment": 8 / 16,
        "regret": 1 / 16,
        "within_5": 3 / 16,
        "auroc_nc": 0.75,
        "auroc_ep": 0.5,
        "ece_nc": 0.125,
        "ece_ep": 0.25,
    }
    assert np.isnan(own["auroc_nc"])
    assert own["ece_nc"] == 0.375


def test_terminal_table(place: Location, capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=160).print(quality_table(quality_rows(place), "what it is worth"))
    lines = capsys.readouterr().out.splitlines()
    split = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    cells = {source: figures for source, *figures in split}
    assert cells["all"][:2] == ["8", "0.562"]
    assert cells["all"][-3:] == ["0.75", "0.50", "0.250"], "the largest calibration error is that of EP"
    assert cells["policy"][-3:] == ["none", "0.62", "0.375"]
    assert "what it is worth" in lines[0]
