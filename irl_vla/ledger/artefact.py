"""The ledger: one record for everything that is made, what it was made from, and whether it is whole.

A record (``artefact.json``) is written before any work and again when the work is done. It holds the identity (what
decides the result) and the code that worked on it. Another identity is refused in the same folder, with what differs;
another commit is told, and stands in the record beside the first.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final, Self

from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.ledger.code import code_version
from irl_vla.ledger.files import content_hash
from irl_vla.ledger.owner import OWNER_NAME
from irl_vla.ledger.storage import RECORD_NAME, Location

_SHOWN: Final = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What decides an artefact's content.

    Attributes:
        kind: e.g. "samples", "token_bank", "labels", "checkpoint", "stage pretrain".
        schema: version of the layout; readers refuse every other one.
        settings: the settings that decide the result (``Config.decisive``), nested.
        inputs: name to fingerprint of what it is made from.
        seeds: name to seed of the random draws.
    """

    kind: str
    schema: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    seeds: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """Hash over all fields: equal fingerprints mean equal content."""
        return content_hash(asdict(self))


@dataclass(frozen=True)
class Record:
    """What stands in an artefact's folder.

    Attributes:
        code: versions of the code that worked on it, in order, as ``str(CodeVersion)``; more than one if it was taken
            up again by another.
        whole: True once it is finished.
        facts: what readers need and what was found (counts, shapes, hashes of files, metrics).
    """

    identity: Identity
    code: tuple[str, ...]
    whole: bool
    facts: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Of the identity."""
        return self.identity.fingerprint

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps({"fingerprint": self.fingerprint} | asdict(self), indent=1, sort_keys=True, default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what :meth:`to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: if it is something else.
        """
        values = json.loads(text)
        return cls(Identity(**values["identity"]), tuple(values["code"]), values["whole"], values["facts"])


@dataclass(frozen=True)
class Artefact:
    """A folder and what is to lie in it.

    Attributes:
        remedy: the command that makes it, e.g. "run `irl-vla label`".
    """

    folder: Location
    identity: Identity
    remedy: str

    @property
    def fingerprint(self) -> str:
        """Of the identity."""
        return self.identity.fingerprint

    def is_whole(self) -> bool:
        """True if it is finished.

        Raises:
            ConfigError: if the folder holds an artefact of another identity; what differs is named.
        """
        found = self._mine()
        return found is not None and found.whole

    def begin(self) -> Location:
        """Writes the record before any work, so that what is resumed cannot mix two identities; returns the folder.

        Raises:
            ConfigError: if the folder holds an artefact of another identity.
        """
        found, now = self._mine(), str(code_version())
        code = (now,) if found is None else found.code
        if code[-1] != now:
            log.warning("%s: begun with code %s, goes on with %s; its record says so", self.folder, code[-1], now)
            code = (*code, now)
        self._write(Record(_plain(self.identity), code, whole=False, facts={}))
        return self.folder

    def finish(self, facts: Mapping[str, Any] | None = None) -> Record:
        """Marks it as whole; call it last."""
        begun = self._mine()
        code = (str(code_version()),) if begun is None else begun.code
        record = Record(_plain(self.identity), code, whole=True, facts=dict(facts or {}))
        self._write(record)
        return record

    def reopen(self) -> None:
        """Takes the mark back, before files of a whole artefact are replaced."""
        found = self._mine()
        if found is not None and found.whole:
            self._write(replace(found, whole=False))

    def require(self) -> Record:
        """The record of a finished artefact.

        Raises:
            ConfigError: if the folder holds another identity.
            CheckpointError: if it is not whole.
        """
        found = self._mine()
        if found is None or not found.whole:
            state = "nothing" if found is None else "one that is half-written"
            raise CheckpointError(
                f"{self.folder}: expected a finished {self.identity.kind}, found {state}; {self.remedy} first"
            )
        _tell_code(str(self.folder), found.code[-1], str(code_version()))
        return found

    def _mine(self) -> Record | None:
        """The record in the folder, if there is one and anything was made by it.

        Raises:
            ConfigError: if it is of another identity.
        """
        found = find_record(self.folder)
        if found is None or found.fingerprint == self.fingerprint:
            return found
        if not found.whole and not self._holds_results():  # begun, but stopped before it made anything
            return None
        changed = differences(found.identity, self.identity)
        shown = "; ".join(changed[:_SHOWN]) + ("; ..." if len(changed) > _SHOWN else "")
        raise ConfigError(
            f"{self.folder} was made with other settings or inputs ({len(changed)} differ: {shown}); "
            f"choose another name= or seed=, or delete the folder and {self.remedy}"
        )

    def _holds_results(self) -> bool:
        """True if there is more than records and what a killed writer left."""
        return any(name not in (RECORD_NAME, OWNER_NAME) and name[0] != "." for name in self.folder.children())

    def _write(self, record: Record) -> None:
        (self.folder / RECORD_NAME).write_text(record.to_json())


@lru_cache(maxsize=1024)
def _tell_code(folder: str, then: str, now: str) -> None:
    """Says, once a process, that another commit made what is used."""
    if then != now:
        log.warning("%s was made by code %s, this is %s", folder, then, now)


def find_record(folder: Location) -> Record | None:
    """The record in a folder; None if there is none.

    Raises:
        CheckpointError: if the file is no record.
    """
    try:
        text = (folder / RECORD_NAME).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Record.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder / RECORD_NAME}: not a record of an artefact ({error}); delete the folder and make it again"
        ) from error


def require_record(folder: Location, kind: str, schema: int, remedy: str) -> Record:
    """The record of a finished artefact of which a reader knows only where it lies.

    Args:
        remedy: what to do if it does not fit, e.g. "run `irl-vla label`".

    Raises:
        CheckpointError: if the folder is not whole, of another kind or of another schema.
    """
    found = find_record(folder)
    if found is None:
        raise CheckpointError(f"{folder}: expected a finished {kind}, found no {RECORD_NAME}; {remedy}")
    if found.identity.kind != kind:
        raise CheckpointError(f"{folder}: expected kind {kind!r}, found {found.identity.kind!r}; {remedy}")
    if found.identity.schema != schema:
        raise CheckpointError(
            f"{folder}: expected schema {schema} of {kind}, found {found.identity.schema}; delete it and {remedy}"
        )
    if not found.whole:
        raise CheckpointError(f"{folder}: expected a finished {kind}, found one that is half-written; {remedy}")
    return found


def differences(then: Identity, now: Identity) -> list[str]:
    """One sentence a key that differs between two identities."""
    before, after = _flat(then), _flat(now)
    return [
        f"{key}: {_value(before, key)} then, {_value(after, key)} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) or (key in before) != (key in after)
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested mapping, e.g. ``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _flat(identity: Identity) -> dict[str, Any]:
    plain = _plain(identity)
    facts = {"kind": plain.kind, "schema": plain.schema, "inputs": plain.inputs}
    return flatten({**plain.settings, **facts, **plain.seeds})


def _value(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "unset"


def _plain(identity: Identity) -> Identity:
    """As it reads back: tuples become lists, paths text."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(identity), default=str))
    return Identity(**values)
