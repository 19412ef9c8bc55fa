"""Fingerprints of the evaluator: what changes them, what does not, and what they refuse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from irl_vla.epdms.config import SCORER_VERSION, ScorerConfig
from irl_vla.errors import CheckpointError
from irl_vla.judge.fingerprint import (
    Fingerprint,
    differences,
    fingerprint,
    read_fingerprint,
    require_comparable,
    sidecar,
    write_fingerprint,
)
from irl_vla.ledger.code import CodeVersion, code_version
from tests.unit.epdms.store_record import finish_store


@pytest.fixture
def found(tmp_path: Path) -> Fingerprint:
    return fingerprint(ScorerConfig(), [finish_store(tmp_path / "p", {"log": "1234"})], ["a", "b"])


def test_equal_judgements_have_equal_fingerprints(found: Fingerprint, tmp_path: Path) -> None:
    again = fingerprint(ScorerConfig(), [finish_store(tmp_path / "q", {"log": "1234"})], ["b", "a"])
    assert again == found
    assert again.short == found.short
    assert len(found.short) == 12
    assert found.frames == 2
    assert found.self_check.startswith("passed")
    assert found.scorer_version == SCORER_VERSION
    assert found.code == code_version()


def test_what_a_score_depends_on_changes_the_fingerprint(found: Fingerprint, tmp_path: Path) -> None:
    folder = finish_store(tmp_path / "q", {"log": "1234"})
    other_log = finish_store(tmp_path / "r", {"log": "5678"})
    config = ScorerConfig()
    changed = {
        "scorer.filter_convention": fingerprint(ScorerConfig(filter_convention="before"), [folder], ["a", "b"]),
        "scorer.human_filter": fingerprint(ScorerConfig(human_filter=False), [folder], ["a", "b"]),
        "dataset": fingerprint(config, [other_log], ["a", "b"]),
        "rule": fingerprint(config, [folder], ["a", "b"], "two-stage"),
        "scorer_version": replace(found, scorer_version=0),
        "self_check": replace(found, self_check="failed"),
    }
    for field, other in changed.items():
        assert list(differences(found, other)) == [field]
        assert other.short != found.short
    fewer = fingerprint(config, [folder], ["a"])
    assert list(differences(found, fewer)) == ["dataset", "frames"]
    assert differences(found, fewer)["frames"] == (2, 1)


def test_different_evaluators_are_refused_by_the_differing_fields(found: Fingerprint) -> None:
    other = replace(found, scorer=dict(found.scorer) | {"filter_convention": "before"}, frames=7)
    assert require_comparable({"one": found, "two": found}) == found
    with pytest.raises(
        CheckpointError, match=r"one and two .*frames: 2 / 7; scorer\.filter_convention: 'corrected' / 'before'"
    ):
        require_comparable({"one": found, "same": found, "two": other})


def test_other_code_is_told_and_not_refused(found: Fingerprint, caplog: pytest.LogCaptureFixture) -> None:
    other = replace(found, code=CodeVersion("0.9", "0123456789abcdef", dirty=True))
    assert differences(found, other) == {}
    assert other.short == found.short
    assert require_comparable({"one": found, "two": found}) == found
    assert not caplog.text
    assert require_comparable({"one": found, "two": other}) == found
    assert f"one was judged by irl-vla {found.code}, two by 0.9 at 01234567 with changes" in caplog.text


def test_a_sidecar_keeps_a_fingerprint(found: Fingerprint, tmp_path: Path) -> None:
    table = tmp_path / "frames.csv"
    assert write_fingerprint(table, found) == tmp_path / "frames.evaluator.json"
    assert read_fingerprint(table) == found
    assert json.loads(sidecar(table).read_text())["hash"] == found.short


def test_tables_of_unknown_origin_are_refused(found: Fingerprint, tmp_path: Path) -> None:
    table = tmp_path / "frames.csv"
    with pytest.raises(CheckpointError, match=r"expected frames\.evaluator\.json beside it, found none"):
        read_fingerprint(table)
    sidecar(table).write_text("{}")
    with pytest.raises(CheckpointError, match="expected an evaluator's fingerprint"):
        read_fingerprint(table)
    values = json.loads(found.to_json()) | {"frames": 3}
    sidecar(table).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="the file was changed"):
        read_fingerprint(table)


def test_prepared_scenes_without_a_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a finished prepared_scenes, found no artefact\.json"):
        fingerprint(ScorerConfig(), [tmp_path], ["a"])


def test_the_line_for_people_names_what_matters(found: Fingerprint) -> None:
    text = str(found)
    for part in (
        found.short,
        "one-stage",
        "filter_convention corrected",
        "2 frames",
        "self-check passed",
        str(found.code),
    ):
        assert part in text
