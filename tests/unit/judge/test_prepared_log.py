"""The scenes of one log: views beside them, and the maps that they need."""

import numpy as np
import pytest

from irl_vla.dataset.config import ViewConfig
from irl_vla.dataset.fingerprint import content_hashes
from irl_vla.dataset.maps.writer import map_path
from irl_vla.dataset.scenes import scene_refs
from irl_vla.epdms.scorer import scoring_context
from irl_vla.errors import MapError
from irl_vla.judge.prepared_log import LogReport, map_file, prepare_log

from ..dataset.example import CITY, LOG, write_example
from ..dataset.second_stage_example import SPLIT, write_two_stage


def test_views_follow_their_scene(tmp_path):
    dataset = write_example(tmp_path, count=14, sensors=False)
    found = prepare_log(dataset, "train", LOG, None, ViewConfig(count=2), seed=3)
    assert not found.failed
    tokens = [scene.token for scene in found.scenes]
    assert tokens == [
        f"{ref.token}{view}" for ref in scene_refs(dataset, "train", [LOG]) for view in ("", "-s1", "-s2")
    ]
    original, view = found.scenes[:2]
    assert original.red_active.all()  # the log names the connector by number, the map by text
    assert len(original.red_lights) == 1
    assert 0 < np.hypot(*(view.ego_state[:2] - original.ego_state[:2])) < 2.0
    assert original.human_plan is not None
    assert view.human_plan is None, "nobody drove from there: no human filter"
    assert scoring_context(view).human is None
    np.testing.assert_allclose(view.tracks.poses, original.tracks.poses, atol=1e-6)  # the world stays where it was


def test_second_stage_scenes_have_no_views(tmp_path):
    dataset = write_two_stage(tmp_path)
    found = prepare_log(dataset, SPLIT, LOG, None, ViewConfig(count=1), seed=0)
    assert not found.failed
    assert [scene.token[16:] for scene in found.scenes] == ["", "-s1", "", "-s1"] + ["0"] * 4


def test_the_map_is_noted(tmp_path):
    dataset = write_example(tmp_path, count=12, sensors=False)
    path = map_path(dataset.maps_root, CITY)
    assert map_file(dataset, CITY) == path
    assert prepare_log(dataset, "train", LOG, None, None, seed=0).maps == {CITY: content_hashes([path], None)[path]}
    path.unlink()
    assert map_file(dataset, CITY) is None
    with pytest.raises(MapError, match="expected a map, found no file"):
        prepare_log(dataset, "train", LOG, None, None, seed=0)
    (dataset.maps_root / "nuplan-maps-v1.0.json").unlink()
    assert map_file(dataset, CITY) is None


def test_all_that_scenes_come_from_is_in_the_content():
    whole = LogReport("a", "", 3)
    others = [
        LogReport("b", "", 3),
        LogReport("a", "", 3, maps={CITY: "m"}),
        LogReport("a", "", 3, second_stage={"t": "m"}),
        LogReport("a", "", 0, broken="no map in /here"),
    ]
    assert len({report.content for report in (whole, *others)}) == 5
    assert LogReport("a", "", 0, broken="no map in /there").content == others[-1].content, "a reason names folders"
