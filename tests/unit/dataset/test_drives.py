"""What logs have in common."""

import pytest

from irl_vla.dataset.drives import drive_of, unit_of
from irl_vla.dataset.splits import LogLayout


@pytest.mark.parametrize(
    ("name", "drive"),
    [
        ("2021.05.12.19.36.12_veh-35_00005_00204", "2021.05.12.19.36.12_veh-35"),
        ("2021.05.12.19.36.12_veh-35_00215_01234", "2021.05.12.19.36.12_veh-35"),
        ("2021.05.12.19.36.12_veh-35", "2021.05.12.19.36.12_veh-35"),
        ("my_own_log_1_2", "my_own_log_1_2"),
    ],
)
def test_a_drive_is_the_name_without_the_piece(name: str, drive: str) -> None:
    assert drive_of(name) == drive


def test_the_layout_of_a_generated_log_is_its_unit() -> None:
    name = "2026.01.01.08.00.00_veh-00_00000_00024"
    assert unit_of(name, {name: LogLayout("train-003", "follow")}) == "train-003"
    assert unit_of(name, {}) == "2026.01.01.08.00.00_veh-00"
