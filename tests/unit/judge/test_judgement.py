"""Which frames a split's rule judges, and that a two-stage split is never judged by the rule of one stage."""

import csv
from pathlib import Path
from typing import Any

import pytest

from irl_vla.dataset.splits import StagePair
from irl_vla.epdms.config import ScorerConfig
from irl_vla.errors import SceneError
from irl_vla.judge import judgement
from irl_vla.judge.fingerprint import read_fingerprint, sidecar
from irl_vla.judge.for_each import one_by_one
from irl_vla.judge.judgement import REAL, JudgeSettings, frames_to_judge, judge, write_judgement
from irl_vla.judge.one_stage import FrameId, prepared_frames
from irl_vla.judge.tables import write_csv
from tests.unit.epdms.store_record import Store, finish_store
from tests.unit.epdms.straight_road import plan, scene

SETTINGS = JudgeSettings(ScorerConfig(), against=["slow"], samples=100, seed=0, title="a table", origin=REAL)
PAIR = StagePair("now", "before", (("now2", "before2"),))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    found = Store({token: scene(10.0) for token in ("a", "b")})
    found.folder = tmp_path / "prepared"
    finish_store(found.folder, {"log": "1"})
    return found


def frames(*tokens: str) -> list[FrameId]:
    return [FrameId(token, f"log of {token}", f"group of {token}", "") for token in tokens]


def test_all_frames_of_a_split_of_one_stage_are_judged() -> None:
    judged = frames_to_judge(frames("a", "b"), ())
    assert (judged.frames, judged.pairs, judged.left_out) == (tuple(frames("a", "b")), None, ())


def test_frames_of_broken_pairs_are_left_out() -> None:
    other = StagePair("x", "y", (("x2", "y2"),))
    judged = frames_to_judge(frames(*PAIR.tokens, "x", "y", "x2"), (PAIR, other))
    assert [frame.token for frame in judged.frames] == list(PAIR.tokens)
    assert judged.pairs == (PAIR,)
    assert set(judged.left_out) == {*other.tokens}


def test_without_whole_pairs_the_rule_of_one_stage_does_not_step_in(store: Any) -> None:
    judged = frames_to_judge(frames("now"), (PAIR,))
    assert judged.frames == judged.pairs == ()
    with pytest.raises(SceneError, match="expected pairs of scenes of a two-stage split"):
        judge(store, judged, [("slow", {"now": plan(1.0)})], SETTINGS, for_each=one_by_one)


def test_tables_hold_every_policy_and_say_who_judged(store: Any, tmp_path: Path) -> None:
    plans = [(name, dict.fromkeys(store, plan(speed))) for name, speed in (("slow", 2.0), ("fast", 10.0))]
    found = judge(store, frames_to_judge(frames(*store), ()), iter(plans), SETTINGS, for_each=one_by_one)
    assert [row["policy"] for row in found.rows] == list(found.scores) == list(found.official) == ["slow", "fast"]
    slow, fast = (found.scores[name].score.mean() for name in ("slow", "fast"))
    assert found.rows[1]["minus_slow"] == pytest.approx(100 * (fast - slow))
    assert slow < fast
    tables = write_judgement(tmp_path / "out", found, {"more.csv": [{"policy": "slow"}]})
    assert [table.name for table in tables] == ["frames.csv", "more.csv", "results.csv"]
    assert all(read_fingerprint(table) == found.evaluator for table in tables)
    with tables[0].open(newline="") as stream:
        written = [(row["policy"], row["token"], float(row["score"])) for row in csv.DictReader(stream)]
    expected = [(name, token, split.score[i]) for name, split in found.scores.items() for i, token in enumerate("ab")]
    assert written == expected


def test_results_are_withdrawn_first_and_written_last(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By results.csv the report knows a judged folder: one that was killed while it was judged again has none."""
    plans = [("slow", dict.fromkeys(store, plan(2.0)))]
    found = judge(store, frames_to_judge(frames(*store), ()), plans, SETTINGS, for_each=one_by_one)
    more = {"more.csv": [{"policy": "slow"}]}
    write_judgement(tmp_path, found, more)
    for killed_at in ("frames.csv", "more.csv", "results.csv"):

        def write_or_die(path: Path, rows: Any, killed_at: str = killed_at) -> None:
            assert sidecar(path).exists(), "nobody could say who judged"
            if path.name == killed_at:
                raise KeyboardInterrupt
            write_csv(path, rows)

        write_judgement(tmp_path, found, more)
        with monkeypatch.context() as patch:
            patch.setattr(judgement, "write_csv", write_or_die)
            with pytest.raises(KeyboardInterrupt):
                write_judgement(tmp_path, found, more)
        assert not (tmp_path / "results.csv").exists(), killed_at


def test_a_table_never_lacks_who_judged(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judge(
        store,
        frames_to_judge(frames(*store), ()),
        [("slow", dict.fromkeys(store, plan(2.0)))],
        SETTINGS,
        for_each=one_by_one,
    )

    def die(table: Path, evaluator: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judgement, "write_fingerprint", die)
    with pytest.raises(KeyboardInterrupt):
        write_judgement(tmp_path / "new", found, {})
    assert not list((tmp_path / "new").glob("*.csv"))


def test_frames_that_are_not_prepared_are_counted_and_named(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert prepared_frames(store, frames("a", "b"), "test") == frames("a", "b")
    assert not caplog.text
    assert prepared_frames(store, frames("a", "lost", "b", "gone"), "test") == frames("a", "b")
    assert "2 of 4 scenes are missing and left out: lost, gone" in caplog.text
