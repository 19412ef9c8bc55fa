from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from irl_vla.cli.main import main
from irl_vla.dataset.maps.reader import load_map
from irl_vla.dataset.scenes import iter_scenes, load_scene
from irl_vla.report.scene_sheet import scene_sheet
from tests.unit.dataset.example import LOG, write_example
from tests.unit.dataset.second_stage_example import SPLIT, stage_pair, write_two_stage


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_example(tmp_path_factory.mktemp("sheet"))


def test_sheet_shows_what_there_is(dataset):
    scene = next(iter_scenes(dataset, "train"))
    map_view = load_map(dataset, scene.map_name)
    bare = scene_sheet(scene, map_view, {}, None)
    assert len(bare.axes) == 2
    assert "no LiDAR sweep" in [text.get_text() for text in bare.axes[1].texts]
    cameras = {"CAM_F0": (np.zeros((54, 96, 3), np.uint8), scene.current.cameras["CAM_F0"])}
    sheet = scene_sheet(scene, map_view, cameras, np.array([[10.0, 2.0, 0.0]], np.float32))
    assert [axes.get_title() for axes in sheet.axes[2:]] == ["", "CAM_F0  96 x 54", ""]
    assert len(sheet.axes[1].collections[0].get_offsets()) == 1
    right, up = sheet.axes[1].collections[0].get_offsets()[0]
    assert (right, up) == (-2.0, 10.0)  # 2 m to the left, 10 m ahead
    caption = sheet.get_suptitle()
    assert scene.token in caption
    assert "10.0 m/s, +0.5 m/s², command straight, 1 objects, 1 red of 1 lights, route of 3 blocks" in caption


def test_human_plan_is_drawn_from_the_ego(dataset):
    scene = next(iter_scenes(dataset, "train"))
    sheet = scene_sheet(scene, load_map(dataset, scene.map_name), {}, None)
    plans = [line.get_xydata() for line in sheet.axes[0].lines if len(line.get_xydata()) == 9]
    np.testing.assert_allclose(plans[0][:, 1], np.arange(9) * 5.0, atol=1e-6)  # 10 m/s, half a second apart
    without = scene_sheet(replace(scene, frames=scene.history), load_map(dataset, scene.map_name), {}, None)
    assert not [line for line in without.axes[0].lines if len(line.get_xydata()) == 9]


def test_a_second_stage_scene_is_shown_without_a_plan(tmp_path):
    dataset = write_two_stage(tmp_path)
    token = stage_pair(LOG).second[1][0]
    scene = load_scene(dataset, SPLIT, token)
    sheet = scene_sheet(scene, load_map(dataset, scene.map_name), {}, None)
    assert f"{SPLIT}/{LOG}  {token}  second stage" in sheet.get_suptitle()
    assert "human" not in sheet.axes[0].get_title()
    lengths = [len(line.get_xydata()) for line in sheet.axes[0].lines]
    assert 9 not in lengths  # nobody's plan
    assert 4 in lengths  # where the ego came from
    reach = max(np.abs(line.get_xydata()).max() for line in sheet.axes[0].lines)
    assert reach < 1000.0  # nothing at the global origin
    output = tmp_path / "scene.png"
    assert main(["show", token, "--data", str(dataset.root), "--output", str(output)]) == 0
    assert output.stat().st_size > 10_000


def test_command(dataset, tmp_path):
    scene = next(iter_scenes(dataset, "train"))
    output = tmp_path / "scene.png"
    assert main(["show", scene.token, "--data", str(dataset.root), "--output", str(output)]) == 0
    with Image.open(output) as picture:
        assert picture.size[0] > 1000
        assert np.asarray(picture.convert("RGB")).std() > 20
    assert main(["show", "0" * 16, "--data", str(dataset.root)]) == 2
    assert main(["show", scene.token, "--data", str(dataset.root), "--split", "nowhere"]) == 2
