"""Scores of splits on a straight road: pairing for EC, conventions, paired differences and tables."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.scorer import ScoredPlans, score_plans
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats
from irl_vla.judge import one_stage as evaluate
from irl_vla.judge.bank_plans import frames_of_bank
from irl_vla.judge.for_each import one_by_one
from irl_vla.judge.one_stage import (
    FrameId,
    SplitScores,
    check_plans,
    join_scores,
    sampled_frames,
    score_log,
    score_split,
    unfit_plans,
)
from irl_vla.judge.slowed import FRONTIER
from irl_vla.judge.tables import difference, frame_rows, one_stage_rows, one_stage_table, points_lost, write_csv
from irl_vla.scene import SUBSCORES
from tests.unit.epdms.straight_road import TIME_US, plan, scene, tracks

CONFIG = ScorerConfig()
EC, NC, EP = (SUBSCORES.index(name) for name in ("ec", "nc", "ep"))


def frame(token: str, log_name: str = "log", group: str = "g") -> FrameId:
    return FrameId(token, log_name, group, "")


def at(token: str, seconds: float, **options: object) -> PreparedScene:
    return replace(scene(**options), token=token, time_us=TIME_US + round(seconds * 1e6))


def accelerating(acceleration_mps2: float) -> Floats:
    found = plan(10.0)
    found[:, 0] += acceleration_mps2 / 2 * (0.5 * np.arange(1, 9)) ** 2
    return found


def scores(values: list[float], groups: list[str], tokens: list[str] | None = None) -> SplitScores:
    """Scores of frames whose sub-scores are all as their score."""
    names = tokens or [f"t{index}" for index in range(len(values))]
    frames = tuple(frame(token, group, group) for token, group in zip(names, groups, strict=True))
    array = np.array(values, np.float64)
    subscores = np.repeat(array[:, None], 9, axis=1)
    return SplitScores(frames, subscores, array, np.zeros((len(values), 8, 3)), subscores)


@pytest.mark.parametrize(("gap_s", "paired"), [(0.5, True), (0.55, True), (0.56, False), (1.0, False)])
def test_a_frame_is_paired_with_its_predecessor_within_055_s(gap_s: float, paired: bool) -> None:
    store = {"a": at("a", 0.0), "b": at("b", gap_s)}
    found = score_log(store, [frame("a"), frame("b")], dict.fromkeys(store, plan(10.0)), CONFIG)
    assert np.isnan(found.subscores[0, EC])
    assert np.isnan(found.subscores[1, EC]) == (not paired)
    if paired:
        assert found.subscores[1, EC] == 1.0, "driving on at the same speed is comfortable"


def test_frames_are_paired_by_time_not_by_order() -> None:
    store = {"a": at("a", 0.0), "b": at("b", 0.5), "c": at("c", 1.0)}
    found = score_log(store, [frame("c"), frame("a"), frame("b")], dict.fromkeys(store, plan(10.0)), CONFIG)
    assert [item.token for item in found.frames] == ["a", "b", "c"]
    np.testing.assert_array_equal(np.isnan(found.subscores[:, EC]), [True, False, False])


def test_changing_ones_mind_is_uncomfortable_for_the_later_frame() -> None:
    """Plans at 2 m/s^2, then at constant speed: the accelerations differ by more than 0.7 m/s^2."""
    store = {"a": at("a", 0.0), "b": at("b", 0.5), "c": at("c", 1.0)}
    plans = {"a": accelerating(2.0), "b": plan(10.0), "c": plan(10.0)}
    found = score_log(store, [frame(token) for token in store], plans, CONFIG)
    assert found.subscores[1:, EC].tolist() == [0.0, 1.0]
    # everything else is perfect: 14/14 without EC, 14/16 with 0, 16/16 with 1
    np.testing.assert_allclose(found.score, [1.0, 14 / 16, 1.0])


def test_logs_are_never_paired_with_each_other() -> None:
    store = {"a": at("a", 0.0), "b": at("b", 0.5)}
    frames = [frame("a", "log1"), frame("b", "log2")]
    found = score_split(store, frames, dict.fromkeys(store, plan(10.0)), CONFIG)
    assert np.isnan(found.subscores[:, EC]).all()
    assert found.frames == tuple(frames)


def test_results_come_in_the_order_of_the_frames_wherever_the_work_runs() -> None:
    store = {f"t{number}": at(f"t{number}", 0.0, reference_mps=5.0 + number) for number in range(20)}
    frames = [frame(token, f"log of {token}") for token in store]
    plans = {token: plan(1.0 + number / 2) for number, token in enumerate(store)}

    def last_first(label: str, work: Callable[[Any], Any], items: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        assert len(items) > 1, "nothing to put into another order"
        yield from reversed(list(one_by_one(label, work, items)))

    here, elsewhere = (score_split(store, frames, plans, CONFIG, for_each=each) for each in (one_by_one, last_first))
    assert elsewhere.frames == here.frames == tuple(frames)
    np.testing.assert_array_equal(elsewhere.score, here.score)
    assert len(set(here.score.tolist())) > 1, "equal scores would not show an order"


def test_progress_is_a_share_of_the_reference() -> None:
    store = {"a": at("a", 0.0, reference_mps=10.0)}
    found = score_split(store, [frame("a")], {"a": plan(10.0)}, CONFIG)
    assert found.subscores[0, EP] == pytest.approx(1.0)
    np.testing.assert_array_equal(found.plans[0], plan(10.0))


def test_conventions_of_the_human_filter_differ_where_the_human_collides() -> None:
    """The human drives into the parked car too: NC is forgiven, but before the correction the score was not."""
    blocked = {"objects": tracks(("vehicle", 20.0, 0.0, 0.0, 0)), "human": plan(10.0)}
    store = {"a": at("a", 0.0, **blocked), "b": at("b", 0.5, **blocked)}
    frames, plans = [frame("a"), frame("b")], dict.fromkeys(store, plan(10.0))
    corrected, before, unfiltered = (
        score_split(store, frames, plans, ScorerConfig(filter_convention=convention, human_filter=filters))
        for convention, filters in (("corrected", True), ("before", True), ("corrected", False))
    )
    np.testing.assert_array_equal(corrected.subscores, before.subscores)
    assert corrected.subscores[:, NC].tolist() == [1.0, 1.0]
    assert (corrected.score > 0).all()
    assert before.score.tolist() == [0.0, 0.0]
    assert unfiltered.subscores[:, NC].tolist() == [0.0, 0.0]
    assert unfiltered.score.tolist() == [0.0, 0.0]


UNFIT: dict[str, Floats] = {
    "short": plan(1.0)[:5],
    "none": plan(1.0) * np.nan,
    "endless": plan(1.0) + np.inf,
    "good": plan(10.0),
}


def test_every_unfit_plan_is_named_before_any_scoring() -> None:
    frames = [frame(token) for token in (*UNFIT, "absent", "lost")]
    expected = (
        r"^5 of 6 frames have no usable plan \(expected a plan of shape \(8, 3\), found \(5, 3\): short; "
        r"expected a finite plan, found NaN or infinity: none, endless; no plan: absent, lost\)"
    )
    with pytest.raises(SceneError, match=expected):
        score_split({}, frames, UNFIT, CONFIG)
    with pytest.raises(SceneError, match=expected):
        check_plans(frames, UNFIT)
    check_plans([frame("good")], UNFIT)


def test_unfit_plans_are_told_apart() -> None:
    assert unfit_plans([frame(token) for token in (*UNFIT, "absent")], UNFIT) == {
        "short": "expected a plan of shape (8, 3), found (5, 3)",
        "none": "expected a finite plan, found NaN or infinity",
        "endless": "expected a finite plan, found NaN or infinity",
        "absent": "no plan",
    }


def test_a_plan_without_a_score_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in the official evaluator, its successor has no EC then."""

    def failing(prepared: PreparedScene, plans: Floats, config: ScorerConfig) -> ScoredPlans:
        found = score_plans(prepared, plans, config)
        return replace(found, failures={0: "no lane"}) if prepared.token in broken else found

    monkeypatch.setattr(evaluate, "score_plans", failing)
    store = {token: at(token, 0.5 * index) for index, token in enumerate("abc")}
    frames, plans = [frame(token) for token in store], dict.fromkeys(store, plan(10.0))
    broken = {"b"}
    found = score_split(store, frames, plans, CONFIG)
    assert [item.token for item in found.frames] == ["a", "c"]
    assert found.unscored == {"b": "no lane"}
    assert np.isnan(found.subscores[1, EC])
    assert "b has no score and is left out: no lane" in caplog.text
    broken |= {*store}
    with pytest.raises(SceneError, match="found none: a: no lane; b: no lane; c: no lane"):
        score_split(store, frames, plans, CONFIG)


