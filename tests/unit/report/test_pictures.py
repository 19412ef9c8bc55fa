from pathlib import Path

import numpy as np

from irl_vla.report.pictures import curves_figure, project_ground, reliability_figure, save

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


def test_reliability_diagram_shows_the_bins() -> None:
    bins = [
        {"source": source, "subscore": name, "plans": plans, "mean_predicted": at, "mean_true": true}
        for source, name, plans, at, true in (
            ("all", "nc", 30, 0.25, 0.5),
            ("all", "nc", 10, 0.75, 1.0),
            ("policy", "nc", 4, 0.5, 0.25),
            ("human", "nc", 4, 0.5, 0.75),
            ("all", "ep", 40, 0.5, 0.5),
        )
    ]
    first, second, *others = reliability_figure(bins, ("all", "policy")).axes
    diagonal, everything, own = (line.get_xydata().tolist() for line in first.lines)
    assert diagonal == [[0, 0], [1, 1]]
    assert everything == [[0.25, 0.5], [0.75, 1.0]]
    assert own == [[0.5, 0.25]]
    assert first.collections[0].get_sizes().tolist() == [8 + 60 * 0.75, 8 + 60 * 0.25]
    assert (first.get_title(), second.get_title()) == ("NC", "EP")
    assert not any(axes.axison for axes in others)
