"""What a stage will take, told before it is begun (``--dry-run``)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """Rough figures: rates are measured ones, on another machine and other data.

    Attributes:
        what: is made, e.g. "labels".
        rows: scenes or bank rows.
        plans: that are scored; 0 where none are.
        core_hours: of one idle core, without the start of Ray and of its workers.
        size_bytes: on disk.
    """

    what: str
    rows: int
    plans: int
    core_hours: float
    size_bytes: int

    def __str__(self) -> str:
        plans = f", {self.plans:,} plans" if self.plans else ""
        size = readable_bytes(self.size_bytes)
        return f"{self.what}: {self.rows:,} rows{plans}, {self.core_hours:.2g} core hours, {size}"


def readable_bytes(size_bytes: float) -> str:
    """Three figures and a unit, e.g. "1.6 GB"."""
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
    return f"{size_bytes / 1000:.3g} TB"