def test_where_points_were_lost_is_said_by_the_subscores_that_were_judged() -> None:
    """The human collides too: forgiven, unless the old convention counts it."""
    blocked = at("a", 0.0, objects=tracks(("vehicle", 20.0, 0.0, 0.0, 0)), human=plan(10.0))
    lost = {
        convention: frame_rows(
            "x",
            score_split({"a": blocked}, [frame("a")], {"a": plan(10.0)}, ScorerConfig(filter_convention=convention)),
        )[0]["lost"]
        for convention in ("corrected", "before")
    }
    assert "nc=0" not in str(lost["corrected"])
    assert "nc=0" in str(lost["before"])
    assert points_lost(np.array([1, 1, 0.5, 1, 0.9999, 0, 1, 1, np.nan])) == "ddc=0.5 ep=0.999 ttc=0"
    assert points_lost(np.ones(9)) == ""


def test_differences_are_paired_by_token() -> None:
    """Frames differ widely, the policies by 0.1 in each: the interval has no width, whatever the order."""
    low = scores([0.1, 0.8, 0.3, 0.6], ["g", "g", "h", "h"], ["a", "b", "c", "d"])
    high = scores([0.7, 0.4, 0.9, 0.2], ["h", "h", "g", "g"], ["d", "c", "b", "a"])
    assert difference(high, low, np.random.default_rng(0), 200) == pytest.approx((0.1, 0.1, 0.1))
    assert difference(low, high, np.random.default_rng(0), 200) == pytest.approx((-0.1, -0.1, -0.1))


