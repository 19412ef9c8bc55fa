"""Claim: on one core, the reward world model scores several thousand plans a second at demo size.

Run: OMP_NUM_THREADS=1 python benchmarks/reward_throughput.py
Prints plans a second of the learned model (keys of a scene computed once a call), of computed comfort, and of both.
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from irl_vla.ledger.storage import Location
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.token_bank import (
    BankRows,
    Encoded,
    TokenBank,
    TokenLayout,
    bank_artefact,
    finish_bank,
    write_bank_shard,
)
from irl_vla.reward.backends import ModelBackend
from irl_vla.reward.comfort import history_comforts
from irl_vla.reward.config import BackendConfig, RewardModelConfig
from irl_vla.reward.model import RewardWorldModel
from irl_vla.reward.proposals import constant_manoeuvre

ROWS, PLANS_A_ROW, REPEATS = 48, 8, 7


def write_bank(folder: Path) -> TokenBank:
    generator = np.random.default_rng(0)
    encoder = EncoderConfig()
    layout = TokenLayout(encoder.token_counts, encoder.width)
    names = np.array([f"{row:016x}" for row in range(ROWS)])
    history = np.zeros((ROWS, 4, 7), np.float32)
    history[..., 3] = 8.0
    history[..., 0] = 8.0 * np.array([-1.5, -1.0, -0.5, 0.0])
    columns = BankRows(
        token=names,
        scene_token=names,
        view=np.full(ROWS, "original"),
        log_name=names,
        group=names,
        kind=np.full(ROWS, ""),
        timestamp_us=1_620_000_000_000_000 + 500_000 * np.arange(ROWS),
        ego_history=history,
        command=np.ones(ROWS, np.int64),
        plan=np.zeros((ROWS, 8, 3), np.float32),
        has_plan=np.ones(ROWS, np.bool_),
        has_human=np.ones(ROWS, np.bool_),
    )
    bank = bank_artefact(Location.of(folder), layout, "benchmark", "random")
    tokens = generator.normal(size=(ROWS, layout.total, layout.width))
    return finish_bank(bank, {"log": write_bank_shard(bank, "log", layout, [Encoded(tokens, columns)])})


def plans_a_second(call: Callable[[], object], plans: int) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return plans / float(np.median(times))


def main() -> None:
    torch.set_num_threads(1)
    generator = np.random.default_rng(1)
    shape = (ROWS, PLANS_A_ROW)
    plans = constant_manoeuvre(
        np.full(shape, 8.0), generator.uniform(-4, 2, shape), generator.uniform(-0.05, 0.05, shape)
    )
    with TemporaryDirectory() as folder:
        bank = write_bank(Path(folder) / "bank")
        rows = np.arange(ROWS)
        for queries in (1, 4, 8):
            config = RewardModelConfig().with_overrides({"decoder.queries": queries})
            models = (RewardWorldModel(bank.layout, config).eval(),)
            for name, computed in (("model alone", False), ("model and computed comfort", True)):
                backend = ModelBackend(models, bank, BackendConfig(computed_comfort=computed))
                rate = plans_a_second(lambda backend=backend: backend.score(rows, plans), plans[..., 0, 0].size)
                print(f"queries {queries}: {name}: {rate:.0f} plans/s")
        history, times_us = bank.ego_history.astype(np.float64), bank.timestamp_us
        rate = plans_a_second(lambda: history_comforts(history, plans, times_us), plans[..., 0, 0].size)
        print(f"computed comfort alone: {rate:.0f} plans/s")
        split = np.repeat(rows, PLANS_A_ROW), plans.reshape(-1, 1, 8, 3)
        backend = ModelBackend(models, bank, BackendConfig())
        rate = plans_a_second(lambda: backend.score(*split), plans[..., 0, 0].size)
        print(f"queries 8, one plan a row of the call: {rate:.0f} plans/s")


if __name__ == "__main__":
    main()
