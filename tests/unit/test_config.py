from pathlib import Path

import pytest
import yaml
from pydantic import Field

from irl_vla.config import Config, load_values, parse_overrides, validated
from irl_vla.errors import ConfigError


class Inner(Config):
    learning_rate: float = Field(default=1e-3, gt=0)
    steps: int = 10


class Outer(Config):
    inner: Inner = Inner()
    name: str = "x"


class Part(Config):
    groups: int
    width: float = 2.0


class Whole(Config):
    part: Part | None = None
    outer: Outer | None = None
    names: tuple[str, ...] | None = None


class Named(Config):
    title: str = "x"
    note: str | None = "x"
    folder: Path = Path("x")
    count: int = 0
    any: str | int = 0


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'inner.learning_rat'; did you mean 'learning_rate'"):
        validated(Outer, {"inner": {"learning_rat": 1.0}}, source="test")


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError, match=r"inner.learning_rate.*unknown key 'nam'"):
        validated(Outer, {"inner": {"learning_rate": -1}, "nam": 2}, source="test")


def test_overrides_are_typed_and_checked() -> None:
    changed = Outer().with_overrides(parse_overrides(["inner.learning_rate=1e-4", "name=y"], Outer))
    assert (changed.inner.learning_rate, changed.name) == (1e-4, "y")
    with pytest.raises(ConfigError, match=r"no section 'iner'; did you mean 'inner'"):
        Outer().with_overrides({"iner.steps": 3})
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_overrides(["inner.steps"], Outer)


@pytest.mark.parametrize("text", ["007", "2026-11-27", "1e3", "on", "1_000", "0x10", "1.50"])
def test_a_text_stays_as_it_was_written(text: str) -> None:
    given = [f"title={text}", f"note={text}", f"folder={text}"]
    named = Named().with_overrides(parse_overrides(given, Named))
    assert (named.title, named.note, named.folder) == (text, text, Path(text))
    assert validated(Named, yaml.safe_load(named.to_yaml()), source="test") == named


def test_quotes_and_null_keep_their_meaning_in_a_text() -> None:
    given = parse_overrides(['title="007"', "note=null", "count=007", "any=007"], Named)
    assert given == {"title": "007", "note": None, "count": 7, "any": 7}


@pytest.mark.parametrize(("text", "quoted"), [("007", "'7'"), ("2026-11-27", "'2026-11-27'")])
def test_a_file_with_a_number_for_a_text_is_told_how_to_quote(text: str, quoted: str) -> None:
    with pytest.raises(ConfigError, match=f"in quotes it is text: title: {quoted}"):
        validated(Named, yaml.safe_load(f"title: {text}"), source="test")


def test_an_override_below_a_section_that_is_none_starts_from_its_defaults() -> None:
    assert Whole().with_overrides({"part.groups": 40}).part == Part(groups=40)
    assert Whole().with_overrides({"part.width": 1.0, "part.groups": 3}).part == Part(groups=3, width=1.0)
    assert Whole().with_overrides({"outer.inner.steps": 3}).outer == Outer(inner=Inner(steps=3))
    assert Whole(part=Part(groups=2, width=5.0)).with_overrides({"part.groups": 3}).part == Part(groups=3, width=5.0)
    with pytest.raises(ConfigError, match=r"part\.groups: Field required"):
        Whole().with_overrides({"part.width": 1.0})
    with pytest.raises(ConfigError, match=r"unknown key 'part\.grups'; did you mean 'groups'"):
        Whole().with_overrides({"part.grups": 40})
    with pytest.raises(ConfigError, match=r"no section 'pat'; did you mean 'part'"):
        Whole().with_overrides({"pat.groups": 40})
    with pytest.raises(ConfigError, match="no section 'names'"):
        Whole().with_overrides({"names.first": "x"})


def test_yaml_round_trip_is_the_identity(tmp_path: Path) -> None:
    config = Outer().with_overrides({"inner.steps": 3})
    path = tmp_path / "c.yaml"
    path.write_text(config.to_yaml())
    assert validated(Outer, load_values(path), source="test") == config


@pytest.mark.parametrize(("text", "message"), [("- 1", "expected a mapping"), ("a: [", "not valid YAML")])
def test_unfit_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_values(path)
    with pytest.raises(ConfigError, match="no such configuration"):
        load_values(tmp_path / "absent.yaml")
