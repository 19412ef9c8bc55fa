"""From samples to a token bank: a Ray Data actor takes a shard of samples and writes that of the bank."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.ledger.arrays import SUFFIX, open_shard, unfit_shards
from irl_vla.ledger.shards import ShardPlan, shard_path, write_shards
from irl_vla.ledger.storage import Location
from irl_vla.policy.batch import observation_batch
from irl_vla.policy.encoder import SceneEncoder
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.token_bank import (
    REMEDY,
    BankRows,
    TokenBank,
    bank_artefact,
    bank_columns,
    finish_bank,
    write_bank_shard,
)
from irl_vla.policy.vla import load_policy, perception_hash, token_layout
from irl_vla.train.config import BankConfig
from irl_vla.train.loop import session_cpus, session_gpus
from irl_vla.train.samples import bank_rows, sample_record, stored_layout

_ROWS_PER_BATCH = 32

log = logging.getLogger(__name__)


def write_bank(
    policy: Location | Path,
    samples: Location | Path,
    place: Location | Path,
    config: BankConfig,
    use_gpu: bool = False,
) -> TokenBank:
    """Encodes all rows of samples by the perception of a policy, or what is missing of them.

    Args:
        policy: its checkpoint folder.
        samples: folder of finished samples.

    Raises:
        ConfigError: if the folder holds a bank of another perception or of other samples.
        CheckpointError: if the tokens are not finite in half precision.
    """
    record = sample_record(samples)
    encoder = load_policy(policy)[0].encoder
    layout = token_layout(encoder.config)
    bank = bank_artefact(Location.of(place), layout, perception_hash(encoder), record.fingerprint)
    shards: dict[str, int] = dict(record.facts["shards"])
    unfit = unfit_shards(bank.folder, shards, bank_columns(layout), bank.fingerprint, REMEDY)
    if bank.is_whole():
        if not unfit:
            return TokenBank.open(bank.folder)
        bank.reopen()
    bank.begin()
    gpus = _gpus(config, use_gpu)
    if config.workers == 0:
        write_here = BankWriter(policy, Location.of(samples), bank.folder, use_gpu=gpus > 0)
        for name in unfit:
            write_here(name)
    else:
        most = max(int(session_gpus() / gpus), 1) if gpus else session_cpus()
        plan = ShardPlan(f"token bank {bank.folder.name}", "rows", config.workers or most, gpus=gpus)
        arguments = (Location.of(policy), Location.of(samples), bank.folder, gpus > 0)
        write_shards(BankWriter, arguments, {name: shards[name] for name in unfit}, plan)
    return finish_bank(bank, shards)


class BankWriter:
    """Encodes whole shards of samples, on one thread or one GPU.

    Args:
        policy: checkpoint folder, for its perception.
        samples: folder of the samples.
        bank: folder of the bank.
    """

    def __init__(self, policy: Location | Path, samples: Location, bank: Location, use_gpu: bool) -> None:
        self._device = torch.device("cuda" if use_gpu else "cpu")
        self._encoder = load_policy(policy)[0].encoder.to(self._device)
        self._samples, self._record = samples, sample_record(samples)
        self._layout = token_layout(self._encoder.config)
        self._bank = bank_artefact(bank, self._layout, perception_hash(self._encoder), self._record.fingerprint)

    def __call__(self, name: str) -> int:
        """Writes the shard of a log; returns its rows."""
        path = shard_path(self._samples, name, SUFFIX).local()
        shard = open_shard(path, stored_layout(self._record), self._record.fingerprint, REMEDY)
        return write_bank_shard(self._bank, name, self._layout, self._encoded(shard.rows_of(), shard.rows))

    def _encoded(self, columns: dict[str, NDArray[Any]], count: int) -> Iterator[tuple[NDArray[Any], BankRows]]:
        for start in range(0, count, _ROWS_PER_BATCH):
            part = {name: values[start : start + _ROWS_PER_BATCH] for name, values in columns.items()}
            yield encode(self._encoder, part, self._device), bank_rows(part)


def encode(encoder: SceneEncoder, columns: dict[str, NDArray[Any]], device: torch.device) -> NDArray[np.float32]:
    """Packed tokens (b, N, D) of rows of samples."""
    with torch.inference_mode():
        tokens = pack_tokens(encoder(observation_batch(columns).to(device)))
    result: NDArray[np.float32] = tokens.float().cpu().numpy()
    return result


def _gpus(config: BankConfig, use_gpu: bool) -> float:
    """GPUs of an actor; says so where the setting cannot be met."""
    if not use_gpu:
        return 0.0
    found = session_gpus() if config.workers != 0 else float(torch.cuda.is_available())
    if found:
        return min(config.gpus, found)
    log.warning("token bank: pretrain.use_gpu is set, but there is no GPU here; perception runs on CPUs, slowly")
    return 0.0
