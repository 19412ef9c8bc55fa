"""Writes a token bank: the scene tokens of every sample under frozen perception."""

import logging
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from irl_vla.ledger.files import MANIFEST_NAME
from irl_vla.policy.batch import collate_samples
from irl_vla.policy.encoder import SceneEncoder
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.token_bank import BankRows, TokenBank, TokenBankWriter
from irl_vla.policy.vla import perception_hash, token_layout
from irl_vla.train.data import Samples
from irl_vla.train.loop import threads

_ROWS_PER_BATCH = 32

log = logging.getLogger(__name__)


def write_bank(encoder: SceneEncoder, samples: Samples, folder: Path, seed: int) -> TokenBank:
    """Encodes all rows of a sample cache, where the encoder is, on all cores of this machine.

    A bank of the same perception and samples is left as it is.

    Raises:
        CheckpointError: if the tokens are not finite in half precision.
    """
    known = perception_hash(encoder)
    if (folder / MANIFEST_NAME).exists():
        bank = TokenBank.open(folder)
        if (bank.perception_hash, bank.inputs.get("samples")) == (known, samples.fingerprint):
            return bank
        (folder / MANIFEST_NAME).unlink()
    encoder.eval()
    device = next(encoder.parameters()).device
    layout = token_layout(encoder.config)
    starts = range(0, len(samples), _ROWS_PER_BATCH)
    silent = not Console().is_terminal
    inputs = {"samples": samples.fingerprint}
    cores = threads(os.cpu_count() or 1)  # the workers have ended
    with TokenBankWriter(folder, layout, known, seed, inputs) as writer, torch.inference_mode(), cores:
        for start in track(starts, f"token bank {folder.name}", disable=silent):
            rows = np.arange(start, min(start + _ROWS_PER_BATCH, len(samples)))
            tokens = pack_tokens(encoder(collate_samples(samples.take(rows)).to(device)))
            writer.append(tokens.cpu().numpy(), _part(samples.rows, rows))
    log.info("token bank of %d rows: %s", len(samples), folder)
    return TokenBank.open(folder, known)


def _part(rows: BankRows, chosen: np.ndarray) -> BankRows:
    return replace(rows, **{item.name: getattr(rows, item.name)[chosen] for item in fields(BankRows)})
