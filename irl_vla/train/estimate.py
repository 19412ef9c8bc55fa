"""What samples and token banks take (imports no torch)."""

from typing import Final

from irl_vla.ledger.arrays import row_bytes
from irl_vla.ledger.estimate import Estimate
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.sight import sight_layout
from irl_vla.policy.token_bank import TokenLayout, bank_columns
from irl_vla.train.samples import sample_columns

# Processor time of a row at default sizes, on a busy machine (benchmarks/encoding.py): 10.1 ms with images of 144 x 256
# pixels, 39.0 ms with 1080 x 1920, as recorded ones have; its tokens by an untrained encoder.
_ROW_S: Final = 0.0096
_STORED_PIXEL_S: Final = 4.7e-9
_TOKENS_S: Final = 0.011


def samples_estimate(
    scenes: int, views: int, encoder: EncoderConfig, *, image_pixels: int, painting_s: float
) -> Estimate:
    """Estimates the samples of one split.

    Args:
        scenes: logged ones.
        views: shifted views of them.
        encoder: its cameras, and the size of a row.
        image_pixels: of a stored image, before it is shrunk.
        painting_s: what painting the sensors of a view takes in seconds; 0 where views see what was recorded.
    """
    rows, pixels = scenes + views, image_pixels * len(encoder.cameras.names)
    seconds = rows * (_ROW_S + pixels * _STORED_PIXEL_S) + views * painting_s
    return Estimate("samples", rows, 0, seconds / 3600, rows * row_bytes(sample_columns(encoder)))


def bank_estimate(rows: int, encoder: EncoderConfig) -> Estimate:
    """Estimates a token bank, on CPUs; a GPU is much faster.

    Args:
        rows: of the samples.
        encoder: gives the size of a row.
    """
    columns = bank_columns(TokenLayout(encoder.token_counts, encoder.width, sight_layout(encoder)))
    return Estimate("token bank", rows, 0, rows * _TOKENS_S / 3600, rows * row_bytes(columns))
