"""Configuration: frozen pydantic models, YAML files with departures from defaults, dotted overrides."""

import difflib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from irl_vla.errors import ConfigError

_SPEED_ONLY: Final = "speed_only"


def speed_only(default: Any, **constraints: Any) -> Any:
    """A field that decides how fast, where or how safely a result is reached, not which: no part of its identity.

    Args:
        constraints: as of pydantic's ``Field``, e.g. ``ge=0``.
    """
    return Field(default, json_schema_extra={_SPEED_ONLY: True}, **constraints)


class Config(BaseModel):
    """Base of every configuration section: immutable, unknown keys refused, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def with_overrides(self, overrides: Mapping[str, Any]) -> Self:
        """Returns a validated copy with dotted keys replaced, e.g. ``{"finetune.lr": 1e-4}``.

        A key below an optional section that is None starts that section from its defaults.

        Raises:
            ConfigError: if a key is unknown (the nearest known one is named) or a value does not fit.
        """
        values = self.model_dump()
        for dotted, value in overrides.items():
            _assign(type(self), values, dotted, value)
        return validated(type(self), values, source="override")

    def decisive(self) -> dict[str, Any]:
        """Values (JSON-like, nested) of the settings that decide a result, without those of :func:`speed_only`."""
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            section = getattr(self, name)
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get(_SPEED_ONLY):
                del values[name]
            elif isinstance(section, Config):
                values[name] = section.decisive()
        return values

    def to_yaml(self) -> str:
        """Returns every resolved key and value as YAML; the text loads back to an equal configuration."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


AnyConfig = TypeVar("AnyConfig", bound=Config)

#: What YAML makes of a plain word that a person may have meant as text: 007, 1e3, 2026-11-27, on.
_SCALARS: Final = (bool, int, float, date)


def load_values(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        ConfigError: if the file is missing, is not YAML or is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration; the ready ones are in configs/") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    return values


def parse_overrides(arguments: Iterable[str], model: type[BaseModel]) -> dict[str, Any]:
    """Turns ``key=value`` arguments (values in YAML syntax) into a mapping of dotted keys.

    Where the key takes a text or a path, a number or a date stays as it was written: ``name=007``, ``name=1e3``.

    Args:
        model: the configuration that the keys belong to.

    Raises:
        ConfigError: if an argument has no ``=`` or its value is not YAML.
    """
    overrides = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {argument!r}: expected key=value, e.g. finetune.iterations=20")
        try:
            overrides[key] = _value(text, _takes_text(model, key))
        except yaml.YAMLError as error:
            raise ConfigError(f"override {argument!r}: the value is not valid YAML") from error
    return overrides


def validated(model: type[AnyConfig], values: Mapping[str, Any], source: str) -> AnyConfig:
    """Validates a mapping; every problem is named with its dotted key.

    Raises:
        ConfigError: listing all unknown keys (with the nearest known one) and unfit values.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_describe(model, problem) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(problems)) from error


def _value(text: str, takes_text: bool) -> Any:
    value = yaml.safe_load(text)
    if takes_text:
        return text if isinstance(value, _SCALARS) else value
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _assign(model: type[BaseModel], values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    node = values
    for index, section in enumerate(sections):
        child = node.get(section)
        if child is None and (absent := _section(model, sections[: index + 1])) is not None:
            child = node[section] = absent.model_construct().model_dump()  # its defaults; keys without one stay out
        if not isinstance(child, dict):
            known = [
                key
                for key, item in node.items()
                if isinstance(item, dict) or _section(model, [*sections[:index], key]) is not None
            ]
            where = ".".join(sections[: index + 1])
            raise ConfigError(f"override {dotted!r}: no section {where!r}{_nearest(section, known)}")
        node = child
    node[leaf] = value


def _describe(model: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(path[-1], _fields_at(model, path[:-1]))}"
    found = problem["input"]
    hint = (
        f"; in quotes it is text: {path[-1]}: '{found}'"
        if _takes_text(model, key) and isinstance(found, _SCALARS)
        else ""
    )
    return f"{key}: {problem['msg']}, found {found!r}{hint}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    section = _section(model, path)
    return [] if section is None else list(section.model_fields)


def _section(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """Class of the section at a path, which may be an optional one; None if there is no such section."""
    for part in path:
        kind = _kind(model, part)
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        model = kind
    return model


def _takes_text(model: type[BaseModel], dotted: str) -> bool:
    """True if the value at a dotted key is a text or a path, or may be one besides None."""
    *sections, leaf = dotted.split(".")
    section = _section(model, sections)
    return section is not None and _kind(section, leaf) in (str, Path)


def _kind(model: type[BaseModel], field: str) -> Any:
    """Type of a field, of an optional one without the None; None if there is no such field."""
    annotation = model.model_fields[field].annotation if field in model.model_fields else None
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 and get_origin(annotation) in (Union, UnionType) else annotation


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
