"""From samples to token banks: a Ray Data actor takes a shard of samples and writes that of the bank."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.ledger.arrays import SUFFIX, open_shard, unfit_shards
from irl_vla.ledger.artefact import Artefact
from irl_vla.ledger.shards import ShardPlan, clear_unfinished, shard_path, write_shards
from irl_vla.ledger.storage import Location
from irl_vla.policy.batch import observation_batch
from irl_vla.policy.encoder import SceneEncoder, sight_columns
from irl_vla.policy.planner import pack_tokens
from irl_vla.policy.token_bank import (
    REMEDY,
    Encoded,
    TokenBank,
    TokenLayout,
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


@dataclass(frozen=True)
class Pending:
    """A bank that is being made, and the samples that it is made from."""

    samples: Location
    bank: Artefact


def write_banks(
    policy: Location | Path,
    samples: Mapping[str, Location],
    folder: Location,
    config: BankConfig,
    use_gpu: bool = False,
    *,
    remedy: str = REMEDY,
) -> dict[str, TokenBank]:
    """Encodes all rows of samples by the perception of a policy, or what is missing of them.

    Args:
        policy: its checkpoint folder.
        samples: name to folder of finished samples; the bank lies below ``folder`` under the same name.
        remedy: the command that makes samples and banks.

    Raises:
        ConfigError: if the folder holds a bank of another perception or of other samples.
        CheckpointError: if the tokens are not finite in half precision.
    """
    encoder = load_policy(policy)[0].encoder
    layout, perception = token_layout(encoder.config), perception_hash(encoder)
    records = {name: sample_record(place, remedy) for name, place in samples.items()}
    shards: dict[str, dict[str, int]] = {name: dict(record.facts["shards"]) for name, record in records.items()}
    pending: dict[str, Pending] = {}
    sizes: dict[str, int] = {}
    for name, place in samples.items():
        bank = bank_artefact(folder / name, layout, perception, records[name].fingerprint, remedy)
        pending[name] = Pending(place, bank)
        sizes |= {f"{name}/{log}": shards[name][log] for log in begin(bank, shards[name], layout)}
    _encode_shards(policy, pending, sizes, config, use_gpu)
    return {name: finish_bank(found.bank, shards[name]) for name, found in pending.items()}


def begin(bank: Artefact, shards: Mapping[str, int], layout: TokenLayout) -> list[str]:
    """Names of the shards of a bank that have to be made; what killed writers left is removed.

    Raises:
        ConfigError: if the folder holds a bank of another perception or of other samples.
    """
    is_whole = bank.is_whole()  # before its shards are looked at: it says what differs, they cannot
    unfit = unfit_shards(bank.folder, shards, bank_columns(layout), bank.fingerprint, bank.remedy)
    if not is_whole:
        bank.begin()
    elif unfit:
        bank.reopen()
    else:
        return []
    clear_unfinished(bank.folder)
    return unfit


class BankWriter:
    """Encodes whole shards of samples, on one thread or one GPU.

    Args:
        policy: checkpoint folder, for its perception.
        pending: by name.
    """

    def __init__(self, policy: Location | Path, pending: Mapping[str, Pending], use_gpu: bool) -> None:
        self._device = torch.device("cuda" if use_gpu else "cpu")
        self._encoder = load_policy(policy)[0].encoder.to(self._device)
        self._layout, self._pending = token_layout(self._encoder.config), pending

    def __call__(self, name: str) -> int:
        """Writes a shard, "<name of the bank>/<log>"; returns its rows."""
        whose, _, log_name = name.partition("/")
        samples, bank = self._pending[whose].samples, self._pending[whose].bank
        record = sample_record(samples, bank.remedy)
        path = shard_path(samples, log_name, SUFFIX).local()
        shard = open_shard(path, stored_layout(record), record.fingerprint, bank.remedy)
        return write_bank_shard(bank, log_name, self._layout, self._encoded(shard.rows_of(), shard.rows))

    def _encoded(self, columns: dict[str, NDArray[Any]], count: int) -> Iterator[Encoded]:
        for start in range(0, count, _ROWS_PER_BATCH):
            yield encode(
                self._encoder,
                {name: values[start : start + _ROWS_PER_BATCH] for name, values in columns.items()},
                self._device,
            )


def encode(encoder: SceneEncoder, columns: dict[str, NDArray[Any]], device: torch.device) -> Encoded:
    """Rows of samples as a policy perceives them."""
    with torch.inference_mode():
        perception = encoder.perceive(observation_batch(columns).to(device))
        columns_of_sight = sight_columns(encoder, perception)
    tokens: NDArray[np.float32] = pack_tokens(perception.tokens).float().cpu().numpy()
    return Encoded(tokens, bank_rows(columns), columns_of_sight)


def _encode_shards(
    policy: Location | Path, pending: Mapping[str, Pending], sizes: Mapping[str, int], config: BankConfig, use_gpu: bool
) -> None:
    """Writes the shards of these sizes, here or by actors."""
    if not sizes:
        return
    gpus = _gpus(config, use_gpu)
    arguments = (Location.of(policy), pending, gpus > 0)
    if config.workers == 0:
        write_here = BankWriter(*arguments)
        for name in sizes:
            write_here(name)
        return
    most = max(int(session_gpus() / gpus), 1) if gpus else session_cpus()
    write_shards(BankWriter, arguments, sizes, ShardPlan("token banks", "rows", config.workers or most, gpus=gpus))


def _gpus(config: BankConfig, use_gpu: bool) -> float:
    """GPUs of an actor; says so where the setting cannot be met."""
    if not use_gpu:
        return 0.0
    found = session_gpus() if config.workers != 0 else float(torch.cuda.is_available())
    if found:
        return min(config.gpus, found)
    log.warning("token bank: pretrain.use_gpu is set, but there is no GPU here; perception runs on CPUs, slowly")
    return 0.0
