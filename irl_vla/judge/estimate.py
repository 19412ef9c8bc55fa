"""What preparing the scenes of a split takes."""

from typing import Final

from irl_vla.ledger.estimate import Estimate

# Real: two real drives (docs/data.md), whose maps are denser, of 0.40 MB a scene under zstd; lz4 takes 15 % more.
_REAL_S: Final = 0.020
_REAL_BYTES: Final = 460_000
# Generated: 33 frames a log, with their shifted views; configs/reference.yaml is the larger.
_GENERATED_S: Final = 0.012
_GENERATED_BYTES: Final = 120_000


def prepared_estimate(scenes: int, views: int, *, generated: bool) -> Estimate:
    """Estimates one split.

    Args:
        scenes: of the split.
        views: shifted views of each.
        generated: of the generated world, not of real drives.
    """
    rows = scenes * (1 + views)
    seconds, size_bytes = (_GENERATED_S, _GENERATED_BYTES) if generated else (_REAL_S, _REAL_BYTES)
    return Estimate("prepared scenes", rows, 0, rows * seconds / 3600, rows * size_bytes)
