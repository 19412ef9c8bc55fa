"""Best of N: never worse than the deterministic plan by the reward, and steady from frame to frame."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from irl_vla.judge.bank_plans import bank_plans, best_of_plans
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.planner_config import ChainConfig, DecoderConfig, PlannerConfig
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import build_chain
from irl_vla.reward.candidates import candidate_noise, chosen_in_time
from irl_vla.reward.comfort import pair_comforts
from irl_vla.reward.config import CandidateConfig, RewardWeights
from irl_vla.reward.weights import reward
from irl_vla.scene import SUBSCORES, SubScores

from .roads import history, straight, write_world

EP, EC = SUBSCORES.index("ep"), SUBSCORES.index("ec")
ROWS = 4
ONES = RewardWeights()


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> TokenBank:
    """Two logs of two frames half a second apart, at 8 m/s."""
    found = TokenBank.open(write_world(tmp_path_factory.mktemp("world"), rows=ROWS)[0])
    return replace(found, ego_history=np.stack([history(8.0)] * ROWS).astype(np.float32))


def choices(bank: TokenBank, plans: np.ndarray, ep: np.ndarray, rows: np.ndarray | None = None) -> list[int]:
    values = np.ones((*plans.shape[:2], len(SUBSCORES)))
    values[..., EP] = ep
    return chosen_in_time(bank, np.arange(ROWS) if rows is None else rows, plans, values, ONES).tolist()


def test_alone_the_best_reward_wins_and_of_equals_the_first(bank: TokenBank) -> None:
    plans = np.broadcast_to(straight(8.0), (ROWS, 3, 8, 3))  # any is as comfortable behind any other
    ep = np.array([[0.5, 0.9, 0.7], [0.8, 0.8, 0.1], [0.1, 0.2, 0.3], [0.4, 0.2, 0.4]])
    assert choices(bank, plans, ep) == [1, 0, 2, 0]


def test_where_rewards_tie_the_plan_that_goes_on_is_chosen(bank: TokenBank) -> None:
    """First frames are better off cruising; second ones see both plans alike, and braking comes first."""
    brake, cruise = straight(8.0, -4.0), straight(8.0)
    plans = np.stack([np.stack([brake, cruise])] * ROWS)
    ep = np.ones((ROWS, 2))
    assert (bank.previous_row == [-1, 0, -1, 2]).all()
    ep[[0, 2], 0] = 0.9
    assert choices(bank, plans, ep) == [1, 1, 1, 1]
    assert choices(bank, plans[:2], ep[1::2], np.array([1, 3])) == [0, 0], "predecessors are not asked for"


def test_rows_may_come_in_any_order(bank: TokenBank) -> None:
    plans = np.stack([np.stack([straight(8.0, a) for a in (-4.0, 0.0, 1.0)])] * ROWS)
    ep = np.random.default_rng(0).uniform(0.8, 1.0, (ROWS, 3))
    order = np.array([2, 0, 3, 1])
    assert choices(bank, plans[order], ep[order], order) == np.array(choices(bank, plans, ep))[order].tolist()


@pytest.fixture(scope="module")
def chain(bank: TokenBank) -> DenoisingChain:
    plans = np.stack([straight(v, a) for v in (2.0, 6.0, 10.0) for a in (-2.0, 0.0, 1.0)])
    decoder = DecoderConfig(width=16, heads=2, layers=1, feedforward=32)
    config = PlannerConfig(decoder=decoder, chain=ChainConfig(sigma_floor_m=0.5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_chain(config, bank.layout, PlanCodec.fit(plans, 0.03)).eval()


class ByEnd:
    """EP falls with the distance of the plan's end from 20 m."""

    def score(self, rows: np.ndarray, plans: np.ndarray) -> SubScores:
        values = np.ones((*plans.shape[:2], len(SUBSCORES)))
        values[..., EP] = np.exp(-np.abs(plans[:, :, -1, 0] - 20.0) / 10.0)
        return SubScores(values, np.ones(plans.shape[:2], bool))


def test_the_best_of_n_is_never_worse_by_the_reward(bank: TokenBank, chain: DenoisingChain) -> None:
    config = CandidateConfig(samples=12)
    best, plain = best_of_plans(chain, bank, ByEnd(), config, rows_per_batch=3), bank_plans(chain, bank)
    assert list(best) == list(plain) == bank.token.tolist()

    def moment(row: int, plans: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        plan = plans[str(bank.token[row])][None, None]
        return bank.ego_history[[row]].astype(float), plan, bank.timestamp_us[[row]]

    def rewards(row: int, plans: dict[str, np.ndarray]) -> float:
        values = ByEnd().score(np.array([row]), plans[str(bank.token[row])][None, None]).values[0, 0]
        values[EC] = np.nan
        before = int(bank.previous_row[row])
        if before >= 0:
            values[EC] = pair_comforts(moment(row, plans), moment(before, best))[0, 0]
        return float(reward(values, ONES))

    gains = [rewards(row, best) - rewards(row, plain) for row in range(ROWS)]
    assert min(gains) > -1e-5, "rounding of another batch size at most"
    assert max(gains) > 0.01


def test_the_noise_is_that_of_the_seed_in_every_frame(chain: DenoisingChain) -> None:
    noise = candidate_noise(chain, CandidateConfig(samples=5))
    assert noise.shape == (1, 5, chain.steps + 1, 24)
    assert (noise == candidate_noise(chain, CandidateConfig(samples=5))).all()
    assert (noise != candidate_noise(chain, CandidateConfig(samples=5, seed=1))).any()
