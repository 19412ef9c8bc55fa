from pathlib import Path

import numpy as np

from irl_vla.report.pictures import curves_figure, project_ground, save

INTRINSIC = np.array([[100.0, 0.0, 50.0], [0.0, 100.0, 30.0], [0.0, 0.0, 1.0]])
#: Camera 1 m above the rear axle, looking forward: camera x is ego right, y is down, z is forward.
FORWARD = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])


def test_ground_points_project_by_hand() -> None:
    pixels = project_ground(np.array([[10.0, 0.0], [10.0, 2.0], [-5.0, 0.0]]), INTRINSIC, FORWARD)
    np.testing.assert_allclose(pixels[0], [50.0, 40.0])
    np.testing.assert_allclose(pixels[1], [30.0, 40.0])
    assert np.isnan(pixels[2]).all()


def test_curves_leave_out_what_was_never_logged(tmp_path: Path) -> None:
    figure = curves_figure([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "step", ["loss", "absent"])
    assert [axes.get_title() for axes in figure.axes] == ["loss"]
    assert save(figure, tmp_path / "c.png").stat().st_size > 1000
