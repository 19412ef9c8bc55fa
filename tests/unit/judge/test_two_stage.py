"""The two-stage rule on a straight road: pairing for EC, weights by where the first stage ends, both stages as one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from irl_vla.dataset.splits import StagePair
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.scorer import final_score, score_plans
from irl_vla.errors import SceneError
from irl_vla.judge import two_stage as evaluate_two_stage
from irl_vla.judge.one_stage import FrameId
from irl_vla.judge.slowed import FRONTIER
from irl_vla.judge.tables import two_stage_rows, two_stage_table
from irl_vla.judge.two_stage import PairScores, score_pairs, usable_pairs
from irl_vla.scene import SUBSCORES
from tests.unit.epdms.straight_road import TIME_US, plan, scene, tracks

CONFIG = ScorerConfig()
EC = SUBSCORES.index("ec")
PAIRS = [
    StagePair("a-now", "a-before", (("a1-now", "a1-before"), ("a2-now", "a2-before"))),
    StagePair("b-now", "b-before", (("b1-now", "b1-before"),)),
]


def moved(found: PreparedScene, token: str, seconds: float, x_m: float, *, synthetic: bool) -> PreparedScene:
    """The scene at another moment, its ego ``x_m`` farther along the road."""
    state = found.ego_state.copy()
    state[0] += x_m
    human = None if synthetic else found.human_plan
    time_us = TIME_US + round(seconds * 1e6)
    return replace(found, token=token, ego_state=state, time_us=time_us, is_synthetic=synthetic, human_plan=human)


@pytest.fixture
def store() -> Any:
    """First stage at 10 m/s; a plan of 10 m/s ends 40 m on, where a1 and b1 start; a2 starts 0.4 m farther."""
    free = scene(10.0, human=plan(10.0))
    behind = scene(10.0, objects=tracks(("vehicle", 48.0, 0.0, 0.0, 0)))
    found = {}
    for pair, starts in zip(PAIRS, ((0.0, 0.4), (0.0,)), strict=True):
        found[pair.now] = moved(free, pair.now, 0.5, 0.0, synthetic=False)
        found[pair.previous] = moved(free, pair.previous, 0.0, 0.0, synthetic=False)
        for (now, previous), aside_m in zip(pair.second, starts, strict=True):
            base = behind if aside_m else free
            found[now] = moved(base, now, 4.5, 40.0 + aside_m, synthetic=True)
            found[previous] = moved(base, previous, 4.0, 40.0 + aside_m, synthetic=True)
    return found


def frames(pairs: list[StagePair]) -> list[FrameId]:
    return [FrameId(token, pair.now[0], pair.now[0], "") for pair in pairs for token in pair.tokens]


def plans(speed_mps: float = 10.0) -> dict[str, Any]:
    return {token: plan(speed_mps) for pair in PAIRS for token in pair.tokens}


def judged(store: Any, given: dict[str, Any], pairs: list[StagePair] = PAIRS) -> PairScores:
    return score_pairs(store, frames(pairs), pairs, given, CONFIG)


def test_groups_follow_the_rule(store: Any) -> None:
    found = judged(store, plans())
    rows = {frame.token: index for index, frame in enumerate(found.split.frames)}
    assert list(rows) == [token for pair in PAIRS for token in pair.tokens]
    assert not np.isnan(found.split.subscores[:, EC]).any()
    np.testing.assert_array_equal(found.split.score, final_score(found.split.subscores))
    assert found.split.score[rows["a2-now"]] < found.split.score[rows["a1-now"]]
    weights = np.array([1.0, np.exp(-(0.4**2) / 0.2)])  # distances 0 and 0.4 m
    expected = weights / weights.sum() @ found.split.score[[rows["a1-now"], rows["a2-now"]]]
    np.testing.assert_allclose(found.scores("stage_two")[0], expected)
    first = found.split.score[[rows[token] for token in ("a-now", "a-before", "b-now", "b-before")]]
    np.testing.assert_allclose(found.scores("stage_one"), first)
    np.testing.assert_allclose(found.scores("combined"), first * found.scores("stage_two"))
    assert found.groups == ("a", "a", "b", "b")
    assert found.means("combined")["epdms"] == pytest.approx(found.scores("combined").mean())
    assert not found.left_out


def test_both_of_a_pair_share_their_comfort(store: Any) -> None:
    given = plans()
    given["a-now"] = plan(7.0)  # brakes where half a second before it went on
    found = judged(store, given)
    comfort = {frame.token: row[EC] for frame, row in zip(found.split.frames, found.split.subscores, strict=True)}
    assert (comfort["a-now"], comfort["a-before"]) == (0.0, 0.0)
    assert (comfort["a1-now"], comfort["a1-before"], comfort["b-now"]) == (1.0, 1.0, 1.0)


def test_weights_come_from_the_proposed_end(store: Any) -> None:
    given = plans()
    given["a-now"] = plan(10.0)
    given["a-now"][-1, 0] = 40.4  # the last pose alone, which no rollout reaches
    found = judged(store, given)
    rows = {frame.token: index for index, frame in enumerate(found.split.frames)}
    weights = np.array([np.exp(-(0.4**2) / 0.2), 1.0])
    expected = weights / weights.sum() @ found.split.score[[rows["a1-now"], rows["a2-now"]]]
    np.testing.assert_allclose(found.scores("stage_two")[0], expected)


def test_pairs_do_not_depend_on_each_other(store: Any) -> None:
    both, alone = judged(store, plans()), judged(store, plans(), PAIRS[1:])
    np.testing.assert_array_equal(both.scores("combined")[2:], alone.scores("combined"))


def test_what_is_missing_is_left_out_with_its_partners() -> None:
    tokens = {token for pair in PAIRS for token in pair.tokens}
    assert usable_pairs(PAIRS, tokens) == (PAIRS, [])
    usable, left_out = usable_pairs(PAIRS, tokens - {"a2-before"})
    assert usable == [replace(PAIRS[0], second=PAIRS[0].second[:1]), PAIRS[1]]
    assert left_out == ["a2-now", "a2-before"]
    usable, left_out = usable_pairs(PAIRS, tokens - {"b1-now"})
    assert usable == PAIRS[:1]
    assert left_out == ["b-now", "b-before", "b1-now", "b1-before"]
    assert usable_pairs(PAIRS, tokens - {"a-before"})[0] == PAIRS[1:]


def test_plans_without_a_score_are_named(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(found: PreparedScene, given: Any, config: ScorerConfig) -> Any:
        scored = score_plans(found, given, config)
        return replace(scored, failures={0: "lost"}) if found.token in {"a2-now", "b-before"} else scored

    monkeypatch.setattr(evaluate_two_stage, "score_plans", failing)
    found = judged(store, plans())
    others = "a scene that it is judged with has no score"
    assert dict(found.left_out) == {
        "a2-now": "lost",
        "a2-before": others,
        "b-before": "lost",
        **dict.fromkeys(("b-now", "b1-now", "b1-before"), others),
    }
    assert [frame.token for frame in found.split.frames] == list(PAIRS[0].tokens[:4])
    assert found.groups == ("a", "a")


def test_unfit_input_is_refused(store: Any) -> None:
    given = plans()
    del given["b1-now"]
    with pytest.raises(SceneError, match="b1-now"):
        judged(store, given)
    with pytest.raises(SceneError, match="found none"):
        judged(store, plans(), [])
    late = dict(store) | {"a-now": replace(store["a-now"], time_us=TIME_US + 600_000)}
    with pytest.raises(SceneError, match=r"scenes a-now and a-before: .* found 0\.600 s"):
        judged(late, plans())


def test_rows_hold_every_stage(store: Any) -> None:
    scores = {"fast": judged(store, plans()), "slow": judged(store, plans(6.0))}
    fast, slow = two_stage_rows(scores, ("fast",), samples=200, seed=0)
    for stage, prefix in (("combined", ""), ("stage_one", "stage_one_"), ("stage_two", "stage_two_")):
        for name, value in scores["fast"].means(stage).items():
            assert fast[prefix + name] == pytest.approx(100 * value)
        assert float(fast[f"{prefix}epdms_low"]) <= float(fast[f"{prefix}epdms"]) <= float(fast[f"{prefix}epdms_high"])
    assert "minus_fast" not in fast
    assert slow["minus_fast"] == pytest.approx(float(slow["epdms"]) - float(fast["epdms"]))
    table = two_stage_table([fast, slow], "title", "caption")
    assert list(table.columns[1].cells) == ["stage one", "stage two", "combined"] * 2


def test_gains_at_equal_progress_are_of_the_combined_score(store: Any) -> None:
    speeds = dict(zip(FRONTIER, (10.0, 9.5, 9.0, 8.5, 8.0, 7.0), strict=True)) | {"fast": 10.0, "standing": 0.0}
    scores = {name: judged(store, plans(speed)) for name, speed in speeds.items()}
    found = {row["policy"]: row for row in two_stage_rows(scores, (), samples=200, seed=0)}
    assert found["fast"]["equal_progress"] == pytest.approx(0.0), "the plans of imitation"
    slowest = float(found["standing"]["epdms"]) - float(found["slowed_30"]["epdms"])
    assert found["standing"]["equal_progress"] == pytest.approx(slowest)
    table = two_stage_table(list(found.values()), "title", "caption")
    assert [bool(cell) for cell in table.columns[-1].cells][-6:] == [False, False, True] * 2


def test_one_layout_gives_no_interval(store: Any) -> None:
    (row,) = two_stage_rows({"x": judged(store, plans(), PAIRS[:1])}, (), samples=100, seed=0)
    assert "epdms_low" not in row
    assert list(two_stage_table([row], "t", "c").columns[-1].cells) == ["one group"] * 3