def test_differences_are_over_common_frames() -> None:
    few = scores([0.5, 0.5], ["g", "h"], ["a", "c"])
    many = scores([0.4, 0.0, 0.2, 1.0], ["g", "g", "h", "i"], ["a", "b", "c", "d"])
    expected = pytest.approx((0.2, 0.1, 0.3))
    assert difference(few, many, np.random.default_rng(0), 500) == expected
    one_group = scores([0.5, 0.5], ["g", "z"], ["a", "e"])
    rows = one_stage_rows({"x": one_group, "many": many}, ["many"], 200, seed=0)
    assert "epdms_low" in rows[0]
    assert "minus_many" not in rows[0], "the common frames are of one group"


def test_results_are_percentages_with_intervals_over_groups() -> None:
    table = {"a": scores([0.2, 0.2, 0.6, 0.6], ["g", "g", "h", "h"]), "b": scores([0.1] * 4, ["g", "g", "h", "h"])}
    first, second = one_stage_rows(table, ["b", "absent"], 500, seed=0)
    assert (first["policy"], second["policy"]) == ("a", "b")
    assert first["epdms"] == pytest.approx(40.0)
    # a resample of two groups holds g twice, h twice or both: means of 20, 60 or 40
    assert (first["epdms_low"], first["epdms_high"]) == pytest.approx((20.0, 60.0))
    assert first["minus_b"] == pytest.approx(30.0)
    assert (first["minus_b_low"], first["minus_b_high"]) == pytest.approx((10.0, 50.0))
    assert not any("absent" in key for key in first)
    assert not any(key.startswith("minus") for key in second), "a policy is not compared with itself"


def test_one_group_has_no_interval_and_says_so() -> None:
    rows = one_stage_rows(
        {"a": scores([0.5, 0.7], ["g", "g"]), "b": scores([0.1, 0.2], ["g", "g"])}, ["b"], 200, seed=0
    )
    assert set(rows[0]) == {"policy", *SUBSCORES, "epdms"}
    assert "one group" in shown(rows)


def test_means_leave_out_frames_without_ec() -> None:
    values = np.full((3, 9), 0.5)
    values[:, EC] = [np.nan, 1.0, 0.0]
    frames = (frame("a"), frame("b"), frame("c"))
    split = SplitScores(frames, values, np.array([0.1, 0.2, 0.6]), np.zeros((3, 8, 3)), values)
    means = split.means()
    assert means["ec"] == 0.5
    assert means["epdms"] == pytest.approx(0.3)
    values[:, EC] = np.nan
    assert np.isnan(split.means()["ec"])
    assert "none" in shown(one_stage_rows({"a": split}, [], 200, seed=0))


