"""Scenes that teach nothing or cannot be judged are left out, on a straight road with known scores."""

from dataclasses import replace

import numpy as np
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.records import PreparedScene
from irl_vla.errors import SceneError
from irl_vla.judge.selection import select_scenes
from irl_vla.judge.selection_config import SelectionConfig
from tests.unit.epdms.straight_road import plan, scene, tracks


def named(token: str, prepared: PreparedScene) -> PreparedScene:
    return replace(prepared, token=token)


def chosen(scenes: list[PreparedScene], **settings: float | bool) -> dict[str, str]:
    config = SelectionConfig().with_overrides(settings)
    generator = np.random.default_rng(0)
    return dict(select_scenes(scenes, {}, config, scorer=ScorerConfig(), generator=generator).reasons)


FREE = scene(10.0, human=plan(10.0))
#: A car stands 25 m ahead: driving on hits it, the human stops.
BLOCKED = scene(10.0, objects=tracks(("vehicle", 25.0, 0.0, 0.0, 0)), human=plan(2.0))
#: The human hits it as well.
CRASH = replace(BLOCKED, human_plan=plan(10.0))


def test_reasons_by_hand() -> None:
    found = chosen(
        [named("free", FREE), named("blocked", BLOCKED), named("crash", CRASH)], trivial_share=0.0, least_share=0.0
    )
    assert found == {"free": "trivial", "blocked": "kept", "crash": "human_fails"}


def test_human_failures_stay_if_wanted() -> None:
    assert chosen([named("crash", CRASH)], keep_human_failures=True) == {"crash": "kept"}


def test_a_share_of_trivial_scenes_stays() -> None:
    scenes = [named(f"b{k}", BLOCKED) for k in range(9)] + [named(f"f{k}", FREE) for k in range(9)]
    config = SelectionConfig(trivial_share=0.1, least_share=0.0)
    selection = select_scenes(scenes, {}, config, scorer=ScorerConfig(), generator=np.random.default_rng(1))
    assert selection.counts() == {"kept": 9, "kept_trivial": 1, "trivial": 8, "human_fails": 0}
    assert len(selection.tokens) == 10
    assert [token for token in selection.tokens if token.startswith("b")] == [f"b{k}" for k in range(9)]


def test_rare_kinds_keep_trivial_scenes_until_they_have_their_share() -> None:
    scenes = [named(f"b{k}", BLOCKED) for k in range(10)] + [named(f"f{k}", FREE) for k in range(10)]
    kinds = {f"b{k}": "blocked" for k in range(10)} | {f"f{k}": "free" for k in range(10)}
    config = SelectionConfig(trivial_share=0.0, least_share=0.3)
    selection = select_scenes(scenes, kinds, config, scorer=ScorerConfig(), generator=np.random.default_rng(1))
    # 5 of 15 is the first share above 0.3
    assert selection.counts() == {"kept": 10, "kept_trivial": 5, "trivial": 5, "human_fails": 0}


def test_the_threshold_decides() -> None:
    assert chosen([named("free", FREE)], trivial_above=1.0, trivial_share=0.0, least_share=0.0) == {"free": "kept"}


def test_scenes_without_a_human_are_refused() -> None:
    with pytest.raises(SceneError, match="human"):
        chosen([replace(FREE, human_plan=None)])
