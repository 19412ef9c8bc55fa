"""Who judged: what must agree before two tables of scores may be compared, kept beside every table."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from irl_vla.epdms.config import SCORER_VERSION, ScorerConfig
from irl_vla.epdms.self_check import self_check
from irl_vla.epdms.store import KIND, SCHEMA_VERSION
from irl_vla.errors import CheckpointError
from irl_vla.ledger.artefact import require_record
from irl_vla.ledger.code import CodeVersion, code_version
from irl_vla.ledger.files import content_hash, write_text
from irl_vla.ledger.storage import Location

MLFLOW_TAG: Final = "irl_vla.evaluator"
_SUFFIX: Final = ".evaluator.json"

log = logging.getLogger(__name__)

Rule = Literal["one-stage", "two-stage"]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything but the plans that a table of scores depends on.

    Attributes:
        scorer_version: ``SCORER_VERSION``.
        rule: how frames become a result.
        scorer: the scorer's configuration: human filter, its convention, traffic.
        dataset: hash of the judged tokens and of the logs and maps from which they were prepared.
        frames: how many were judged.
        self_check: outcome of the built-in self-check.
        code: package version and commit; tables of other code may be compared if all else agrees.
    """

    scorer_version: int
    rule: Rule
    scorer: Mapping[str, Any]
    dataset: str
    frames: int
    self_check: str
    code: CodeVersion

    @property
    def short(self) -> str:
        """Hash over all fields but the code, 12 hex digits, for people and tags: comparable tables have the same."""
        values = asdict(self)
        del values["code"]
        return content_hash(values)[:12]

    def __str__(self) -> str:
        scorer = ", ".join(f"{name} {value}" for name, value in self.scorer.items())
        return (
            f"Evaluator {self.short}: scorer {self.scorer_version} (irl-vla {self.code}), {self.rule}, {scorer}; "
            f"{self.frames} frames of data {self.dataset[:8]}; self-check {self.self_check}."
        )

    def to_json(self) -> str:
        """As JSON text, the short hash first for readers."""
        return json.dumps({"hash": self.short, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str, source: str) -> "Fingerprint":
        """Reads :meth:`to_json`.

        Args:
            source: named in errors.

        Raises:
            CheckpointError: if the text is no fingerprint, or was changed by hand.
        """
        try:
            values = json.loads(text)
            written = values.pop("hash")
            found = cls(**values | {"code": CodeVersion(**values["code"])})
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{source}: expected an evaluator's fingerprint, found another content ({error}); judge again"
            ) from error
        if found.short != written:
            raise CheckpointError(
                f"{source}: expected the fingerprint {written}, found fields that hash to "
                f"{found.short}: the file was changed; judge again"
            )
        return found


def fingerprint(
    config: ScorerConfig, prepared: Sequence[Path | Location], tokens: Iterable[str], rule: Rule = "one-stage"
) -> Fingerprint:
    """The evaluator that judges some frames; runs the self-check once a process.

    Args:
        prepared: folders of the prepared scenes.
        tokens: of the frames that are judged, any order.

    Raises:
        CheckpointError: if the prepared scenes have no record.
    """
    judged, check = sorted(tokens), self_check()
    if not check.passed:
        log.warning("self-check of the scorer %s: do not trust its scores; install the package again", check)
    return Fingerprint(
        scorer_version=SCORER_VERSION,
        rule=rule,
        scorer=config.model_dump(mode="json"),
        dataset=content_hash({"tokens": judged, "logs": [_prepared_from(folder) for folder in prepared]}),
        frames=len(judged),
        self_check=str(check),
        code=code_version(),
    )


def differences(left: Fingerprint, right: Fingerprint) -> dict[str, tuple[Any, Any]]:
    """The fields that forbid to compare two evaluators, with both values; fields of the scorer as ``scorer.NAME``."""
    first, second = _fields(left), _fields(right)
    names = dict.fromkeys([*first, *second])
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def require_comparable(found: Mapping[str, Fingerprint]) -> Fingerprint:
    """The evaluator that all tables share; tells of tables that another commit of the code made.

    Args:
        found: what to call a table, to its evaluator; at least one.

    Raises:
        CheckpointError: naming the first two tables that disagree and every field in which they do.
    """
    (name, first), *others = found.items()
    for other, evaluator in others:
        unequal = differences(first, evaluator)
        if unequal:
            shown = "; ".join(f"{field}: {left!r} / {right!r}" for field, (left, right) in unequal.items())
            raise CheckpointError(
                f"{name} and {other} were judged by different evaluators and cannot be compared ({shown}); "
                "judge both again with the same settings and the same version"
            )
        if evaluator.code != first.code:
            log.warning("%s was judged by irl-vla %s, %s by %s", name, first.code, other, evaluator.code)
    return first


def write_fingerprint(table: Path, evaluator: Fingerprint) -> Path:
    """Writes the sidecar of a table; returns its path."""
    path = sidecar(table)
    write_text(path, evaluator.to_json())
    return path


def read_fingerprint(table: Path) -> Fingerprint:
    """Who made a table.

    Raises:
        CheckpointError: if the table has no sidecar, or a damaged one.
    """
    path = sidecar(table)
    try:
        return Fingerprint.from_json(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{table}: expected {path.name} beside it, found none: nobody knows how it was judged; judge again "
            "(`irl-vla evaluate`)"
        ) from error


def sidecar(table: Path) -> Path:
    """Where a table's fingerprint lies, e.g. ``frames.evaluator.json`` for ``frames.csv``."""
    return table.with_suffix(_SUFFIX)


def _prepared_from(folder: Path | Location) -> Mapping[str, str]:
    """Log name to hash of the files from which its scenes were prepared."""
    record = require_record(Location.of(folder), KIND, SCHEMA_VERSION, "prepare the split again")
    logs: dict[str, str] = record.facts["logs"]
    return logs


def _fields(evaluator: Fingerprint) -> dict[str, Any]:
    values = asdict(evaluator)
    scorer = values.pop("scorer")
    del values["code"]
    return values | {f"scorer.{name}": value for name, value in scorer.items()}


def all_fingerprints(tables: Sequence[Path]) -> dict[str, Fingerprint]:
    """The evaluators of tables, by path.

    Raises:
        CheckpointError: if a table has none.
    """
    return {str(table): read_fingerprint(table) for table in tables}