def test_a_sample_is_of_whole_logs_in_the_order_given() -> None:
    """Three logs of two frames: four frames are two of them, whoever comes first."""
    frames = [FrameId(f"{log}{index}", log, log, "") for index in range(2) for log in "abc"]
    drawn = [sampled_frames(frames, 4, np.random.default_rng(seed)) for seed in range(20)]
    for found in drawn:
        logs = {item.log_name for item in found}
        assert len(logs) == 2
        assert found == [item for item in frames if item.log_name in logs]
    assert len({tuple(found) for found in drawn}) == 3, "all pairs of logs are drawn"
    assert sampled_frames(frames, 3, np.random.default_rng(0)) == drawn[0], "a log that is begun is whole"
    assert sampled_frames(frames, 100, np.random.default_rng(0)) == frames
    assert sampled_frames(frames, 0, np.random.default_rng(0)) == []


def test_gains_at_equal_progress_stand_beside_differences() -> None:
    """Every step of slowing costs 0.1 of EP and brings 0.02 of EPDMS; who is between two points gains to the line."""
    groups = ["g", "g", "h", "h"]
    points = {name: scores([0.5 + 0.02 * step] * 4, groups) for step, name in enumerate(FRONTIER)}
    table = points | {name: scores([0.8] * 4, groups) for name in ("between", "faster", "slower")}
    ep = dict(zip(FRONTIER, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), strict=True)) | {
        "between": 0.85,
        "faster": 1.0,
        "slower": 0.1,
    }
    for name, split in table.items():
        split.subscores[:, SUBSCORES.index("ep")] = ep[name]
    found = {row["policy"]: row for row in one_stage_rows(table, [], 200, seed=0)}
    for name, gain in (("between", 29.0), ("faster", 30.0), ("slower", 20.0)):
        values = [found[name][f"equal_progress{end}"] for end in ("", "_low", "_high")]
        assert values == pytest.approx([gain] * 3)
    assert not any("equal_progress" in found[name] for name in FRONTIER)
    assert "+29.0 [+29.0, +29.0]" in shown(list(found.values()))
    del table["slowed_30"]
    rows = one_stage_rows(table, [], 200, seed=0)
    assert not any("equal_progress" in row for row in rows), "without the whole frontier there is no comparison"
    assert "equal progress" not in shown(rows)


def test_parts_are_joined_in_order() -> None:
    whole = join_scores([scores([0.1], ["g"], ["a"]), scores([0.2, 0.3], ["h", "h"], ["b", "c"])])
    assert [item.token for item in whole.frames] == ["a", "b", "c"]
    assert whole.groups == ["g", "h", "h"]
    assert whole.score.tolist() == [0.1, 0.2, 0.3]


def test_only_original_views_are_judged() -> None:
    bank = SimpleNamespace(
        token=np.array(["a", "a-s1", "b"]),
        view=np.array(["original", "s1", "original"]),
        log_name=np.array(["l", "l", "m"]),
        group=np.array(["g", "g", "h"]),
        kind=np.array(["cruise", "cruise", ""]),
    )
    assert frames_of_bank(bank) == [FrameId("a", "l", "g", "cruise"), FrameId("b", "m", "h", "")]


def test_tables_on_disk_hold_every_column_once(tmp_path: Path) -> None:
    rows = [{"policy": "a", "epdms": 1.0}, {"policy": "b", "epdms": 2.0, "extra": 3.0}]
    write_csv(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert found == [{"policy": "a", "epdms": "1.0", "extra": ""}, {"policy": "b", "epdms": "2.0", "extra": "3.0"}]
    (line,) = frame_rows("human", scores([0.25], ["g"], ["a"]))
    assert line == {"policy": "human", "token": "a", "log": "g", "group": "g", "kind": ""} | dict.fromkeys(
        SUBSCORES, 0.25
    ) | {"score": 0.25, "lost": " ".join(f"{name}=0.25" for name in SUBSCORES)}


def shown(rows: list[dict[str, float | str]]) -> str:
    text = io.StringIO()
    Console(width=140, file=text).print(one_stage_table(rows, "title", "caption"))
    return text.getvalue()
