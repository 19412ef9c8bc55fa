"""Signs and paint tell stop lines from give-way lines, on the kerb's side."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from irl_vla.dataset.maps.content import STOP_KINDS
from irl_vla.scene import Area, MapView
from irl_vla.world.ground_texture import Material, ground_of
from irl_vla.world.road_paint import yield_blocks
from irl_vla.world.road_signs import SIGN_MESHES, road_signs
from tests.unit.world.sensor_scenes import map_of, straight_lane


def approach(kind: str, name: str = "us-ma-boston") -> MapView:
    """Two lanes eastwards, y = 0 and y = 3.5, that end at a stop line at x = 40."""
    lanes = [straight_lane("right", (0.0, 0.0), (40.0, 0.0)), straight_lane("left", (0.0, 3.5), (40.0, 3.5))]
    view = map_of(*lanes, areas={"STOP_LINE": [shapely.box(39.0, -1.75, 40.0, 5.25)]})
    line = view.areas["STOP_LINE"]["0"]
    return replace(view, name=name, areas={"STOP_LINE": {"0": Area("0", line.polygon, STOP_KINDS.index(kind))}})


@pytest.mark.parametrize(("kind", "mesh"), [("stop_sign", "stop_sign"), ("yield", "yield_sign")])
def test_sign_stands_beside_the_outermost_lane_and_faces_the_traffic(kind: str, mesh: str) -> None:
    view = approach(kind)
    (sign,) = road_signs(view)
    assert sign.mesh == mesh
    assert sign.mesh in SIGN_MESHES
    assert sign.heading_global == pytest.approx(0.0)
    np.testing.assert_allclose(sign.position_global, [40.0, -1.75 - 1.6, 0.0])


def test_sign_stands_on_the_left_where_traffic_keeps_left() -> None:
    view = approach("stop_sign", "sg-one-north")
    (sign,) = road_signs(view)
    np.testing.assert_allclose(sign.position_global, [40.0, 5.25 + 1.6, 0.0])


def test_traffic_lights_have_no_sign() -> None:
    assert road_signs(approach("traffic_light")) == ()


def test_yield_blocks_cover_half_of_the_line() -> None:
    blocks = yield_blocks(shapely.box(0.0, 0.0, 1.0, 6.0))
    assert len(blocks) == 5
    assert sum(block.area for block in blocks) == pytest.approx(0.5 * 0.5 * 6.0)


def test_stop_line_is_painted_whole_and_yield_line_in_blocks() -> None:
    points = np.stack([np.full(60, 39.5), np.linspace(-1.5, 5.0, 60)], axis=1)
    shares = []
    for kind in ("stop_sign", "yield"):
        view = approach(kind)
        shares.append(np.mean(ground_of(view).materials_at(points) == Material.WHITE_PAINT))
    assert shares[0] == 1.0
    assert 0.3 < shares[1] < 0.7
