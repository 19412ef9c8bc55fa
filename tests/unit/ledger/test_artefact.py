import json
import logging
from dataclasses import replace

import pytest

from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.ledger import artefact as module
from irl_vla.ledger.artefact import Artefact, Identity, differences, find_record, flatten, require_record
from irl_vla.ledger.code import CodeVersion
from irl_vla.ledger.storage import Location

IDENTITY = Identity("labels", 2, {"label": {"proposals": 8}}, {"bank": "abc"}, {"seed": 0})


@pytest.fixture
def artefact(place):
    return Artefact(place / "label", IDENTITY, "run `irl-vla label`")


def test_what_is_begun_is_not_whole_until_it_is_finished(artefact):
    assert not artefact.is_whole()
    artefact.begin()
    assert not artefact.is_whole()
    artefact.finish({"rows": 3})
    assert artefact.is_whole()
    assert artefact.require().facts == {"rows": 3}
    assert require_record(artefact.folder, "labels", 2, "-").fingerprint == IDENTITY.fingerprint


def test_other_settings_are_refused_and_named_with_the_command(artefact):
    artefact.begin()
    (artefact.folder / "shard").write_text("x")
    other = replace(artefact, identity=replace(IDENTITY, settings={"label": {"proposals": 9}}, inputs={"bank": "xyz"}))
    for touch in (other.begin, other.is_whole, other.finish, other.require):
        with pytest.raises(ConfigError, match=r"label\.proposals: 8 then, 9 now.*run `irl-vla label`") as caught:
            touch()
    assert "inputs.bank: 'abc' then, 'xyz' now" in str(caught.value)


def test_a_folder_that_was_begun_and_holds_nothing_yet_may_become_another(artefact):
    artefact.begin()
    other = replace(artefact, identity=replace(IDENTITY, seeds={"seed": 1}))
    other.begin()
    assert find_record(artefact.folder).identity.seeds == {"seed": 1}


def test_another_seed_is_named():
    assert differences(IDENTITY, replace(IDENTITY, seeds={"seed": 4})) == ["seed: 0 then, 4 now"]


def test_a_key_that_is_none_differs_from_one_that_is_not_there():
    left, right = replace(IDENTITY, settings={"a": None}), replace(IDENTITY, settings={})
    assert differences(left, right) == ["a: None then, unset now"]


def test_another_commit_is_told_and_stands_in_the_record(artefact, monkeypatch, caplog):
    monkeypatch.setattr(module, "code_version", lambda: CodeVersion("1.0", "a" * 40, dirty=False))
    artefact.begin()
    monkeypatch.setattr(module, "code_version", lambda: CodeVersion("1.0", "b" * 40, dirty=True))
    with caplog.at_level(logging.WARNING):
        artefact.begin()
    assert "begun with code 1.0 at aaaaaaaa, goes on with 1.0 at bbbbbbbb with changes" in caplog.text
    assert artefact.finish().code == ("1.0 at aaaaaaaa", "1.0 at bbbbbbbb with changes")


def test_what_another_commit_made_is_used_and_told_once(artefact, monkeypatch, caplog):
    monkeypatch.setattr(module, "code_version", lambda: CodeVersion("1.0", "a" * 40, dirty=False))
    artefact.begin()
    artefact.finish()
    artefact.require()
    assert "was made by" not in caplog.text
    monkeypatch.setattr(module, "code_version", lambda: CodeVersion("1.0", "b" * 40, dirty=False))
    artefact.require()
    artefact.require()
    assert caplog.text.count("label was made by code 1.0 at aaaaaaaa, this is 1.0 at bbbbbbbb") == 1


def test_half_written_other_kind_other_schema_and_nothing_are_told_apart(artefact):
    folder = artefact.folder
    with pytest.raises(CheckpointError, match="found nothing"):
        artefact.require()
    artefact.begin()
    with pytest.raises(CheckpointError, match="half-written"):
        artefact.require()
    with pytest.raises(CheckpointError, match="half-written"):
        require_record(folder, "labels", 2, "-")
    artefact.finish()
    with pytest.raises(CheckpointError, match="expected kind 'samples', found 'labels'"):
        require_record(folder, "samples", 2, "-")
    with pytest.raises(CheckpointError, match="expected schema 3 of labels, found 2; delete it and run `x`"):
        require_record(folder, "labels", 3, "run `x`")
    with pytest.raises(CheckpointError, match=r"found no artefact\.json"):
        require_record(folder / "elsewhere", "labels", 2, "-")


def test_reopening_takes_the_mark_back(artefact):
    artefact.begin()
    artefact.finish()
    artefact.reopen()
    assert not artefact.is_whole()


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"identity": {}})])
def test_a_file_that_is_no_record_is_named(artefact, text):
    (artefact.folder / "artefact.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"artefact\.json: not a record"):
        artefact.is_whole()


def test_tuples_and_paths_do_not_change_the_identity(tmp_path):
    settings = {"splits": ("a", "b"), "root": tmp_path}
    plain = {"splits": ["a", "b"], "root": str(tmp_path)}
    artefact = Artefact(Location.of(tmp_path / "x"), replace(IDENTITY, settings=settings), "-")
    artefact.begin()
    artefact.finish()
    assert replace(artefact, identity=replace(IDENTITY, settings=plain)).is_whole()


def test_flatten_dots_nested_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
