"""What a check of a data set found: typed records, gathered in bounded memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

Severity = Literal["error", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
#: Findings of one rule and key that are kept as examples; the rest is counted.
KEPT: Final = 5
#: Rules and keys that are told apart in one part of a data set.
KINDS: Final = 200
#: What readers' errors end with; findings have remedies of their own.
REMEDY: Final = "fetch or generate the log again"
#: What a rule found in a frame: severity, rule, key, "expected ..., found ...".
Breach: TypeAlias = tuple[Severity, str, str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of the format, or several of the same kind in one file.

    Attributes:
        severity: "error": some stage or the official loader stops here or uses wrong numbers; "warning": suspicious or
            of no use, but read; "note": a fact that somebody may want to know.
        rule: short name of the rule, e.g. "frame.ego".
        file: path below the data set's root, or in full if it lies elsewhere.
        frame: index in the log of the first such frame; None where the finding is not about a frame.
        key: the key, column or layer, "" where there is none.
        message: what was expected and what was found.
        remedy: what to do.
        count: frames or rows of this file with the same finding.
    """

    severity: Severity
    rule: str
    file: str
    frame: int | None
    key: str
    message: str
    remedy: str
    count: int = 1


@dataclass(slots=True)
class Kind:
    """All findings of one rule and key.

    Attributes:
        examples: the first ``KEPT``.
        files: files with such a finding.
        occurrences: frames or rows in all of them.
    """

    examples: list[Finding] = field(default_factory=list)
    files: int = 0
    occurrences: int = 0


@dataclass(slots=True)
class Gathered:
    """Findings by rule and key, in memory that does not grow with the number of files.

    Attributes:
        kinds: by "rule key", in the order in which they came; from the ``KINDS``-th on keys are not told apart.
        totals: by severity, occurrences.
    """

    kinds: dict[str, Kind] = field(default_factory=dict)
    totals: dict[Severity, int] = field(default_factory=lambda: dict.fromkeys(SEVERITIES, 0))

    def add(self, findings: Iterable[Finding]) -> None:
        """Takes findings in."""
        for finding in findings:
            self.totals[finding.severity] += finding.count
            name = f"{finding.rule} {finding.key}"
            if name not in self.kinds and len(self.kinds) >= KINDS:
                name = finding.rule
            kind = self.kinds.setdefault(name, Kind())
            kind.files += 1
            kind.occurrences += finding.count
            if len(kind.examples) < KEPT:
                kind.examples.append(finding)

    def drop(self, rule: str, key: str) -> None:
        """Forgets the findings of one rule and key, which are of one severity."""
        kind = self.kinds.pop(f"{rule} {key}", None)
        if kind is not None:
            self.totals[kind.examples[0].severity] -= kind.occurrences


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding a file, rule, key and severity: the first, with the number of all."""
    first: dict[tuple[str, str, str, Severity], Finding] = {}
    for finding in findings:
        place = (finding.file, finding.rule, finding.key, finding.severity)
        found = first.get(place)
        first[place] = finding if found is None else replace(found, count=found.count + finding.count)
    return list(first.values())


def breach_of(error: Exception, path: Path, index: int) -> tuple[str, str]:
    """Key and text of a reader's error without its file, frame and remedy, which findings have on their own."""
    text = str(error).removeprefix(f"{path}: frame {index}: ").removeprefix(".: ")
    key, _, rest = text.partition(": ")
    return key, rest.removesuffix(f"; {REMEDY}")
